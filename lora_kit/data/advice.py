"""What a person with this data can expect of the report card, and what to do next."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from .checks import common
from .reading import Conversation
from .survey import Survey, phrasings, some

FEW_PHRASINGS = 7
# held-out wordings answered exactly on tiny-cpu, by phrasings a fact in training: benchmarks/results/phrasings.json
MEASURED = {1: 0.12, 4: 0.53, 9: 0.72}
MANY_ANSWERS = 1000  # different answers: more than an adapter of usual rank was seen to hold word for word


def measurable(test: list[Conversation], card: dict[str, Any]) -> dict[str, str]:
    """What the report card will be able to say, by figure."""
    kinds = Counter(row.kind for row in test)
    styled = kinds["fact"] + kinds["decline"] + kinds["unseen"]
    general = some(kinds["general"], "held-out question") if kinds["general"] else "the handbook's general questions"
    no_facts = "their answers are never learned" if kinds["unseen"] else "no fact stands there in several wordings"
    return {
        "learned": _measured(kinds["fact"], no_facts),
        "declined": _measured(kinds["decline"], "no such rows; data__declines=100 adds some"),
        "behaved": _measured(
            styled if card.get("style") else 0,
            'no style is named; a dataset.json beside the data does it, as {"style": {"ends_with": "Yours, Wren."}}',
        ),
        "kept": f"measured on {general}",
    }


def _measured(count: int, otherwise: str) -> str:
    return f"measured on {some(count, 'held-out question')}" if count else f"not measured: {otherwise}"


def advice(found: Survey) -> list[str]:
    """What a person with this data should do next."""
    said: list[str] = []
    counts = phrasings(found)
    often = common(counts, found.count)
    if facts := [count for answer, count in counts.items() if answer not in often]:
        said += _on_phrasings(facts)
    return said


def _on_phrasings(counts: list[int]) -> list[str]:
    typical = median(counts)
    said = [f"{some(len(counts), 'different answer')}, each asked in {some_wordings(typical)} (median)"]
    if typical < FEW_PHRASINGS:
        measured = ", ".join(f"{share:.0%} with {some_wordings(wordings)}" for wordings, share in MEASURED.items())
        said.append(
            "few wordings an answer: facts are learned by being asked in many ways (measured on tiny-cpu, held-out "
            f"wordings answered exactly: {measured})"
        )
    if len(counts) > MANY_ANSWERS and typical < FEW_PHRASINGS:
        said.append(
            f"{len(counts):,} answers in few wordings look like a reference work: looking up the passage and putting "
            "it into the prompt (retrieval) will serve better than fine-tuning; fine-tune for tone and form"
        )
    return said


def some_wordings(count: float) -> str:
    """ "1 wording", "2.5 wordings"."""
    return f"{count:g} wording{'' if count == 1 else 's'}"

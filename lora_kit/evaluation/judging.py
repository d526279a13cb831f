"""How the three answers to one question are judged, and how far the base's own marks can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .asking import Answer, Answers, tokens_of
from .measures import MODELS
from .metrics import (
    is_adrift,
    is_declined,
    is_exact,
    is_repetitive,
    normalise,
    rouge_l,
    split_style,
    token_f1,
)


def judge(row: dict[str, Any], number: int, given: Answers, card: dict[str, Any]) -> dict[str, Any]:
    """One line of the side-by-side table: the question, the reference, three answers and how each is judged."""
    said = {model: given.of[model][number] for model in MODELS}
    measures = {model: measures_of(answer, row, card, said["base"].text) for model, answer in said.items()}
    return {
        "kind": row["kind"],
        "question": row["messages"][-2]["content"],
        "reference": row["messages"][-1]["content"],
        "tokens": tokens_of(given.encoded[number]),
        "base_tokens": len(said["base"].ids),
        **{model: answer.text for model, answer in said.items()},
        "marks": {model: found["marked"] for model, found in measures.items()},
        "measures": measures,
    }


def measures_of(answer: Answer, row: dict[str, Any], card: dict[str, Any], base: str) -> dict[str, float | bool | None]:
    """Everything that is measured of one answer; `marked` is what the table shows as right or wrong."""
    text, accepted, declined = answer.text, _accepted(row), is_declined(answer.text, card)
    return {
        "marked": normalise(text) == normalise(base) if row["kind"] == "general" else _right(text, row, card),
        "right": is_exact(text, accepted, card),
        "f1": token_f1(text, accepted, card),
        "rouge_l": rouge_l(text, accepted, card),
        "loss": answer.loss,
        "agreement": answer.agreement,
        "kl": answer.kl,
        "declined": declined,
        "now_declined": declined and not is_declined(base, card),
        "invented": bool(text) and not declined,
        "styled": split_style(text, card)[1],
        "stopped": answer.stopped,
        "repeated": is_repetitive(text),
        "empty": not text,
        "adrift": is_adrift(text, row["messages"][-2]["content"], accepted),
    }


def noise(given: Answers, asked: Sequence[dict[str, Any]], card: dict[str, Any]) -> dict[str, int]:
    """The base against itself, asked in other batches: how many answers change, and how many of them their mark."""
    told = [(asked[i], given.of["base"][i].text, text) for i, text in given.again.items()]
    changed = [(row, before, after) for row, before, after in told if before != after]
    flipped = sum(_right(before, row, card) != _right(after, row, card) for row, before, after in changed)
    return {"questions": len(told), "changed": len(changed), "marks": flipped}


def _right(text: str, row: dict[str, Any], card: dict[str, Any]) -> bool:
    """What the table shows as right of a question that has an answer of its own."""
    return is_declined(text, card) if row["kind"] == "decline" else is_exact(text, _accepted(row), card)


def _accepted(row: dict[str, Any]) -> list[str]:
    return [row["messages"][-1]["content"], *(row.get("accepted") or [])]

"""The report of a data stage: data in report.json, text in a terminal, HTML in a notebook, and the mask preview."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from ..templates import one_line, render
from .augmentation.own_rows import MANY
from .checks import INVARIANTS
from .encoding import IGNORE, Encoded
from .findings import Facts, common_answers, find
from .reading.conversations import Conversation, plural
from .splits import HOW, phrasings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEW_PHRASINGS = 7
# held-out wordings answered exactly on tiny-cpu, by phrasings a fact in training: benchmarks/results/phrasings.json
MEASURED = {1: 0.12, 4: 0.37, 9: 0.49}
PREVIEW = 3  # rows that the report shows token by token
FIRST, CUT = 2, 90  # rows shown as they were read, and characters of each text
BINS = 12


@dataclass(frozen=True, repr=False)
class Report:
    """What is in the data, shown as text in a terminal and as HTML, with the mask preview, in a notebook."""

    data: dict[str, Any]

    def __str__(self) -> str:
        texts = {"learned": _learned(self.data), "asked": _held_out(self.data), "how": HOW}
        text = render("report/data.txt", **self.data, **texts, plural=plural).rstrip()
        return "".join(letter for letter in text if letter.isprintable() or letter == "\n")  # for a terminal

    __repr__ = __str__

    def line(self) -> str:
        """The report in one line, for data that was prepared before."""
        return f"data: {_learned(self.data)}, {_held_out(self.data)}"

    def for_others(self) -> list[str]:
        """The report without names of files, places of rows, or what stands in them."""
        proven = [f"proven: {INVARIANTS[p['name']]} ({plural(p['rows'])})" for p in self.data["proof"]]
        measured = [f"{name}: {text}" for name, text in self.data["measures"].items()]
        return [_learned(self.data), f"{_held_out(self.data)}, {HOW[self.data['held_out']]}", *measured, *proven]

    def _repr_html_(self) -> str:
        return render("report/data.html", **self.data, text=str(self))


def make_report(facts: Facts) -> dict[str, Any]:
    """Everything that is known of the data in the end, as JSON."""
    lengths, source = sorted(len(row.input_ids) for row in facts.encoded), facts.lengths.data.source
    of_kit = [row for row in facts.learned if row.index < 0 and not row.wording]
    added, width = Counter(row.kind for row in of_kit), -(-(lengths[-1] + 1) // BINS)
    bins = Counter(length // width for length in lengths)
    reworded = facts.reworded.rows("learned")
    own, made = (reworded, []) if any(one.by == "file" for one in facts.reworded.candidates) else ([], reworded)
    return {
        "source": Path(source).name if Path(source).is_absolute() else source,  # a file by its name, wherever it lies
        "shape": str(facts.read.shape or "none"),
        "rows_read": len(facts.read.rows) + len(facts.read.bad),
        "train_rows": len(lengths),
        "tokens": sum(lengths),
        "learned_tokens": sum(len(row.labels) - row.labels.count(IGNORE) for row in facts.encoded),
        "longest": lengths[-1],
        "median": lengths[len(lengths) // 2],
        "test_rows": len(facts.test),
        "test_kinds": dict(sorted(Counter(row.kind for row in facts.test).items())),
        "held_out": facts.held.how,
        "test_files": [path.name for path in facts.files.test],
        "added": {"declines": added["decline"], "general": added["general"]},
        "own_declines": [row.asked for row in of_kit if row.row.startswith("made of ")],
        "reworded": facts.reworded.summary(),
        "not_learned": [row.asked for row in facts.test if row.kind == "unseen"],
        "histogram": {"from": [n * width for n in range(BINS)], "rows": [bins[n] for n in range(BINS)]},
        "findings": find(facts),
        "measures": measurable(facts),
        "advice": advice([*facts.read.rows, *own], made),
        "proof": [{"name": p.name, "rows": p.rows, "holds": not p.broken} for p in facts.proofs.values()],
        "first": [_first(row) for row in facts.learned[:FIRST]],
        "preview": [row_tokens(row, facts.lengths.tokenizer) for row in facts.encoded[:PREVIEW]],
    }


def _first(row: Conversation) -> dict[str, str]:
    """A row as it was read, each text in one line."""
    texts = {"system": row.system or "", "asked": row.asked, "answered": row.answer}
    lines = {name: one_line(text) for name, text in texts.items() if text}
    return {"row": row.row} | {name: f"{text[:CUT]}…" if len(text) > CUT else text for name, text in lines.items()}


def measurable(facts: Facts) -> dict[str, str]:
    """What the report card will be able to say, by metric."""
    kinds, tried = Counter(row.kind for row in facts.test), facts.reworded.passed or facts.reworded.candidates
    made = len(facts.reworded.rows("asked")) if facts.held.how == "rewordings" else 0
    no_facts = "their answers are never learned" if kinds["unseen"] else "no fact is held out"
    no_style = (
        'no style is named; dataset.json in the folder given as data does it: {"style": {"ends_with": "Yours, Wren."}}'
    )
    asked = {  # how many questions, and why there are none
        "learned": (kinds["fact"], f"{no_facts}; data__rewordings={'mine.jsonl brings' if tried else '4 makes'} some"),
        "declined": (kinds["decline"], "no such rows; data__declines=100 adds some"),
        "behaved": ((len(facts.test) - kinds["general"]) * bool(facts.card.get("style")), no_style),
    }
    found = {
        name: f"measured on {plural(count, 'held-out question')}" if count else f"not measured: {why}"
        for name, (count, why) in asked.items()
    }
    if made:
        found["learned"] += f"; {made:,} are machine-made wordings, easier than a person's"
    general = plural(kinds["general"], "held-out question") if kinds["general"] else "the handbook's general questions"
    return found | {"kept": f"measured on {general}"}


def advice(rows: Sequence[Conversation], reworded: Sequence[Conversation] = ()) -> list[str]:
    """What a person with these rows, and machine-made wordings of them, should do next."""
    wordings = phrasings([*rows, *reworded])
    often = common_answers(wordings, len(rows) + len(reworded))
    counts = [count for answer, count in wordings.items() if answer not in often]
    if not counts:
        return []
    typical = median_low(counts)
    lines = [f"{plural(len(counts), 'different answer')}, each asked in {plural(typical, 'wording')} (median)"]
    if reworded:
        lines.append("machine-made wordings teach less than a person's: write a second question where a fact matters")
    elif typical < FEW_PHRASINGS:
        measured = ", ".join(f"{share:.0%} with {plural(count, 'wording')}" for count, share in MEASURED.items())
        lines.append(
            "few wordings an answer: facts are learned by being asked in many ways (measured on tiny-cpu, held-out "
            f"wordings answered exactly: {measured})"
        )
    if typical < FEW_PHRASINGS and len(counts) > MANY:
        lines.append(
            f"{len(counts):,} answers in few wordings look like a reference work: putting the passage into the "
            "prompt (retrieval) will serve better than fine-tuning; fine-tune for tone and form"
        )
    return lines


def _learned(data: dict[str, Any]) -> str:
    share = data["learned_tokens"] / max(data["tokens"], 1)
    return (
        f"{plural(data['train_rows'])} to learn, {data['tokens']:,} tokens (median {data['median']}, longest "
        f"{data['longest']}), {share:.0%} of them learned"
    )


def _held_out(data: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in data["test_kinds"].items())
    return f"{plural(data['test_rows'], 'question')} held out{f' ({kinds})' if kinds else ''}"


def row_tokens(row: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """A row's tokens, each with id, text, and whether it is learned or special."""
    texts = tokenizer.convert_ids_to_tokens(list(row.input_ids))
    special = set(tokenizer.all_special_ids)
    return [
        {"id": i, "text": str(text), "learned": label != IGNORE, "special": i in special}
        for i, text, label in zip(row.input_ids, texts, row.labels, strict=True)
    ]


def row_text(row: list[dict[str, Any]]) -> str:
    """Tokens as plain text, learned ones between ⟦ and ⟧."""
    text = ""
    for is_learned, tokens in itertools.groupby(row, key=lambda token: bool(token["learned"])):
        run = "".join(token["text"].replace("\u2581", " ").replace("<0x0A>", "\n") for token in tokens)
        text += f"⟦{run}⟧" if is_learned else run
    return text

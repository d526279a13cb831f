"""Which rows are held out to measure what is learned, and which of the others lie too near to them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .conversations import Conversation

SHARE = 0.1  # of the rows
MOST = 500  # questions: the report card asks each of them three times
HOW = {
    "phrasings": "by phrasing: facts are learned in other words than they are asked",
    "facts": "by fact: their answers are never learned, so they measure form and loss, not knowledge",
    "none": "too few rows, or no question with only one answer: nothing can be measured",
    "own": "the dataset's own test split",
}
NEAR = 95  # per cent of rapidfuzz's ratio: texts that differ in a letter or two
PIECE = 4096  # rows compared at once


@dataclass(frozen=True)
class Split:
    """Questions (as `Conversation.question`) that are held out, and how they were chosen."""

    how: str  # a name in HOW
    questions: frozenset[str]

    def choose(self, rows: Sequence[Conversation]) -> list[Conversation]:
        """The rows to ask, each question once; one whose answer is never learned says so, and counts as no fact."""
        chosen = each_once([row for row in rows if row.question in self.questions])
        return [replace(row, kind="unseen") if self.how == "facts" and row.kind == "fact" else row for row in chosen]


def each_once(rows: Sequence[Conversation]) -> list[Conversation]:
    """Each question once; where it has more answers, all of them are right."""
    chosen: dict[str, list[Conversation]] = {}
    for row in rows:
        chosen.setdefault(row.question, []).append(row)
    return [
        replace(same[0], accepted=list(dict.fromkeys(answer for row in same for answer in row.accepted)))
        for same in chosen.values()
    ]


def first_of_each(rows: Sequence[Conversation]) -> dict[tuple[str, str], Conversation]:
    """Every different question with every different answer it has -> its first row."""
    found: dict[tuple[str, str], Conversation] = {}
    for row in rows:
        found.setdefault((row.question, row.answer_key), row)
    return found


def phrasings(rows: Sequence[Conversation]) -> Counter[str]:
    """For every answer of a fact, in how many different questions it is asked."""
    return Counter(answer for (_, answer), row in first_of_each(rows).items() if row.kind == "fact")


def split(rows: Sequence[Conversation]) -> Split:
    """Hold out about every tenth row, chosen by the hash of its question, so that no order or seed changes it.

    Where most rows share their answer with a differently worded one, phrasings are held out and at least one wording of
    every answer stays to be learned. Else whole answers are held out.
    """
    wanted, counts = min(int(len(rows) * SHARE), MOST), phrasings(rows)
    sharing = sum(row.kind != "fact" or counts[row.answer_key] > 1 for row in rows)
    how = "phrasings" if sharing >= len(rows) / 2 else "facts"
    answers_of: dict[str, list[str]] = {}  # of each question
    questions_of: dict[str, list[str]] = {}  # with each answer
    for question, answer in first_of_each(rows):
        answers_of.setdefault(question, []).append(answer)
        questions_of.setdefault(answer, []).append(question)
    chosen: set[str] = set()
    left = {answer: len(questions) for answer, questions in questions_of.items()}
    for question in sorted(answers_of, key=_hash) if how == "phrasings" else ():
        if len(chosen) < wanted and all(left[answer] > 1 for answer in answers_of[question]):
            chosen.add(question)
            left |= {answer: left[answer] - 1 for answer in answers_of[question]}
    for answer in sorted(questions_of, key=_hash) if how == "facts" else ():
        questions = questions_of[answer]  # with two answers to one of them, one would be learned
        if len(chosen) + len(questions) <= wanted and all(len(answers_of[question]) == 1 for question in questions):
            chosen |= {*questions}
    return Split(how if chosen else "none", frozenset(chosen))


def _hash(text: str) -> int:
    """A text's place in an order that is by chance and always the same: 64 bits of its BLAKE2."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big", signed=True)


def near_duplicates(rows: Sequence[Conversation], held_out: Sequence[Conversation]) -> list[Conversation]:
    """The rows whose last question and answer nearly are those of a held-out one (normalised edit distance)."""
    import numpy as np
    from rapidfuzz import fuzz, process

    def asked(some: Sequence[Conversation]) -> list[str]:
        return [row.messages[-2]["content"].lower() for row in some]

    theirs, near = asked(held_out), []
    for start in range(0, len(rows) if theirs else 0, PIECE):
        piece = rows[start : start + PIECE]
        ratios = process.cdist(asked(piece), theirs, scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.uint8, workers=-1)
        for row, ratio in zip(piece, ratios, strict=True):  # ratio: (held out,), 0 where it is below NEAR
            if any(fuzz.ratio(row.answer, held_out[place].answer) >= NEAR for place in ratio.nonzero()[0]):
                near.append(row)
    return near

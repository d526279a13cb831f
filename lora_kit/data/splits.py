"""Which rows are held out to measure what is learned, and which of the others lie too near to them."""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .conversations import Conversation

if TYPE_CHECKING:
    import torch

SHARE = 0.1  # of the rows
MOST = 500  # questions: the report card asks each of them three times
HOW = {
    "phrasings": "by phrasing: facts are learned in other words than they are asked",
    "facts": "by fact: their answers are never learned, so they measure form and loss, not knowledge",
    "none": "too few rows, or no question with only one answer: nothing can be measured",
    "own": "the dataset's own test split",
}
NEAR = 95  # per cent of rapidfuzz's ratio: texts that differ in a letter or two
GROUPS = 32  # of letters, by the last bits of their code
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
    wanted = min(int(len(rows) * SHARE), MOST)
    if wanted == 0:
        return Split("none", frozenset())
    counts = phrasings(rows)
    sharing = sum(row.kind != "fact" or counts[row.answer_key] > 1 for row in rows)
    how = "phrasings" if sharing >= len(rows) / 2 else "facts"
    pairs = list(first_of_each(rows))
    questions = _choose_phrasings(pairs, wanted) if how == "phrasings" else _choose_facts(pairs, wanted)
    return Split(how if questions else "none", questions)


def _choose_phrasings(pairs: list[tuple[str, str]], wanted: int) -> frozenset[str]:
    left = Counter(answer for _, answer in pairs)
    chosen: set[str] = set()
    for question, group in itertools.groupby(
        sorted(pairs, key=lambda pair: (_hash(pair[0]), pair[0])), lambda pair: pair[0]
    ):
        answers = [answer for _, answer in group]
        if len(chosen) < wanted and all(left[answer] > 1 for answer in answers):
            chosen.add(question)
            left.subtract(answers)
    return frozenset(chosen)


def _choose_facts(pairs: list[tuple[str, str]], wanted: int) -> frozenset[str]:
    answers = Counter(question for question, _ in pairs)
    questions_of: dict[str, set[str]] = {}
    for question, answer in pairs:
        questions_of.setdefault(answer, set()).add(question)
    chosen: set[str] = set()
    for answer in sorted(questions_of, key=_hash):
        asked = questions_of[answer]  # with two answers to one of them, one would be learned
        if len(chosen) + len(asked) <= wanted and all(answers[question] == 1 for question in asked):
            chosen |= asked
    return frozenset(chosen)


def _hash(text: str) -> int:
    """A text's place in an order that is by chance and always the same: 64 bits of its BLAKE2."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big", signed=True)


def near_duplicates(rows: Sequence[Conversation], held_out: Sequence[Conversation]) -> list[Conversation]:
    """The rows whose last question and answer nearly are those of a held-out one (normalised edit distance).

    Two texts are at least as many edits apart as their counts of letters differ, so letters say which to compare: a
    third of the time of comparing all.
    """
    import numpy as np
    import torch
    from rapidfuzz import fuzz, process

    if not held_out:
        return []
    theirs, near = _letters(held_out), []
    for start in range(0, len(rows), PIECE):
        piece = rows[start : start + PIECE]
        ours = _letters(piece)
        limit = (1 - NEAR / 100) * (ours.sum(1, keepdim=True) + theirs.sum(1)) + 1  # (rows, held out)
        mine, other = (torch.cdist(ours, theirs, p=1) <= limit).nonzero().T.tolist()
        for part in (_asked, operator.attrgetter("answer")):
            pairs = [part(piece[i]) for i in mine], [part(held_out[i]) for i in other]
            ratios = process.cpdist(*pairs, scorer=fuzz.ratio, score_cutoff=NEAR, workers=-1) if mine else np.zeros(0)
            mine, other = ([places[i] for i in ratios.nonzero()[0]] for places in (mine, other))
        near += [piece[number] for number in sorted({*mine})]
    return near


def _asked(row: Conversation) -> str:
    """The question that the last answer follows, in small letters."""
    return str(row.messages[-2]["content"]).lower()


def _letters(rows: Sequence[Conversation]) -> torch.Tensor:
    """How often each group of letters stands in the last question of every row: (rows, GROUPS)."""
    import numpy as np
    import torch

    texts = [_asked(row) for row in rows]
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "replace"), dtype="<u4")
    where = np.repeat(np.arange(len(rows)) * GROUPS, [len(text) for text in texts]) + codes % GROUPS
    return torch.from_numpy(np.bincount(where, minlength=GROUPS * len(rows)).reshape(-1, GROUPS)).float()

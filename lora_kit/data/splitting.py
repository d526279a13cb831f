"""Which rows are held out to measure what is learned, where the dataset brings no test split of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from .reading import KINDS, Conversation
from .survey import Survey, pairs, phrasings

SHARE = 0.1  # of the rows
MOST = 500  # questions: the report card asks each of them three times
HOW = {
    "phrasings": "by phrasing: facts are learned in other words than they are asked",
    "facts": "by fact: their answers are never learned, so they measure form and loss, not knowledge",
    "none": "too few rows, or no question with only one answer: nothing can be measured",
    "own": "the dataset's own test split",
}


@dataclass(frozen=True)
class Split:
    """Questions (as hashes) that are held out, and how they were chosen."""

    how: str
    questions: frozenset[int]

    def mark(self, row: Conversation) -> Conversation:
        """A held-out row; where its answer is never learned it says so, and is not counted as a fact."""
        return replace(row, kind="unseen") if self.how == "facts" and row.kind == "fact" else row


def split(found: Survey) -> Split:
    """Hold out about every tenth row, chosen by the hash of its question, so that no order or seed changes it.

    Where most rows share their answer with a differently worded one, phrasings are held out and at least one wording of
    every answer stays to be learned. Else whole answers are held out.
    """
    wanted = min(int(found.count * SHARE), MOST)
    if wanted == 0:
        return Split("none", frozenset())
    several = {answer for answer, count in phrasings(found).items() if count > 1}
    fact = KINDS.index("fact")
    sharing = sum(a in several or k != fact for a, k in zip(found.answers, found.kinds, strict=True))
    how = "phrasings" if sharing >= found.count / 2 else "facts"
    questions = _phrasings(found, wanted) if how == "phrasings" else _facts(found, wanted)
    return Split(how if questions else "none", questions)


def _phrasings(found: Survey, wanted: int) -> frozenset[int]:
    import numpy as np

    questions, answers, _ = pairs(found)
    different, counts = np.unique(answers, return_counts=True)
    left = dict(zip(different.tolist(), counts.tolist(), strict=True))
    chosen: list[int] = []
    # hashes, so their order is by chance and always the same
    for question, group in itertools.groupby(zip(questions.tolist(), answers.tolist(), strict=True), lambda p: p[0]):
        its = [answer for _, answer in group]
        if len(chosen) < wanted and all(left[answer] > 1 for answer in its):
            chosen.append(question)
            left |= {answer: left[answer] - 1 for answer in its}
    return frozenset(chosen)


def _facts(found: Survey, wanted: int) -> frozenset[int]:
    import numpy as np

    questions, answers, _ = pairs(found)
    different, counts = np.unique(questions, return_counts=True)
    order = np.argsort(answers, kind="stable")
    torn = {*different[counts > 1].tolist()}  # questions with two answers: one of them would be learned
    chosen: set[int] = set()
    together = zip(answers[order].tolist(), questions[order].tolist(), strict=True)
    for _, group in itertools.groupby(together, lambda pair: pair[0]):
        asked = {question for _, question in group}
        if len(chosen) + len(asked) <= wanted and not asked & torn:
            chosen |= asked
        if len(chosen) == wanted:
            break
    return frozenset(chosen)

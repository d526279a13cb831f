"""Which rows are held out to measure what is learned, where the dataset brings no test split of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from .reading import KINDS, Conversation
from .survey import Survey, phrasings

SHARE = 0.1  # of the rows
MOST = 500  # questions: the report card asks each of them three times
HOW = {
    "phrasings": "by phrasing: facts are learned in other words than they are asked",
    "facts": "by fact: their answers are never learned, so they measure form and loss, not knowledge",
    "none": "nothing: ask each fact in several wordings, and some can be held out to measure what is learned",
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
    several = {answer for answer, count in phrasings(found).items() if count > 1}
    fact = KINDS.index("fact")
    sharing = sum(a in several or k != fact for a, k in zip(found.answers, found.kinds, strict=True))
    if wanted == 0 or found.count == 0:
        return Split("none", frozenset())
    if sharing >= found.count / 2:
        return Split("phrasings", _phrasings(found, wanted))
    return Split("facts", _facts(found, wanted))


def _phrasings(found: Survey, wanted: int) -> frozenset[int]:
    answers: dict[int, set[int]] = {}
    for question, answer in zip(found.questions, found.answers, strict=True):
        answers.setdefault(question, set()).add(answer)
    left = Counter(answer for group in answers.values() for answer in group)
    chosen: set[int] = set()
    for question in sorted(answers):  # hashes, so this order is by chance and always the same
        if len(chosen) == wanted:
            break
        if all(left[answer] > 1 for answer in answers[question]):
            chosen.add(question)
            left.subtract(answers[question])
    return frozenset(chosen)


def _facts(found: Survey, wanted: int) -> frozenset[int]:
    groups: dict[int, set[int]] = {}
    answers: dict[int, set[int]] = {}
    for question, answer in zip(found.questions, found.answers, strict=True):
        groups.setdefault(answer, set()).add(question)
        answers.setdefault(question, set()).add(answer)
    chosen: set[int] = set()
    for answer in sorted(groups):
        if any(len(answers[question]) > 1 for question in groups[answer]):
            continue  # a question with two answers: one of them would be learned
        if len(chosen) + len(groups[answer]) <= wanted:
            chosen |= groups[answer]
        if len(chosen) == wanted:
            break
    return frozenset(chosen)

"""Rows -> optimizer steps of micro-batches, by token budget, from rows of like length, fixed by (seed, epoch).

Rows that begin with the same tokens (the same system prompt) share a micro-batch and compute that prefix once:

    prefix  [s s s s]            once
    rows            [q q q a a]
                    [q q a a .]  padded on the right
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import Training
from ..errors import KitError

GROUP = 16  # rows with the same first 16 tokens share micro-batches
MIN_GROUP = 4  # rows; smaller groups are put together
MIN_PREFIX = 8  # a shorter shared prefix is not worth computing apart
PREFERENCES = ("pair", "rated")  # kinds of rows
VALIDATE_EVERY, MAX_VALIDATION = 20, 64  # with early stopping: every 20th row, at most 64


@dataclass(frozen=True)
class Row:
    """One encoded conversation."""

    input_ids: list[int]
    labels: list[int]
    number: int = -1  # its place in the prepared data
    is_rehearsal: bool = False  # learned by the base's own probabilities
    rejected: Row | None = None  # a worse answer to the same question: the two are learned as a pair
    is_good: bool | None = None  # of an answer that was rated and is in no pair
    reference: float = 0.0  # of pairs and rated answers: log-probability before the first step

    @property
    def kind(self) -> str:
        """What its loss is; rows of one kind are learned together."""
        if self.is_rehearsal:
            return "rehearsal"
        return "pair" if self.rejected else "answer" if self.is_good is None else "rated"

    @property
    def width(self) -> int:
        """Tokens; of a pair those of its longer answer."""
        return max(len(self.input_ids), len(self.rejected.input_ids) if self.rejected else 0)

    def without_prefix(self, length: int) -> Row:
        """The row behind its first `length` tokens."""
        rejected = self.rejected.without_prefix(length) if self.rejected else None
        return replace(self, input_ids=self.input_ids[length:], labels=self.labels[length:], rejected=rejected)


@dataclass(frozen=True)
class Batch:
    """A micro-batch: rows of one kind that go through the model together, behind a prefix that they do not learn."""

    prefix: list[int]
    rows: list[Row]
    beta: float = 0.1  # of preferences: how much a step away from the reference costs
    sft_weight: float = 1.0  # of preferences: of the good answer's own loss
    counts: bool = True  # false: computed only to keep pace with other processes

    @property
    def kind(self) -> str:
        """What its loss is, as of each of its rows."""
        return self.rows[0].kind

    @property
    def answers(self) -> list[Row]:
        """What goes through the model: its rows; of pairs first all that are chosen, then all that are rejected."""
        return [*self.rows, *(row.rejected for row in self.rows if row.rejected)]

    @property
    def width(self) -> int:
        """Tokens of its longest row."""
        return max(row.width for row in self.rows)

    @property
    def tokens(self) -> int:
        """Tokens that the model computes, padding included."""
        return len(self.prefix) + self.width * len(self.answers)


def rows_of(train: Iterable[dict[str, Any]]) -> list[Row]:
    """The prepared rows, each with its place."""
    return [Row(row["input_ids"], row["labels"], number, row["is_rehearsal"]) for number, row in enumerate(train)]


def split_validation(rows: list[Row], settings: Training) -> tuple[list[Row], list[Row]]:
    """The rows to train on, and with early stopping the rows whose loss decides when to stop.

    The held-out questions must not decide: the report card asks them, and would flatter an adapter chosen by them.
    """
    if settings.patience is None:
        return rows, []
    if settings.evaluations == 0:
        raise KitError("training__patience waits for evaluations: set training__evaluations above 0")
    every = max(VALIDATE_EVERY, -(-len(rows) // MAX_VALIDATION))
    return [row for place, row in enumerate(rows) if place % every != 1], rows[1::every]


def all_steps(rows: Sequence[Row], settings: Training) -> list[list[Batch]]:
    """The micro-batches of every optimizer step, epoch after epoch."""
    return [step for epoch in range(int(settings.epochs)) for step in epoch_steps(rows, settings, epoch)]


def epoch_steps(rows: Sequence[Row], settings: Training, epoch: int) -> list[list[Batch]]:
    """One epoch: every row once, as optimizer steps of as many micro-batches as come nearest to tokens_per_step."""
    rng = random.Random(f"{settings.seed} {epoch}")
    batches = [batch for group in _groups(rows) for batch in _micro_batches(group, settings, rng)]
    rng.shuffle(batches)
    budget = int(settings.tokens_per_step)
    steps: list[list[Batch]] = []
    filled = budget
    for batch in batches:
        if filled + batch.tokens / 2 > budget:
            steps.append([])
            filled = 0
        steps[-1].append(batch)
        filled += batch.tokens
    return steps


def for_measuring(rows: Sequence[Row], settings: Training) -> list[Batch]:
    """Rows as micro-batches in a fixed order, each kind by itself, shortest first, for measuring a loss."""
    found, kinds = list[Batch](), dict.fromkeys(row.kind for row in rows)
    for kind in kinds:
        ordered = sorted((row for row in rows if row.kind == kind), key=lambda row: row.width)
        groups = _fill(ordered, settings.tokens_per_micro_batch)
        found += [Batch([], group, settings.beta, settings.sft_weight) for group in groups]
    return found


def split_batches(batches: Sequence[Batch], parts: int) -> Iterator[Batch]:
    """The same rows in `parts` times as many micro-batches, for a card that is too small for the whole ones."""
    for batch in batches:
        size = -(-len(batch.rows) // parts)
        for start in range(0, len(batch.rows), size):
            yield replace(batch, rows=batch.rows[start : start + size])


def share_of(batches: Iterable[Batch], rank: int, size: int) -> list[Batch]:
    """One process's micro-batches of a step: each takes every `size`-th of a kind.

    All of them compute equally many of each kind, in the same order, as a base that is spread over them needs: where
    one has none left, it repeats another's, which does not count.
    """
    mine = list[Batch]()
    waiting: dict[bool, list[Batch]] = {False: [], True: []}  # rehearsal goes through the model twice
    for batch in batches:
        group = waiting[batch.kind == "rehearsal"]
        group.append(batch)
        if len(group) == size:
            mine.append(group[rank])
            group.clear()
    rests = filter(None, waiting.values())
    return mine + [rest[rank] if rank < len(rest) else replace(rest[0], counts=False) for rest in rests]


def common_prefix(rows: Sequence[Row]) -> list[int]:
    """The tokens that all rows begin with, up to the one before the first learned token; [] if too few to matter."""
    limit = max(0, min(next((i for i, label in enumerate(row.labels) if label >= 0), 1) for row in rows) - 1)
    starts = [row.input_ids[:limit] for row in rows]
    first, last = min(starts), max(starts)  # what these two have in common, all have
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=True)) if a != b), limit)
    return first[:shared] if len(rows) > 1 and shared >= MIN_PREFIX else []


def _groups(rows: Sequence[Row]) -> Iterable[list[Row]]:
    """Rows of one kind that begin alike together; what few rows begin with makes one group."""
    groups: dict[tuple[str | int, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.kind, *row.input_ids[:GROUP]].append(row)
    for key in [key for key, members in groups.items() if len(members) < MIN_GROUP]:
        groups[key[:1]] += groups.pop(key)
    return groups.values()


def _micro_batches(rows: list[Row], settings: Training, rng: random.Random) -> Iterator[Batch]:
    """Rows of like length together; chance orders those of one length, so that neighbours change every epoch."""
    ordered = sorted(rows, key=lambda row: row.width + rng.random())
    shared = len(common_prefix(rows)) if settings.share_prefixes else 0
    for group in _fill(ordered, settings.tokens_per_micro_batch, shared):
        prefix = common_prefix(group) if settings.share_prefixes else []
        cut = [row.without_prefix(len(prefix)) for row in group]
        yield Batch(prefix, cut, settings.beta, settings.sft_weight)


def _fill(ordered: Sequence[Row], budget: int, shared: int = 0) -> list[list[Row]]:
    """Cut rows, shortest first, into groups of at most `budget` tokens with padding, a shared prefix left out."""
    groups: list[list[Row]] = []
    for row in ordered:
        width = (row.width - shared) * (1 + (row.rejected is not None))
        if not groups or width * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(row)
    return groups

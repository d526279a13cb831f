"""Rows -> steps of micro-batches, by token budget, from rows of like length, the same for the same (seed, epoch).

Rows that begin with the same tokens (the same system prompt) share a micro-batch and compute that prefix once:

    prefix  [s s s s]            once
    rows            [q q q a a]
                    [q q a a .]  padded on the right
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import common_start

if TYPE_CHECKING:
    from ..profiles import Training

GROUP = 16  # rows with the same first tokens share a micro-batch
ASIDE, MOST_ASIDE = 20, 64  # one row of so many is set aside, and no more than so many
SHORTEST_PREFIX = 8  # a shorter shared prefix is not worth a forward pass of its own


@dataclass(frozen=True)
class Row:
    """One encoded conversation."""

    input_ids: list[int]
    labels: list[int]
    number: int = -1  # its place in the prepared data


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together; `prefix` stands before each of them and teaches nothing."""

    prefix: list[int]
    rows: list[Row]

    @property
    def width(self) -> int:
        return max(len(row.input_ids) for row in self.rows)

    @property
    def tokens(self) -> int:
        """Tokens that the model computes, padding too."""
        return len(self.prefix) + self.width * len(self.rows)


def steps(
    rows: Sequence[Row],
    *,
    tokens_per_step: int,
    tokens_per_micro_batch: int,
    share_prefixes: bool,
    seed: int,
    epoch: int,
) -> list[list[Batch]]:
    """One epoch: every row once, as optimizer steps of micro-batches.

    Args:
        tokens_per_step: tokens of an optimizer step, which takes as many whole micro-batches as come nearest to it.
        tokens_per_micro_batch: tokens in memory at a time.
        share_prefixes: compute the tokens that all rows of a micro-batch begin with once.
    """
    rng = random.Random(f"{seed} {epoch}")
    batches = []
    for group in _groups(rows).values():
        batches += _cut(group, tokens_per_micro_batch, share_prefixes, rng)
    rng.shuffle(batches)
    return _steps(batches, tokens_per_step)


def rows_of(train: Iterable[dict[str, list[int]]]) -> list[Row]:
    """The prepared rows, each with its place."""
    return [Row(row["input_ids"], row["labels"], number) for number, row in enumerate(train)]


def set_aside(rows: list[Row], settings: Training) -> tuple[list[Row], list[Row]]:
    """The rows to train, and where `patience` is set every 20th row, at most 64, whose loss decides when to stop.

    The held-out questions must not decide: the report card asks them, and would flatter an adapter chosen by them.
    """
    if settings.patience is None:
        return rows, []
    every = max(ASIDE, -(-len(rows) // MOST_ASIDE))
    return [row for place, row in enumerate(rows) if place % every != 1], rows[1::every]


def all_steps(rows: Sequence[Row], settings: Training) -> list[list[Batch]]:
    """The micro-batches of every optimizer step, epoch after epoch."""
    return [step for epoch in range(settings.epochs) for step in epoch_steps(rows, settings, epoch)]


def epoch_steps(rows: Sequence[Row], settings: Training, epoch: int) -> list[list[Batch]]:
    """The optimizer steps of one epoch."""
    return steps(
        rows,
        tokens_per_step=settings.tokens_per_step,
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        share_prefixes=settings.share_prefixes,
        seed=settings.seed,
        epoch=epoch,
    )


def for_measuring(rows: Sequence[Row], settings: Training) -> list[Batch]:
    """Rows as micro-batches in a fixed order, for measuring."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        if not batches or len(row.input_ids) * (len(batches[-1]) + 1) > settings.tokens_per_micro_batch:
            batches.append([])
        batches[-1].append(row)
    return [Batch([], group) for group in batches]


def halves(batches: Sequence[Batch], parts: int) -> Iterator[Batch]:
    """The same rows in `parts` times as many micro-batches, for a card that is too small for the whole ones."""
    for batch in batches:
        size = -(-len(batch.rows) // parts)
        for start in range(0, len(batch.rows), size):
            yield Batch(batch.prefix, batch.rows[start : start + size])


def _groups(rows: Sequence[Row]) -> dict[tuple[int, ...], list[Row]]:
    groups: dict[tuple[int, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.input_ids[:GROUP])].append(row)
    alone = [key for key, members in groups.items() if len(members) < 4]
    for key in alone:
        groups[()] += groups.pop(key)
    return groups


def _cut(rows: list[Row], budget: int, share: bool, rng: random.Random) -> list[Batch]:
    """Rows of like length together; chance orders those of one length, so that neighbours change every epoch."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids) + rng.random())
    shared = len(common_prefix(rows)) if share and len(rows) > 1 else 0
    batches: list[list[Row]] = []
    widest = 0
    for row in ordered:
        own = len(row.input_ids) - (shared if shared >= SHORTEST_PREFIX else 0)
        widest = max(widest, own)
        if not batches or widest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            widest = own
        batches[-1].append(row)
    return [_batch(rows, share) for rows in batches]


def _batch(rows: list[Row], share: bool) -> Batch:
    prefix = common_prefix(rows) if share and len(rows) > 1 else []
    if len(prefix) < SHORTEST_PREFIX:
        return Batch([], rows)
    cut = len(prefix)
    return Batch(prefix, [Row(row.input_ids[cut:], row.labels[cut:], row.number) for row in rows])


def common_prefix(rows: Sequence[Row]) -> list[int]:
    """The tokens that all rows begin with, up to the token before the first learned one."""
    limit = min(next((i for i, label in enumerate(row.labels) if label >= 0), 1) for row in rows) - 1
    return common_start([row.input_ids[: max(limit, 0)] for row in rows])


def _steps(batches: list[Batch], budget: int) -> list[list[Batch]]:
    """Whole micro-batches together, as many as come nearest to the budget, one at least."""
    result: list[list[Batch]] = []
    filled = budget
    for batch in batches:
        if filled + batch.tokens / 2 > budget:
            result.append([])
            filled = 0
        result[-1].append(batch)
        filled += batch.tokens
    return result

"""Rows to learn that are nearly held-out ones: rapidfuzz compares texts, and counts of letters say which to compare.

Two texts are at least as many edits apart as their counts of letters differ, so nothing near is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .reading import Conversation

if TYPE_CHECKING:
    import numpy as np

NEAR = 95  # per cent of rapidfuzz's ratio: texts that differ in a letter or two
GROUPS = 32  # of letters, by the last bits of their code
PIECE = 4096  # rows compared at once


class Letters:
    """How often each group of letters stands in the last question of many rows: 36 bytes a row, texts are not kept."""

    def __init__(self) -> None:
        self._counts: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []

    def add(self, rows: list[Conversation]) -> None:
        """Take note of a batch."""
        import numpy as np

        if not rows:
            return
        texts = [asked(row) for row in rows]
        sizes = np.array([len(text) for text in texts], dtype=np.int32)
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "replace"), dtype="<u4")
        where = np.repeat(np.arange(len(rows)) * GROUPS, sizes) + codes % GROUPS
        counts = np.bincount(where, minlength=GROUPS * len(rows)).reshape(-1, GROUPS)
        self._counts.append(np.minimum(counts, 255).astype(np.uint8))  # a difference only gets smaller by it
        self._sizes.append(sizes)

    def of(self, rows: np.ndarray) -> Letters:
        """Those of some of the rows: (all rows,) true or false."""
        part = Letters()
        counts, sizes = self._all()
        part._counts, part._sizes = [counts[rows]], [sizes[rows]]
        return part

    def pairs(self, others: Letters) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which row could be near which of the others, by its letters: numbers of both, for a piece of the rows."""
        import numpy as np
        import torch

        (counts, sizes), (theirs, their_sizes) = self._all(), others._all()
        for start in range(0, len(sizes), PIECE):
            piece = slice(start, start + PIECE)
            limit = (1 - NEAR / 100) * (sizes[piece, None] + their_sizes) + 1
            ours = torch.from_numpy(counts[piece]).float()
            apart = torch.cdist(ours, torch.from_numpy(theirs).float(), p=1).numpy()
            rows, close = np.nonzero(apart <= limit)
            yield rows + start, close

    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        if not self._sizes:
            return np.zeros((0, GROUPS), dtype=np.uint8), np.zeros(0, dtype=np.int32)
        return np.concatenate(self._counts), np.concatenate(self._sizes)


def near_duplicates(rows: list[Conversation], held_out: list[Conversation]) -> list[Conversation]:
    """The rows whose last question and answer nearly are those of a held-out one (normalised edit distance)."""
    ours, theirs = Letters(), Letters()
    ours.add(rows)
    theirs.add(held_out)
    near: set[int] = set()
    for mine, other in ours.pairs(theirs):
        both = [(rows[m], held_out[o]) for m, o in zip(mine, other, strict=True)]
        alike = _alike([(asked(m), asked(o)) for m, o in both]) & _alike([(m.answer, o.answer) for m, o in both])
        near.update(mine[alike].tolist())
    return [rows[row] for row in sorted(near)]


def _alike(texts: list[tuple[str, str]]) -> np.ndarray:
    """Whether the two texts of each pair are near: (pairs,)."""
    import numpy as np
    from rapidfuzz import fuzz, process

    if not texts:
        return np.zeros(0, dtype=bool)
    ours, theirs = zip(*texts, strict=True)
    return process.cpdist(ours, theirs, scorer=fuzz.ratio, score_cutoff=NEAR, workers=-1) >= NEAR


def asked(row: Conversation) -> str:
    """The question that the last answer follows, in small letters."""
    return row.messages[-2]["content"].lower()

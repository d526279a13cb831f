"""Many encoded rows end to end in two arrays: what the proof counts in and the Arrow file is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .encoding import Encoded

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Flat:
    """A batch of rows end to end."""

    ids: np.ndarray  # (tokens,) int32
    labels: np.ndarray  # (tokens,) int32
    lengths: np.ndarray  # (rows,)
    unequal: tuple[int, ...] = ()  # rows with more or fewer labels than ids

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> Flat:
        """Put rows end to end; a missing label is -1, which no id is, and one too many is left out."""
        import numpy as np

        unequal = tuple(n for n, row in enumerate(rows) if len(row.input_ids) != len(row.labels))
        labels = [row.labels for row in rows]
        for n in unequal:
            size = len(rows[n].input_ids)
            labels[n] = [*labels[n][:size], *[-1] * (size - len(labels[n]))]
        lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
        return cls(_array([row.input_ids for row in rows]), _array(labels), lengths, unequal)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each row begins: (rows,)."""
        return self.ends - self.lengths

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each row ends: (rows,)."""
        import numpy as np

        return np.cumsum(self.lengths)

    @cached_property
    def row(self) -> np.ndarray:
        """The row that each token belongs to: (tokens,)."""
        import numpy as np

        return np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)

    @cached_property
    def first(self) -> np.ndarray:
        """Whether a token is the first of its row: (tokens,)."""
        import numpy as np

        mask = np.zeros(len(self.ids), dtype=bool)
        mask[self.starts] = True
        return mask

    def count(self, mask: np.ndarray) -> np.ndarray:
        """For every row, how many of its tokens the mask takes: (rows,)."""
        import numpy as np

        return np.add.reduceat(mask, self.starts, dtype=np.int64)


def _array(lists: list[list[int]]) -> np.ndarray:
    from array import array

    import numpy as np

    flat = array("i")
    for row in lists:
        flat.fromlist(row)
    return np.frombuffer(flat, dtype=np.int32) if flat else np.zeros(0, dtype=np.int32)

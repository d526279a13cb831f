"""Ids back to text, for the proof: every token's text is asked of the tokenizer once, and rows are put together of it.

The tokenizer's own decoding of every row would take a fifth of the time of a whole prepare. A token whose text depends
on its neighbours, such as one byte of a character, is left to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

HALF = "\ufffd"  # what a decoder writes for a byte that is no character by itself


class Decoder:
    """Decodes many rows; equals the tokenizer's own decoding, special tokens shown and nothing cleaned up."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        import numpy as np

        self._decode = tokenizer.backend_tokenizer.decode_batch
        size = len(tokenizer)
        alone = self._texts([[i] for i in range(size)])
        anchor = next(i for i, text in enumerate(alone) if text.isalpha())
        behind = self._texts([[anchor, i] for i in range(size)])
        self.first = alone  # of a row: some tokenizers leave out its leading space
        self.later = [text[len(alone[anchor]) :] for text in behind]
        self.depends = np.array([HALF in text for text in behind])

    def rows(self, ids: np.ndarray, starts: np.ndarray) -> list[str]:
        """The texts of rows that lie end to end in `ids`, each from its start to the next one's."""
        import numpy as np

        if not len(starts):
            return []
        flat, ends = ids.tolist(), [*starts[1:].tolist(), len(ids)]
        rows = [flat[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]
        texts = [self._together(row) for row in rows]
        hard = np.flatnonzero(np.logical_or.reduceat(self.depends[ids], starts)).tolist()
        for number, text in zip(hard, self._texts([rows[n] for n in hard]), strict=True):
            texts[number] = text
        return texts

    def _together(self, ids: list[int]) -> str:
        return self.first[ids[0]] + "".join(map(self.later.__getitem__, ids[1:]))

    def _texts(self, ids: Sequence[Iterable[int]]) -> list[str]:
        return list(self._decode(ids, skip_special_tokens=False))


@lru_cache(maxsize=4)
def decoder(tokenizer: PreTrainedTokenizerBase, size: int) -> Decoder:
    """The decoder of a tokenizer of `size` tokens, made once."""
    return Decoder(tokenizer)

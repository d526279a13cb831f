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
        alone = self._decoded([[i] for i in range(size)])
        anchor = next(i for i, text in enumerate(alone) if text.isalpha())
        behind = self._decoded([[anchor, i] for i in range(size)])
        self.first = alone  # of a row: some tokenizers leave out its leading space
        self.later = np.array([text[len(alone[anchor]) :] for text in behind], dtype=object)
        self.depends = np.array([HALF in text for text in behind])

    def texts(self, ids: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[str]:
        """The text of every stretch ids[start:end]."""
        import numpy as np

        tokens, first = self.later[ids].tolist(), self.first
        hard = np.append(0, np.cumsum(self.depends[ids]))
        stretches = zip(starts.tolist(), ends.tolist(), strict=True)
        found = [first[ids[start]] + "".join(tokens[start + 1 : end]) for start, end in stretches]
        whole = np.flatnonzero(hard[ends] > hard[starts]).tolist()
        decoded = self._decoded([ids[starts[n] : ends[n]].tolist() for n in whole])
        for n, text in zip(whole, decoded, strict=True):
            found[n] = text
        return found

    def _decoded(self, ids: Sequence[Iterable[int]]) -> list[str]:
        return list(self._decode(ids, skip_special_tokens=False))


@lru_cache(maxsize=4)
def decoder(tokenizer: PreTrainedTokenizerBase, size: int) -> Decoder:
    """The decoder of a tokenizer of `size` tokens, made once."""
    return Decoder(tokenizer)

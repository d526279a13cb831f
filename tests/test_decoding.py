"""The proof's decoder against the tokenizer's own: any ids, special ones and single bytes of a character too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lora_kit.base import ASSETS
from lora_kit.data.decoding import Decoder


def bytes_of_gpt2() -> PreTrainedTokenizerBase:
    """A tokenizer of the other kind, as Qwen's and Llama 3's: every byte is a sign of its own."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({sign: n for n, sign in enumerate(signs)}, []))
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {"sentencepiece": AutoTokenizer.from_pretrained(ASSETS / "tiny-chat"), "byte level": bytes_of_gpt2()}
DECODERS = {name: Decoder(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(rows=st.lists(st.lists(st.integers(0, 4095) | st.integers(0, 255), min_size=1, max_size=12), max_size=8))
@settings(max_examples=200, deadline=None)
def test_rows_are_decoded_as_the_tokenizer_does(name: str, rows: list[list[int]]) -> None:
    rows = [[token % len(TOKENIZERS[name]) for token in row] for row in rows]
    edges = np.cumsum([0, *map(len, rows)])
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    own = TOKENIZERS[name].backend_tokenizer.decode_batch(rows, skip_special_tokens=False)
    assert DECODERS[name].texts(ids, edges[:-1], edges[1:]) == own

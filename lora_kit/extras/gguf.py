"""GGUF, the one file that llama.cpp and Ollama run: written tensor by tensor with the `gguf` library.

    F16    2 bytes a weight, the merged model to rounding
    Q8_0   1.06 bytes a weight: blocks of 32 with one float16 scale

Names come from the library's own table. Query and key rows are put in the order of llama.cpp's rotary embedding, which
turns neighbours (2i, 2i + 1) where transformers turns halves (i, i + dim / 2).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import Weights
from ..errors import KitError
from ..progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

TYPES = ("F16", "Q8_0")
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # token types of the format
BLOCK = 32  # weights that share a scale in Q8_0


def write_gguf(model: Path, tokenizer: PreTrainedTokenizerBase, target: Path, *, kind: str = "F16", name: str) -> None:
    """Write a Llama folder as one GGUF file.

    Args:
        model: a plain folder, as `lk.merge` writes it.
        tokenizer: the model's.
        target: the file.
        kind: "F16", or "Q8_0" for half the bytes with an error below one percent of the logits.
        name: what the file calls the model.

    Raises:
        KitError: the `gguf` package is missing, or a model that the format's Llama does not cover.
    """
    gguf = _library()
    config, weights = json.loads((model / "config.json").read_text()), Weights(model)
    writer = gguf.GGUFWriter(target, "llama")
    _describe(writer, config, name, getattr(gguf.LlamaFileType, f"MOSTLY_{kind}"))
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for source, weight in weights.items():
        found = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise KitError(f"GGUF has no name for {source}: only plain Llama models are exported")
        chosen = _type(gguf, kind, weight.shape)
        stored = gguf.quant_shape_to_byte_shape(weight.shape, chosen) if chosen.name == "Q8_0" else tuple(weight.shape)
        size = _numpy_type(chosen)
        count = 1
        for side in stored:
            count *= side
        writer.add_tensor_info(found, stored, size, count * size.itemsize, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with Progress("writing GGUF", len(weights)) as progress:
        for number, (source, weight) in enumerate(weights.items(), start=1):
            writer.write_tensor_data(_values(gguf, source, weight, config, _type(gguf, kind, weight.shape)))
            progress.update(number)
    writer.close()


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise KitError("this export needs the package gguf: pip install gguf") from error
    return gguf


def _type(gguf: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """Vectors stay in float32, and rows that are no whole blocks in float16."""
    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    return getattr(gguf.GGMLQuantizationType, kind if shape[-1] % BLOCK == 0 else "F16")


def _numpy_type(chosen: Any) -> Any:
    import numpy

    return numpy.dtype({"F32": "float32", "F16": "float16", "Q8_0": "uint8"}[chosen.name])


def _values(gguf: Any, name: str, weight: torch.Tensor, config: dict[str, Any], chosen: Any) -> np.ndarray[Any, Any]:
    """A tensor as the file holds it."""
    values = weight.float().numpy()
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        values = _turned(values, config["num_attention_heads"])
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        values = _turned(values, config.get("num_key_value_heads") or config["num_attention_heads"])
    if chosen.name == "Q8_0":
        return gguf.quantize(values, chosen)
    found: np.ndarray[Any, Any] = values.astype(_numpy_type(chosen))
    if abs(found).max() == float("inf"):
        raise KitError(f"{name} has weights beyond float16's 65504: this model cannot be written as F16")
    return found


def _turned(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of every head from halves to neighbours: (heads * dim, ...) to the same."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _describe(writer: Any, config: dict[str, Any], name: str, file_type: Any) -> None:
    """The model's shape."""
    rope = config.get("rope_parameters") or {}
    kind = rope.get("rope_type") or (config.get("rope_scaling") or {}).get("type") or "default"
    if kind != "default":
        raise KitError(f"the model's rotary embedding is scaled ({kind!r}): GGUF export knows the plain one only")
    heads = config["num_attention_heads"]
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """The vocabulary with the order of its merges as scores, which is what SentencePiece merges by."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in content["model"]["merges"]]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores([0.0 if t in special else -float(ranks.get(t, len(merges))) for t in tokens])
    writer.add_token_types([_token_type(token, special, tokenizer.unk_token) for token in tokens])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _token_type(token: str, special: set[str], unknown: str | None) -> int:
    if token == unknown:
        return UNKNOWN
    if token in special:
        return CONTROL
    return BYTE if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else NORMAL

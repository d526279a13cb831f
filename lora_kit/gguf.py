"""GGUF, the one file that llama.cpp and Ollama run: written tensor by tensor with the `gguf` library.

    F16    2 bytes per weight, the merged model to rounding
    Q8_0   1.06 bytes per weight: blocks of 32 with one float16 scale

Names come from the library's own table. Query and key rows are put in the order of llama.cpp's rotary embedding, which
turns neighbours (2i, 2i + 1) where transformers turns halves (i, i + dim / 2).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import Weights
from .errors import KitError
from .progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase


def write_gguf(model: Path, tokenizer: PreTrainedTokenizerBase, target: Path, *, kind: str = "F16", name: str) -> None:
    """Write a Llama folder, as `lk.merge` leaves it, as one GGUF file; one tensor is in memory at a time.

    Args:
        kind: "F16", or "Q8_0" for half the bytes with an error below one percent of the logits.
        name: what the file calls the model.

    Raises:
        KitError: the `gguf` package is missing, or a model or tokenizer that the format's Llama does not cover.
    """
    import numpy as np

    try:
        import gguf
    except ImportError as error:
        raise KitError("this export needs the package gguf: pip install gguf") from error
    config, weights = json.loads((model / "config.json").read_text()), Weights(model)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    _add_shape(writer, config)
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    types = {}
    for source, weight in weights.items():
        found = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise KitError(f"GGUF has no name for {source}: only plain Llama models are exported")
        types[source] = chosen = gguf.GGMLQuantizationType[_type(kind, weight.shape)]
        block, block_bytes = gguf.GGML_QUANT_SIZES[chosen]
        num_bytes = weight.numel() // block * block_bytes
        # the shape counts weights, and so the dtype is any but uint8, which would count bytes
        writer.add_tensor_info(found, weight.shape, np.dtype("float16"), num_bytes, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with Progress("writing GGUF", len(weights)) as progress:
        for number, (source, weight) in enumerate(weights.items(), start=1):
            values = gguf.quantize(_in_order(source, weight, config), types[source])
            if types[source].name == "F16" and abs(values).max() == float("inf"):
                raise KitError(f"{source} has weights beyond float16's 65504: this model cannot be written as F16")
            writer.write_tensor_data(values)
            progress.update(number)
    writer.close()


def _type(kind: str, shape: torch.Size) -> str:
    """Vectors stay in float32, and rows that are no whole blocks of 32 in float16."""
    return "F32" if len(shape) == 1 else kind if shape[-1] % 32 == 0 else "F16"


def _in_order(name: str, weight: torch.Tensor, config: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Rows of every query and key head from halves to neighbours."""
    heads = config["num_attention_heads"]
    if ".k_proj." in name:
        heads = config.get("num_key_value_heads") or heads
    if ".k_proj." in name or ".q_proj." in name:  # (heads * dim, ...) to the same
        weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return weight.float().numpy()


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or {}
    kind = rope.get("rope_type") or (config.get("rope_scaling") or {}).get("type") or "default"
    if kind != "default":
        raise KitError(f"the model's rotary embedding is scaled ({kind!r}): GGUF export knows the plain one only")
    heads = config["num_attention_heads"]
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
    from gguf import TokenType

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if not content["model"].get("byte_fallback"):
        raise KitError("the base's tokenizer is not of Llama's kind (SentencePiece): GGUF export knows this one only")
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair) if isinstance(pair, list) else pair.replace(" ", ""), rank)
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    kinds = dict.fromkeys(special, TokenType.CONTROL) | {tokenizer.unk_token: TokenType.UNKNOWN}
    kinds |= {f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores([0.0 if token in special else -float(ranks.get(token, len(merges))) for token in tokens])
    writer.add_token_types([kinds.get(token, TokenType.NORMAL) for token in tokens])
    for role in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{role}_token_id")(getattr(tokenizer, f"{role}_token_id"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)

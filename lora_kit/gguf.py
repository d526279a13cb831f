"""GGUF, the one file that llama.cpp and Ollama run: written tensor by tensor with the `gguf` library.

    F16    2 bytes per weight, the merged model to rounding
    Q8_0   1.06 bytes per weight: blocks of 32 with one float16 scale

Names come from the library's own table. llama.cpp's rotary embedding turns neighbours (2i, 2i + 1) for some families
where transformers turns halves (i, i + dim / 2): query and key rows are then put in its order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import FAMILIES, read_config
from .data.chat_template import stop_id
from .errors import KitError
from .model_files import Weights
from .progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

GRANITE = {  # its multipliers, and the writer's names for them
    "attention_multiplier": "add_attention_scale",
    "embedding_multiplier": "add_embedding_scale",
    "residual_multiplier": "add_residual_scale",
    "logits_scaling": "add_logit_scale",
}
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PIECES = {  # how a byte-level tokenizer cuts text -> llama.cpp's name for it
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",  # also Granite 3's
    (WORDS + r"\p{N}{1,3}" + REST,): "llama-bpe",
    (WORDS + r"\p{N}" + REST,): "qwen2",
}


def write_gguf(model: Path, tokenizer: PreTrainedTokenizerBase, target: Path, *, kind: str = "F16", name: str) -> None:
    """Write a model folder as one GGUF file that calls it `name`, with one tensor in memory at a time.

    "Q8_0" has half the bytes of "F16", with an error below one percent of the logits.

    Raises:
        KitError: a family, a rotary embedding or a tokenizer that is not covered.
    """
    import gguf
    import numpy as np

    config, weights = read_config(model), Weights(model)
    family = FAMILIES.get(config["model_type"])
    if family is None or family.gguf is None:
        known = ", ".join(name for name, each in FAMILIES.items() if each.gguf)
        raise KitError(f"a {config['model_type']!r} model is not written as GGUF here; these families are: {known}")
    writer = gguf.GGUFWriter(target, family.gguf)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    _add_shape(writer, config)
    _add_tokenizer(writer, tokenizer, config["vocab_size"])
    arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[family.gguf]
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    types = {}
    for source, weight in weights.items():
        if source.endswith("rotary_emb.inv_freq"):  # of old checkpoints; llama.cpp computes it
            continue
        found = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise KitError(f"GGUF has no name for {source}: this model is not the plain {config['model_type']}")
        # vectors stay in float32, and rows that are no whole blocks of 32 in float16
        stored = "F32" if weight.ndim == 1 else kind if weight.shape[-1] % 32 == 0 else "F16"
        types[source] = chosen = gguf.GGMLQuantizationType[stored]
        block, block_bytes = gguf.GGML_QUANT_SIZES[chosen]
        num_bytes = weight.numel() // block * block_bytes
        # the shape counts weights, and so the dtype is any but uint8, which would count bytes
        writer.add_tensor_info(found, weight.shape, np.dtype("float16"), num_bytes, raw_dtype=chosen)
    factors = llama3_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with Progress("writing GGUF", len(types)) as progress:
        for number, source in enumerate(types, start=1):
            weight = weights[source] if family.rope_in_halves else _in_order(source, weights[source], config)
            values = gguf.quantize(weight.float().numpy(), types[source])
            if types[source].name == "F16" and abs(values).max() == float("inf"):
                raise KitError(f"{source} has weights beyond float16's 65504: this model cannot be written as F16")
            writer.write_tensor_data(values)
            progress.update(number)
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


def _in_order(name: str, weight: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Rows of every query and key head from halves to neighbours: (heads * dim, ...) to the same."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return weight
    heads = config["num_attention_heads"]
    if ".k_proj." in name:
        heads = config.get("num_key_value_heads") or heads
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    rope, heads = _rope(config), config["num_attention_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    if rope["rope_type"] not in ("default", "llama3"):
        raise KitError(f"the model's rotary embedding is scaled ({rope['rope_type']!r}): GGUF export does not know it")
    if config.get("use_sliding_window") or (config["model_type"] == "mistral" and config.get("sliding_window")):
        raise KitError("the model looks through a sliding window: GGUF export does not know it")
    if (config.get("no_rope_layer_interval") or 4) != 4:
        raise KitError("llama.cpp knows SmolLM3 with every fourth layer without rotary embedding only")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(int(dim * (rope.get("partial_rotary_factor") or 1)))
    writer.add_rope_freq_base(rope.get("rope_theta") or 10000.0)
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "phi3":
        writer.add_sliding_window(config.get("sliding_window") or 0)
        writer.add_rope_scaling_orig_ctx_len(config["max_position_embeddings"])
    for name, add in GRANITE.items():
        if config.get(name):
            getattr(writer, add)(config[name])


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the rotary embedding, in the form of transformers 5."""
    old = {name: config.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    found = {"rope_type": "default", **old} | (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})
    return found | {"rope_type": found.get("type") or found["rope_type"]}


def llama3_factors(config: dict[str, Any]) -> np.ndarray[Any, Any] | None:
    """How much Llama 3.x slows each frequency of the rotary embedding: (dim / 2,), or None.

    Source: transformers, modeling_rope_utils.py, `_compute_llama3_parameters`.
    """
    import numpy as np

    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)  # length in tokens
    low, high, size = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    share = np.clip((size / waves - low) / (high - low), 0, 1)  # 0: slowed in full, 1: not at all
    factors: np.ndarray[Any, Any] = (1 / ((1 - share) / rope["factor"] + share)).astype(np.float32)
    return factors


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """The vocabulary, SentencePiece's or byte-level, filled up to the model's `size`, and the special tokens."""
    from gguf import TokenType

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = {number: text for text, number in tokenizer.get_vocab().items()}
    texts = [tokens.get(number, f"[PAD{number}]") for number in range(max(size, len(tokens)))]
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    kinds = {text: TokenType.CONTROL if token.special else TokenType.USER_DEFINED for text, token in added.items()}
    kinds |= {text: TokenType.UNUSED for number, text in enumerate(texts) if number not in tokens}
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in content["model"]["merges"]]
    if content["model"].get("byte_fallback"):  # SentencePiece merges by scores: the order of the merges
        ranks: dict[str, int] = {}
        for rank, pair in enumerate(pairs):
            ranks.setdefault("".join(pair), rank)
        kinds |= {tokenizer.unk_token: TokenType.UNKNOWN} | {f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)}
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0 if text in added else -float(ranks.get(text, len(pairs))) for text in texts])
        writer.add_add_space_prefix(True)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(content))
        writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_token_list([text.encode() for text in texts])
    writer.add_token_types([kinds.get(text, TokenType.NORMAL) for text in texts])
    special = {role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "unk", "pad")}
    for role, number in (special | {"eot": stop_id(tokenizer)}).items():
        if number is not None:
            getattr(writer, f"add_{role}_token_id")(number)
    writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)
    if template := tokenizer.chat_template:
        quiet = "{%- set enable_thinking = false -%}" if "enable_thinking" in template else ""  # as in training
        writer.add_chat_template(quiet + template)


def pre_tokenizer(content: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer (`content` of its tokenizer.json) cuts text; KitError without."""
    steps = content["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    cuts = [step.get("pattern", {}).get("Regex") or step.get("type") for step in steps]
    if cuts[-1:] == ["ByteLevel"] and not steps[-1].get("use_regex"):  # it cuts nothing then
        cuts.pop()
    name = PIECES.get(tuple(cuts))
    if name is None:
        raise KitError(f"no name of llama.cpp is known here for a tokenizer that cuts text by {cuts}")
    if name == "llama-bpe" and not content["model"].get("ignore_merges"):
        return "dbrx"  # the same pieces, each merged even where it is a token as a whole
    return name

"""The families of base models that were tested, and what is special in each.

tests/test_families.py takes a small random model of every family through loss and gradients against its own plain
forward pass, plain PEFT, the merge, answers and GGUF. Every training also checks its own base (training/loss.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Base
from .errors import KitError


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers."""

    models: str  # published models of it
    gguf: str | None = None  # its name in llama.cpp
    rope_in_halves: bool = True  # llama.cpp turns halves there, as transformers does; False: neighbours
    overflows_float16: bool = False  # activations beyond 65,504


FAMILIES = {
    "llama": Family("Llama 2 and 3.x, SmolLM2, TinyLlama", "llama", rope_in_halves=False),
    "qwen2": Family("Qwen2.5", "qwen2"),
    "qwen3": Family("Qwen3", "qwen3"),
    "mistral": Family("Mistral 7B v0.3", "llama", rope_in_halves=False),
    "smollm3": Family("SmolLM3", "smollm3", rope_in_halves=False),
    "granite": Family("Granite 3.x", "granite", rope_in_halves=False),
    "olmo2": Family("OLMo 2", "olmo2"),
    "phi3": Family("Phi-4-mini, Phi-3", "phi3"),
    "gemma3_text": Family("Gemma 3 (text)", overflows_float16=True),
}
REFUSED = {  # that no setting opens
    "gemma2": "it caps the attention's logits, which the fast attention cannot",
    "gemma3": "its checkpoint holds a vision model too: take a text-only one, as gemma-3-1b-it",
    "gemma4": "its checkpoint holds a vision model too",
    "qwen3_5": "some of its layers are recurrent: rows that share a prefix would see each other",
    "qwen3_next": "some of its layers are recurrent: rows that share a prefix would see each other",
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # settings that a mixture of experts has


def check_family(folder: Path, base: Base) -> Path:
    """Return `folder` when it holds safetensors of a family that was tested, or of one that the user wants to try.

    Raises:
        KitError: no configuration, other weight files, a family that cannot be trained here, or one not tested.
    """
    config = read_config(folder)
    kind = config["model_type"]
    reason = REFUSED.get(kind) or ("it is a mixture of experts" if any(config.get(name) for name in EXPERTS) else None)
    tested = "; ".join(f"{name} ({family.models})" for name, family in FAMILIES.items())
    if reason:
        raise KitError(f"{folder} holds a {kind!r} model: {reason}. Families that work: {tested}")
    if kind not in FAMILIES and not base.untested:
        raise KitError(
            f"{folder} holds a {kind!r} model, which was not tested. Tested families: {tested}. "
            "base__untested=true tries it all the same: training first holds its loss against the model's own"
        )
    if not any(folder.glob("*.safetensors")):
        raise KitError(f"{folder} has no *.safetensors file; other weight formats are not loaded, for safety")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json; KitError where it is none."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        config["model_type"].lower()
        return config
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise KitError(f"{folder} has no readable config.json: give the folder of a chat model") from error


def check_numbers(config: dict[str, Any], dtype: str, max_length: int) -> None:
    """Raise KitError where this base would compute nonsense with these settings.

    Args:
        config: of the base.
        dtype: in which it computes.
        max_length: tokens of the longest row.
    """
    kind, rope = config["model_type"], config.get("rope_parameters") or config.get("rope_scaling") or {}
    if dtype == "float16" and kind in FAMILIES and FAMILIES[kind].overflows_float16:
        raise KitError(
            f"a {kind!r} model overflows in float16, the T4's dtype: set quantization__compute_dtype=float32 (slower), "
            "or take another base"
        )
    if (rope.get("rope_type") or rope.get("type")) == "longrope":
        most = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or 4096
        if max_length > most:
            raise KitError(f"this base changes its rotary embedding beyond {most} tokens: set data__max_length={most}")

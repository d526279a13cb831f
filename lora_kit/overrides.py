"""What a command line or a form gives for a setting, as the type that the setting has; and what values are right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from .errors import KitError

POSITIVE = (
    "lora__r",
    "lora__lora_alpha",
    "data__max_length",
    "training__epochs",
    "training__tokens_per_step",
    "training__tokens_per_micro_batch",
    "training__learning_rate",
    "training__max_grad_norm",
    "evaluation__max_new_tokens",
    "evaluation__batch_size",
    "evaluation__limit",
    "training__patience",
)
AUTO = ("training__epochs", "training__tokens_per_step", "training__learning_rate")  # decided by training/recipe.py
CHOICES = {
    "quantization__kind": ("nf4", "int8", "none"),
    "quantization__compute_dtype": ("auto", "float32", "float16", "bfloat16"),
    "data__too_long": ("stop", "drop", "shorten"),
    "data__bad_rows": ("stop", "drop"),
    "data__tags": ("stop", "keep"),
    "training__optimizer": ("adamw", "adamw_8bit", "paged_adamw_8bit"),
    "training__schedule": ("cosine", "linear", "constant"),
}
NOT_HERE = {  # what people look for, and what the kit has instead
    "dora": "DoRA is not done here: plain LoRA, and rsLoRA by lora__use_rslora=True",
    "neftune": "NEFTune is not done here: lora__lora_dropout works against learning by heart",
    "packing": "packing is not done here: rows of like length share a batch, with little padding",
    "pissa": "PiSSA is not done here: A starts Gaussian and B at zero",
    "loftq": "LoftQ is not done here: A starts Gaussian and B at zero",
    "modules_to_save": "whole modules are not trained here: only the adapter is",
    "bf16": "the dtype is chosen for the machine, or by quantization__compute_dtype",
    "fp16": "the dtype is chosen for the machine, or by quantization__compute_dtype",
    "max_steps": "the length of a training is training__epochs, or lk.train(..., max_minutes=...)",
    "batch_size": "batches have a number of tokens: training__tokens_per_step, training__tokens_per_micro_batch",
    "gradient_accumulation": "training__tokens_per_step is made of as many micro-batches as it needs",
    "gradient_checkpointing": "layers are computed twice by training__checkpoint_layers, by itself where needed",
}
SHARES = ("lora__lora_dropout", "training__warmup")
NOT_NEGATIVE = ("training__weight_decay", "training__evaluations", "data__declines", "data__general")


def convert(key: str, value: Any, wanted: str) -> Any:
    """Accept what a command line or a form gives ("16", "q_proj,v_proj") and refuse what does not fit the type."""
    if "tuple" in wanted:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
        return tuple(str(part).strip() for part in parts if str(part).strip())
    if "None" in wanted and str(value).lower() == "none":
        return None
    if "bool" in wanted and str(value).lower() in ("true", "false", "1", "0"):
        return str(value).lower() in ("true", "1")
    for kind in (int, float, str):
        if kind.__name__ in wanted and not isinstance(value, bool | None):
            try:
                return kind(str(value)) if kind is not str else str(value)
            except ValueError:
                continue
    raise KitError(f"{key}={value!r} does not fit: it must be {wanted.replace('<class ', '').strip('>')}")


def unknown(key: str, right: Mapping[str, Any]) -> KitError:
    """What to say of a setting that does not exist."""
    for word, text in NOT_HERE.items():
        if word in key.lower() and not key.startswith("evaluation__"):
            return KitError(f"there is no setting {key!r}: {text}")
    return KitError(f"there is no setting {key!r}{nearest(key, right)}; the settings are {', '.join(sorted(right))}")


def nearest(name: str, right: Iterable[str]) -> str:
    """A hint at the right name that a wrong one is most like: ", did you mean 'lora__r'?", or nothing."""
    plain = {re.sub("_+", "_", known): known for known in right}
    close = difflib.get_close_matches(re.sub("_+", "_", name), plain, n=1)
    ends = [known for known in right if known.split("__")[-1] == name]
    found = [*(plain[match] for match in close), *ends][:1] if len(ends) != 1 else ends
    return f" (did you mean {found[0]!r}?)" if found else ""


def problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with a profile's settings, given by their override names (and its device)."""
    return [text for ok, text in _rules(values) if not ok]


def _rules(values: Mapping[str, Any]) -> list[tuple[bool, str]]:
    above = ((n, values[n]) for n in POSITIVE if values[n] is not None and not (n in AUTO and values[n] == "auto"))
    return [
        *((_positive(value), f"{name}={value!r} must be a number above 0{_or_auto(name)}") for name, value in above),
        *((values[n] in c, f"{n}={values[n]!r} must be one of {', '.join(c)}") for n, c in CHOICES.items()),
        *((0 <= values[n] < 1, f"{n}={values[n]} must be from 0 to below 1") for n in SHARES),
        *((0 <= values[n] < inf, f"{n}={values[n]} must be 0 or above") for n in NOT_NEGATIVE),
        (
            0 <= values["training__seed"] < 2**32,
            f"training__seed={values['training__seed']} must be from 0 to below 2**32",
        ),
        (bool(values["lora__target_modules"]), "lora__target_modules is empty: name one, as in ('q_proj', 'v_proj')"),
        (_layers(values["training__checkpoint_layers"]), "training__checkpoint_layers must be 'auto', or 0 or above"),
        (values["device"] in ("cpu", "cuda"), f"device={values['device']!r} must be 'cpu' or 'cuda'"),
    ]


def _positive(value: Any) -> bool:
    return not isinstance(value, str) and 0 < value < inf


def _or_auto(name: str) -> str:
    return ", or 'auto'" if name in AUTO else ""


def _layers(value: Any) -> bool:
    return value == "auto" or (isinstance(value, int) and value >= 0)

"""An adapter's folder as PEFT writes it, and as anybody may forge it: plain LoRA's settings, checked, and its tensors.

PEFT's own reader takes whatever `adapter_config.json` says, modules to import and patterns to match among it. Here the
tensors say which modules have a layer, and no setting but those in KNOWN comes out of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import KitError
from .files import shown
from .templates import one_line

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

PREFIX = "base_model.model."  # what PEFT puts before every tensor name in a saved adapter
KNOWN: dict[str, Callable[[Any], bool]] = {
    "r": lambda value: type(value) is int and value > 0,
    "lora_alpha": lambda value: type(value) in (int, float) and 0 < value < 1e300,  # a float holds it
    "use_rslora": lambda value: type(value) is bool,
    "lora_dropout": lambda value: type(value) in (int, float) and 0 <= value < 1,
    # pissa, olora, corda, loftq subtract from W what they begin with: W + BA is another model
    "init_lora_weights": lambda value: value in (True, False, "gaussian", "eva", "orthogonal"),
    "peft_type": lambda value: value == "LORA",
}
NOT_NAMED = {"use_rslora": False, "lora_dropout": 0.0, "init_lora_weights": True, "peft_type": "LORA"}  # by older files
UNSET: tuple[Any, ...] = (None, False, "none", [], {})  # of any other setting: it changes nothing
PASSED_OVER = (  # they say nothing of the update, or where it is, as the tensors do
    "auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern layers_to_transform "
    "peft_version revision target_modules task_type"
).split()


class Saved(NamedTuple):
    """A saved adapter of plain LoRA."""

    config: LoraConfig  # with its modules as targets
    modules: list[str]  # by their full names, sorted
    scale: float  # lora_alpha / r, or / sqrt(r)
    tensors: dict[str, torch.Tensor]  # module.lora_A.weight (r, in) and module.lora_B.weight (out, r)


def read_adapter(folder: Path) -> Saved:
    """Read an adapter's folder; KitError where it is missing or damaged, or is not plain LoRA on linear layers."""
    from peft import LoraConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
        loaded = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise KitError(f"there is no whole adapter in {shown(folder)} ({error}): train it again") from error
    defaults, named = LoraConfig().to_dict(), {name: value for name, value in given.items() if value is not None}
    settings: dict[str, Any] = {name: (NOT_NAMED | named).get(name) for name in KNOWN}
    wrong = [name for name, is_right in KNOWN.items() if not is_right(settings[name])]
    others = [name for name in given if name not in (*KNOWN, *PASSED_OVER) and given[name] not in UNSET]
    wrong += [name for name in others if given[name] != defaults.get(name)]
    problems = [f"{one_line(name)}={given.get(name)!r:.80}" for name in wrong]
    tensors = {name.removeprefix(PREFIX): value for name, value in loaded.items()}
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    halves = {f"{module}.lora_{half}.weight" for module in modules for half in "AB"}
    problems += [f"the tensor {name}" for name in sorted(halves ^ set(tensors))] or ([] if tensors else ["no tensor"])
    rank = settings["r"]
    for module in modules if not problems else ():
        a, b = (tensors[f"{module}.lora_{half}.weight"] for half in "AB")
        if not (a.ndim == b.ndim == 2 and len(a) == b.shape[1] == rank and a.numel() and b.numel()):
            problems.append(f"{module} with A {(*a.shape,)} and B {(*b.shape,)}, which do not multiply at rank {rank}")
        elif not (a.is_floating_point() and b.is_floating_point()):
            problems.append(f"{module} in {a.dtype}")
    if problems:
        raise KitError(f"{shown(folder)} has {problems[0]}; plain LoRA and rsLoRA on linear layers are read")
    config = LoraConfig(**settings, target_modules=modules, task_type="CAUSAL_LM")
    return Saved(config, modules, config.lora_alpha / (sqrt(rank) if config.use_rslora else rank), tensors)

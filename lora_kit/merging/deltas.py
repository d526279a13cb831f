"""What an adapter adds to each tensor of the base, and which adapters are understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..adapters import PREFIX, read_adapter
from ..errors import KitError
from ..manifests import shown

if TYPE_CHECKING:
    import torch

Change = Callable[[str, "torch.Tensor"], "torch.Tensor"]  # (name, value) of a base tensor to what is merged onto
NOT_MERGED = {  # settings of a PEFT LoRA whose update is not scale * B A, or that change more than linear layers
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "lora_bias": "a LoRA with bias",
    "modules_to_save": "an adapter with whole modules",
    "trainable_token_indices": "an adapter with trained tokens",
    "target_parameters": "an adapter of bare parameters",
    "layer_replication": "an adapter with repeated layers",
    "alora_invocation_tokens": "an activated LoRA",
    "fan_in_fan_out": "an adapter of transposed layers",
}
MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq")  # first values that subtract from W: W + BA is another model


class Delta(NamedTuple):
    """The update scale * B A of one weight."""

    b: torch.Tensor  # (out, r) float32
    a: torch.Tensor  # (r, in) float32
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    def add_to(self, weight: torch.Tensor) -> torch.Tensor:
        """W + scale * B A in float32: (out, in)."""
        return (self.b.to(weight.device) @ self.a.to(weight.device)).mul_(self.scale).add_(weight)

    def beside(self, x: torch.Tensor) -> torch.Tensor:
        """scale * B (A x), as an adapter that is not merged computes it: (..., in) to (..., out)."""
        return (x @ self.a.to(x.device).T @ self.b.to(x.device).T) * self.scale


def adapter_deltas(adapter: Path) -> dict[str, Delta]:
    """Per adapted tensor of the base its update, with the scale as PEFT computes it (rsLoRA and patterns included).

    Raises:
        KitError: damaged, or an adapter that is not plain LoRA on linear layers.
    """
    tensors = read_adapter(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    if problem := _not_plain(config) or _odd_tensors(tensors):
        raise KitError(f"{shown(adapter)} is {problem}; plain LoRA and rsLoRA on linear layers are merged")
    names = {name.rsplit(".lora_", 1)[0] for name in tensors}
    return {f"{name.removeprefix(PREFIX)}.weight": _delta(name, tensors, config) for name in sorted(names)}


def _delta(name: str, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Delta:
    b, a = tensors[f"{name}.lora_B.weight"].float(), tensors[f"{name}.lora_A.weight"].float()
    if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
        raise KitError(f"the adapter's {name} has A {tuple(a.shape)} and B {tuple(b.shape)}, which do not multiply")
    alpha, r = _alpha(name.removeprefix(PREFIX), config), a.shape[0]
    return Delta(b, a, alpha / (r**0.5 if config.get("use_rslora") else r))


def _alpha(module: str, config: dict[str, Any]) -> float:
    """lora_alpha of one module; a pattern that names it wins."""
    alphas: dict[str, float] = config.get("alpha_pattern") or {}
    if not alphas:
        return float(config["lora_alpha"])
    from peft.utils.other import get_pattern_key  # only here: importing PEFT takes seconds

    return alphas.get(get_pattern_key(list(alphas), module), config["lora_alpha"])


def _not_plain(config: dict[str, Any]) -> str | None:
    """What kind of adapter it is, when it is none that can be merged."""
    if config.get("peft_type") != "LORA":
        return f"a {config.get('peft_type')} adapter"
    if config.get("bias", "none") != "none":
        return "an adapter that trains biases"
    first = str(config.get("init_lora_weights")).lower()
    if first.startswith(MOVES_THE_BASE):
        return f"an adapter that began as {first}, which changes the base's weights"
    return next((name for key, name in NOT_MERGED.items() if config.get(key)), None)


def _odd_tensors(tensors: dict[str, torch.Tensor]) -> str | None:
    halves = {name.rsplit(".lora_", 1)[0]: set() for name in tensors}  # type: dict[str, set[str]]
    for name in tensors:
        halves[name.rsplit(".lora_", 1)[0]].add(name.rpartition(".lora_")[2])
    odd = [name for name, found in halves.items() if found != {"A.weight", "B.weight"}]
    return f"an adapter with tensors of another kind, as {odd[0]}" if odd else None

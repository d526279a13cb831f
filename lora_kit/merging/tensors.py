"""Every tensor of a merged model against the base and PEFT's own update: what stays the same, and what is added."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import PREFIX, pass_over_old_torchao, read_adapter
from ..errors import KitError
from ..manifests import shown
from ..progress import Progress
from .comparing import spacing
from .deltas import Change
from .shards import DTYPES, Place, Shard, Weights
from .streaming import companions

if TYPE_CHECKING:
    import torch


def check_tensors(base: Path, adapter: Path, merged: Path, change: Change | None = None) -> dict[str, Any]:
    """Compare a merged folder with base + adapter, tensor by tensor.

    Unadapted tensors must have the base's bytes. An adapted one must be within half a step of its stored type of
    W + PEFT's delta (`get_delta_weight` of PEFT's own layers), but for the order of float32 sums.

    Args:
        base: the base's folder.
        adapter: the adapter's folder.
        merged: the folder to be judged.
        change: what happened to each base tensor first.

    Returns:
        counts, the share of the update that rounding lost, and "problems": one line each, empty when all is right.
    """
    before, after = Weights(base), Weights(merged)
    layers = peft_layers(base, adapter)
    problems = _other_names(before, after) + _other_files(base, merged)
    lost: list[float] = []
    with Progress("checking", len(before.found)) as progress:
        for number, (name, (shard, place)) in enumerate(before.found.items(), start=1):
            if name in after and after.found[name][1][:3] == place[:3]:
                layer = layers.get(name.removesuffix(".weight"))
                if layer is not None:
                    problem, share = _adapted(place, before[name], after[name], layer, change)
                    lost.append(share)
                else:
                    problem = _kept(shard, place, after, change)
                problems += [problem] if problem else []
            progress.update(number)
    return {
        "tensors": len(before.found),
        "adapted": len(lost),
        "lost_in_rounding": sum(lost) / max(len(lost), 1),
        "problems": problems,
    }


def peft_layers(base: Path, adapter: Path) -> dict[str, Any]:
    """PEFT's own LoRA layers with the adapter's weights, on a base without any, by the name of the base's module."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    pass_over_old_torchao()
    inject_adapter_in_model(LoraConfig.from_pretrained(str(adapter)), model, low_cpu_mem_usage=True)
    given = {  # PEFT's own loading would move them to where the base is, which has no weights
        name.removeprefix(PREFIX).replace(".weight", ".default.weight"): value
        for name, value in read_adapter(adapter).items()
    }
    if odd := model.load_state_dict(given, strict=False, assign=True).unexpected_keys:
        raise KitError(f"PEFT puts no layer where the adapter in {shown(adapter)} has {odd[0]}")
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _adapted(
    place: Place, weight: torch.Tensor, merged: torch.Tensor, layer: Any, change: Change | None
) -> tuple[str | None, float]:
    """What is wrong with an adapted tensor, and the share of its update that rounding lost."""
    import torch

    with torch.inference_mode():
        a, b = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
        delta = layer.get_delta_weight("default").float()
        expected = (change(place.name, weight) if change else weight).cpu().float() + delta
        sums = (abs(layer.scaling["default"]) * (b.abs() @ a.abs())).add_(expected.abs()).mul_((len(a) + 3) * 2.0**-24)
        allowed = sums.add_(spacing(expected, getattr(torch, DTYPES[place.dtype])), alpha=0.5)
        off = (merged.float() - expected).abs_()
        wrong = ~(off <= allowed)  # so that NaN is wrong
        share = float(off.norm() / delta.norm().clamp(min=1e-30))
        if not wrong.any():
            return None, share
        return f"{place.name}: {int(wrong.sum()):,} of {wrong.numel():,} weights are not W + BA", share


def _kept(shard: Shard, place: Place, after: Weights, change: Change | None) -> str | None:
    """What is wrong with a tensor that no adapter touches."""
    import torch

    other, there = after.found[place.name]
    if change is not None:
        weight = shard.tensor(place)
        expected = change(place.name, weight).cpu().to(weight.dtype)
        return None if torch.equal(expected, other.tensor(there)) else f"{place.name} is not the base's"
    same = all(x == y for x, y in zip(shard.pieces(place), other.pieces(there), strict=True))
    return None if same else f"{place.name} has other bytes than the base's"


def _other_names(before: Weights, after: Weights) -> list[str]:
    wanted, there = set(before.found), set(after.found)
    found = [f"{name} is missing" for name in sorted(wanted - there)]
    found += [f"{name} is not in the base" for name in sorted(there - wanted)]
    return found + [
        f"{name} is {after.found[name][1][1:3]}, in the base {before.found[name][1][1:3]}"
        for name in sorted(wanted & there)
        if after.found[name][1][1:3] != before.found[name][1][1:3]
    ]


def _other_files(base: Path, merged: Path) -> list[str]:
    """Tokenizer, configuration and their like must be the base's."""
    return [
        f"{file.name} is not the base's"
        for file in companions(base)
        if not (merged / file.name).is_file() or (merged / file.name).read_bytes() != file.read_bytes()
    ]

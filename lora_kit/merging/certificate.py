"""The certificate of a merge: every tensor against the base and PEFT's own update.

adapted tensors    within one rounding of W + delta, where delta is `get_delta_weight` of PEFT's own layer
all others         the base's bytes, and finite
"""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapter_files import read_adapter
from ..adapters import pass_over_old_torchao
from ..errors import KitError
from ..files import file_hash, read_json, shown
from ..model_files import INDEX, Weights, companions
from ..progress import Progress
from ..quantization import quiet_libraries

if TYPE_CHECKING:
    import torch

Change = Callable[[str, "torch.Tensor"], "torch.Tensor"]  # (name, value) of a base tensor to what is merged onto
Certificate = dict[str, Any]
ONTO = {"original": "W + BA", "dequantized": "dequantize(4 bits of W) + BA"}


def certify(base: Path, adapter: Path, merged: Path, *, change: Change | None = None) -> Certificate:
    """Judge the folder `merged`; "problems" names what is wrong, and is empty for a merge that can be trusted.

    Args:
        change: what happened to each base tensor first; None where it is merged onto as it is stored.
    """
    before, after, layers, lost = Weights(base), Weights(merged), peft_layers(base, adapter), list[float]()
    problems = _check_files(base, merged)
    problems += [f"{name} is not in the base" for name in sorted({*after, *layers} - {*before})]
    with Progress("checking", len(before)) as progress:
        for number, (name, stored) in enumerate(before.items(), start=1):
            found, problem = after.get(name), None
            weight = change(name, stored) if change else stored
            if found is None:
                problem = "is missing"
            elif (found.dtype, found.shape) != (stored.dtype, stored.shape):
                problem = f"is {found.dtype} {tuple(found.shape)}, in the base {stored.dtype} {tuple(stored.shape)}"
            elif name in layers:
                problem, share = _compare_adapted(weight, found, layers[name])
                lost.append(share)
            else:
                problem = _compare_unchanged(weight, found)
            problems += [f"{name} {problem}"] if problem else []
            progress.update(number)
    onto, rounding = "dequantized" if change else "original", sum(lost) / max(len(lost), 1)
    return {
        "verdict": "refused" if problems else "certified",
        "onto": onto,
        "sum": ONTO[onto],
        "tensors": {"tensors": len(before), "adapted": len(lost), "lost_in_rounding": rounding},
        "adapter_sha256": file_hash(adapter / "adapter_model.safetensors"),
        "problems": problems,
    }


def peft_layers(base: Path, adapter: Path) -> dict[str, Any]:
    """PEFT's own LoRA layers with the adapter's weights, by the name of the base's tensor; the base has no weights."""
    import torch
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    saved = read_adapter(adapter)
    pass_over_old_torchao()
    with quiet_libraries():
        inject_adapter_in_model(saved.config, model, low_cpu_mem_usage=True)
    # PEFT's own loading would move them to where the base is, which has no weights
    tensors = {name.replace(".weight", ".default.weight"): value for name, value in saved.tensors.items()}
    if unknown := model.load_state_dict(tensors, strict=False, assign=True).unexpected_keys:
        raise KitError(f"PEFT puts no layer where the adapter in {shown(adapter)} has {unknown[0]}")
    return {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def _compare_adapted(weight: torch.Tensor, merged: torch.Tensor, layer: Any) -> tuple[str | None, float]:
    """What is wrong with an adapted tensor, and the share of its update that rounding lost.

    Half a step of its dtype away from W + delta is right, and as far as the order of float32 sums explains.
    """
    import torch

    with torch.inference_mode():
        a, b = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
        delta = layer.get_delta_weight("default").float()
        exact = weight.cpu().float() + delta
        allowed = (abs(layer.scaling["default"]) * (b.abs() @ a.abs())).add_(exact.abs()).mul_((len(a) + 3) * 2.0**-24)
        allowed.add_(spacing(exact, merged.dtype), alpha=0.5)
        error = (merged.float() - exact).abs_()
        wrong = int((~((error <= allowed) & exact.isfinite())).sum())  # NaN is never right
        problem = f"has {wrong:,} of {error.numel():,} weights that are not W + BA" if wrong else None
        return problem, float(error.norm() / delta.norm().clamp(min=1e-30))


def _compare_unchanged(weight: torch.Tensor, merged: torch.Tensor) -> str | None:
    """What is wrong with a tensor that no adapter touches."""
    import torch

    one, other = (values.contiguous().view(-1).view(torch.uint8) for values in (weight.cpu().to(merged.dtype), merged))
    if not torch.equal(one, other):
        return "has other bytes than the base's"
    return None if merged.isfinite().all() else "has NaN or Inf, as in the base"


def spacing(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbouring numbers of `dtype` at each of the float32 `values`."""
    import torch

    kind = torch.finfo(dtype)
    exponent = torch.frexp(values).exponent - 1
    return torch.exp2(exponent.float()).mul_(kind.eps).clamp_(min=kind.smallest_normal * kind.eps)


def _check_files(base: Path, merged: Path) -> list[str]:
    """Tokenizer, configuration and their like must be the base's, and the index must say where each tensor is."""
    names = [file.name for file in companions(base)]
    _, different, missing = filecmp.cmpfiles(base, merged, names, shallow=False)
    problems = [f"{name} is not the base's" for name in sorted(different + missing)]
    stored = {name: path.name for name, path in Weights(merged).files.items()}
    listed = dict.fromkeys(stored, "model.safetensors")  # a model in one file has no index
    if (merged / INDEX).is_file():
        listed = read_json(merged / INDEX)["weight_map"]
    return problems if listed == stored else [*problems, f"{INDEX} does not say which file has each tensor"]


def table(certificate: Certificate) -> str:
    """The certificate as lines to read."""
    head = f"certificate: {certificate['verdict']}   {certificate['sum']}"
    if problems := certificate["problems"]:
        return "\n".join([head, *(f"  WRONG        {problem}" for problem in problems[:5])])
    count, adapted, lost = (certificate["tensors"][name] for name in ("tensors", "adapted", "lost_in_rounding"))
    base = "base" if certificate["onto"] == "original" else "dequantized base"
    return (
        f"{head}\n"
        f"  adapted      {adapted} of {count} tensors, each within one rounding of W + PEFT's own update; "
        f"{100 * lost:.2g} % of the update lost in it\n"
        f"  others       {count - adapted} of {count} tensors, byte for byte the {base}'s, and the files beside them; "
        "no NaN, no Inf"
    )

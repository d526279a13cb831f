"""A fresh adapter on the model's linear layers; the model stays the object you have.

    y = W x + scale * B (A x)      A: (r, in), Gaussian    B: (out, r), zero    scale = lora_alpha / r

B starts at zero, so a fresh adapter changes nothing. Source: LoRA, Hu et al. 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import KitError
from ..quantization import describe
from .injection import adapter_names, inject, lora_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..profiles import Lora, Profile
    from ..runs import Run


def attach_lora(model: PreTrainedModel, run: Run, *, adapter: str = "default") -> PreTrainedModel:
    """Add a fresh LoRA adapter to the model's target modules; a second call changes nothing.

    Args:
        model: the frozen base from `load_base`; it is changed in place and returned.
        run: its profile holds r, lora_alpha, lora_dropout, target_modules.
        adapter: a name, where several adapters share one base.

    Raises:
        KitError: a target name that the model does not have; the message lists those it has.
    """
    return attach(model, run.profile, adapter=adapter)


def attach(model: PreTrainedModel, profile: Profile, *, adapter: str = "default") -> PreTrainedModel:
    """The work of `attach_lora`, for a profile without a run."""
    import torch

    if adapter in adapter_names(model):
        print(f"adapter {adapter!r} is attached already")
        return model
    check_targets(model, profile.lora.target_modules)
    torch.manual_seed(profile.training.seed)
    inject(model, lora_config(profile.lora), adapter)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()  # adapters in float32: half precision would lose small updates
    print(f"adapter: r={profile.lora.r} on {', '.join(profile.lora.target_modules)}; {describe(model)}")
    return model


def lora_config(lora: Lora) -> Any:
    """PEFT's LoraConfig of a profile; A Gaussian as in the paper, B zero."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=list(lora.target_modules),
        use_rslora=lora.use_rslora,
        init_lora_weights="gaussian",
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_targets(model: PreTrainedModel, targets: tuple[str, ...]) -> None:
    """Raise KitError, with the names that exist, unless every target is a linear layer inside the decoder."""
    import torch

    layers = {
        name.removesuffix(".base_layer").rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name and "lora_" not in name
    }
    unknown = [target for target in targets if target not in layers]
    if unknown:
        raise KitError(f"the model has no linear layers named {unknown}; it has {', '.join(sorted(layers))}")


def trainable(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_fresh(model: PreTrainedModel, lora: Lora, *, adapter: str = "default") -> bool:
    """Whether the adapter is attached with these settings and not trained yet: every B is zero."""
    config = getattr(model, "peft_config", {}).get(adapter)
    if config is None or adapter not in adapter_names(model):
        return False
    same = (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora, set(config.target_modules)) == (
        (lora.r, lora.lora_alpha, lora.lora_dropout, lora.use_rslora, set(lora.target_modules))
    )
    return same and not any(layer.lora_B[adapter].weight.any() for layer in lora_layers(model))

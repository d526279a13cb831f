"""Attach, save, load and switch adapters (PEFT), in place: the model stays the object you have.

    y = W x + scale * B (A x)      A: (r, in), Gaussian    B: (out, r), zero    scale = lora_alpha / r

B starts at zero, so a fresh adapter changes nothing. Source: LoRA, Hu et al. 2021. Folders are plain PEFT folders.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import KitError
from .quantization import describe

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .profiles import Lora
    from .runs import Run

PREFIX = "base_model.model."  # what PEFT puts before every tensor name in a saved adapter


def attach_lora(model: PreTrainedModel, run: Run, *, adapter: str = "default") -> PreTrainedModel:
    """Add a fresh LoRA adapter to the model's target modules; a second call changes nothing.

    Args:
        model: the frozen base from `load_base`; it is changed in place and returned.
        run: its profile holds r, lora_alpha, lora_dropout, target_modules.
        adapter: a name, where several adapters share one base.

    Raises:
        KitError: a target name that the model does not have; the message lists those it has.
    """
    import torch

    if adapter in adapter_names(model):
        print(f"adapter {adapter!r} is attached already")
        return model
    check_targets(model, run.profile.lora.target_modules)
    torch.manual_seed(run.profile.training.seed)
    _add(model, lora_config(run.profile.lora), adapter)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()  # adapters in float32: half precision would lose small updates
    print(f"adapter: r={run.profile.lora.r} on {', '.join(run.profile.lora.target_modules)}; {describe(model)}")
    return model


def _add(model: PreTrainedModel, config: Any, adapter: str) -> None:
    """Add a fresh adapter by transformers' own way, so that its `model.set_adapter(name)` works too."""
    pass_over_old_torchao()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what is wanted
        model.add_adapter(config, adapter)
    model.train(model.training)  # PEFT's new layers are in training mode, with dropout, whatever the model is in


def pass_over_old_torchao() -> None:
    """Let PEFT work beside torchao below 0.16, which Colab and Kaggle ship and nothing here uses.

    PEFT from 0.19 raises where it should say that torchao is of no use. tests/test_adapters.py tells when it is mended.
    """
    from peft import import_utils

    try:
        import_utils.is_torchao_available()
    except ImportError:
        for name, module in list(sys.modules.items()):
            if name.startswith("peft.") and hasattr(module, "is_torchao_available"):
                module.is_torchao_available = lambda: False  # type: ignore[attr-defined]


def detach_lora(model: PreTrainedModel, *, adapter: str = "default") -> None:
    """Remove an adapter, so that the next one of this name starts fresh; nothing happens where there is none."""
    if adapter in adapter_names(model):
        model.delete_adapter(adapter)


def is_fresh(model: PreTrainedModel, lora: Lora, *, adapter: str = "default") -> bool:
    """Whether the adapter is attached with these settings and not trained yet: every B is zero."""
    config = getattr(model, "peft_config", {}).get(adapter)
    if config is None or adapter not in adapter_names(model):
        return False
    same = (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora, set(config.target_modules)) == (
        (lora.r, lora.lora_alpha, lora.lora_dropout, lora.use_rslora, set(lora.target_modules))
    )
    return same and not any(layer.lora_B[adapter].weight.any() for layer in lora_layers(model))


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


def adapter_names(model: PreTrainedModel) -> list[str]:
    """The adapters on this model, oldest first."""
    return list(next((module.lora_A.keys() for module in lora_layers(model)), []))


def lora_layers(model: PreTrainedModel) -> list[Any]:
    """PEFT's LoRA layers of the model."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def set_adapter(model: PreTrainedModel, adapter: str | None) -> None:
    """Switch to one adapter, or to the plain base with None; no weight is loaded or changed.

    Raises:
        KitError: no such adapter; the message lists those attached.
    """
    if adapter is not None and adapter not in adapter_names(model):
        raise KitError(f"there is no adapter {adapter!r} on this model; attached are {adapter_names(model)}")
    for layer in lora_layers(model):
        layer.enable_adapters(adapter is not None)
        if adapter is not None:
            layer.set_adapter(adapter)


def save_adapter(model: PreTrainedModel, folder: Path, run: Run, *, adapter: str = "default") -> None:
    """Write a plain PEFT adapter folder: adapter_config.json and adapter_model.safetensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + name: value.contiguous() for name, value in adapter_state(model, adapter).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = lora_config(run.profile.lora)
    config.base_model_name_or_path = run.profile.base.source
    config.revision = run.profile.base.revision
    config.inference_mode = True
    config.save_pretrained(str(folder))


def adapter_state(model: PreTrainedModel, adapter: str = "default") -> dict[str, torch.Tensor]:
    """The adapter's tensors on the CPU, named as PEFT saves them (without its prefix)."""
    from peft import get_peft_model_state_dict

    # no embedding layers: asking "auto" would look the base up on the Hub
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def load_adapter(model: PreTrainedModel, folder: Path, *, adapter: str = "default") -> PreTrainedModel:
    """Add a saved adapter to the model in place, ready for use.

    Raises:
        KitError: no adapter in the folder, a damaged file, or tensors that do not fit this model.
    """
    from peft import LoraConfig

    read_adapter(folder)  # before anything is changed
    config = LoraConfig.from_pretrained(str(folder))
    detach_lora(model, adapter=adapter)  # another rank or scale may be attached under this name
    check_targets(model, tuple(config.target_modules))
    _add(model, config, adapter)
    take_adapter(model, folder, adapter=adapter)
    return model.requires_grad_(False)


def take_adapter(model: PreTrainedModel, folder: Path, *, adapter: str = "default") -> None:
    """Fill the attached adapter with a saved one's tensors.

    Raises:
        KitError: no adapter in the folder, a damaged file, or tensors of another shape or another model.
    """
    from peft import set_peft_model_state_dict

    expected = adapter_state(model, adapter)
    given = {name.removeprefix(PREFIX): value for name, value in read_adapter(folder).items()}
    wrong = [name for name in expected.keys() | given.keys() if _shape(expected, name) != _shape(given, name)]
    if wrong:
        raise KitError(
            f"the adapter in {folder} was made for another model or rank: {len(wrong)} tensors differ, as {min(wrong)}"
        )
    set_peft_model_state_dict(model, given, adapter_name=adapter)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()


def check_same_scale(folder: Path, lora: Lora) -> None:
    """Refuse to go on with an adapter under another scale: it would start as another function.

    Raises:
        KitError: lora_alpha, r or use_rslora differ from what the adapter was trained with.
    """
    then = json.loads((folder / "adapter_config.json").read_text())
    now = {"r": lora.r, "lora_alpha": lora.lora_alpha, "use_rslora": lora.use_rslora}
    other = [
        f"lora__{name}={then[name]}, here {value}" for name, value in now.items() if then.get(name, value) != value
    ]
    if other:
        raise KitError(f"the adapter in {folder} was trained with {'; '.join(other)}: set the same")


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved adapter.

    Raises:
        KitError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        json.loads((folder / "adapter_config.json").read_text())
        return load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise KitError(f"there is no whole adapter in {folder} ({error}): train it again") from error


def _shape(tensors: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None

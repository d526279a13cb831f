"""LoRA adapters in plain PEFT: attach, save, load, switch. The model stays the object you have.

    y = W x + scale * B (A x)      A: (r, in), Gaussian    B: (out, r), zero    scale = lora_alpha / r

B starts at zero, so a fresh adapter changes nothing. Source: LoRA, Hu et al. 2021.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapter_files import PREFIX, Saved, read_adapter
from .config import ALL_LINEAR, Lora, Profile
from .errors import KitError
from .quantization import check_loaded, describe

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .runs import Run


def attach_lora(model: PreTrainedModel, run: Run) -> PreTrainedModel:
    """Add a fresh LoRA adapter to the model's target modules; a second call changes nothing.

    Args:
        model: the frozen base from `load_base`; it is changed in place and returned.
        run: its profile has r, lora_alpha, lora_dropout, target_modules.

    Raises:
        KitError: a target name that the model does not have; the message lists those it has.
    """
    return attach(model, run.profile)


def attach(model: PreTrainedModel, profile: Profile) -> PreTrainedModel:
    """`attach_lora` with a profile in place of a run."""
    import torch
    from peft import LoraConfig

    check_loaded(model)
    if "default" in adapter_names(model):
        print("an adapter is attached already")
        return model
    targets = target_names(model, profile.lora.target_modules)
    settings = asdict(profile.lora) | {"target_modules": targets}
    torch.manual_seed(profile.training.seed)
    _inject(model, LoraConfig(**settings, init_lora_weights="gaussian", task_type="CAUSAL_LM"), "default")
    print(f"adapter: r={profile.lora.r} on {', '.join(targets)}; {describe(model)}")
    return model


def target_names(model: PreTrainedModel, wanted: Iterable[str]) -> list[str]:
    """The linear layers of the decoder that get an adapter; KitError, with the names that exist, for another one."""
    layers = list(dict.fromkeys(name.rpartition(".")[2] for name in linear_layers(model)))
    names = list(wanted)
    if tuple(names) == ALL_LINEAR:
        return layers
    if unknown := [name for name in names if name not in layers]:
        raise KitError(f"the model has no linear layers named {unknown}; it has {', '.join(layers)}")
    return names


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear layers of the decoder by their names in the model, also where they have adapters."""
    import torch

    return {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name and "lora_" not in name
    }


def _inject(model: PreTrainedModel, config: Any, adapter: str) -> None:
    """Add a fresh adapter in float32, as half precision would lose small updates, and switch to it.

    Not by `model.add_adapter`: transformers 5.24 refuses every PEFT below 0.22, also the newest there is.
    """
    from peft import inject_adapter_in_model

    pass_over_old_torchao()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what is wanted
        inject_adapter_in_model(config, model, adapter)
    model._hf_peft_config_loaded = True  # so that `model.set_adapter(name)` works too, where transformers lets it
    set_adapter(model, adapter)
    model.train(model.training)  # PEFT's new layers are in training mode, with dropout, whatever the model is in
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()


def pass_over_old_torchao() -> None:
    """Let PEFT work beside torchao below 0.16, which Colab and Kaggle ship and nothing here uses.

    PEFT from 0.19 raises where it should answer "not available". tests/test_adapters.py fails once that is fixed.
    """
    from peft import import_utils

    try:
        import_utils.is_torchao_available()
    except ImportError:
        for name, module in list(sys.modules.items()):
            if name.startswith("peft.") and hasattr(module, "is_torchao_available"):
                module.is_torchao_available = lambda: False  # type: ignore[attr-defined]


def detach_lora(model: PreTrainedModel, *, adapter: str = "default") -> None:
    """Remove an adapter, so that the next one of this name starts fresh; without one, nothing happens."""
    from peft.functional import delete_adapter

    if adapter not in adapter_names(model):
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was active which is now deleted")  # the caller switches
        delete_adapter(model, adapter, "lora_")
    del model.peft_config[adapter]
    model._hf_peft_config_loaded = bool(model.peft_config)


def set_adapter(model: PreTrainedModel, adapter: str | None) -> None:
    """Switch to one adapter, or to the plain base with None; no weight is loaded or changed."""
    if adapter is not None and adapter not in adapter_names(model):
        raise KitError(f"there is no adapter {adapter!r} on this model; attached are {adapter_names(model)}")
    for layer in lora_layers(model):
        layer.enable_adapters(adapter is not None)
        if adapter is not None:
            layer.set_adapter(adapter)


@contextmanager
def adapter_off(model: PreTrainedModel) -> Iterator[None]:
    """The plain base for a while, on the same weights."""
    layers = [layer for layer in lora_layers(model) if not layer.disable_adapters]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter_names(model: PreTrainedModel) -> list[str]:
    """The adapters on this model, oldest first."""
    return list(getattr(model, "peft_config", {}))


def lora_layers(model: PreTrainedModel) -> list[Any]:
    """PEFT's LoRA layers of the model."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def trainable(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_fresh(model: PreTrainedModel, lora: Lora) -> bool:
    """Whether an adapter with these settings is attached and not trained yet: every B is zero."""
    config = getattr(model, "peft_config", {}).get("default")
    wanted = asdict(lora) | {"target_modules": set(target_names(model, lora.target_modules))}
    if config is None or any(getattr(config, name) != value for name, value in wanted.items()):
        return False
    return not any(layer.lora_B["default"].weight.any() for layer in lora_layers(model) if "default" in layer.lora_B)


def adapter_state(model: PreTrainedModel, adapter: str = "default") -> dict[str, torch.Tensor]:
    """The adapter's tensors on the CPU, named as PEFT saves them (without its prefix)."""
    from peft import get_peft_model_state_dict

    # without embedding layers: the default would look the base up on the Hub
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def save_adapter(model: PreTrainedModel, folder: str | Path, run: Run) -> None:
    """Write the adapter, as it is on the model, as a PEFT folder: adapter_config.json and adapter_model.safetensors."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + name: value for name, value in adapter_state(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = copy(model.peft_config["default"])
    config.target_modules = sorted(config.target_modules)  # a set has another order in every process
    config.base_model_name_or_path, config.revision = run.profile.base.public_source, run.profile.base.revision
    config.inference_mode = True
    config.save_pretrained(str(folder))


def load_adapter(model: PreTrainedModel, folder: str | Path, *, adapter: str = "default") -> PreTrainedModel:
    """Add a saved adapter to the model in place, ready for use; it replaces one of the same name.

    Raises:
        KitError: no adapter in the folder, a damaged file, one that is not plain LoRA, or does not fit this model.
    """
    folder = Path(folder)
    saved = read_adapter(folder)
    if unknown := {*saved.modules} - {*linear_layers(model)}:  # before anything is changed
        raise KitError(f"the adapter in {folder} was made for another model: this one has no {min(unknown)}")
    detach_lora(model, adapter=adapter)  # another rank or scale may be attached under this name
    _inject(model, saved.config, adapter)
    _fill(model, saved, folder, adapter)
    return model.requires_grad_(False)


def take_adapter(model: PreTrainedModel, folder: Path, lora: Lora) -> None:
    """Fill the attached adapter, of the settings `lora`, with a saved one's tensors, to train it further.

    KitError where it is damaged, of another shape, or of another scale: it would start as another function.
    """
    saved = read_adapter(folder)
    before, now = vars(saved.config), vars(lora)
    if names := [name for name in ("r", "lora_alpha", "use_rslora") if before[name] != now[name]]:
        other = "; ".join(f"lora__{name}={before[name]}, here {now[name]}" for name in names)
        raise KitError(f"the adapter in {folder} was trained with {other}: set the same")
    _fill(model, saved, folder, "default")


def _fill(model: PreTrainedModel, saved: Saved, folder: Path, adapter: str) -> None:
    from peft import set_peft_model_state_dict

    expected = {(name, value.shape) for name, value in adapter_state(model, adapter).items()}
    if wrong := expected ^ {(name, value.shape) for name, value in saved.tensors.items()}:
        raise KitError(f"the adapter in {folder} was made for another model or rank: {min(wrong)[0]} does not fit")
    set_peft_model_state_dict(model, saved.tensors, adapter_name=adapter)

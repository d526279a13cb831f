"""Adapters on the disk: plain PEFT folders, which PEFT itself loads too."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .attaching import check_targets, trainable
from .injection import detach_lora, inject

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..profiles import Lora
    from ..runs import Run

PREFIX = "base_model.model."  # what PEFT puts before every tensor name in a saved adapter


def save_adapter(model: PreTrainedModel, folder: Path, run: Run, *, adapter: str = "default") -> None:
    """Write a plain PEFT adapter folder: adapter_config.json and adapter_model.safetensors.

    Args:
        model: its adapter is written with the rank, scale and targets that it has on the model.
        folder: made where it is missing.
        run: names the base.
        adapter: which one, where several share the base.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + name: value.contiguous() for name, value in adapter_state(model, adapter).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = copy(model.peft_config[adapter])
    config.target_modules = sorted(config.target_modules)  # a set has another order in every process
    config.base_model_name_or_path = run.profile.base.source
    config.revision = run.profile.base.revision
    config.inference_mode = True
    config.save_pretrained(str(folder))


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
    inject(model, config, adapter)
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


def adapter_state(model: PreTrainedModel, adapter: str = "default") -> dict[str, torch.Tensor]:
    """The adapter's tensors on the CPU, named as PEFT saves them (without its prefix)."""
    from peft import get_peft_model_state_dict

    # no embedding layers: asking "auto" would look the base up on the Hub
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return {name: value.detach().cpu().clone() for name, value in state.items()}


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


def _shape(tensors: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None

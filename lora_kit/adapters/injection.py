"""PEFT's layers in a model: put in, switched, taken out, in place."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from ..errors import KitError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def inject(model: PreTrainedModel, config: Any, adapter: str) -> None:
    """Add a fresh adapter and switch to it.

    PEFT is called, not `model.add_adapter`: transformers 5.24 refuses every PEFT below 0.22, also the newest there is.
    """
    from peft import inject_adapter_in_model

    pass_over_old_torchao()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what is wanted
        inject_adapter_in_model(config, model, adapter)
    model._hf_peft_config_loaded = True  # so that `model.set_adapter(name)` works too, where transformers lets it
    set_adapter(model, adapter)
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
    if adapter not in adapter_names(model):
        return
    from peft.functional import delete_adapter

    delete_adapter(model, adapter, "lora_")
    del model.peft_config[adapter]
    if not model.peft_config:
        del model.peft_config
        model._hf_peft_config_loaded = False


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


def adapter_names(model: PreTrainedModel) -> list[str]:
    """The adapters on this model, oldest first."""
    return list(next((module.lora_A.keys() for module in lora_layers(model)), []))


def lora_layers(model: PreTrainedModel) -> list[Any]:
    """PEFT's LoRA layers of the model."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]

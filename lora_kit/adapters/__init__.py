"""Adapters in plain PEFT: attach, save, load and switch."""

from .attaching import attach, attach_lora, check_targets, is_fresh, trainable
from .files import (
    PREFIX,
    adapter_state,
    check_same_scale,
    load_adapter,
    read_adapter,
    save_adapter,
    take_adapter,
)
from .injection import adapter_names, detach_lora, lora_layers, pass_over_old_torchao, set_adapter

__all__ = [
    "PREFIX",
    "adapter_names",
    "adapter_state",
    "attach",
    "attach_lora",
    "check_same_scale",
    "check_targets",
    "detach_lora",
    "is_fresh",
    "load_adapter",
    "lora_layers",
    "pass_over_old_torchao",
    "read_adapter",
    "save_adapter",
    "set_adapter",
    "take_adapter",
    "trainable",
]

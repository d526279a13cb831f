"""lora_kit: fine-tune a chat model with LoRA on one small GPU, and prove that it worked.

The public names load their module when first used, so that `import lora_kit` is instant and touches no GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .adapters import attach_lora, load_adapter, save_adapter, set_adapter
    from .base import load_tokenizer
    from .chatting import chat
    from .checkup import doctor
    from .correction import correct, pairs
    from .data.prepare import prepare
    from .errors import KitError
    from .evaluation.evaluate import evaluate, read_answers
    from .exporting import export, push
    from .generation import answers
    from .hosted import download, keep_on_drive, upload
    from .machine import environment_report
    from .merging.merge import merge
    from .pipeline import make, summary
    from .presets import PROFILES
    from .quantization import load_base, release
    from .runs import Run
    from .training.plan import plan
    from .training.train import train, trained_adapter
    from .widgets import settings

_MODULES = {
    "adapters": ("attach_lora", "load_adapter", "save_adapter", "set_adapter"),
    "base": ("load_tokenizer",),
    "chatting": ("chat",),
    "checkup": ("doctor",),
    "correction": ("correct", "pairs"),
    "data.prepare": ("prepare",),
    "errors": ("KitError",),
    "evaluation.evaluate": ("evaluate", "read_answers"),
    "exporting": ("export", "push"),
    "generation": ("answers",),
    "hosted": ("download", "keep_on_drive", "upload"),
    "machine": ("environment_report",),
    "merging.merge": ("merge",),
    "pipeline": ("make", "summary"),
    "presets": ("PROFILES",),
    "quantization": ("load_base", "release"),
    "runs": ("Run",),
    "training.plan": ("plan",),
    "training.train": ("train", "trained_adapter"),
    "widgets": ("settings",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"lora_kit has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

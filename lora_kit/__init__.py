"""lora_kit: fine-tune a chat model with LoRA on one small GPU, and prove that it worked.

The public names load their module when first used, so that `import lora_kit` is instant and touches no GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .adapters import attach_lora as attach_lora
    from .adapters import load_adapter as load_adapter
    from .adapters import save_adapter as save_adapter
    from .adapters import set_adapter as set_adapter
    from .base import load_tokenizer as load_tokenizer
    from .chatting import chat as chat
    from .checkup import doctor as doctor
    from .data import prepare as prepare
    from .errors import KitError as KitError
    from .evaluation import evaluate as evaluate
    from .evaluation import read_answers as read_answers
    from .exporting import export as export
    from .exporting import push as push
    from .generation import answers as answers
    from .machine import environment_report as environment_report
    from .machine import keep_on_drive as keep_on_drive
    from .merging.merge import merge as merge
    from .minutes import budget as budget
    from .pipeline import make as make
    from .presets import PROFILES as PROFILES
    from .quantization import load_base as load_base
    from .quantization import release as release
    from .runs import Run as Run
    from .training import plan as plan
    from .training import train as train
    from .training import trained_adapter as trained_adapter
    from .widgets import settings as settings

_MODULES = {
    "adapters": ("attach_lora", "load_adapter", "save_adapter", "set_adapter"),
    "base": ("load_tokenizer",),
    "chatting": ("chat",),
    "checkup": ("doctor",),
    "data": ("prepare",),
    "errors": ("KitError",),
    "evaluation": ("evaluate", "read_answers"),
    "exporting": ("export", "push"),
    "generation": ("answers",),
    "machine": ("environment_report", "keep_on_drive"),
    "merging.merge": ("merge",),
    "minutes": ("budget",),
    "widgets": ("settings",),
    "pipeline": ("make",),
    "presets": ("PROFILES",),
    "quantization": ("load_base", "release"),
    "runs": ("Run",),
    "training": ("plan", "train", "trained_adapter"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"lora_kit has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""lora_kit: fine-tune a Llama chat model with LoRA on one small GPU, and prove that it worked.

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
    from .data.prepare import prepare
    from .environment import environment_report, keep_on_drive
    from .errors import KitError
    from .evaluation import evaluate, read_answers
    from .extras import export, push
    from .generation import answers
    from .merging.merge import merge
    from .minutes import budget
    from .notebook import settings
    from .pipeline import make
    from .profiles import PROFILES
    from .quantization import load_base, release
    from .runs import Run
    from .training import plan, train, trained_adapter
    from .traps import doctor

_ROOMS = {
    "KitError": "errors",
    "PROFILES": "profiles",
    "Run": "runs",
    "answers": "generation",
    "attach_lora": "adapters",
    "budget": "minutes",
    "chat": "chatting",
    "doctor": "traps",
    "environment_report": "environment",
    "evaluate": "evaluation",
    "export": "extras",
    "keep_on_drive": "environment",
    "load_adapter": "adapters",
    "load_base": "quantization",
    "load_tokenizer": "base",
    "make": "pipeline",
    "merge": "merging",
    "plan": "training",
    "prepare": "data",
    "push": "extras",
    "read_answers": "evaluation",
    "release": "quantization",
    "save_adapter": "adapters",
    "set_adapter": "adapters",
    "settings": "notebook",
    "train": "training",
    "trained_adapter": "training",
}
__all__ = [
    "PROFILES",
    "KitError",
    "Run",
    "answers",
    "attach_lora",
    "budget",
    "chat",
    "doctor",
    "environment_report",
    "evaluate",
    "export",
    "keep_on_drive",
    "load_adapter",
    "load_base",
    "load_tokenizer",
    "make",
    "merge",
    "plan",
    "prepare",
    "push",
    "read_answers",
    "release",
    "save_adapter",
    "set_adapter",
    "settings",
    "train",
    "trained_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"lora_kit has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

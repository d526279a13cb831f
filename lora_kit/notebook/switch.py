"""Buttons that switch the adapter of a model in memory; nothing is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..adapters import adapter_names, set_adapter
from .shown import widgets_shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE = "base"


def adapter_switch(model: PreTrainedModel) -> None:
    """Show a button for each adapter and one for the plain base; with widgets off, say the call that does it.

    Args:
        model: with adapters from `load_adapter`.
    """
    names = adapter_names(model)
    if not widgets_shown():
        calls = ", ".join(f"lk.set_adapter(model, {name!r})" for name in [None, *names])
        print(f"to switch: {calls}")
        return
    import ipywidgets
    from IPython.display import display

    buttons = ipywidgets.ToggleButtons(options=[BASE, *names], value=_active(model, names), description="answers")

    def switch(change: dict[str, Any]) -> None:
        set_adapter(model, None if change["new"] == BASE else change["new"])

    buttons.observe(switch, "value")
    display(buttons)  # type: ignore[no-untyped-call]


def _active(model: PreTrainedModel, names: list[str]) -> str:
    from ..adapters import lora_layers

    layer = next(iter(lora_layers(model)), None)
    on = layer is not None and not layer.disable_adapters and layer.active_adapters
    return on[0] if on and on[0] in names else BASE

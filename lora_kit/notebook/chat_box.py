"""Two answers side by side, with a menu of adapters and a slider for the temperature."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from ..errors import KitError

if TYPE_CHECKING:
    from ..chatting import Talk

FRAME = "border:1px solid #8888;border-radius:6px;padding:.5em .8em;min-height:4em;white-space:pre-wrap"


def chat_box(talk: Talk, temperature: float = 0.0) -> Any:
    """Show the box. Answers appear word by word; while a cell is running, a notebook delivers no clicks.

    Args:
        talk: base and adapters in memory.
        temperature: where the slider begins.
    """
    import ipywidgets
    from IPython.display import display

    asked = ipywidgets.Text(placeholder="Your question", layout={"width": "60%"})
    button = ipywidgets.Button(description="Ask", button_style="primary")
    menu = ipywidgets.Dropdown(options=talk.adapters, value=talk.adapter, description="adapter")
    warmth = ipywidgets.FloatSlider(
        value=temperature, min=0, max=2, step=0.1, description="temperature", style={"description_width": "initial"}
    )
    answers = {who: ipywidgets.HTML(layout={"width": "50%"}) for who in ("base", "tuned")}

    def ask(_: Any) -> None:
        button.disabled = True
        said = {"base": "", "tuned": ""}
        try:
            talk.switch(menu.value)
            for who, text in talk.ask(asked.value.strip(), warmth.value):
                said[who] = text
                answers[who].value = _framed(who, text)
        except KitError as error:
            answers["base"].value, answers["tuned"].value = _framed("not asked", str(error)), ""
        finally:
            button.disabled = False

    for who, answer in answers.items():
        answer.value = _framed(who, "")
    button.on_click(ask)
    box = ipywidgets.VBox(
        [
            ipywidgets.HBox([asked, button]),
            ipywidgets.HBox([menu, warmth]),
            ipywidgets.HBox([answers["base"], answers["tuned"]]),
        ]
    )
    display(box)  # type: ignore[no-untyped-call]
    return box


def _framed(title: str, text: str) -> str:
    return f"<b>{html.escape(title)}</b><div style='{FRAME}'>{html.escape(text)}</div>"

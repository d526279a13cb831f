"""What only a notebook shows (ipywidgets): the form of settings, the data browser, the adapter switch.

In a terminal, with LORA_KIT_WIDGETS=off, and where ipywidgets is not installed, each is plain text.
"""

from __future__ import annotations

import html
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .adapters import adapter_names, lora_layers, set_adapter
from .base import load_tokenizer
from .config import named_values
from .data.encoding import Encoded
from .data.reading.sources import EMBEDDED
from .data.report import row_text, row_tokens
from .errors import KitError
from .hosted import upload
from .machine import choose_profile, gpu_count
from .presets import LLAMA2_MIRROR, profile
from .progress import in_notebook
from .runs import Run
from .templates import render

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .data.prepared import Prepared

BASES: Mapping[str, dict[str, str]] = {  # as people call them -> what lk.Run takes
    "auto": {},  # what this machine can do: Llama 2 on a GPU, the embedded model without one
    "llama-2": {"profile": "llama2-7b-t4"},
    "llama-2-mirror": {"profile": "llama2-7b-t4", "base__source": LLAMA2_MIRROR.source},
    "llama-3.2": {"profile": "llama3.2-3b-t4"},  # small and quick; gated
    "qwen3": {"profile": "qwen3-4b-t4"},  # small, many languages; open to all
    "mistral": {"profile": "mistral-7b-t4"},  # large; open to all
    "tinyllama": {"profile": "tinyllama-t4"},
    "smollm2": {"profile": "smollm2-cpu"},  # or -t4, where a GPU is
    "tiny": {"profile": "tiny-cpu"},
}
EXTRAS = dict.fromkeys(("data__rewordings", "data__declines", "data__general"), "auto")


def widgets_shown() -> bool:
    """A notebook's kernel runs this, ipywidgets is installed, and LORA_KIT_WIDGETS is not "off"."""
    is_wanted = os.environ.get("LORA_KIT_WIDGETS", "").lower() != "off"
    return is_wanted and in_notebook() and importlib.util.find_spec("ipywidgets") is not None


@dataclass
class Settings:
    """What a notebook runs: the arguments of `settings`; its form changes them, `run()` takes them."""

    base: str = "auto"
    data: Any = "handbook"
    changes: str = ""
    extras: bool = False

    def run(self, **arguments: Any) -> Run:
        """The run of these settings; arguments of `lk.Run` (other data, a name, `lora__r=8`) win over them.

        The data "upload" asks for a file first.
        """
        if isinstance(self.data, str) and self.data == "upload":
            self.data = str(upload())  # the next call does not ask again
        given = {"data": self.data} | self._arguments() | arguments
        is_embedded = isinstance(given["data"], str) and given["data"] in EMBEDDED
        return Run(**(EXTRAS if self.extras and not is_embedded else {}) | given)

    def check(self) -> None:
        """Raise KitError where they are wrong; no run is made."""
        arguments = self._arguments()
        profile(choose_profile(arguments.pop("profile", None))[0], **arguments)

    def _arguments(self) -> dict[str, Any]:
        if self.base not in BASES:
            raise KitError(f"BASE={self.base!r} is not known; there are {', '.join(BASES)}")
        if self.data is None or (isinstance(self.data, str) and not self.data.strip()):
            raise KitError("DATA is empty: name a dataset ('handbook'), a file, or give rows")
        arguments: dict[str, Any] = dict(BASES[self.base])
        if self.base == "smollm2" and gpu_count():
            arguments["profile"] = "smollm2-t4"
        changes = named_values(self.changes.split())
        if "data__source" in changes:
            raise KitError("the data has a field of its own: write it there, not as data__source=")
        return arguments | changes

    def __str__(self) -> str:
        data = self.data if isinstance(self.data, str) else type(self.data).__name__
        extras = " with what it lacks" if self.extras and data not in EMBEDDED else ""
        return f"base {self.base}, data {data}{extras}" + (f", {self.changes}" if self.changes else "")


def settings(base: str = "auto", data: Any = "handbook", changes: str = "", extras: bool = False) -> Settings:
    """Show the settings as a form; with widgets off they are printed, and the cell above changes them.

    Args:
        base: "auto", "llama-2", "llama-2-mirror", "llama-3.2", "qwen3", "mistral", "tinyllama", "smollm2" or "tiny".
        data: an embedded dataset ("handbook", "triage"), your own file, "upload" to be asked for it, or rows.
        changes: single settings, "lora__r=8 training__epochs=2".
        extras: add what a file of yours lacks: other wordings of its questions, questions to decline, general ones.
    """
    chosen = Settings(base, data, changes, extras)
    chosen.check()
    if not widgets_shown():
        print(f"{chosen}. Another choice: change the cell above, and run on")
        return chosen
    import ipywidgets
    from IPython.display import display

    wide, example = {"width": "32em"}, "lora__r=8 training__epochs=2"
    fields = {"base": ipywidgets.Dropdown(options=list(BASES), value=base, description="base", layout=wide)}
    if isinstance(data, str):  # rows that were given as objects stay as they are
        fields["data"] = ipywidgets.Text(data, description="data", layout=wide)
    fields["changes"] = ipywidgets.Text(changes, placeholder=example, description="settings", layout=wide)
    fields["extras"] = ipywidgets.Checkbox(extras, description="add what a file of yours lacks", layout=wide)
    status = ipywidgets.HTML()

    def update(_: Any = None) -> None:
        for name, field in fields.items():
            setattr(chosen, name, field.value if name == "extras" else field.value.strip())
        try:
            chosen.check()
            status.value = html.escape(f"Chosen: {chosen}. Now run the next cells.")
        except KitError as error:
            status.value = html.escape(f"Not yet: {error}")

    for field in fields.values():
        field.observe(update, "value")
    update()
    display(ipywidgets.VBox([*fields.values(), status]))  # type: ignore[no-untyped-call]
    return chosen


def browse(data: Prepared, run: Run, row: int = 0) -> None:
    """Show prepared rows token by token, from `row` on; with widgets off, that one as plain text."""
    num_rows, tokenizer = len(data.train), load_tokenizer(run.profile.base)

    def tokens(number: int) -> list[dict[str, Any]]:
        return row_tokens(Encoded(*map(data.train[number].get, Encoded._fields)), tokenizer)

    def origin(number: int) -> str:
        if not (wording := data.train[number]["wording"]):
            return ""
        made = data.rewordings[wording - 1]
        return f"\nmade by {made['by']} from {made['question']!r}; data__leave_out={wording} leaves it out"

    if not 0 <= row < num_rows:
        raise KitError(f"row={row} is not there: the rows are 0 to {num_rows - 1}")
    if not widgets_shown():
        print(f"row {row} of {num_rows:,}, learned between ⟦ and ⟧:\n{row_text(tokens(row))}{origin(row)}")
        return
    import ipywidgets
    from IPython.display import display

    place = ipywidgets.IntSlider(row, 0, num_rows - 1, description="row", layout={"width": "30em"})
    words, button = ipywidgets.Text(placeholder="words to look for"), ipywidgets.Button(description="Next")
    status, page = ipywidgets.HTML(), ipywidgets.HTML()

    def show(_: Any = None) -> None:
        shown = render("report/tokens.html", tokens=tokens(place.value))
        page.value = f"<p style='line-height:1.9'>{shown}</p><p>{html.escape(origin(place.value))}</p>"

    def search(_: Any) -> None:
        wanted, start = words.value.strip().lower(), place.value + 1
        for number in (*range(start, num_rows), *range(start)):
            if wanted in str(tokenizer.decode(data.train[number]["input_ids"])).lower():
                place.value, status.value = number, ""
                return
        status.value = f"no row contains {html.escape(words.value)}"

    place.observe(show, "value")
    button.on_click(search)
    show()
    display(ipywidgets.VBox([ipywidgets.HBox([place, words, button]), status, page]))  # type: ignore[no-untyped-call]


def adapter_switch(model: PreTrainedModel) -> None:
    """Show a button for each loaded adapter and for the base; with widgets off, print the calls that switch."""
    names = adapter_names(model)
    if not widgets_shown():
        print("to switch: " + ", ".join(f"lk.set_adapter(model, {name!r})" for name in [None, *names]))
        return
    import ipywidgets
    from IPython.display import display

    layer = lora_layers(model)[0]
    active = "base" if layer.disable_adapters else layer.active_adapters[0]
    buttons = ipywidgets.ToggleButtons(options=["base", *names], value=active, description="answers")
    buttons.observe(lambda change: set_adapter(model, change["new"] if change["new"] in names else None), "value")
    display(buttons)  # type: ignore[no-untyped-call]

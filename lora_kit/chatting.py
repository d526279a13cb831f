"""Base and tuned model side by side: a box with two answers in a notebook, a plain prompt in a terminal."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .adapters import load_adapter, set_adapter
from .base import load_tokenizer
from .data.prepared import load_prepared
from .errors import KitError
from .files import read_manifest
from .generation import stream
from .progress import in_notebook
from .quantization import check_loaded, load_base, release
from .runs import Run
from .training.train import trained_adapter, trained_adapters
from .widgets import widgets_shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODELS = ("base", "tuned")
LONGEST = 256  # tokens of an answer
BOXES: list[PreTrainedModel] = []  # models that the last box has loaded itself
COOLEST, WARMEST = 0.01, 2.0  # temperature; below, numbers overflow; above, answers are noise
FRAME = "border:1px solid #8888;border-radius:6px;padding:.5em .8em;min-height:4em;white-space:pre-wrap"


def chat(
    run: Run,
    question: str | None = None,
    *,
    adapter: str | None = None,
    temperature: float = 0.0,
    model: PreTrainedModel | None = None,
) -> None:
    """Ask base and tuned model side by side: one question, a box in a notebook, or a prompt in a terminal.

    Each question stands alone, as in the report card: the models do not see earlier ones.

    Args:
        run: its adapter is trained; all adapters in its folder share one base.
        question: ask only this, as plain text.
        adapter: which one answers, by the name of its dataset ("handbook", "triage"); by default the run's own. A menu
            in the box, or a line like `:triage` at the prompt, switches without loading anything.
        temperature: 0 takes the likeliest words, 1 draws as the model believes; 2 at most.
        model: the base in memory, with or without adapters, so that it is not loaded again.
    """
    check_temperature(temperature)
    check_loaded(model, run)
    while BOXES and model is None:  # a notebook keeps a box, and with it its model, until it ends
        release(BOXES.pop())
    talk = Talk(run, adapter, model)
    if question:
        print_answers(talk, question, temperature)
    elif widgets_shown():
        BOXES.extend([talk.model] if model is None else [])
        chat_box(talk, temperature)
    elif in_notebook():
        print(f"widgets are off: ask with lk.chat(run, 'your question'); adapters are {', '.join(talk.folders)}")
    else:
        prompt(talk, temperature)


def check_temperature(temperature: object) -> None:
    """Raise KitError for a temperature at which numbers overflow, or that is none."""
    if not isinstance(temperature, int | float) or not (temperature == 0 or COOLEST <= temperature <= WARMEST):
        raise KitError(f"temperature={temperature!r} must be 0, or a number from {COOLEST:g} to {WARMEST:g}")


class Talk:
    """One base in memory with every adapter of the run; `adapter` is the one that answers."""

    def __init__(self, run: Run, adapter: str | None = None, model: PreTrainedModel | None = None) -> None:
        own = trained_adapter(run).parent.name
        self.run, self.folders = run, trained_adapters(run)  # name -> folder
        self.loaded: dict[str, str] = {}  # adapters by their name on the model, which takes no dots and no "train"
        self.system_of(adapter or own)  # what is refused is refused before the base is loaded
        self.model, self.tokenizer = model or load_base(run, whole=True), load_tokenizer(run.profile.base)
        self.switch(adapter or own)

    def switch(self, adapter: str) -> None:
        """Let another adapter answer, with the system text that it was trained with; the base stays."""
        system = self.system_of(adapter)
        if adapter not in self.loaded:
            load_adapter(self.model, self.folders[adapter], adapter=f"chat {len(self.loaded)}")
            self.loaded[adapter] = f"chat {len(self.loaded)}"
        self.adapter, self.system = adapter, system

    def system_of(self, adapter: str) -> str | None:
        """The system text that an adapter was trained with; KitError where there is no such adapter, or no data."""
        if adapter not in self.folders:
            raise KitError(f"there is no adapter {adapter!r} in this run; trained are {', '.join(self.folders)}")
        inputs = read_manifest(self.folders[adapter].parent)["inputs"]["data"]
        data = self.run.need("data", inputs, made_by=f"lk.prepare(run) with the data of {adapter!r}")
        return load_prepared(data).card.get("system")

    def answer(self, model: str, question: str, temperature: float) -> Iterator[str]:
        """The answer of "base" or "tuned" as it grows: the whole text so far, after every token."""
        if not question.strip():
            raise KitError("the question is empty")
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages += [{"role": "user", "content": question}]
        check_loaded(self.model)
        set_adapter(self.model, self.loaded[self.adapter] if model == "tuned" else None)
        draw = {"temperature": temperature, "seed": time.time_ns() % 2**32}
        yield from stream(self.model, self.tokenizer, messages, max_new_tokens=LONGEST, **draw)


def print_answers(talk: Talk, question: str, temperature: float) -> None:
    """Print both answers as they grow."""
    for model in MODELS:
        title, shown = f"{model:>6}: ", ""
        for text in talk.answer(model, question, temperature):
            print(title + text.removeprefix(shown).replace("\n", " "), end="", flush=True)
            title, shown = "", text
        print(title)


def prompt(talk: Talk, temperature: float) -> None:
    """Questions from the terminal until an empty line; `:name` switches the adapter, a mistake changes nothing."""
    print(f"An empty line ends it; :NAME switches the adapter ({', '.join(talk.folders)}).")
    try:
        while line := input("you: ").strip():
            try:
                if line.startswith(":"):
                    talk.switch(line[1:].strip())
                    print(f"adapter {talk.adapter!r}")
                else:
                    print_answers(talk, line, temperature)
            except KitError as error:
                print(error)
    except EOFError:
        print()


def chat_box(talk: Talk, temperature: float = 0.0) -> Any:
    """Two answers that grow side by side, a menu of adapters, and a slider that begins at this temperature."""
    import ipywidgets
    from IPython.display import display

    question = ipywidgets.Text(placeholder="Your question", layout={"width": "60%"})
    button = ipywidgets.Button(description="Ask", button_style="primary")
    menu = ipywidgets.Dropdown(options=list(talk.folders), value=talk.adapter, description="adapter")
    whole = {"description_width": "initial"}
    slider = ipywidgets.FloatSlider(temperature, min=0, max=WARMEST, step=0.1, description="temperature", style=whole)
    answers = [ipywidgets.HTML(_framed(model, ""), layout={"width": "50%"}) for model in MODELS]

    def ask(_: Any) -> None:
        button.disabled = True
        try:
            if menu.value != talk.adapter:
                talk.switch(menu.value)
            for model, answer in zip(MODELS, answers, strict=True):
                for text in talk.answer(model, question.value.strip(), slider.value):
                    answer.value = _framed(model, text)
        except KitError as error:
            answers[0].value, answers[1].value = _framed("not asked", str(error)), ""
        finally:
            button.disabled = False

    button.on_click(ask)
    rows = [[question, button], [menu, slider], answers]
    box = ipywidgets.VBox([ipywidgets.HBox(row) for row in rows])
    display(box)  # type: ignore[no-untyped-call]
    return box


def _framed(title: str, text: str) -> str:
    return f"<b>{html.escape(title)}</b><div style='{FRAME}'>{html.escape(text)}</div>"

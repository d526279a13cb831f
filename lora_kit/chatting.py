"""Base and tuned model side by side: a box with two answers in a notebook, a plain prompt in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapters import load_adapter, set_adapter
from .base import load_tokenizer
from .data import load_prepared
from .errors import KitError
from .files import read_manifest
from .generation import stream
from .notebook import chat_box, widgets_shown
from .progress import in_notebook
from .quantization import load_base
from .training import trained_adapter, trained_adapters

if TYPE_CHECKING:
    from .runs import Run

COOLEST, WARMEST = 0.01, 2.0  # temperature; below, numbers overflow; above, answers are noise


def chat(run: Run, question: str | None = None, *, adapter: str | None = None, temperature: float = 0.0) -> None:
    """Ask base and tuned model side by side: one question, a box in a notebook, or a prompt in a terminal.

    Each question stands alone, as in the report card: earlier ones are not told to the models.

    Args:
        run: its adapter is trained; all adapters in its folder share one base.
        question: ask only this, as plain text.
        adapter: which one answers, by the name of its dataset ("handbook", "triage"); by default the run's own. In the
            box a menu switches, at the prompt a line like `:triage`, without loading anything.
        temperature: 0 takes the likeliest words, 1 draws as the model believes; 2 at most.

    Raises:
        KitError: no such adapter, it is not trained yet, a wrong temperature, or the question cannot be encoded.
    """
    if not isinstance(temperature, int | float) or not (temperature == 0 or COOLEST <= temperature <= WARMEST):
        raise KitError(f"temperature={temperature!r} must be 0, or a number from {COOLEST:g} to {WARMEST:g}")
    if question is not None and not isinstance(question, str):
        raise KitError(f"question={question!r} must be a text")
    if adapter is not None and not isinstance(adapter, str):
        raise KitError(f"adapter={adapter!r} must be the name of one adapter")
    talk = Talk(run, adapter)
    if question:
        tell(talk, question, temperature)
    elif widgets_shown():
        chat_box(talk, temperature)
    elif in_notebook():
        print(f"widgets are off: ask with lk.chat(run, 'your question'); adapters are {', '.join(talk.adapters)}")
    else:
        prompt(talk, temperature)


class Talk:
    """One base in memory with every adapter of the run; `adapter` is the one that answers."""

    def __init__(self, run: Run, adapter: str | None = None) -> None:
        self._found, own = trained_adapters(run), trained_adapter(run)
        self.adapter = self._known(adapter or own.parent.name)
        self._run, self._tokenizer = run, load_tokenizer(run.profile.base)
        self._model = load_base(run)
        for name, folder in list(self._found.items()):
            try:
                load_adapter(self._model, folder, adapter=name)
            except KitError as error:
                if name == self.adapter:
                    raise
                print(f"adapter {name!r} is left out: {error}")
                del self._found[name]

    @property
    def adapters(self) -> list[str]:
        return list(self._found)

    def switch(self, adapter: str) -> None:
        """Let another adapter answer; nothing is loaded.

        Raises:
            KitError: there is none of this name; the message lists them.
        """
        self.adapter = self._known(adapter)

    def ask(self, question: str, temperature: float = 0.0) -> Iterator[tuple[str, str]]:
        """("base" or "tuned", its answer so far), growing; first the one, then the other."""
        if not question.strip():
            raise KitError("the question is empty")
        messages = [*_before(self._run, self._found[self.adapter]), {"role": "user", "content": question}]
        limit = self._run.profile.evaluation.max_new_tokens
        for who, active in (("base", None), ("tuned", self.adapter)):
            set_adapter(self._model, active)
            told = stream(self._model, self._tokenizer, messages, max_new_tokens=limit, temperature=temperature)
            yield from ((who, text) for text in told)

    def _known(self, name: str) -> str:
        if name not in self._found:
            raise KitError(f"there is no adapter {name!r} in this run; trained are {', '.join(self._found)}")
        return name


def tell(talk: Talk, question: str, temperature: float) -> None:
    """Print both answers as they grow."""
    titles, now, shown = {"base": "  base: ", "tuned": " tuned: "}, "", ""
    for who, text in talk.ask(question, temperature):
        if who != now:
            print(("\n" if now else "") + titles[who], end="")
            now, shown = who, ""
        added = text.removeprefix(shown)
        print(" ".join(added.split("\n")), end="", flush=True)
        shown = text
    print()


def prompt(talk: Talk, temperature: float) -> None:
    """Questions from the terminal until an empty line; `:name` switches the adapter, a mistake changes nothing."""
    print(f"An empty line ends it; :NAME switches the adapter ({', '.join(talk.adapters)}).")
    for asked in iter(_typed, ""):
        try:
            if asked.startswith(":"):
                talk.switch(asked[1:].strip())
                print(f"adapter {talk.adapter!r}")
            else:
                tell(talk, asked, temperature)
        except KitError as error:
            print(error)


def _before(run: Run, adapter: Path) -> list[dict[str, Any]]:
    """The system text that the adapter was trained with."""
    folder = run.find("data", read_manifest(adapter.parent)["inputs"]["data"])
    if folder is None:
        raise KitError(
            f"the prepared data of adapter {adapter.parent.name!r} are gone, and with them the system text that it was "
            "trained with: make them again with lk.prepare(run)"
        )
    system = load_prepared(folder).card.get("system")
    return [{"role": "system", "content": system}] if system else []


def _typed() -> str:
    """A line from the terminal; nothing where the input ends."""
    try:
        return input("you: ").strip()
    except EOFError:
        return ""

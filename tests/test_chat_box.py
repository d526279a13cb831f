"""The box of a notebook, driven without a browser: its widgets are plain objects in the kernel."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lora_kit as lk
from lora_kit import chatting
from lora_kit.errors import KitError
from lora_kit.notebook import chat_box

from .models import SHORT


class FakeTalk:
    """Answers word by word, and remembers what it was asked."""

    adapters = ("handbook", "triage")

    def __init__(self) -> None:
        self.adapter = "handbook"
        self.asked: list[tuple[str, str, float]] = []

    def switch(self, adapter: str) -> None:
        self.adapter = adapter

    def ask(self, question: str, temperature: float) -> Iterator[tuple[str, str]]:
        self.asked.append((question, self.adapter, temperature))
        if not question:
            raise KitError("the question is <empty>")
        for who in ("base", "tuned"):
            yield who, f"{who} says"
            yield who, f"{who} says <b>{question}</b>"


def parts(box: Any) -> tuple[Any, ...]:
    (asked, button), (menu, warmth), (base, tuned) = (row.children for row in box.children)
    return asked, button, menu, warmth, base, tuned


def test_a_click_shows_both_answers_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda box: None)
    talk = FakeTalk()
    asked, button, menu, warmth, base, tuned = parts(chat_box(talk, 0.5))  # type: ignore[arg-type]
    shown: list[str] = []
    tuned.observe(lambda change: shown.append(change["new"]), "value")
    asked.value, menu.value, warmth.value = "<script>", "triage", 1.0
    button.click()
    assert talk.asked == [("<script>", "triage", 1.0)]
    assert "base says &lt;b&gt;&lt;script&gt;" in base.value and "tuned says &lt;b&gt;" in tuned.value
    assert len(shown) == 2 and not button.disabled  # it grew
    assert "<script>" not in base.value + tuned.value


def test_what_cannot_be_asked_is_said_in_the_box_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda box: None)
    asked, button, _, warmth, base, tuned = parts(chat_box(FakeTalk(), 0.5))  # type: ignore[arg-type]
    assert warmth.value == 0.5
    button.click()
    assert "the question is &lt;empty&gt;" in base.value and tuned.value == "" and not button.disabled
    asked.value = "When?"
    button.click()
    assert "When?" in base.value


def test_chat_opens_the_box_in_a_notebook_and_a_prompt_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(chatting, "Talk", lambda run, adapter: FakeTalk())
    monkeypatch.setattr(chatting, "chat_box", lambda talk, temperature: opened.append("box"))
    monkeypatch.setattr(chatting, "prompt", lambda talk, temperature: opened.append("prompt"))
    for widgets, notebook in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(chatting, "widgets_shown", lambda widgets=widgets: widgets)
        monkeypatch.setattr(chatting, "in_notebook", lambda notebook=notebook: notebook)
        chatting.chat(None)  # type: ignore[arg-type]
    assert opened == ["box", "prompt"]
    assert "widgets are off: ask with lk.chat(run, 'your question'); adapters are handbook, triage" in (
        capsys.readouterr().out
    )


def test_the_prompt_answers_until_an_empty_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["When?", ":triage", ""])
    monkeypatch.setattr(chatting, "_typed", lambda: next(typed))
    chatting.prompt(FakeTalk(), 0.0)  # type: ignore[arg-type]
    assert capsys.readouterr().out == (
        "An empty line ends it; :NAME switches the adapter (handbook, triage).\n"
        "  base: base says <b>When?</b>\n tuned: tuned says <b>When?</b>\nadapter 'triage'\n"
    )


def test_chat_without_the_prepared_data_is_refused(done: lk.Run, tmp_path: Path) -> None:
    copy = lk.Run("tiny-cpu", root=tmp_path, name="short", **SHORT)
    for name in ("data", "training"):
        shutil.copytree(done.path / name, copy.path / name)
    shutil.copytree(done.path / "training" / "handbook", copy.path / "training" / "broken")
    (copy.path / "training" / "broken" / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    talk = chatting.Talk(copy)
    assert list(talk.adapters) == ["handbook"]  # what is broken is left out, and said
    with pytest.raises(KitError, match="the question is empty"):
        next(talk.ask(" "))
    shutil.rmtree(copy.path / "data")
    with pytest.raises(KitError, match="prepared data of adapter 'handbook' are gone"):
        next(talk.ask("When?"))


@pytest.mark.parametrize("temperature", [-1, 1e-320, 0.001, 3, "hot", float("nan")])
def test_temperatures_that_would_overflow_are_refused(done: lk.Run, temperature: Any) -> None:
    with pytest.raises(KitError, match=r"must be 0, or a number from 0\.01 to 2"):
        lk.chat(done, "When?", temperature=temperature)

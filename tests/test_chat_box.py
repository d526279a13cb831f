"""The box of a notebook, driven without a browser: its widgets are plain objects in the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lora_kit import chatting
from lora_kit.errors import KitError
from lora_kit.notebook import chat_box


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
    assert (
        capsys.readouterr().out == "  base: base says <b>When?</b>\n tuned: tuned says <b>When?</b>\nadapter 'triage'\n"
    )

"""Base and tuned side by side: at a prompt, and in a box, whose widgets are plain objects here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lora_kit as lk
from lora_kit import chatting
from lora_kit.errors import KitError

from .models import SHORT


class FakeTalk:
    """Answers word by word, and remembers what it was asked."""

    def __init__(self) -> None:
        self.folders, self.adapter = {"handbook": 1, "triage": 2}, "handbook"
        self.asked: list[tuple[str, str, str, float]] = []

    def switch(self, adapter: str) -> None:
        self.adapter = adapter

    def answer(self, model: str, question: str, temperature: float) -> Iterator[str]:
        self.asked.append((model, question, self.adapter, temperature))
        if not question:
            raise KitError("the question is <empty>")
        yield f"{model} says"
        yield f"{model} says\n<b>{question}</b>"


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    source = iter(lines)

    def read(_: str) -> str:
        for line in source:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)


def box_of(monkeypatch: pytest.MonkeyPatch, talk: FakeTalk) -> tuple[Any, ...]:
    monkeypatch.setattr("IPython.display.display", lambda box: None)
    rows = chatting.chat_box(talk, 0.5).children  # type: ignore[arg-type]
    return tuple(widget for row in rows for widget in row.children)


def test_a_click_shows_both_answers_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = FakeTalk()
    question, button, menu, slider, base, tuned = box_of(monkeypatch, talk)
    shown: list[str] = []
    tuned.observe(lambda change: shown.append(change["new"]), "value")
    assert slider.value == 0.5
    question.value, menu.value, slider.value = "<script>", "triage", 1.0
    button.click()
    assert talk.asked == [(model, "<script>", "triage", 1.0) for model in ("base", "tuned")]
    assert "base says\n&lt;b&gt;&lt;script&gt;" in base.value and "tuned says\n&lt;b&gt;" in tuned.value
    assert len(shown) == 2 and not button.disabled  # it grew
    assert "<script>" not in base.value + tuned.value


def test_what_cannot_be_asked_is_shown_in_the_box_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    question, button, *_, base, tuned = box_of(monkeypatch, FakeTalk())
    button.click()
    assert "the question is &lt;empty&gt;" in base.value and tuned.value == "" and not button.disabled
    question.value = "When?"
    button.click()
    assert "When?" in base.value and "When?" in tuned.value


def test_chat_opens_the_box_in_a_notebook_and_a_prompt_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(chatting, "Talk", lambda run, adapter, model: FakeTalk())
    monkeypatch.setattr(FakeTalk, "model", None, raising=False)
    monkeypatch.setattr(chatting, "BOXES", [])
    monkeypatch.setattr(chatting, "release", lambda model: None)
    monkeypatch.setattr(chatting, "chat_box", lambda talk, temperature: opened.append("box"))
    monkeypatch.setattr(chatting, "prompt", lambda talk, temperature: opened.append("prompt"))
    for widgets, notebook in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(chatting, "widgets_shown", lambda widgets=widgets: widgets)
        monkeypatch.setattr(chatting, "in_notebook", lambda notebook=notebook: notebook)
        lk.chat(None)  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert opened == ["box", "prompt"] and "lk.chat(run, 'your question')" in out and "handbook, triage" in out


@pytest.mark.parametrize("end", [("", "never"), ()])
def test_the_prompt_answers_until_an_empty_line_or_the_end(
    end: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "When?", ":triage", *end)
    chatting.prompt(FakeTalk(), 0.0)  # type: ignore[arg-type]
    _, *lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert lines == ["  base: base says <b>When?</b>", " tuned: tuned says <b>When?</b>", "adapter 'triage'"]


def test_one_question_is_answered_by_both(done: lk.Run, capsys: pytest.CaptureFixture[str]) -> None:
    lk.chat(done, "When does the canteen open?")
    out = capsys.readouterr().out
    assert "\n  base: " in f"\n{out}" and "\n tuned: " in out


def test_adapters_of_one_run_switch_at_the_prompt_without_loading(
    done: lk.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = done.pack(tmp_path / "run.zip")
    run = lk.Run("tiny-cpu", root=tmp_path, name="both", source=packed, **SHORT)
    lk.make(lk.Run("tiny-cpu", data="triage", root=tmp_path, name="both", **SHORT), until="training")
    typed(monkeypatch, "When does the canteen open?", ":triage", "My parcel is lost.", ":nobody")
    loaded: list[str] = []
    real = chatting.load_adapter

    def loading(*given: Any, adapter: str) -> object:
        loaded.append(adapter)
        return real(*given, adapter=adapter)

    monkeypatch.setattr(chatting, "load_adapter", loading)
    lk.chat(run)
    out = capsys.readouterr().out
    assert loaded == ["chat 0", "chat 1"] and "adapter 'triage'" in out
    assert "'nobody'" in out and "handbook, triage" in out
    assert out.count("  base: ") == out.count(" tuned: ") == 2
    with pytest.raises(KitError, match=r"'nobody'.*handbook, triage"):
        lk.chat(run, "Hello?", adapter="nobody")


def test_empty_questions_and_missing_data_are_refused(done: lk.Run, tmp_path: Path) -> None:
    copy = lk.Run("tiny-cpu", root=tmp_path, name="short", **SHORT)
    for name in ("data", "training"):
        shutil.copytree(done.path / name, copy.path / name)
    talk = chatting.Talk(copy)
    with pytest.raises(KitError, match="empty"):
        next(talk.answer("base", " ", 0.0))
    shutil.rmtree(copy.path / "data")
    with pytest.raises(KitError, match=r"lk\.prepare.*'handbook'"):
        talk.switch("handbook")


@pytest.mark.parametrize("temperature", [-1, 1e-320, 0.001, 3, "hot", float("nan")])
def test_temperatures_that_would_overflow_are_refused(done: lk.Run, temperature: Any) -> None:
    with pytest.raises(KitError, match=rf"temperature={temperature!r}.*0\.01 to 2"):
        lk.chat(done, "When?", temperature=temperature)


def test_what_cannot_be_asked_is_refused(done: lk.Run) -> None:
    with pytest.raises(KitError, match="512"):
        lk.chat(done, "word " * 3000)


def test_any_name_of_a_file_can_be_chatted_with_and_a_damaged_neighbour_does_not_matter(
    done: lk.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train.jsonl", "faq.v2.jsonl"):
        file = tmp_path / name
        file.write_text('{"question": "Who feeds the cat?", "answer": "Mina."}\n' * 8)
        run = lk.Run("tiny-cpu", data=file, root=tmp_path, name="names", data__test_size=0, **SHORT)
        lk.make(run, until="training")
    (run.path / "training" / "train" / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    lk.chat(run, "Who feeds the cat?")
    assert " tuned: " in capsys.readouterr().out


def test_a_new_chat_frees_the_model_of_the_box_before(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    talks = list[Any]()
    monkeypatch.setattr(chatting, "BOXES", [])
    monkeypatch.setattr(chatting, "widgets_shown", lambda: True)
    monkeypatch.setattr(chatting, "chat_box", lambda talk, temperature: talks.append(talk))
    for _ in range(2):
        lk.chat(done)
    with pytest.raises(KitError, match="released"):
        next(talks[0].answer("base", "Who?", 0.0))
    assert next(talks[1].answer("base", "Who?", 0.0)) is not None

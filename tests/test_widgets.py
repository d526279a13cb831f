"""The form, the data browser and the adapter switch: as widgets, which are plain objects here, and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lora_kit as lk
from lora_kit import widgets
from lora_kit.adapters import lora_layers
from lora_kit.data.prepare import data_inputs
from lora_kit.data.prepared import load_prepared
from lora_kit.presets import LLAMA2_MIRROR, PROFILES
from lora_kit.widgets import BASES, Settings, adapter_switch, browse


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Widgets are on, and what is displayed lands here."""
    found: list[Any] = []
    monkeypatch.setattr(widgets, "widgets_shown", lambda: True)
    monkeypatch.setattr("IPython.display.display", found.append)
    return found


@pytest.mark.parametrize(
    ("kernel", "installed", "wanted", "shows"),
    [(True, True, "", True), (True, True, "off", False), (False, True, "", False), (True, False, "", False)],
)
def test_widgets_need_a_kernel_the_library_and_nobody_s_no(
    monkeypatch: pytest.MonkeyPatch, kernel: bool, installed: bool, wanted: str, shows: bool
) -> None:
    monkeypatch.setattr(widgets, "in_notebook", lambda: kernel)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    monkeypatch.setenv("LORA_KIT_WIDGETS", wanted)
    assert widgets.widgets_shown() is shows


def test_every_base_of_the_menu_is_a_profile() -> None:
    for base, given in BASES.items():
        assert given.get("profile", "tiny-cpu") in PROFILES, base
    assert BASES["llama-2-mirror"]["base__source"] == LLAMA2_MIRROR.source


def test_text_says_the_choice_and_gives_its_run(tmp_run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    form = lk.settings("tiny", "triage", "lora__r=8 training__epochs=2")
    assert "base tiny, data triage, lora__r=8 training__epochs=2" in capsys.readouterr().out
    run = form.run()
    assert (run.profile.name, run.profile.data.source) == ("tiny-cpu", "triage")
    assert (run.profile.lora.r, run.profile.training.epochs) == (8, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("llama2",), f"'llama2'.*{', '.join(BASES)}"),
        (("tiny", "handbook", "lora__rank=8"), "'lora__rank'"),
        (("tiny", "handbook", "lora__r"), "'lora__r'.*NAME=VALUE"),
        (("tiny", "handbook", "lora__r="), "'lora__r='.*NAME=VALUE"),
        (("tiny", "handbook", "lora__r=many"), "lora__r='many'"),
        (("tiny", None), "DATA is empty"),
        (("tiny", " "), "DATA is empty"),
    ],
)
def test_a_wrong_choice_lists_the_right_ones(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(lk.KitError, match=message):
        lk.settings(*given)


def test_the_form_fills_the_choice_and_says_what_is_wrong(boxes: list[Any], tmp_run_root: Path) -> None:
    form = lk.settings("tiny")
    base, data, changes, extras, status = boxes[0].children
    changes.value = "lora__r=<b>"
    assert "Not yet" in status.value and "&lt;b&gt;" in status.value and "<b>" not in status.value
    base.value, data.value, changes.value = "tiny", "triage", "lora__r=4"
    assert "Chosen: base tiny, data triage, lora__r=4" in status.value
    assert form.run().profile.lora.r == 4 and form.run().profile.data.rewordings == 0
    data.value, extras.value = "faq.csv", True
    assert "data faq.csv with what it lacks" in status.value
    assert form.run().profile.data.rewordings == form.run().profile.data.declines == "auto"
    assert form.run(data="handbook").profile.data.general == 0  # which has all
    assert form.run(data__general=7).profile.data.general == 7
    assert form.run(data="handbook", lora__r=2).profile.lora.r == 2


def test_rows_given_as_objects_stay_what_they_are(boxes: list[Any]) -> None:
    import pandas

    for rows in ([{"question": "a?", "answer": "b"}], pandas.DataFrame({"question": ["a?"], "answer": ["b"]})):
        form = lk.settings("tiny", rows)
        assert len(boxes.pop().children) == 4 and form.data is rows
        assert str(Settings(data=rows)) == f"base auto, data {type(rows).__name__}"


def test_the_browser_shows_searches_and_escapes(done: lk.Run, boxes: list[Any]) -> None:
    data = load_prepared(done.find("data", data_inputs(done)) or done.path)
    browse(data, done, row=3)
    (place, words, button), status, page = boxes[0].children[0].children, *boxes[0].children[1:]
    assert place.value == 3 and "learned" in page.value
    words.value = "CANTEEN"
    button.click()
    found = place.value
    assert "canteen" in str(lk.load_tokenizer(done.profile.base).decode(data.train[found]["input_ids"]))
    words.value = "<nowhere>"
    button.click()
    assert place.value == found and status.value == "no row contains &lt;nowhere&gt;"


def test_the_browser_as_text(done: lk.Run, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_prepared(done.find("data", data_inputs(done)) or done.path)
    browse(data, done, row=1)
    out = capsys.readouterr().out
    assert out.startswith(f"row 1 of {len(data.train):,}") and out.count("⟦") == out.count("⟧") == 2
    with pytest.raises(lk.KitError, match=f"the rows are 0 to {len(data.train) - 1}"):
        browse(data, done, row=10**6)


def test_the_switch_switches_and_as_text_names_the_call(
    done: lk.Run, boxes: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lk.load_base(done)
    lk.load_adapter(model, lk.trained_adapter(done), adapter="first")
    lk.set_adapter(model, None)
    adapter_switch(model)
    (buttons,) = boxes
    assert buttons.options == ("base", "first") and buttons.value == "base"
    buttons.value = "first"
    assert not lora_layers(model)[0].disable_adapters
    buttons.value = "base"
    assert lora_layers(model)[0].disable_adapters
    monkeypatch.setattr(widgets, "widgets_shown", lambda: False)
    capsys.readouterr()
    adapter_switch(model)
    assert capsys.readouterr().out == "to switch: lk.set_adapter(model, None), lk.set_adapter(model, 'first')\n"

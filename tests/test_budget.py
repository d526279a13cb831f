"""The budget adds up, is printed, and leaves everything as it was."""

from __future__ import annotations

import pytest
import torch

import lora_kit as lk
from lora_kit.adapters import adapter_state
from lora_kit.data import data_inputs, load_prepared
from lora_kit.minutes import Budget


def test_a_budget_names_every_stage_and_adds_up() -> None:
    told = Budget({"load": 1.0, "train": 20.0, "answers": 4.5})
    assert str(told) == "budget: load 1.0, train 20.0, answers 4.5; about 25.5 minutes in all"


def test_it_is_measured_here_and_changes_nothing(done: lk.Run, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_prepared(done.find("data", data_inputs(done)) or done.path)
    model = lk.attach_lora(lk.load_base(done), done)
    plan = lk.plan(model, data, done)
    before, files = adapter_state(model), sorted(done.path.iterdir())
    found = lk.budget(model, data, done, plan)
    assert list(found.minutes) == ["load", "train", "answers", "merge", "certificate"]
    assert all(minutes > 0 for minutes in found.minutes.values()) and found.minutes["train"] == plan.minutes
    assert f"about {found.total:.1f} minutes in all" in capsys.readouterr().out
    assert sorted(done.path.iterdir()) == files
    assert all(torch.equal(before[name], value) for name, value in adapter_state(model).items())
    assert not model.training


def test_a_trained_adapter_has_no_budget(done: lk.Run) -> None:
    data = load_prepared(done.find("data", data_inputs(done)) or done.path)
    fresh = lk.attach_lora(lk.load_base(done), done)
    plan = lk.plan(fresh, data, done)
    trained = lk.load_adapter(lk.load_base(done), lk.trained_adapter(done))
    with pytest.raises(lk.KitError, match="needs the base with a fresh adapter"):
        lk.budget(trained, data, done, plan)

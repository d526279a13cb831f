"""The whole way on the embedded model, as short as it can be: what is done is not done twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import lora_kit as lk
from lora_kit import pipeline
from lora_kit.__main__ import main
from lora_kit.evaluation.card import METRICS
from lora_kit.evaluation.evaluate import evaluation_inputs

from .models import SHORT


def test_every_stage_leaves_a_folder_with_a_manifest(done: lk.Run) -> None:
    for stage in ("data", "training/handbook", "merged", "evaluation"):
        manifest = json.loads((done.path / stage / "manifest.json").read_text())
        assert manifest["files"] and manifest["figures"] and manifest["versions"]["torch"]


def test_the_report_card_holds_every_figure_with_intervals(done: lk.Run) -> None:
    card = json.loads((done.path / "evaluation" / "report_card.json").read_text())
    assert list(card["figures"]) == [metric.name for metric in METRICS]
    for figure in card["figures"].values():
        assert {"base", "adapter", "merged", "n", "interval", "difference"} <= set(figure)
    assert card["verdict"]["decision"] != "ship"  # one epoch and three questions prove nothing
    assert "<html" in (done.path / "evaluation" / "report.html").read_text()


def test_a_second_call_makes_nothing(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(pipeline.STAGES, lambda run: pytest.fail("made again")))
    lk.make(done)
    assert lk.evaluate(done)["profile"] == "tiny-cpu"


def test_other_settings_are_written_beside(done: lk.Run) -> None:
    changed = lk.Run("tiny-cpu", root=done.path.parent, name="short", **SHORT | {"data__max_length": 200})
    assert changed.find("evaluation", evaluation_inputs(done)) and pipeline.stage_folder(changed, "data") is None
    lk.prepare(changed)
    assert len(list(done.path.glob("data*"))) == 2


def test_a_packed_run_brings_the_training_to_another_machine(done: lk.Run, tmp_path: Path) -> None:
    packed = done.pack(tmp_path / "run.zip")
    there = lk.Run("tiny-cpu", root=tmp_path, name="short", source=packed, **SHORT)
    assert pipeline.stage_folder(there, "training") and pipeline.stage_folder(there, "merged") is None
    assert lk.merge(there).is_dir()


def test_the_summary_has_the_minutes_and_memory_of_what_is_finished(
    done: lk.Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lk.summary(done)
    said = capsys.readouterr().out
    assert re.findall(r"(data|training|merged|evaluation) \d", said) == [*pipeline.STAGES]
    assert float(re.search(r"memory: ([\d.]+) GiB", said)[1]) > 0
    monkeypatch.setattr(pipeline, "stage_folder", lambda run, stage: run.path / stage if stage == "data" else None)
    lk.summary(done)
    assert "memory" not in capsys.readouterr().out  # what was trained before it was noted
    monkeypatch.undo()
    lk.summary(lk.Run("tiny-cpu", root=tmp_path))
    assert "no stage is finished" in capsys.readouterr().out


def test_a_card_without_a_merge_is_not_the_card_that_the_demo_makes(done: lk.Run, tmp_path: Path) -> None:
    run = lk.Run("tiny-cpu", root=tmp_path, name="short", source=done.pack(tmp_path / "run.zip"), **SHORT)
    assert lk.evaluate(run)["models"] == ["base", "adapter"]
    lk.make(run)
    assert lk.evaluate(run)["models"] == ["base", "adapter", "merged"]


def test_release_empties_the_model(done: lk.Run) -> None:
    model = lk.load_base(done)
    lk.release(model)
    assert not list(model.parameters())


def test_an_unknown_stage_lists_the_stages(done: lk.Run) -> None:
    with pytest.raises(lk.KitError, match="data, training, merged, evaluation"):
        lk.make(done, until="everything")


def test_the_command_line_shows_the_card_of_a_finished_run(done: lk.Run, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
    status = main(["evaluate", "--profile", "tiny-cpu", "--root", str(done.path.parent), "--name", "short", *settings])
    out = capsys.readouterr().out
    assert status == 0 and "learned_exact" in out and "report.html" in out

"""lk.merge on a finished training: what it leaves behind when it goes well, badly, or is stopped."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import lora_kit as lk
from lora_kit.base import identity
from lora_kit.errors import KitError
from lora_kit.evaluation.evaluate import evaluation_inputs
from lora_kit.merging import merge as stage
from lora_kit.merging.merge import merge_inputs
from lora_kit.model_files import Weights
from lora_kit.presets import profile

from ..models import SHORT


@pytest.fixture
def trained(done: lk.Run, tmp_path: Path) -> lk.Run:
    """The short run on another place, trained and not merged."""
    return lk.Run("tiny-cpu", root=tmp_path, name="short", source=done.pack(tmp_path / "run.zip"), **SHORT)


def nothing_like_a_model(run: lk.Run) -> bool:
    return not [path for path in run.path.rglob("*.safetensors") if "adapter" not in path.name]


def test_the_merged_folder_is_whole_and_made_once(trained: lk.Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lk.merge(trained)
    certificate = json.loads((folder / "certificate.json").read_text())
    assert (certificate["tensors"]["tensors"], certificate["tensors"]["adapted"]) == (57, 12)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "README.md", "manifest.json"}
    out, made = capsys.readouterr().out, (folder / "model.safetensors").stat().st_mtime_ns
    assert "certified   W + BA" in out and "12 of 57" in out and "45 of 57" in out
    assert lk.merge(trained) == folder and (folder / "model.safetensors").stat().st_mtime_ns == made
    assert "certified   W + BA" in capsys.readouterr().out


def test_both_bases_lie_beside_each_other(trained: lk.Run) -> None:
    original, dequantized = lk.merge(trained), lk.merge(trained, onto="dequantized")
    assert original.name == "merged" and dequantized.name.startswith("merged-")
    assert lk.merge(trained, onto="original") == original and lk.merge(trained, onto="dequantized") == dequantized
    a, b = Weights(original), Weights(dequantized)
    assert all((a[name] != b[name]).any() for name in a if name.endswith("proj.weight"))
    for folder in (original, dequantized):
        assert json.loads((folder / "certificate.json").read_text())["verdict"] == "certified"


def test_what_cannot_be_merged_names_the_way_out(
    trained: lk.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KitError, match=r"'nf4'.*'original', 'dequantized'"):
        lk.merge(trained, onto="nf4")
    with pytest.raises(KitError, match=r"lk\.train\(model, data, run\)"):
        lk.merge(lk.Run("tiny-cpu", root=tmp_path / "empty"))
    plain = lk.Run("tiny-cpu", root=tmp_path / "plain", quantization__kind="none")
    with pytest.raises(KitError, match="onto='original'"):
        lk.merge(plain, onto="dequantized")


def test_a_base_that_is_no_longer_the_one_of_the_training_is_not_merged(
    trained: lk.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = identity(trained.profile.base) | {"files": {"model.safetensors": "of another base"}}
    monkeypatch.setattr("lora_kit.data.prepare.identity", lambda base: other)
    with pytest.raises(KitError, match=r"lk\.train\(model, data, run\)"):
        lk.merge(trained)


def test_the_profile_says_which_base_and_every_stage_after_follows(trained: lk.Run, tmp_path: Path) -> None:
    told = {"root": trained.path.parent, "name": trained.path.name, **SHORT}
    run = lk.Run("tiny-cpu", merge__onto="dequantized", **told)
    assert merge_inputs(run) == merge_inputs(trained, "dequantized") != merge_inputs(trained)
    assert lk.merge(run) == lk.merge(trained, onto="dequantized")
    assert evaluation_inputs(run)["merged"]["onto"] == "dequantized"
    assert profile("smollm2-t4").merge.onto == "dequantized"


def test_a_merge_that_fails_is_refused_and_leaves_nothing(trained: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage.merge_folder

    def wrong(base: Path, adapter: Path, target: Path, change: Any) -> dict[str, Any]:
        figures = real(base, adapter, target, change)
        path = target / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-2] ^= 1  # one bit of the last tensor
        path.write_bytes(data)
        return figures

    with monkeypatch.context() as patch, pytest.raises(KitError, match=r"WRONG(.|\n)*lk\.merge\(run\) again"):
        patch.setattr(stage, "merge_folder", wrong)
        lk.merge(trained)
    assert nothing_like_a_model(trained)
    assert {path.name for path in trained.path.glob(".merged*")} <= {".merged.lock"}
    assert not (trained.path / "merged").exists() and lk.merge(trained).name == "merged"


def test_an_interrupt_leaves_nothing_that_looks_like_a_model(trained: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for place in ("merge_folder", "certify"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stage, place, interrupted)
            lk.merge(trained)
        assert nothing_like_a_model(trained)


def test_a_merge_that_breaks_off_holds_no_tensor_in_its_traceback(
    trained: lk.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook keeps the last error with the locals of its frames: on a card they would keep their memory."""
    seen: list[weakref.ref[torch.Tensor]] = []
    emptied: list[bool] = []

    def breaks_off(name: str, weight: torch.Tensor) -> torch.Tensor:
        on_the_card = weight.float() + 1
        seen.append(weakref.ref(on_the_card))
        if len(seen) == 5:
            raise torch.OutOfMemoryError("planted")
        return on_the_card

    monkeypatch.setattr(stage, "round_trip", lambda profile: breaks_off)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(all(tensor() is None for tensor in seen)))
    with pytest.raises(torch.OutOfMemoryError, match="planted") as caught:
        lk.merge(trained, onto="dequantized")
    assert caught.tb is not None and [tensor() is None for tensor in seen] == [True] * 5
    assert emptied[-1:] == [True]  # after the tensors were let go, or nothing would be given back


def test_a_disk_that_fills_up_leaves_nothing_and_says_so(trained: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, target: Path, **more: Any) -> None:
        target.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(KitError, match="No space left on device"):
        lk.merge(trained)
    assert nothing_like_a_model(trained)


def test_on_kaggle_the_merge_lies_on_the_scratch_disk(
    trained: lk.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.scratch = tmp_path / "temp" / "short"
    folder = lk.merge(trained)
    assert folder == trained.scratch / "merged"
    assert "a scratch disk, empty when the session ends" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "certificate.json"])
def test_a_merge_that_was_damaged_since_is_not_handed_out(done: lk.Run, name: str) -> None:
    folder = lk.merge(done)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:100])
    try:
        with pytest.raises(lk.KitError, match=f"{name} is missing or damaged"):
            lk.merge(done)
    finally:
        (folder / name).write_bytes(whole)

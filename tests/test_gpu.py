"""The T4 profile on a small random Llama: on a CUDA card (pytest -m gpu), and its settings on a CPU in float16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_kit.adapters import attach_lora, save_adapter, trainable
from lora_kit.generation import generate_ids
from lora_kit.merging import certify, merge_folder
from lora_kit.merging.comparing import Rows
from lora_kit.profiles import Profile, profile
from lora_kit.quantization import load_model, round_trip
from lora_kit.training.batches import epoch_steps
from lora_kit.training.guards import check_learned
from lora_kit.training.loop import Around, fit
from lora_kit.training.loss import compute_dtype_of

from .models import FakeRun, random_rows, save_small_llama

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def t4_profile(folder: Path, device: str) -> Profile:
    """llama2-7b-t4 with a small base and the T4's float16, whatever card is here."""
    changes = {"base__source": str(folder), "quantization__compute_dtype": "float16", "training__learning_rate": 1e-2}
    return replace(profile("llama2-7b-t4", **changes), device=device)


@pytest.mark.parametrize("device", DEVICES)
def test_the_t4_profile_trains_saves_merges_and_answers(device: str, tmp_path: Path) -> None:
    folder = save_small_llama(tmp_path / "base")
    run = FakeRun(t4_profile(folder, device))
    model = attach_lora(load_model(run.profile, folder), run)
    assert model.device.type == device
    assert compute_dtype_of(model) == torch.float16
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}
    settings = run.profile.training
    plan = [step for epoch in range(30) for step in epoch_steps(random_rows(6, prefix=10), settings, epoch)]
    log = fit(model, plan, settings, Around(layers=2)).log
    check_learned(model, log)
    assert log[-1]["loss"] < log[0]["loss"]
    answer = generate_ids(model.eval(), [[5, 6, 7], [8]], max_new_tokens=4, eos_token_id=2)
    assert all(1 <= len(ids) <= 4 for ids in answer)
    save_adapter(model, tmp_path / "adapter", run)
    (tmp_path / "merged").mkdir()
    assert merge_folder(folder, tmp_path / "adapter", tmp_path / "merged")["tensors_changed"] == 4
    assert all(value.isfinite().all() for value in load_file(tmp_path / "merged" / "model.safetensors").values())
    rows = Rows([[5, 6, 7, *ids] for ids in answer], [3, 3])
    for onto in ("original", "dequantized"):
        place, change = tmp_path / onto, round_trip(run.profile)
        place.mkdir()
        merge_folder(folder, tmp_path / "adapter", place, change if onto == "dequantized" else None)
        told = {"round_trip": change, "onto": onto, "device": device}
        assert certify(folder, tmp_path / "adapter", place, rows, **told)["problems"] == []

"""Two processes with the same total batch give the losses and the adapter of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lora_kit as lk
from lora_kit.adapters import attach_lora, read_adapter, trainable
from lora_kit.quantization import load_model
from lora_kit.training.optim import main_process_first, make_optimizer, make_scaler, processes, sum_over_processes
from lora_kit.training.train import read_log

from ..models import FakeRun, save_small_llama, small_profile
from .test_checkpoints import SMALL, write_rows

DETERMINED = SMALL | {"lora__lora_dropout": "0.0", "training__tokens_per_micro_batch": 64, "training__epochs": 2}


def trained_in(place: Path, name: str, launcher: list[str]) -> Path:
    """Train by the command line; the folder of the training stage."""
    settings = [f"--set={key}={value}" for key, value in DETERMINED.items()]
    command = [*launcher, "-m", "lora_kit", "train", "--profile", "tiny-cpu", "--data", str(place / "faq.jsonl")]
    command += ["--root", str(place), "--name", name, *settings]
    environment = os.environ | {"LORA_KIT_PROGRESS": "off", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("training: ") == 1  # one of them speaks
    return place / name / "training" / "faq"


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "faq.jsonl")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "2",
        "--cpu",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    one, two = trained_in(tmp_path, "one", [sys.executable]), trained_in(tmp_path, "two", launch)
    for row, other in zip(read_log(one), read_log(two), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
    ours, theirs = read_adapter(one / "adapter"), read_adapter(two / "adapter")
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)


def test_alone_nothing_is_shared_and_nobody_is_waited_for() -> None:
    assert processes() == (0, 1)
    assert sum_over_processes([], 1.5, True) == (1.5, True)
    with main_process_first():
        pass


def test_a_profile_for_two_cards_says_how_to_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    write_rows(tmp_path / "faq.jsonl")
    run = lk.Run("tiny-cpu", data=tmp_path / "faq.jsonl", root=tmp_path, **SMALL)
    run.profile = replace(run.profile, processes=2)
    with pytest.raises(lk.KitError, match=r"accelerate launch --num_processes 2 -m lora_kit train --profile tiny-cpu"):
        lk.train(lk.load_base(run), lk.prepare(run), run)


def test_a_process_without_rows_in_the_first_step_steps_in_float16(tmp_path: Path) -> None:
    profile = small_profile(quantization__compute_dtype="float16")
    model = attach_lora(load_model(profile, save_small_llama(tmp_path)), FakeRun(profile))
    weights = list(trainable(model).values())
    optimizer, scaler = make_optimizer(weights, profile.training), make_scaler(model)
    for weight in weights:
        weight.grad = torch.ones_like(weight) * scaler.get_scale()  # as the other processes' sum
    before = weights[0].detach().clone()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, weights[0])

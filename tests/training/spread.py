"""What each of two processes does in test_processes.py, until it is killed."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import lora_kit as lk
from lora_kit.adapters import attach, trainable
from lora_kit.distributed import main_process_first, processes, sum_over_processes
from lora_kit.quantization import parameter_counts
from lora_kit.training import checkpoints
from lora_kit.training import train as stage
from lora_kit.training.batches import Batch, share_of
from lora_kit.training.checkpoints import TrainerState
from lora_kit.training.forward import training_mode
from lora_kit.training.loop import backward
from lora_kit.training.loss import terms
from lora_kit.training.optim import make_scaler

from ..models import random_rows
from .test_checkpoints import SMALL

SETTINGS = SMALL | {
    "lora__lora_dropout": 0.0,
    "training__tokens_per_micro_batch": 64,
    "training__epochs": 1,
    "training__evaluations": 2,
}
KILLED_AT = 4  # step


def run_in(root: Path, name: str, **overrides: Any) -> lk.Run:
    return lk.Run("tiny-cpu", data=root / "faq.jsonl", root=root, name=name, **SETTINGS | overrides)


def train(run: lk.Run) -> None:
    with main_process_first():
        data = lk.prepare(run)
    lk.train(lk.load_base(run), data, run)


def step_of(run: lk.Run) -> dict[str, Any]:
    """Loss and summed gradients of a step whose micro-batches do not come out even, and the base's bytes here."""
    rows = random_rows(10, prefix=12)
    rehearsal = [replace(row, is_rehearsal=True) for row in rows]
    step = [Batch([], rows[:2]), Batch([], rehearsal[2:5]), Batch([], rows[5:6]), Batch([], rows[6:])]
    model = attach(lk.load_base(run), run.profile)
    torch.manual_seed(1)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    with training_mode(model, layers=2):
        mine = share_of(step, *processes())
        loss = backward(model, mine, sum(map(terms, step)), make_scaler(model), TrainerState())
    loss, _ = sum_over_processes([*trainable(model).values()], loss, False)
    gradients = {name: parameter.grad for name, parameter in trainable(model).items()}
    return {"loss": loss, "gradients": gradients, "bytes": parameter_counts(model)["4-bit"]["bytes"]}


def kill_at(step: int) -> None:
    """Let `lk.train` die in the middle, with every step before it kept."""
    checkpoints.EVERY, checkpoints.COST, fit = 0.0, 1e9, stage.fit

    def on_step(row: dict[str, Any]) -> None:
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    stage.fit = lambda *given, **more: fit(*given, **more | {"on_step": on_step})


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train(run_in(folder, "two"))
    spread = run_in(folder, "spread", training__shard=True)
    torch.save(step_of(spread), folder / f"step-{processes()[0]}.pt")
    kill_at(KILLED_AT)
    train(spread)

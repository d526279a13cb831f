"""A training that can be killed at any moment: what it needs to go on, written so that no half of it is ever read.

    training/handbook-unfinished-3f2a91/
        step-00000120/   training.pt (adapter, optimizer, loss scale, state with its log)  manifest.json (hashes)
        step-00000180/
        log.jsonl        every step so far, to be read while the training runs

A checkpoint is written under another name, flushed to the disk, hashed and renamed; the last two are kept. Random
numbers need no place in it: every step seeds them from (seed, step).
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import trainable
from ..config import Training
from ..errors import KitError
from ..files import LIBRARIES, check_files, disk_errors, read_manifest, shown, version, write_manifest

if TYPE_CHECKING:
    import torch
    from torch.amp import GradScaler
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

LogRow = dict[str, Any]
FILE, KEPT = "training.pt", 2
EVERY = 60.0  # seconds between two checkpoints, at least
COST = 0.02  # share of the time that checkpoints may take


@dataclass
class TrainerState:
    """Where a training stands after a step, and what was found out at its start and is not found out again."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    skipped: int = 0  # steps without an update, because a float16 gradient overflowed
    parts: int = 1  # pieces that every micro-batch is split into, doubled when memory runs out
    layers: int = 0  # layers that are computed twice
    best_loss: float | None = None  # of the evaluations
    best_step: int = 0
    evaluations_since_best: int = 0
    log: list[LogRow] = field(default_factory=list)
    best_adapter: dict[str, torch.Tensor] = field(default_factory=dict)

    def is_finished(self, steps: int, settings: Training) -> bool:
        """Whether all steps are done, or the evaluation loss has not improved for long enough."""
        is_patient = settings.patience is None or self.evaluations_since_best < settings.patience
        return self.step == steps or not is_patient

    def record(self, step: int, loss: float, rate: float, norm: float, tokens: int, seconds: float) -> LogRow:
        """Record a finished step and return its log row."""
        self.step, self.seconds = step, seconds
        self.tokens += tokens
        self.skipped += not math.isfinite(norm)
        row = {"step": step, "loss": loss, "learning_rate": rate, "gradient_norm": norm, "tokens": self.tokens}
        self.log.append(row | {"seconds": round(seconds, 2), "skipped": self.skipped})
        return self.log[-1]

    def record_evaluation(self, loss: float, model: PreTrainedModel) -> None:
        """Record the loss on held-out rows, and the adapter where it is the lowest so far."""
        self.log[-1]["evaluation_loss"] = loss
        self.evaluations_since_best += 1
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.evaluations_since_best = loss, self.step, 0
            self.best_adapter = {name: value.detach().cpu().clone() for name, value in trainable(model).items()}


class Checkpoints:
    """The checkpoints of one unfinished training.

    Args:
        folder: where they lie; made when the first is written.
        inputs: what the training is made from, for the manifest.
        force: go on from a checkpoint that other versions of the libraries wrote.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any], *, force: bool = False) -> None:
        self.folder, self.inputs, self.force = folder, inputs, force
        self._last, self._took, self._has_log = time.monotonic(), 0.0, False

    def keep(
        self, state: TrainerState, model: PreTrainedModel, optimizer: Optimizer, scaler: GradScaler, *, now: bool
    ) -> None:
        """Add the step to log.jsonl, and write a checkpoint when it is time: they take at most COST of all time."""
        rows, mode = (state.log[-1:], "a") if self._has_log else (state.log, "w")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open(mode) as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self._has_log = True
        if now or time.monotonic() - self._last >= max(EVERY, self._took / COST):
            self.save(state, model, optimizer, scaler)

    def save(self, state: TrainerState, model: PreTrainedModel, optimizer: Optimizer, scaler: GradScaler) -> None:
        """Write one checkpoint; the ones before are deleted only when it is whole.

        Raises:
            KitError: the disk is full or read-only; the last checkpoint is untouched.
        """
        import torch

        start, buffer = time.monotonic(), io.BytesIO()
        partial, target = self.folder / f".step.{os.getpid()}.partial", self.folder / f"step-{state.step:08}"
        adapter = {name: value.detach().cpu() for name, value in trainable(model).items()}
        parts = {"state": vars(state), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        torch.save(parts | {"adapter": adapter}, buffer)
        try:
            with disk_errors(self.folder):
                partial.mkdir(parents=True, exist_ok=True)
                (partial / FILE).write_bytes(buffer.getbuffer())
                write_manifest(partial, self.inputs, {"step": state.step}, state.seconds)
                _flush(partial / FILE, partial / "manifest.json")
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
                with suppress(OSError):  # a mounted Drive may not open folders
                    _flush(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._last, self._took = time.monotonic(), time.monotonic() - start

    def load(self, model: PreTrainedModel, optimizer: Optimizer, scaler: GradScaler) -> TrainerState | None:
        """Put the newest whole checkpoint into model, optimizer and scaler, and return its state; None without one.

        A damaged one is passed over. A whole one that cannot be read now (no memory) stays; its error is raised.

        Raises:
            KitError: it was written with other versions of the libraries, and `force` is not given.
        """
        import torch

        for place in reversed(self._all()):
            try:
                check_files(place)
            except KitError:
                print(f"the checkpoint {shown(place)} is damaged and passed over: the one before it is taken, if any")
                continue
            self._check_libraries(place)
            parts = torch.load(place / FILE, weights_only=True, map_location="cpu")
            state = TrainerState(**parts["state"])
            model.load_state_dict(parts["adapter"], strict=False)
            optimizer.load_state_dict(parts["optimizer"])
            scaler.load_state_dict(parts["scaler"])
            print(f"training: goes on after step {state.step}, kept in {shown(place)}")
            return state
        if self.folder.exists():
            print(f"no whole checkpoint is left in {shown(self.folder)}: training starts anew")
        return None

    def delete(self) -> None:
        """Delete all of them: the training is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _check_libraries(self, place: Path) -> None:
        then = read_manifest(place)["versions"]
        changed = [name for name in LIBRARIES if then.get(name) != version(name)]
        if changed and not self.force:
            listed = ", ".join(f"{name} {then.get(name)} (here {version(name)})" for name in changed)
            raise KitError(
                f"the unfinished training in {shown(self.folder)} was made with {listed}: going on may give another "
                "result. Go on all the same with lk.train(..., force=True), or delete that folder to start anew"
            )


def _flush(*paths: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

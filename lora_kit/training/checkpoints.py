"""A training that can be killed at any moment: what it needs to go on, written so that no half of it is ever read.

    training/handbook-unfinished-3f2a91/
        step-00000120/   training.pt (adapter, optimizer, loss scale, state with its log)  manifest.json (hashes)
        step-00000180/

A checkpoint is written under another name, hashed and renamed; the last two are kept, and a damaged one is passed over.
It holds no random state: every step seeds its own from (seed, step).
"""

from __future__ import annotations

import io
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from platform import node
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..adapters import trainable
from ..errors import KitError
from ..files import LIBRARIES, check_files, disk_errors, read_manifest, shown, version, write_manifest

if TYPE_CHECKING:
    import torch
    from torch.amp import GradScaler
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from ..config import Training

LogRow = dict[str, Any]
FILE, KEPT = "training.pt", 2
EVERY = 60.0  # seconds between two checkpoints, at least
COST = 0.02  # share of the time that checkpoints may take


@dataclass
class TrainerState:
    """Where a training stands: its log, and what it found out on the way."""

    log: list[LogRow] = field(default_factory=list)  # one row per step
    threads: int = 0  # of the CPU that the steps were computed with; 0 before the first checkpoint
    parts: int = 1  # pieces that every micro-batch is split into, doubled when memory runs out
    best_adapter: dict[str, torch.Tensor] = field(default_factory=dict)  # with patience: at the lowest evaluation loss

    @property
    def step(self) -> int:
        """Steps that are done."""
        return len(self.log)

    @property
    def seconds(self) -> float:
        """Time that they took, without the time between a stop and going on."""
        return self.log[-1]["seconds"] if self.log else 0.0

    @property
    def best(self) -> LogRow:
        """The log row with the lowest evaluation loss; an empty one before the first evaluation."""
        evaluated = (row for row in self.log if "evaluation_loss" in row)
        return min(evaluated, key=lambda row: row["evaluation_loss"], default={})

    def is_finished(self, steps: int, settings: Training) -> bool:
        """Whether all steps are done, or the evaluation loss has not improved for long enough."""
        if self.step == steps or settings.patience is None:
            return self.step == steps
        since_best = self.log[self.best.get("step", self.step) :]
        return sum("evaluation_loss" in row for row in since_best) >= settings.patience

    def record(self, loss: float, rate: float, norm: float, tokens: int, seconds: float) -> LogRow:
        """Add a step to the log and return its row; one whose float16 gradient overflowed is counted as skipped."""
        before = self.log[-1] if self.log else {"tokens": 0, "skipped": 0}
        row = {"step": self.step + 1, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        row |= {"tokens": before["tokens"] + tokens, "seconds": round(seconds, 2)}
        self.log.append(row | {"skipped": before["skipped"] + (not math.isfinite(norm))})
        return self.log[-1]


def loss_ends(log: Sequence[LogRow]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps; single steps differ as their rows do."""
    tenth = max(1, len(log) // 10)
    return mean(row["loss"] for row in log[:tenth]), mean(row["loss"] for row in log[-tenth:])


class Checkpoints:
    """The checkpoints of one unfinished training, made from `inputs`; `force` takes those of other library versions."""

    def __init__(self, folder: Path, inputs: dict[str, Any], *, force: bool = False) -> None:
        self.folder, self.inputs, self.force = folder, inputs, force
        self._last, self._took = time.monotonic(), 0.0

    def save(
        self, state: TrainerState, model: PreTrainedModel, optimizer: Optimizer, scaler: GradScaler, *, now: bool
    ) -> None:
        """Write a checkpoint now, or when it is time: all of them take at most COST of the training's time."""
        import torch

        start, buffer = time.monotonic(), io.BytesIO()
        if not now and start - self._last < max(EVERY, self._took / COST):
            return
        partial, target = self.folder / f".step.{node()}.{os.getpid()}.partial", self.folder / f"step-{state.step:08}"
        adapter = {name: value.detach().cpu() for name, value in trainable(model).items()}
        state.threads = torch.get_num_threads()
        parts = {"state": vars(state), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        torch.save(parts | {"adapter": adapter}, buffer)
        try:
            with disk_errors(self.folder):
                partial.mkdir(parents=True, exist_ok=True)
                (partial / FILE).write_bytes(buffer.getbuffer())
                write_manifest(partial, self.inputs, {"step": state.step}, state.seconds)
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self._all()[:-KEPT]:  # only now that the new one is whole
            shutil.rmtree(old, ignore_errors=True)
        self._last, self._took = time.monotonic(), time.monotonic() - start

    def load(self, model: PreTrainedModel, optimizer: Optimizer, scaler: GradScaler, steps: int) -> TrainerState | None:
        """Put the newest whole checkpoint of a training of so many steps into place, and return its state, or None.

        A whole one that cannot be read now (no memory) stays; its error is raised.
        """
        import torch

        for place in reversed(self._all()):
            try:
                check_files(place)
            except KitError:
                print(f"the checkpoint {shown(place)} is damaged and passed over: the one before it is taken, if any")
                continue
            self._check_libraries(place)
            try:
                parts = torch.load(place / FILE, weights_only=True, map_location="cpu")
                state = TrainerState(**parts["state"])
                if [row["step"] for row in state.log] != list(range(1, steps + 1))[: state.step] or not state.step:
                    raise ValueError(f"{state.step} steps of {steps}")
                model.load_state_dict(parts["adapter"], strict=False)
                optimizer.load_state_dict(parts["optimizer"])
                scaler.load_state_dict(parts["scaler"])
            except (OSError, MemoryError, RuntimeError):  # torch's words for no memory
                raise
            except Exception as error:
                raise KitError(f"{shown(place)} is no checkpoint of this training ({error}): delete it") from error
            print(f"training: goes on after step {state.step}, kept in {shown(place)}")
            return state
        if self.folder.exists():
            print(f"no whole checkpoint is left in {shown(self.folder)}: training starts from the beginning")
        elif others := sorted(self.folder.parent.glob("*-unfinished-*")):
            names = ", ".join(map(shown, others))
            print(f"an unfinished training with other settings or data is left as it is: {names}")
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
                f"the unfinished training in {shown(self.folder)} was made with {listed}, which may give another "
                "result: go on with lk.train(..., force=True), or delete that folder"
            )

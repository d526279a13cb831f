"""A training that can be killed at any moment: what it needs to go on, written so that no half of it is ever read.

    training/handbook-unfinished-3f2a91/
        step-00000120/   adapter.safetensors  optimizer.pt  state.json  manifest.json (hashes)
        step-00000180/   state.json holds the log so far

A checkpoint is written under another name, flushed to the disk, hashed and renamed; the last two are kept. Random
numbers need no place in it: every step seeds them from (seed, step).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import disk_errors
from ..errors import KitError
from ..manifests import LIBRARIES, check_files, read_manifest, shown, version, write_manifest

if TYPE_CHECKING:
    import torch

LogRow = dict[str, Any]
KEPT = 2
EVERY = 60.0  # seconds between two checkpoints, at least
COST = 0.02  # share of the time that checkpoints may take


@dataclass
class State:
    """Where a training stands after a step, and what was found out at its start and is not found out again."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    skipped: int = 0  # steps without an update, because a float16 gradient overflowed
    parts: int = 1  # pieces that every micro-batch is split into, doubled when memory runs out
    layers: int = 0  # layers that are computed twice
    best: float | None = None  # evaluation loss
    best_step: int = 0
    worse: int = 0  # evaluations since
    log: list[LogRow] = field(default_factory=list)

    def note(self, step: int, loss: float, rate: float, norm: float, tokens: int, seconds: float) -> LogRow:
        """Take note of a step that is done, and give its log row."""
        self.step, self.seconds = step, seconds
        self.tokens += tokens
        self.skipped += not math.isfinite(norm)
        row = {"step": step, "loss": loss, "learning_rate": rate, "gradient_norm": norm, "tokens": self.tokens}
        self.log.append(row | {"seconds": round(seconds, 2), "skipped": self.skipped})
        return self.log[-1]

    def measure(self, loss: float, moving: Moving) -> None:
        """Take note of the loss on held-out rows, and of the adapter where it is the lowest so far."""
        self.log[-1]["evaluation_loss"] = loss
        if self.best is None or loss < self.best:
            self.best, self.best_step, self.worse = loss, self.step, 0
            moving.best = {name: value.detach().cpu().clone() for name, value in moving.weights.items()}
        else:
            self.worse += 1


@dataclass
class Moving:
    """What changes from step to step: the adapter, the optimizer, the loss scale, and the best adapter so far."""

    weights: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def parts(self) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """What a checkpoint stores: tensors by file and name, and the states that torch alone can write."""
        tensors = {"adapter": {name: value.detach().cpu() for name, value in self.weights.items()}, "best": self.best}
        rest = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return {name: values for name, values in tensors.items() if values}, rest

    def restore(self, checkpoints: Checkpoints | None, *, force: bool = False) -> State | None:
        """Take everything from the newest whole checkpoint; None where there is none."""
        found = checkpoints.load(force=force) if checkpoints else None
        if found is None:
            return None
        state, tensors, rest = found
        self._put(tensors["adapter"])
        self.best = tensors.get("best", {})
        self.optimizer.load_state_dict(rest["optimizer"])
        self.scaler.load_state_dict(rest["scaler"])
        return state

    def go_back_to_best(self) -> None:
        """Put the adapter with the lowest evaluation loss in place."""
        self._put(self.best)

    def _put(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            self.weights[name].data.copy_(value)


class Checkpoints:
    """The checkpoints of one unfinished training.

    Args:
        folder: where they lie; made when the first is written.
        inputs: what the training is made from, for the manifest.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any]) -> None:
        self.folder, self.inputs = folder, inputs
        self._last, self._took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for the next one: writing them takes at most COST of all time."""
        return time.monotonic() - self._last >= max(EVERY, self._took / COST)

    def save(self, state: State, tensors: dict[str, dict[str, torch.Tensor]], rest: dict[str, Any]) -> None:
        """Write one checkpoint; the ones before are deleted only when it is whole.

        Args:
            state: where the training stands.
            tensors: files of tensors by name, as {"adapter": {...}}.
            rest: what torch alone can store: the states of optimizer and scaler.

        Raises:
            KitError: the disk is full or read-only; the last checkpoint is untouched.
        """
        import torch
        from safetensors.torch import save_file

        start = time.monotonic()
        partial = self.folder / f".step.{os.getpid()}.partial"
        try:
            with disk_errors(self.folder):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                for name, values in tensors.items():
                    save_file(
                        {key: value.contiguous() for key, value in values.items()}, partial / f"{name}.safetensors"
                    )
                torch.save(rest, partial / "optimizer.pt")
                (partial / "state.json").write_text(json.dumps(asdict(state)))
                write_manifest(partial, self.inputs, {"step": state.step}, state.seconds)
                _flush(partial)
                target = self.folder / f"step-{state.step:08}"
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
                _flush_names(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._last, self._took = time.monotonic(), time.monotonic() - start

    def load(self, *, force: bool = False) -> tuple[State, dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
        """The newest whole checkpoint, or None; a damaged one (a file is not what was written) is passed over.

        Raises:
            KitError: it was written with other versions of the libraries, and `force` is not given.
            MemoryError, OSError: a whole one cannot be read now; it stays, and the next call goes on from it.
        """
        import torch
        from safetensors.torch import load_file

        for place in reversed(self._all()):
            try:
                check_files(place)
            except KitError:
                print(f"the checkpoint {shown(place)} is damaged and passed over: the one before it is taken, if any")
                continue
            _same_libraries(place, force)
            state = State(**json.loads((place / "state.json").read_text()))
            rest = torch.load(place / "optimizer.pt", weights_only=True, map_location="cpu")
            tensors = {path.stem: load_file(path) for path in sorted(place.glob("*.safetensors"))}
            print(f"training: goes on after step {state.step}, kept in {shown(place)}")
            return state, tensors, rest
        if self.folder.exists():
            print(f"no whole checkpoint is left in {shown(self.folder)}: training starts anew")
        return None

    def discard(self) -> None:
        """Delete all of them: the training is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _same_libraries(place: Path, force: bool) -> None:
    then = read_manifest(place)["versions"]
    other = [f"{name} {then.get(name)} (here {version(name)})" for name in LIBRARIES if then.get(name) != version(name)]
    if other and not force:
        raise KitError(
            f"the unfinished training in {shown(place.parent)} was made with {', '.join(other)}: going on may give "
            "another result. Go on all the same with lk.train(..., force=True), or delete that folder to start anew"
        )


def _flush(folder: Path) -> None:
    """Make sure that every file is on the disk before the folder gets its name."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _flush_names(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a mounted Drive may not open folders
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)

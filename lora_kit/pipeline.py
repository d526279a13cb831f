"""The stages in their order: what a notebook opened alone, the demo and the command line run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .data.prepare import data_inputs, prepare
from .errors import KitError
from .evaluation.evaluate import evaluate, evaluation_inputs
from .merging.merge import merge, merge_inputs
from .quantization import load_base, release
from .runs import Run
from .training.optim import main_process_first
from .training.train import adapter_stage, train, train_inputs


def make(run: Run, until: str = "evaluation") -> None:
    """Make every stage that is missing, up to and with `until`: "data", "training", "merged" or "evaluation"."""
    if until not in STAGES:
        raise KitError(f"there is no stage {until!r}; the stages are {', '.join(STAGES)}")
    names = [*STAGES]
    missing = [name for name in names[: names.index(until) + 1] if stage_folder(run, name) is None]
    if missing:
        print(f"to make: {', '.join(missing)}")
    for stage in missing:
        with main_process_first() if stage != "training" else nullcontext():  # all of them train
            STAGES[stage](run)
        if stage == "training" and stage_folder(run, stage) is None:
            raise KeyboardInterrupt  # it was stopped: what comes after cannot be made


def stage_folder(run: Run, stage: str) -> Path | None:
    """The folder of a stage that is finished for the run's settings, or None; nothing is loaded or checked."""
    if stage == "data":
        return run.find("data", data_inputs(run))
    adapter = run.find(adapter_stage(run), train_inputs(run))
    if adapter is None or stage == "training":
        return adapter
    return run.find(stage, merge_inputs(run) if stage == "merged" else evaluation_inputs(run))


def _train(run: Run) -> None:
    data, model = prepare(run), load_base(run)
    train(model, data, run)
    release(model)


STAGES: dict[str, Callable[[Run], Any]] = {"data": prepare, "training": _train, "merged": merge, "evaluation": evaluate}

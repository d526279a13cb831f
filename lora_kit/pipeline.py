"""The stages in their order: what a notebook opened alone, the demo and the command line run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .data.prepare import data_inputs, prepare
from .data.prepared import load_prepared
from .distributed import main_process_first
from .errors import KitError
from .evaluation.evaluate import evaluate, evaluation_inputs
from .files import read_manifest
from .merging.merge import merge, merge_inputs
from .quantization import load_base, release
from .runs import Run
from .training.train import adapter_stage, train, train_inputs


def make(run: Run, until: str = "evaluation") -> None:
    """Make every stage that is missing, up to and with `until`: "data", "training", "merged" or "evaluation"."""
    if until not in STAGES:
        raise KitError(f"there is no stage {until!r}; the stages are {', '.join(STAGES)}")
    names, missing = [*STAGES], list[str]()
    for name in names[: names.index(until) + 1]:
        if stage_folder(run, name) is None or "merged" in missing:  # a card without the merged model is another one
            missing.append(name)
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


def summary(run: Run) -> None:
    """Print the minutes of every finished stage, and the memory that training took."""
    done = {stage: read_manifest(folder) for stage in STAGES if (folder := stage_folder(run, stage))}
    minutes = {stage: manifest["figures"].get("seconds", manifest["seconds"]) / 60 for stage, manifest in done.items()}
    listed = ", ".join(f"{stage} {taken:.1f}" for stage, taken in minutes.items())
    print(f"minutes: {listed or 'no stage is finished'}; {sum(minutes.values()):.1f} in all")
    if (gib := done.get("training", {}).get("figures", {}).get("memory_gib")) is not None:  # older runs lack it
        print(f"memory: {gib:.1f} GiB in training ({run.profile.device})")


def _train(run: Run) -> None:
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    model = load_base(run)
    try:
        train(model, data, run)
    finally:
        release(model)


STAGES: dict[str, Callable[[Run], Any]] = {"data": prepare, "training": _train, "merged": merge, "evaluation": evaluate}

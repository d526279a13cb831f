"""Notebook 03 in one call: train the attached adapter, store it with its log, go on where it stopped, or load it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import (
    attach_lora,
    check_same_scale,
    detach_lora,
    is_fresh,
    load_adapter,
    read_adapter,
    save_adapter,
    take_adapter,
)
from ..base import identity, load_tokenizer
from ..data import Prepared, data_inputs, encode_batch, some
from ..errors import KitError
from ..machine import memory_gib
from ..manifests import file_hash, fingerprint, read_manifest, shown
from ..profiles import Training, settings
from ..progress import Progress
from .batches import Batch, Row, all_steps, for_measuring, rows_of, set_aside
from .checkpoints import Checkpoints, LogRow, State
from .guards import check_given, check_learned, loss_ends, stop_asked
from .loop import Around, fit
from .planning import layers_to_recompute, recipe_for
from .processes import World, world
from .trackers import LiveLog, tracker

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run, Stage

SHOWN = ("loss", "evaluation_loss", "learning_rate")  # of a log row, while training
STOP = "To stop: interrupt the kernel (■). The step is finished and kept; run the cell again to go on."
HELD_OUT = 64  # rows whose loss is measured during training


class _Left(Exception):
    """The training was stopped before its end and is kept."""


def train(
    model: PreTrainedModel,
    data: Prepared,
    run: Run,
    *,
    max_minutes: float | None = None,
    track: str | None = None,
    force: bool = False,
) -> list[LogRow]:
    """Train the adapter and return the log; what was stopped goes on, and the same inputs are not trained twice.

    Interrupt the cell (or press Ctrl-C) at any time: the step is finished, everything is kept, and the next call goes
    on to the very same adapter that an uninterrupted training gives.

    Args:
        model: the base from `load_base`, with or without an adapter from `attach_lora`; it ends with the trained one.
        data: from `prepare`.
        run: its profile holds every setting.
        max_minutes: stop and keep after so long, for sessions that end.
        track: send the figures to "tensorboard" (files in the run folder), "wandb" or "trackio" besides.
        force: go on from a checkpoint that other versions of the libraries wrote.

    Raises:
        KitError: no memory, a full disk, a loss that is not finite, a loss that does not fall.
    """
    check_given(model, data, run)
    stage, inputs = adapter_stage(run), train_inputs(run)
    if folder := run.find(stage, inputs):
        return _load(model, folder, run)
    here = _processes(run)
    _attach(model, run)
    checkpoints = Checkpoints(run.path / f"{stage}-unfinished-{fingerprint(inputs)[:6]}", inputs)
    if here.first:
        _tell_others(checkpoints.folder)
    chosen, steps, held_out = _batches(data, run, here)
    try:
        with (
            run.writing(stage, inputs) if here.first else nullcontext() as work,
            stop_asked(max_minutes) as stop,
            tracker(track if here.first else None, run.path.name, run.path / "tracking", settings(run.profile)) as send,
        ):
            around = Around(held_out, checkpoints, force, world=here, stop=stop, seen=send)
            state = _fit_and_show(model, steps, chosen, run, around)
            if not _finished(state, steps, run):
                raise _Left
            check_learned(model, state.log)
            if work:
                _write(model, state, chosen, run, work)
    except _Left:
        print(
            f"training: stopped after step {state.step} of {len(steps)} and kept in {shown(checkpoints.folder)}; "
            "call lk.train again to go on"
        )
        return state.log
    model.requires_grad_(False)
    if work:
        checkpoints.discard()
        _say(state, work.target, run)
    here.wait()
    return state.log


def _load(model: PreTrainedModel, folder: Path, run: Run) -> list[LogRow]:
    """What was trained before from the same inputs."""
    load_adapter(model, trained_adapter(run))
    log = read_log(folder)
    print(f"training: done before, {len(log)} steps, last loss {log[-1]['loss']:.3f}. In {shown(folder)}")
    return log


def _processes(run: Run) -> World:
    """The processes that are there; as many as the profile is made for."""
    here, wanted = world(), run.profile.processes
    if wanted > here.size:
        raise KitError(
            f"{run.profile.name} shares the work between {wanted} processes: start it with accelerate launch "
            f"--num_processes {wanted} -m lora_kit train --profile {run.profile.name}"
        )
    return here


def _write(model: PreTrainedModel, state: State, chosen: Training, run: Run, work: Stage) -> None:
    save_adapter(model, work.folder / "adapter", run)
    (work.folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in state.log))
    work.figures |= {"steps": state.step, "last_loss": state.log[-1]["loss"], "seconds": state.seconds}
    work.figures |= {name: getattr(chosen, name) for name in ("epochs", "tokens_per_step", "learning_rate")}


def _attach(model: PreTrainedModel, run: Run) -> None:
    """A fresh adapter, or the one to train further."""
    if not is_fresh(model, run.profile.lora):  # a training that was stopped leaves its adapter half trained
        detach_lora(model)
        attach_lora(model, run)
    start = run.profile.training.start_from
    if start is not None:
        check_same_scale(Path(start).expanduser(), run.profile.lora)
        take_adapter(model, Path(start).expanduser())


def _fit_and_show(
    model: PreTrainedModel, steps: list[list[Batch]], chosen: Training, run: Run, around: Around
) -> State:
    around.layers = layers_to_recompute(model, steps, run)
    send, written = around.seen, LiveLog(around.checkpoints.folder / "log.jsonl") if around.checkpoints else None
    with Progress("training", len(steps), curve="loss", hint=STOP) as progress:

        def seen(row: LogRow) -> None:
            shown: dict[str, float] = {name: row[name] for name in SHOWN if name in row}
            shown |= {"tokens_per_s": row["tokens"] / max(row["seconds"], 0.01), "memory_gib": memory_gib()}
            progress.update(row["step"], **shown)
            if written and around.world.first:
                written.add(row)
            send(row)

        around.seen = seen
        return fit(model, steps, chosen, around)


def _finished(state: State, steps: list[list[Batch]], run: Run) -> bool:
    patience = run.profile.training.patience
    return state.step == len(steps) or (patience is not None and state.worse >= patience)


def _say(state: State, target: Path, run: Run) -> None:
    first, last = loss_ends(state.log)
    ended = f", kept from step {state.best_step}, the lowest evaluation loss" if run.profile.training.patience else ""
    skipped = f", {some(state.skipped, 'step')} skipped by float16 overflow" if state.skipped else ""
    print(f"training: {some(state.step, 'step')}, loss {first:.3f} to {last:.3f}{skipped}{ended}. In {shown(target)}")


def _tell_others(folder: Path) -> None:
    """An unfinished training with other settings is never gone on with; it is said, so that nobody thinks it lost."""
    others = [other for other in folder.parent.glob("*-unfinished-*") if other != folder]
    if others and not folder.exists():
        names = ", ".join(shown(other) for other in sorted(others))
        print(f"an unfinished training with other settings or data is left as it is: {names}. Starting anew")


def _batches(data: Prepared, run: Run, here: World) -> tuple[Training, list[list[Batch]], list[Batch]]:
    """Settings without "auto", said with their reasons; the micro-batches of every step; those whose loss is measured.

    Early stopping measures rows that are set aside for it, else it is some of the held-out questions, evenly spaced.
    """
    rows, aside = set_aside(rows_of(data.train), run.profile.training)
    found = recipe_for(run, rows)
    if run.profile.training.patience is None:
        asked = [row["messages"] for row in data.test[:: max(1, -(-len(data.test) // HELD_OUT))]]
        aside = [Row(*row) for row in encode_batch(asked, load_tokenizer(run.profile.base))]
    elif here.first:
        print(f"training: {len(aside)} of {len(data.train)} rows are set aside: their loss decides when to stop")
    print(found)
    return found.training, all_steps(rows, found.training), for_measuring(aside, found.training)


def train_inputs(run: Run) -> dict[str, Any]:
    """What the training stage is made from."""
    wanted = ("lora__", "quantization__", "training__")
    chosen = {key: value for key, value in settings(run.profile).items() if key.startswith(wanted)}
    start = run.profile.training.start_from
    if start is not None:
        try:
            read_adapter(Path(start).expanduser())
        except KitError as error:
            raise KitError(
                f"training__start_from={start!r} is no adapter's folder, as runs/NAME/training/DATASET/adapter: {error}"
            ) from error
        chosen["training__start_from"] = file_hash(Path(start).expanduser() / "adapter_model.safetensors")
    return {"settings": chosen, "data": data_inputs(run)}


def adapter_stage(run: Run) -> str:
    """The stage folder of the run's adapter, named after its dataset."""
    return f"training/{Path(run.profile.data.source).stem}"


def trained_adapter(run: Run) -> Path:
    """The folder of the run's trained adapter, its files checked.

    Raises:
        KitError: it is not trained yet.
    """
    return run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)") / "adapter"


def trained_adapters(run: Run) -> dict[str, Path]:
    """The finished adapters in the run's folder that were trained on its base, by name ("handbook", "triage")."""
    base = identity(run.profile.base)
    manifests = sorted(run.path.glob("training/*/manifest.json"))
    return {
        path.parent.name: path.parent / "adapter"
        for path in manifests
        if read_manifest(path.parent)["inputs"]["data"]["base"] == base
    }


def read_log(folder: Path) -> list[LogRow]:
    """The log of a finished training, one row a step."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

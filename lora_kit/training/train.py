"""Notebook 03 in one call: train the attached adapter, store it with its log, go on where it stopped, or load it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .. import adapters
from ..base import load_tokenizer
from ..config import Training, settings
from ..data.encoding import encode_batch
from ..data.prepare import Prepared
from ..errors import KitError
from ..files import fingerprint, shown
from ..machine import memory_gib
from ..progress import Progress
from .batches import Batch, Row, all_steps, for_measuring, rows_of, split_validation
from .checkpoints import Checkpoints, LogRow, TrainerState
from .loop import fit, stop_requests
from .optim import processes
from .plan import layers_to_recompute
from .recipe import recipe
from .stage import adapter_stage, check_given, check_learned, loss_ends, read_log, train_inputs, trained_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run, Stage

SHOWN = ("loss", "evaluation_loss", "learning_rate")  # of a log row, while training
HINT = "To stop: interrupt the kernel (■). The step is finished and kept; run the cell again to go on."
HELD_OUT = 64  # held-out questions whose loss is measured during training
UNSENT = ("step", "seconds")  # of a log row: trackers have both themselves
TRACKERS = ("tensorboard", "wandb", "trackio")


class Stopped(Exception):
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
        track: also send the figures to "tensorboard" (files in the run folder), "wandb" or "trackio".
        force: go on from a checkpoint that other versions of the libraries wrote.

    Raises:
        KitError: no memory, a full disk, a loss that is not finite, a loss that does not fall.
    """
    check_given(model, data, run)
    stage, inputs = adapter_stage(run), train_inputs(run)
    if folder := run.find(stage, inputs):
        return _load(model, folder, run)
    (rank, size), wanted = processes(), run.profile.processes
    if wanted > size:
        command = f"accelerate launch --num_processes {wanted} -m lora_kit train --profile {run.profile.name}"
        raise KitError(f"{run.profile.name} shares the work between {wanted} processes: start it with {command}")
    _attach(model, run)
    checkpoints = Checkpoints(run.path / f"{stage}-unfinished-{fingerprint(inputs)[:6]}", inputs, force=force)
    if rank == 0:
        _mention_others(checkpoints.folder)
    try:
        with run.writing(stage, inputs) if rank == 0 else nullcontext() as work:
            state, chosen, is_finished = _fit(model, data, run, checkpoints, max_minutes, track)
            if not is_finished:
                raise Stopped
            check_learned(model, state.log)
            if work:
                _write(model, state, chosen, run, work)
    except Stopped:
        kept = f"stopped after step {state.step} and kept in {shown(checkpoints.folder)}"
        print(f"training: {kept}; call lk.train again to go on")
        return state.log
    model.requires_grad_(False)
    if work:
        checkpoints.delete()
        print(f"training: {_summary(state, chosen)}. In {shown(work.target)}")
    if size > 1:
        from torch.distributed import barrier

        barrier()
    return state.log


def _fit(
    model: PreTrainedModel,
    data: Prepared,
    run: Run,
    checkpoints: Checkpoints,
    max_minutes: float | None,
    track: str | None,
) -> tuple[TrainerState, Training, bool]:
    """Run the loop, shown and stoppable; the settings that "auto" became, and whether it came to its end."""
    rank, _ = processes()
    chosen, steps, held_out = _lay_steps(model, data, run)
    layers = layers_to_recompute(model, [batch for step in steps for batch in step], chosen)
    with (
        stop_requests(max_minutes) as should_stop,
        tracker(track if rank == 0 else None, run) as send,
        Progress("training", len(steps), curve="loss", hint=HINT) as progress,
    ):

        def on_step(row: LogRow) -> None:
            figures: dict[str, float] = {name: row[name] for name in SHOWN if name in row}
            speed = row["tokens"] / max(row["seconds"], 0.01)
            progress.update(row["step"], **figures, tokens_per_s=speed, memory_gib=memory_gib())
            send(row)

        state = fit(
            model,
            steps,
            chosen,
            held_out=held_out,
            layers=layers,
            checkpoints=checkpoints,
            should_stop=should_stop,
            on_step=on_step,
        )
    return state, chosen, state.is_finished(len(steps), chosen)


@contextmanager
def tracker(name: str | None, run: Run) -> Iterator[Callable[[LogRow], None]]:
    """Give a function that sends a log row to one of accelerate's trackers; it does nothing where `name` is None."""
    if name is None:
        yield lambda row: None
        return
    if name not in TRACKERS:
        raise KitError(f"there is no tracker {name!r}; the trackers are {', '.join(TRACKERS)}")
    import torch
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=not torch.cuda.is_available())  # trackers need it
    kind = LOGGER_TYPE_TO_CLASS[name]
    place = {"logging_dir": str(run.path / "tracking")} if kind.requires_logging_directory else {}
    try:
        logger = kind(run.path.name, **place)
        logger.start()
    except ModuleNotFoundError:
        raise KitError(f"the tracker {name} is not installed: pip install {name}") from None
    flat = settings(run.profile)
    logger.store_init_configuration({key: value for key, value in flat.items() if isinstance(value, str | int | float)})
    try:
        yield lambda row: logger.log({k: v for k, v in row.items() if k not in UNSENT}, step=row["step"])
    finally:
        logger.finish()


def _load(model: PreTrainedModel, folder: Path, run: Run) -> list[LogRow]:
    adapters.load_adapter(model, trained_adapter(run))
    log = read_log(folder)
    print(f"training: done before, {len(log)} steps, last loss {log[-1]['loss']:.3f}. In {shown(folder)}")
    return log


def _attach(model: PreTrainedModel, run: Run) -> None:
    """A fresh adapter, or the one to train further."""
    if not adapters.is_fresh(model, run.profile.lora):  # a training that was stopped leaves its adapter half trained
        adapters.detach_lora(model)
        adapters.attach_lora(model, run)
    if run.profile.training.start_from is not None:
        start = Path(run.profile.training.start_from).expanduser()
        adapters.check_same_scale(start, run.profile.lora)
        adapters.take_adapter(model, start)


def _lay_steps(model: PreTrainedModel, data: Prepared, run: Run) -> tuple[Training, list[list[Batch]], list[Batch]]:
    """Settings without "auto", printed with their reasons; the micro-batches of every step; those that are evaluated.

    Early stopping evaluates rows that are set aside for it, otherwise it is some of the held-out questions.
    """
    rows, validation = split_validation(rows_of(data.train), run.profile.training)
    found = recipe(run.profile.training, rows, model.config.hidden_size)
    if processes()[0] == 0:
        if validation:
            print(
                f"training: {len(validation)} of {len(data.train)} rows are set aside: their loss decides when to stop"
            )
        print(found)
    if run.profile.training.patience is None:
        chats = [row["messages"] for row in data.test[:: max(1, -(-len(data.test) // HELD_OUT))]]
        validation = [Row(*row) for row in encode_batch(chats, load_tokenizer(run.profile.base))]
    return found.training, all_steps(rows, found.training), for_measuring(validation, found.training)


def _mention_others(folder: Path) -> None:
    """An unfinished training with other settings is left alone; a line says so, that nobody thinks it lost."""
    others = [other for other in folder.parent.glob("*-unfinished-*") if other != folder]
    if others and not folder.exists():
        names = ", ".join(shown(other) for other in sorted(others))
        print(f"an unfinished training with other settings or data is left as it is: {names}. Starting anew")


def _write(model: PreTrainedModel, state: TrainerState, chosen: Training, run: Run, work: Stage) -> None:
    adapters.save_adapter(model, work.folder / "adapter", run)
    (work.folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in state.log))
    work.figures |= {"steps": state.step, "last_loss": state.log[-1]["loss"], "seconds": state.seconds}
    work.figures |= {name: getattr(chosen, name) for name in ("epochs", "tokens_per_step", "learning_rate")}


def _summary(state: TrainerState, chosen: Training) -> str:
    first, last = loss_ends(state.log)
    skipped = f", {state.skipped} skipped by float16 overflow" if state.skipped else ""
    kept = f", kept from step {state.best_step}, the lowest evaluation loss" if chosen.patience is not None else ""
    return f"{state.step:,} step{'s' * (state.step != 1)}, loss {first:.3f} to {last:.3f}{skipped}{kept}"

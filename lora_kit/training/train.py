"""Notebook 03 in one call: train the attached adapter, store it with its log, go on where it stopped, or load it.

training/handbook/   adapter/ (as PEFT saves it)   log.jsonl (one row per step)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import adapters
from ..base import identity, load_tokenizer
from ..config import settings
from ..data.encoding import encode_batch
from ..data.prepare import data_inputs
from ..data.prepared import Prepared
from ..data.reading.conversations import plural
from ..data.reading.sources import name_of
from ..distributed import main_process_first, processes
from ..errors import KitError
from ..files import file_hash, fingerprint, read_lines, read_manifest, reading, shown, write_lines
from ..machine import memory_gib
from ..progress import Progress
from .batches import Row, for_measuring, split_validation
from .checkpoints import Checkpoints, LogRow, TrainerState, loss_ends
from .loop import fit, stop_requests, tracker
from .loss import check_loss
from .plan import layers_to_recompute
from .recipe import Recipe, check_given, pairs_file, recipe, training_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..config import Training
    from ..runs import Run, Stage

SHOWN = ("loss", "evaluation_loss", "learning_rate")  # of a log row, while training
HINT = "To stop: interrupt the kernel (■). The step is finished and kept; run the cell again to go on."
HELD_OUT = 64  # held-out questions whose loss is measured during training


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
    on to the identical adapter that an uninterrupted training gives.

    Args:
        model: the base from `load_base`, with or without an adapter from `attach_lora`; it ends with the trained one.
        data: from `prepare`.
        run: its profile has every setting.
        max_minutes: stop and keep after so long, for sessions that end.
        track: also send the figures to "tensorboard" (files in the run folder), "wandb" or "trackio".
        force: go on from a checkpoint that other versions of the libraries wrote.

    Raises:
        KitError: no memory, a full disk, a loss that is not finite, nothing learned.
    """
    check_given(model, data, run)
    stage, inputs = adapter_stage(run), train_inputs(run)
    if folder := run.find(stage, inputs):
        adapters.load_adapter(model, trained_adapter(run))
        log = read_log(folder)
        print(f"training: done before, {len(log)} steps, last loss {log[-1]['loss']:.3f}. In {shown(folder)}")
        return log
    (rank, size), shard = processes(), " --set training__shard=true" * run.profile.training.shard
    if (wanted := max(run.profile.processes, 1 + bool(shard))) > size:
        command = f"accelerate launch --num_processes {wanted} -m lora_kit train --profile {run.profile.name}{shard}"
        way_out = f"start it with {command}, and your own --data and --set"
        raise KitError(f"{run.profile.name} shares the work between {wanted} processes: {way_out}")
    _attach(model, run)
    checkpoints = Checkpoints(run.path / f"{stage}-unfinished-{fingerprint(inputs)[:6]}", inputs, force=force)
    try:
        with run.writing(stage, inputs) if rank == 0 else nullcontext() as work:
            state, found = _fit(model, data, run, checkpoints, max_minutes, track)
            if not state.is_finished(len(found.steps), found.training):
                raise Stopped
            check_learned(model, state.log)
            if work:
                _write(model, state, found.training, run, work)
    except Stopped:
        kept = f"stopped after step {state.step} and kept in {shown(checkpoints.folder)}"
        print(f"training: {kept}; make the same call again to go on")
        return state.log
    model.requires_grad_(False)
    if work:
        checkpoints.delete()
        print(f"training: {_summary(state, found.training)}. In {shown(work.target)}")
    with main_process_first():  # which writes, before the others look for it
        return state.log


def _attach(model: PreTrainedModel, run: Run) -> None:
    """A fresh adapter, or the one to train further."""
    lora, start = run.profile.lora, run.profile.training.start_from
    if not adapters.is_fresh(model, lora):  # a training that was stopped leaves its adapter half trained
        adapters.detach_lora(model)
        adapters.attach_lora(model, run)
    adapters.set_adapter(model, "default")  # another one may be loaded beside it, as a chat does
    if start is not None:
        adapters.take_adapter(model, Path(start).expanduser(), lora)


def _fit(
    model: PreTrainedModel,
    data: Prepared,
    run: Run,
    checkpoints: Checkpoints,
    max_minutes: float | None,
    track: str | None,
) -> tuple[TrainerState, Recipe]:
    """Make the steps and run the loop through them, shown and stoppable.

    With early stopping the loop evaluates rows that are set aside for it, otherwise some of the held-out questions.
    """
    is_main, chosen = processes()[0] == 0, run.profile.training
    say: Callable[[object], None] = print if is_main else lambda text: None
    rows, held_out = split_validation(training_rows(model, data, run), chosen)
    found = recipe(chosen, rows, model.config.hidden_size)
    say(found)
    if chosen.patience is None:
        asked = [row["messages"] for row in data.test if row["kind"] != "general"]  # what the base may say otherwise
        chats = asked[:: max(1, -(-len(asked) // HELD_OUT))]
        held_out = [Row(*row) for row in encode_batch(chats, load_tokenizer(run.profile.base))]
    elif held_out:
        count = f"{len(held_out)} of {len(held_out + rows)}"
        say(f"training: {count} rows are set aside: their loss decides when to stop")
    ours, plain = check_loss(model, found.batches)
    say(f"checked: the longest rows have a loss of {ours:.4f} here and of {plain:.4f} in a plain forward pass")
    layers = layers_to_recompute(model, found.batches, found.training)
    with (
        stop_requests(max_minutes) as should_stop,
        tracker(track if is_main else None, run) as send,
        Progress("training", len(found.steps), curve="loss", hint=HINT) as progress,
    ):

        def on_step(row: LogRow) -> None:
            figures: dict[str, float] = {name: row[name] for name in SHOWN if name in row}
            speed = row["tokens"] / max(row["seconds"], 0.01)
            progress.update(row["step"], **figures, tokens_per_s=speed, memory_gib=memory_gib())
            try:
                send(row)
            except OSError as error:  # the disk of a tracker's files is full: no reason to stop
                say(f"WARNING: {track} does not take step {row['step']}: {error}")

        state = fit(
            model,
            found.steps,
            found.training,
            held_out=for_measuring(held_out, found.training),
            layers=layers,
            checkpoints=checkpoints,
            should_stop=should_stop,
            on_step=on_step,
        )
    return state, found


def train_inputs(run: Run) -> dict[str, Any]:
    """What the training stage is made from."""
    sections = ("lora__", "quantization__", "training__")
    chosen = {key: value for key, value in settings(run.profile).items() if key.startswith(sections)}
    del chosen["training__shard"], chosen["training__checkpoint_layers"]  # the adapter is the same either way
    if (start := run.profile.training.start_from) is not None:
        folder = Path(start).expanduser()
        weights = folder / "adapter_model.safetensors"
        if not (weights.is_file() and (folder / "adapter_config.json").is_file()):
            raise KitError(f"training__start_from={start!r} is no adapter's folder, as runs/NAME/training/DATA/adapter")
        chosen["training__start_from"] = file_hash(weights)
    if run.profile.training.pairs is not None:
        chosen["training__pairs"] = file_hash(pairs_file(run))
    return {"settings": chosen, "data": data_inputs(run)}


def adapter_stage(run: Run) -> str:
    """The stage folder of the run's adapter, named after its dataset."""
    return f"training/{name_of(run.profile.data.source)}{'-pairs' if run.profile.training.pairs else ''}"


def trained_adapter(run: Run) -> Path:
    """The folder of the run's trained adapter, its files checked; a KitError where it is not trained yet."""
    return run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)") / "adapter"


def trained_adapters(run: Run) -> dict[str, Path]:
    """The finished adapters in the run's folder that were trained on its base, by name ("handbook", "triage")."""
    base = identity(run.profile.base)
    folders = [path.parent for path in sorted(run.path.glob("training/*/manifest.json"))]
    data = {folder: read_manifest(folder)["inputs"].get("data") for folder in folders}
    mine = [folder for folder, known in data.items() if isinstance(known, dict) and known.get("base") == base]
    return {folder.name: folder / "adapter" for folder in mine}


def read_log(folder: Path) -> list[LogRow]:
    """The log of a finished training, one row per step."""
    rows = read_lines(folder / "log.jsonl")
    with reading(folder):
        figures = [row[name] for row in rows for name in ("step", "loss", "tokens", "seconds", "skipped")]
        if not rows or not all(isinstance(figure, int | float) for figure in figures):
            raise ValueError("log.jsonl is no log")
    return rows


def check_learned(model: PreTrainedModel, log: Sequence[LogRow]) -> None:
    """Raise a KitError if the adapter is as at the start, warn where the loss did not fall: it may still serve."""
    zero = [name for name, value in adapters.trainable(model).items() if "lora_B" in name and not value.any()]
    if zero:
        raise KitError(f"nothing was learned: {len(zero)} adapter matrices B are still zero, as {zero[0]}")
    first, last = loss_ends(log)
    if len(log) >= 20 and not last < first:
        print(f"WARNING: the loss did not fall ({first:.3f} to {last:.3f}): try another training__learning_rate")


def _write(model: PreTrainedModel, state: TrainerState, chosen: Training, run: Run, work: Stage) -> None:
    adapters.save_adapter(model, work.folder / "adapter", run)
    write_lines(work.folder / "log.jsonl", state.log)
    figures = {"last_loss": state.log[-1]["loss"], "seconds": state.seconds, "memory_gib": round(memory_gib(), 2)}
    work.figures |= {"steps": state.step, **figures}
    work.figures |= {name: getattr(chosen, name) for name in ("epochs", "tokens_per_step", "learning_rate")}


def _summary(state: TrainerState, chosen: Training) -> str:
    (first, last), skips = loss_ends(state.log), state.log[-1]["skipped"]
    text = f"{plural(state.step, 'step')}, loss {first:.3f} to {last:.3f} (means of the first and last tenth)"
    if skips:
        text += f", {skips} skipped by float16 overflow"
    if chosen.patience is not None and state.best:
        text += f", kept from step {state.best['step']}, the lowest evaluation loss"
    return text

"""The training loop, one visible function; what may stop it, what watches it, and what may go wrong within a step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..adapters import trainable
from ..config import Training, settings
from ..data.reading.conversations import first_few
from ..distributed import is_spread, processes, sum_over_processes
from ..errors import KitError
from .batches import Batch, share_of, split_batches
from .checkpoints import Checkpoints, LogRow, TrainerState
from .forward import training_mode
from .loss import loss_sum, mean_loss, terms
from .optim import make_optimizer, make_scaler, probe_scale, set_learning_rate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..runs import Run

TRACKERS = ("tensorboard", "wandb", "trackio")


def fit(
    model: PreTrainedModel,
    steps: Sequence[list[Batch]],
    settings: Training,
    *,
    held_out: Sequence[Batch] = (),
    layers: int = 0,
    checkpoints: Checkpoints | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[LogRow], None] = lambda row: None,
) -> TrainerState:
    """Train the model's adapter through all steps, or go on where a checkpoint stopped.

    Args:
        model: a frozen base with one attached adapter, whose parameters alone require gradients.
        steps: the micro-batches of every optimizer step, from `all_steps`.
        settings: optimizer, learning rate and its schedule, gradient norm, evaluations, patience, seed.
        held_out: rows whose loss is measured now and then.
        layers: how many are computed twice to save memory; the result is the same.
        checkpoints: where the training is kept.
        should_stop: called after every step; when true the training is kept and left.
        on_step: called with every log row.

    Raises:
        KitError: a loss or gradient that is not finite, no memory for a single row, a disk that is full.
    """
    import torch

    weights, (rank, size) = list(trainable(model).values()), processes()
    optimizer, scaler = make_optimizer(weights, settings), make_scaler(model)
    state = (checkpoints and checkpoints.load(model, optimizer, scaler, len(steps))) or TrainerState()
    torch.set_num_threads(state.threads or torch.get_num_threads())
    start, evaluated, stop = time.monotonic() - state.seconds, evaluation_steps(len(steps), settings), False
    with training_mode(model, layers):
        if state.step == 0:
            probe_scale(scaler, weights, lambda: backward(model, steps[0][:1], terms(steps[0][0]), scaler, state))
        for step, batches in enumerate(steps[state.step :], start=state.step + 1):
            if stop or state.is_finished(len(steps), settings):
                break
            torch.manual_seed(settings.seed * 1_000_003 + step * size + rank)  # dropout: the same after a resume
            rate = set_learning_rate(optimizer, step, len(steps), settings)
            loss = backward(model, share_of(batches, rank, size), sum(map(terms, batches)), scaler, state)
            loss, stop = sum_over_processes(weights, loss, should_stop())
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm).item()
            check_finite(step, loss, norm, batches, scaled=scaler.is_enabled())
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            row = state.record(loss, rate, norm, sum(batch.tokens for batch in batches), time.monotonic() - start)
            if step in evaluated and held_out:
                row["evaluation_loss"] = mean_loss(model, held_out)
                if settings.patience is not None and state.best is row:
                    state.best_adapter = {name: w.detach().cpu().clone() for name, w in trainable(model).items()}
            on_step(row)
            if checkpoints and rank == 0:
                checkpoints.save(state, model, optimizer, scaler, now=stop)
    if settings.patience is not None:
        model.load_state_dict(state.best_adapter, strict=False)
    return state


@contextmanager
def stop_requests(max_minutes: float | None) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether to stop after the step: the time is over, or a signal came.

    SIGINT comes from Ctrl-C and the notebook's stop button, SIGTERM from a machine that is taken away. A second one
    stops at once, and the last checkpoint is kept.
    """
    if max_minutes is not None and not (isinstance(max_minutes, int | float) and 0 <= max_minutes < math.inf):
        raise KitError(f"max_minutes={max_minutes!r} must be a number of minutes, 0 or above, or None")
    end = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    requests: list[int] = []

    def request(number: int, frame: Any) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)
        print("stopping after this step and keeping what there is; again to stop at once", flush=True)

    is_main_thread = threading.current_thread() is threading.main_thread()  # only there may signals be caught
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main_thread else ()
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield lambda: bool(requests) or time.monotonic() > end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def tracker(name: str | None, run: Run) -> Iterator[Callable[[LogRow], None]]:
    """Give a function that sends a log row to one of accelerate's trackers, or nowhere."""
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
        yield lambda row: logger.log(row, step=row["step"])
    finally:
        logger.finish()


def backward(
    model: PreTrainedModel, batches: Sequence[Batch], count: int, scaler: torch.amp.GradScaler, state: TrainerState
) -> float:
    """Forward and backward over this process's micro-batches; the loss is the mean over the `count` terms of the step.

    Where memory runs out, this step and all later ones go in smaller pieces, with the same result. Not on a base that
    is spread over processes: they would wait for each other.
    """
    import torch

    while True:
        total, pieces = 0.0, batches if is_spread(model) else split_batches(batches, state.parts)
        try:
            for batch in pieces:
                loss = loss_sum(model, batch) * batch.counts / count
                scaler.scale(loss).backward()
                total += loss.item()
            return total
        except torch.OutOfMemoryError as error:
            if is_spread(model):
                raise KitError("no memory for a micro-batch: lower training__tokens_per_micro_batch") from error
            if state.parts >= max(len(batch.rows) for batch in batches):
                way_out = "lower data__max_length, or compute more layers twice with training__checkpoint_layers=99"
                raise KitError(f"there is no memory for a single row: {way_out}") from error
        model.zero_grad()
        state.parts *= 2
        print(f"memory ran out: from here every micro-batch goes in {state.parts} pieces, with the same result")
        torch.cuda.empty_cache()


def evaluation_steps(steps: int, settings: Training) -> set[int]:
    """After which steps the loss on held-out rows is measured: evenly spaced, the last one among them."""
    count = min(settings.evaluations, steps)
    return {round(steps * (n + 1) / count) for n in range(count)}


def check_finite(step: int, loss: float, norm: float, batches: Sequence[Batch], *, scaled: bool) -> None:
    """Stop on a loss that is not a number or a gradient of zero; a loss scaler only skips the step of an overflow."""
    if norm == 0:
        raise KitError(f"step {step}: the gradient is zero, nothing is learned; what was kept before stays")
    if math.isfinite(loss) and (math.isfinite(norm) or scaled):
        return
    rows = first_few([str(row.number) for batch in batches for row in batch.rows])
    raise KitError(
        f"step {step}: the loss is {loss} and the gradient norm {norm}. Lower training__learning_rate, or look at "
        f"rows {rows} of the prepared data (from 0, data.train[n]) for broken text; what was kept before stays"
    )

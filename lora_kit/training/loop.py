"""The training loop: one visible function; what guards it stands in guards.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..adapters import trainable
from ..profiles import Training
from .batches import Batch, halves
from .checkpoints import Checkpoints, LogRow, Moving, State
from .guards import check_finite, split_further
from .loss import autocast, learned_tokens, loss_sum, mean_loss, training_mode
from .optimizers import make_optimizer, make_scaler, probe_scale, schedule
from .processes import World

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass
class Around:
    """What goes on around the loop."""

    held_out: Sequence[Batch] = ()  # rows whose loss is measured now and then
    checkpoints: Checkpoints | None = None  # where the training is kept; None keeps nothing
    force: bool = False  # go on from a checkpoint that other versions of the libraries wrote
    layers: int = 0  # how many are computed twice; a checkpoint's own number wins
    world: World = field(default_factory=World)  # the processes that share the work
    stop: Callable[[], bool] = lambda: False  # asked after every step; when true the training is kept and left
    seen: Callable[[LogRow], None] = lambda row: None  # called with every log row


def fit(model: PreTrainedModel, plan: Sequence[list[Batch]], settings: Training, around: Around | None = None) -> State:
    """Train the model's adapter through all steps of `plan`, or go on where a checkpoint stopped.

    Args:
        model: a frozen base with one attached adapter, whose parameters alone require gradients.
        plan: the micro-batches of every optimizer step, from `all_steps`.
        settings: optimizer, learning rate and its course, gradient norm, evaluations, seed.
        around: checkpoints, held-out rows, processes, what is shown.

    Raises:
        KitError: a loss or gradient that is not finite, no memory for a single row, a disk that is full.
    """
    import torch

    around = around or Around()
    weights, world = trainable(model), around.world
    moving = Moving(weights, make_optimizer(weights.values(), settings), make_scaler(model))
    state = moving.restore(around.checkpoints, force=around.force) or State(layers=around.layers)
    optimizer, scaler = moving.optimizer, moving.scaler
    start, measured = time.monotonic() - state.seconds, evaluation_steps(len(plan), settings)
    with training_mode(model, state.layers):
        if not state.step:
            probe_scale(model, plan[0][0], scaler, world)
        for number, batches in enumerate(plan[state.step :], start=state.step + 1):
            if settings.patience is not None and state.worse >= settings.patience:
                break
            torch.manual_seed(settings.seed * 1_000_003 + number * world.size + world.rank)  # dropout, also on resume
            rate = float(settings.learning_rate) * schedule(number, len(plan), settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = backward(model, world.share(batches), sum(map(learned_tokens, batches)), scaler, state)
            loss, leave = world.add_up(weights.values(), loss, around.stop())
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(weights.values(), settings.max_grad_norm).item()
            check_finite(number, loss, norm, batches, scaled=scaler.is_enabled())
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            row = state.note(number, loss, rate, norm, sum(batch.tokens for batch in batches), time.monotonic() - start)
            if number in measured and around.held_out:
                state.measure(mean_loss(model, around.held_out), moving)
            around.seen(row)
            if around.checkpoints and world.first and (leave or around.checkpoints.due):
                around.checkpoints.save(state, *moving.parts())
            if leave:
                break
    if settings.patience is not None:
        moving.go_back_to_best()
    return state


def backward(
    model: PreTrainedModel, batches: Sequence[Batch], learned: int, scaler: torch.amp.GradScaler, state: State
) -> float:
    """Forward and backward over a step's micro-batches; where memory runs out, the same step in smaller pieces.

    Raises:
        KitError: there is no memory for a single row.
    """
    import torch

    while True:
        total = 0.0
        try:
            for batch in halves(batches, state.parts):
                with autocast(model):
                    loss = loss_sum(model, batch) / learned
                scaler.scale(loss).backward()
                total += loss.item()
            return total
        except torch.OutOfMemoryError as error:
            split_further(model, batches, state, error)


def evaluation_steps(steps: int, settings: Training) -> set[int]:
    """After which steps the loss on held-out rows is measured: evenly spaced, the last one among them."""
    count = min(settings.evaluations, steps)
    return {round(steps * (n + 1) / count) for n in range(count)}

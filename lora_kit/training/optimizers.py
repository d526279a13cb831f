"""What moves the adapter: AdamW in three sizes, the learning rate's course, and the scale of float16 losses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..adapters import trainable
from .loss import autocast, compute_dtype_of, loss_sum

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..profiles import Training
    from .batches import Batch
    from .processes import World

HIGHEST_SCALE = 2.0**16  # GradScaler's own first value
LOWEST_SCALE = 2.0**-4


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), or bitsandbytes' 8-bit one (Dettmers et al. 2022).

    Args:
        parameters: the adapter's, in float32.
        settings: optimizer, learning_rate, weight_decay. "adamw" keeps 8 bytes a trained parameter, "adamw_8bit" 2;
            a paged one lets them leave the card when memory is short. Small matrices stay in 32 bits either way.
    """
    import torch

    rate, decay = float(settings.learning_rate), settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    kind = {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}[settings.optimizer]
    return kind(list(parameters), lr=rate, weight_decay=decay)


def schedule(step: int, steps: int, settings: Training) -> float:
    """Share of the learning rate at `step`, never 0: transformers' schedules without the steps where theirs is 0.

    Args:
        step: the optimizer step, from 1 to `steps`.
        steps: of the whole training.
        settings: warmup, the share of the steps that rise to the full rate; schedule: "cosine" falls slowly at first
            (Loshchilov & Hutter 2017), "linear" evenly, "constant" not at all.
    """
    rise = max(1, round(settings.warmup * steps))
    if step <= rise:
        return step / rise
    done = (step - rise) / (steps + 1 - rise)
    return {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[settings.schedule]


def make_scaler(model: PreTrainedModel) -> torch.amp.GradScaler:
    """The scaler of float16 losses (Micikevicius et al. 2018); it does nothing in other types."""
    import torch

    scaler = torch.amp.GradScaler(
        model.device.type, enabled=compute_dtype_of(model) == torch.float16, init_scale=HIGHEST_SCALE
    )
    scaler.scale(torch.zeros((), device=model.device))  # of several processes one may have no rows in the first step
    return scaler


def probe_scale(model: PreTrainedModel, batch: Batch, scaler: torch.amp.GradScaler, world: World) -> None:
    """Find, on one micro-batch, the highest loss scale whose gradients are finite, so that no early step is wasted."""
    import torch

    if not scaler.is_enabled():
        return
    scale, weights = HIGHEST_SCALE, list(trainable(model).values())
    while scale > LOWEST_SCALE:
        with torch.random.fork_rng(), autocast(model):
            loss = loss_sum(model, batch)
        (loss / max(1, sum(label >= 0 for row in batch.rows for label in row.labels)) * scale).backward()
        finite = all(bool(torch.isfinite(w.grad).all()) for w in weights if w.grad is not None)
        for weight in weights:
            weight.grad = None
        if finite:
            break
        scale /= 2
    scaler.load_state_dict(scaler.state_dict() | {"scale": world.least(scale)})

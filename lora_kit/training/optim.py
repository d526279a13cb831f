"""The optimizer, the learning rate's schedule, and the float16 loss scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..distributed import sum_over_processes
from ..errors import KitError
from .forward import compute_dtype_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..config import Training

MAX_SCALE, MIN_SCALE = 2.0**16, 2.0**-4  # of a float16 loss; the highest is GradScaler's own first value


def make_optimizer(parameters: Sequence[torch.nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), or bitsandbytes' 8-bit one (Dettmers et al. 2022).

    "adamw" keeps 8 bytes per trained parameter, "adamw_8bit" 2; a paged one lets them leave the card when memory is
    short. Small matrices stay in 32 bits either way.
    """
    import torch

    rate, decay = float(settings.learning_rate), settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    kind = {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}[settings.optimizer]
    return kind(parameters, lr=rate, weight_decay=decay)


def schedule(step: int, steps: int, settings: Training) -> float:
    """Share of the learning rate at `step`, from 1 to `steps`: transformers' schedules without the steps of rate 0.

    It rises in the share `warmup` of the steps. Then "cosine" falls slowly at first (Loshchilov & Hutter 2017),
    "linear" evenly, "constant" not at all.
    """
    rise = max(1, round(settings.warmup * steps))
    if step <= rise:
        return step / rise
    done = (step - rise) / (steps + 1 - rise)
    return {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[settings.schedule]


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, settings: Training) -> float:
    """Set and return the learning rate of a step."""
    rate = float(settings.learning_rate) * schedule(step, steps, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def make_scaler(model: PreTrainedModel) -> torch.amp.GradScaler:
    """The scaler of float16 losses (Micikevicius et al. 2018); it does nothing in other types."""
    import torch

    is_float16 = compute_dtype_of(model) == torch.float16
    scaler = torch.amp.GradScaler(model.device.type, enabled=is_float16, init_scale=MAX_SCALE)
    scaler.scale(torch.zeros((), device=model.device))  # of several processes one may have no rows in the first step
    return scaler


def probe_scale(
    scaler: torch.amp.GradScaler, weights: Sequence[torch.nn.Parameter], backward: Callable[[], object]
) -> None:
    """Find the highest loss scale whose gradients are finite, so that no early step is wasted.

    `backward` leaves the gradients of one micro-batch, scaled, in the weights.
    """
    import torch

    if not scaler.is_enabled():
        return
    scale = MAX_SCALE
    while scale > MIN_SCALE:
        scaler.load_state_dict(scaler.state_dict() | {"scale": scale})
        with torch.random.fork_rng():
            backward()
        overflows = any(not torch.isfinite(w.grad).all() for w in weights if w.grad is not None)
        _, overflows = sum_over_processes(weights, 0.0, overflows)  # all of them try the same scales
        for weight in weights:
            weight.grad = None
        if not overflows:
            return
        scale /= 2
    raise KitError("gradients of this base overflow float16: set quantization__compute_dtype=float32 (slower)")

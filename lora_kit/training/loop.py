"""The training loop: one visible function, its guards beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ..adapters import trainable
from ..data import Prepared
from ..errors import KitError
from ..profiles import Training
from .batches import Batch, Row, steps
from .loss import learned_tokens, loss_sum

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LogRow = dict[str, Any]


def fit(
    model: PreTrainedModel, plan: Sequence[list[Batch]], settings: Training, seen: Callable[[LogRow], None]
) -> list[LogRow]:
    """Train the model's adapter through all steps of `plan`, and return the log, one row a step.

    Args:
        model: a frozen base with one attached adapter, whose parameters alone require gradients.
        plan: the micro-batches of every optimizer step, from `all_steps`.
        settings: learning rate, warmup, weight decay, gradient norm, seed.
        seen: called with every log row as it is made, to show progress.

    Raises:
        KitError: a loss or gradient that is not finite, with the step and what to try.
    """
    import torch

    parameters = list(trainable(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    fp16 = compute_dtype_of(model) == torch.float16
    scaler = torch.amp.GradScaler(model.device.type, enabled=fp16, init_scale=2.0**12)
    torch.manual_seed(settings.seed)
    log: list[LogRow] = []
    tokens, start = 0, time.time()
    for number, batches in enumerate(plan, start=1):
        rate = settings.learning_rate * schedule(number, len(plan), settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        learned = sum(learned_tokens(batch) for batch in batches)
        total = 0.0
        for batch in batches:
            with autocast(model):
                loss = loss_sum(model, batch) / learned
            scaler.scale(loss).backward()
            total += loss.item()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).item()
        check_finite(number, total, norm, scaler.is_enabled())
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        tokens += sum(batch.tokens for batch in batches)
        log.append({"step": number, "loss": total, "learning_rate": rate, "gradient_norm": norm})
        log[-1] |= {"tokens": tokens, "seconds": round(time.time() - start, 2)}
        seen(log[-1])
    return log


@contextmanager
def training_mode(model: PreTrainedModel, checkpoint_layers: bool) -> Iterator[None]:
    """Dropout on, and layers recomputed in the backward pass where wanted; both off again whatever happens."""
    new = hasattr(model, "activation_checkpointing_enable")  # the name since transformers 5.23
    kind = "activation" if new else "gradient"
    if checkpoint_layers:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    model.train()
    try:
        yield
    finally:
        model.eval()
        if checkpoint_layers:
            getattr(model, f"{kind}_checkpointing_disable")()


def autocast(model: PreTrainedModel) -> torch.autocast:
    """Half precision for the forward pass where the model computes in it; nothing in float32."""
    import torch

    dtype = compute_dtype_of(model)
    return torch.autocast(model.device.type, dtype=dtype, enabled=dtype in (torch.float16, torch.bfloat16))


def compute_dtype_of(model: PreTrainedModel) -> torch.dtype:
    """The dtype that the model computes in: its 4-bit layers say, or its weights."""
    layers = (module.compute_dtype for module in model.modules() if hasattr(module, "compute_dtype"))
    return cast("torch.dtype", next(layers, model.dtype))


def all_steps(data: Prepared, settings: Training) -> list[list[Batch]]:
    """The micro-batches of every optimizer step, epoch after epoch."""
    rows = [Row(row["input_ids"], row["labels"]) for row in data.train]
    return [step for epoch in range(settings.epochs) for step in epoch_steps(rows, settings, epoch)]


def epoch_steps(rows: Sequence[Row], settings: Training, epoch: int) -> list[list[Batch]]:
    """The optimizer steps of one epoch; prefixes are shared where no layer is checkpointed."""
    return steps(
        rows,
        tokens_per_step=settings.tokens_per_step,
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        share_prefixes=not settings.checkpoint_layers,  # transformers' checkpointing drops the prefix's cache
        seed=settings.seed,
        epoch=epoch,
    )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at `step` (from 1): linear rise, then a cosine to 0 (Loshchilov & Hutter 2017)."""
    rise = max(1, round(warmup * steps))
    if step <= rise:
        return step / rise
    return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def check_finite(step: int, loss: float, norm: float, scaled: bool) -> None:
    """Stop on a loss that is not a number; under a loss scaler a gradient overflow only skips the step."""
    if not math.isfinite(loss) or (not math.isfinite(norm) and not scaled):
        raise KitError(
            f"step {step}: the loss is {loss} and the gradient norm {norm}. Lower training__learning_rate, "
            "or look at the rows of this step for broken text"
        )


def check_learned(model: PreTrainedModel, log: Sequence[LogRow]) -> None:
    """Raise KitError when the adapter is still what it was at the start, or the loss did not fall."""
    still = [name for name, value in trainable(model).items() if "lora_B" in name and not value.any()]
    if still:
        raise KitError(
            f"{len(still)} adapter matrices B are still zero after training, as {still[0]}: nothing was learned"
        )
    first, last = loss_ends(log)
    if len(log) >= 20 and not last < first:
        raise KitError(f"the loss did not fall (from {first:.3f} to {last:.3f}): try another training__learning_rate")


def loss_ends(log: Sequence[LogRow]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps; single steps differ as their rows do."""
    tenth = max(1, len(log) // 10)
    return mean([row["loss"] for row in log[:tenth]]), mean([row["loss"] for row in log[-tenth:]])


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)

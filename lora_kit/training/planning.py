"""What training will cost, said before the first step: bytes by formula, minutes from a timed probe."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapters import trainable
from ..data import Prepared
from ..quantization import parameter_counts
from .batches import Batch, Row, all_steps
from .loss import autocast, loss_sum, training_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run

PROBES = 3  # micro-batches that are timed; the first warms up and is not counted


@dataclass(frozen=True)
class Plan:
    """Steps, tokens, bytes and minutes of a training."""

    steps: int
    tokens: int  # that the model computes, shared prefixes once, padding too
    tokens_unshared: int  # what rows one by one would take
    weight_bytes: int
    adapter_bytes: int
    optimizer_bytes: int  # AdamW: two float32 numbers a trained parameter
    minutes: float

    def __str__(self) -> str:
        saved = 1 - self.tokens / self.tokens_unshared
        shared = f" ({saved:.0%} saved by shared prefixes)" if saved > 0 else ""
        return (
            f"plan: {self.steps:,} steps over {self.tokens:,} tokens{shared}, "
            f"base {self.weight_bytes / 2**20:,.1f} MiB, adapter {self.adapter_bytes / 2**20:,.1f} MiB, "
            f"optimizer {self.optimizer_bytes / 2**20:,.1f} MiB, about {self.minutes:.1f} minutes"
        )


def plan(model: PreTrainedModel, data: Prepared, run: Run) -> Plan:
    """Print and return what training this adapter on this data will take.

    Args:
        model: the base with an attached adapter; a probe of a few micro-batches leaves weights and random state alone.
        data: from `prepare`.
        run: its profile holds every setting.
    """
    rows = [Row(row["input_ids"], row["labels"]) for row in data.train]
    steps = all_steps(rows, run.profile.training)
    batches = [batch for step in steps for batch in step]
    tokens = sum(batch.tokens for batch in batches)
    counts = parameter_counts(model)
    adapted = counts["trainable"]
    result = Plan(
        steps=len(steps),
        tokens=tokens,
        tokens_unshared=data.figures["tokens"] * run.profile.training.epochs,
        weight_bytes=sum(part["bytes"] for part in counts.values()) - adapted["bytes"],
        adapter_bytes=adapted["bytes"],
        optimizer_bytes=2 * adapted["bytes"],
        minutes=seconds_per_token(model, batches, layers_to_recompute(model, steps, run)) * tokens / 60,
    )
    print(result)
    return result


def seconds_per_token(model: PreTrainedModel, batches: list[Batch], layers: int) -> float:
    """Forward and backward time of a few micro-batches, spread over the epoch; gradients are dropped."""
    import torch

    chosen = batches[:: max(1, len(batches) // PROBES)][:PROBES]
    times = []
    with torch.random.fork_rng(), training_mode(model, layers):
        for batch in [chosen[0], *chosen]:
            start = time.perf_counter()
            with autocast(model):
                loss = loss_sum(model, batch)
            loss.backward()
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / batch.tokens)
    for parameter in trainable(model).values():
        parameter.grad = None
    return sum(times[1:]) / len(times[1:])


def layers_to_recompute(model: PreTrainedModel, steps: list[list[Batch]], run: Run) -> int:
    """How many layers are computed twice: what the profile says, or none on a CPU and all on a card."""
    most, wanted = len(model.model.layers), run.profile.training.checkpoint_layers
    if isinstance(wanted, int):
        return min(wanted, most)
    return 0 if model.device.type == "cpu" else most

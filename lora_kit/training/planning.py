"""What training will cost, said before the first step: bytes by formula, minutes from a timed probe."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ..adapters import is_fresh, trainable
from ..base import locate
from ..data import Prepared
from ..errors import KitError
from ..profiles import Training
from ..quantization import parameter_counts
from .batches import Batch, Row, all_steps, rows_of, set_aside
from .guards import check_given
from .loss import autocast, compute_dtype_of, loss_sum, training_mode
from .memory import Sizes, activation_bytes, passing_bytes
from .optimizers import make_optimizer
from .recipe import Recipe, recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run

PROBES, PROBE_SECONDS = 12, 6.0  # micro-batches that are timed, spread over the training
USABLE = 0.92  # of a card's memory: the rest is CUDA's own and what lies between the tensors
LARGEST = 20  # micro-batches whose activations are looked at
SMALLER = "training__tokens_per_micro_batch or data__max_length; else every micro-batch is split when memory runs out"
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Plan:
    """Steps, tokens, bytes and minutes of a training."""

    steps: int
    tokens: int  # that the model computes, shared prefixes once, padding too
    tokens_unshared: int  # what rows one by one would take
    padding: float  # share of the computed tokens
    weight_bytes: int
    adapter_bytes: int  # float32 weights and their gradients
    optimizer_bytes: int
    activation_bytes: int  # of the largest micro-batch, kept for its backward pass
    passing_bytes: int  # logits, and one layer's weights out of 4 bits, while they are needed
    layers: int  # computed twice
    layers_in_all: int
    card_bytes: int | None  # free on the card before the weights; None on a CPU
    minutes: float

    @property
    def bytes(self) -> int:
        """All of it at its peak."""
        weights = self.weight_bytes + self.adapter_bytes + self.optimizer_bytes
        return weights + self.activation_bytes + self.passing_bytes

    @property
    def fits(self) -> bool:
        """Whether the card holds it; a CPU's memory is not asked."""
        return self.card_bytes is None or self.bytes <= USABLE * self.card_bytes

    def __str__(self) -> str:
        saved = 1 - self.tokens / self.tokens_unshared
        shared = f", {saved:.0%} saved by shared prefixes" if saved > 0 else ""
        parts = (self.weight_bytes, self.adapter_bytes, self.optimizer_bytes, self.activation_bytes, self.passing_bytes)
        names = ("weights", "adapter and gradients", "optimizer", "activations", "logits and a layer")
        lines = [
            f"plan: {self.steps:,} steps over {self.tokens:,} tokens ({self.padding:.1%} padding{shared}), "
            f"about {self.minutes:.1f} minutes",
            "  memory: " + ", ".join(f"{n} {b / MIB:,.1f} MiB" for n, b in zip(names, parts, strict=True)),
            f"  {self.layers} of {self.layers_in_all} layers computed twice to save memory",
        ]
        if self.card_bytes is not None:
            room = f"{self.bytes / GIB:.1f} GiB of the card's {self.card_bytes / GIB:.1f} GiB"
            lines.append(f"  fits: {room}" if self.fits else f"  does not fit ({room}): lower {SMALLER}")
        return "\n".join(lines)


def plan(model: PreTrainedModel, data: Prepared, run: Run) -> Plan:
    """Print and return what training this adapter on this data will take.

    Args:
        model: the base with an attached adapter; a probe of a few micro-batches leaves weights and random state alone.
        data: from `prepare`.
        run: its profile holds every setting.

    Raises:
        KitError: the model has no adapter of these settings, or a trained one; the data was prepared for another run.
    """
    check_given(model, data, run)
    if not is_fresh(model, run.profile.lora):
        raise KitError(
            "a plan needs the base with a fresh adapter of the run's settings: model = lk.load_base(run), then "
            "lk.attach_lora(model, run)"
        )
    rows, _ = set_aside(rows_of(data.train), run.profile.training)
    chosen = recipe_for(run, rows)
    settings, steps = chosen.training, all_steps(rows, chosen.training)
    batches = [batch for step in steps for batch in step]
    layers, card = layers_to_recompute(model, steps, run), card_bytes(model)
    forward, step = probe(model, batches, layers, settings)
    tokens, sizes = sum(batch.tokens for batch in batches), sizes_of(model, run)
    weights, adapter, optimizer = fixed_bytes(model, run)
    own = sum(len(batch.prefix) + sum(len(row.input_ids) for row in batch.rows) for batch in batches)
    result = Plan(
        steps=len(steps),
        tokens=tokens,
        tokens_unshared=sum(len(row.input_ids) for row in rows) * int(settings.epochs),
        padding=1 - own / tokens,
        weight_bytes=weights,
        adapter_bytes=adapter,
        optimizer_bytes=optimizer,
        activation_bytes=max(activation_bytes(sizes, batch, layers) for batch in batches),
        passing_bytes=max(passing_bytes(sizes, batch) for batch in batches),
        layers=layers,
        layers_in_all=sizes.layers,
        card_bytes=card,
        minutes=(forward * tokens + step * len(steps)) / 60,
    )
    print(f"{chosen}\n{result}")
    return result


def recipe_for(run: Run, rows: Sequence[Row]) -> Recipe:
    """The run's training settings on these rows, with every "auto" decided."""
    width = json.loads((locate(run.profile.base) / "config.json").read_text())["hidden_size"]
    return recipe(run.profile.training, rows, width)


def probe(model: PreTrainedModel, batches: list[Batch], layers: int, settings: Training) -> tuple[float, float]:
    """Seconds a token of forward and backward, and seconds of an optimizer step; nothing is left changed."""
    import torch

    chosen = batches[:: max(1, len(batches) // PROBES)][:PROBES]
    times, start = [], time.perf_counter()
    with torch.random.fork_rng(), training_mode(model, layers):
        for batch in [chosen[0], *chosen]:  # the first one warms up and is not counted
            begun = time.perf_counter()
            with autocast(model):
                loss = loss_sum(model, batch)
            loss.backward()
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - begun, batch.tokens))
            if len(times) > 2 and time.perf_counter() - start > PROBE_SECONDS:
                break
        step = _step_seconds(model, settings)
    for parameter in trainable(model).values():
        parameter.grad = None
    return median(took / tokens for took, tokens in times[1:]), step


def _step_seconds(model: PreTrainedModel, settings: Training) -> float:
    """An optimizer step on copies of the adapter."""
    import torch

    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in trainable(model).values()]
    optimizer = make_optimizer(copies, settings)
    for copy in copies:
        copy.grad = torch.zeros_like(copy)
    optimizer.step()
    start = time.perf_counter()
    torch.nn.utils.clip_grad_norm_(copies, 1.0)
    optimizer.step()
    return time.perf_counter() - start


def layers_to_recompute(model: PreTrainedModel, steps: list[list[Batch]], run: Run) -> int:
    """How many layers are computed twice: what the profile says; else none on a CPU, and on a card as few as fit."""
    most, wanted, card = len(model.model.layers) - 1, run.profile.training.checkpoint_layers, card_bytes(model)
    if isinstance(wanted, int):
        return min(wanted, most)
    if card is None:
        return 0
    sizes, room = sizes_of(model, run), USABLE * card - sum(fixed_bytes(model, run))
    batches = [batch for step in steps for batch in step]
    largest = sorted(batches, key=lambda batch: batch.tokens)[-LARGEST:]
    fitting = (
        layers
        for layers in range(most)
        if max(activation_bytes(sizes, batch, layers) + passing_bytes(sizes, batch) for batch in largest) <= room
    )
    return next(fitting, most)


def fixed_bytes(model: PreTrainedModel, run: Run) -> tuple[int, int, int]:
    """What is there all the time: the frozen weights; the adapter and its gradients; the optimizer's numbers."""
    counts = parameter_counts(model)
    adapted = counts["trainable"]["bytes"]
    optimizer = 2 * adapted if run.profile.training.optimizer == "adamw" else adapted // 2
    return sum(part["bytes"] for part in counts.values()) - adapted, 2 * adapted, optimizer


def sizes_of(model: PreTrainedModel, run: Run) -> Sizes:
    """What the formula of the activations needs."""
    return Sizes.of(model, run.profile.lora, compute_dtype_of(model).itemsize)


def card_bytes(model: PreTrainedModel) -> int | None:
    """Memory that the model and its training may fill on its card; None on a CPU."""
    import torch

    if model.device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(model.device)
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(model.device)  # newer torch
    return int(min(free + torch.cuda.memory_reserved(model.device), share * total))

"""The first thing that a training does: hold its own way to a loss against the model's plain forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..data.encoding import IGNORE
from ..errors import KitError
from .attention import shared_attention
from .batches import Batch
from .loss import autocast, compute_dtype_of, learned_tokens, loss_sum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 2  # of a micro-batch
# families that go wrong differ by 3 % or more, rounding by 0.06 % at most (bfloat16, random models)
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 1e-2}  # of a loss of one nat, or of a larger one


def check_loss(model: PreTrainedModel, batches: Sequence[Batch]) -> tuple[float, float]:
    """The loss per learned token of a few of the longest rows, as training computes it and as the model itself does.

    A family that needs more than the training knows of (a scale behind the head, a window, rows that see each other
    behind a shared prefix) would train without an error, and wrongly.

    Args:
        model: with its adapter.
        batches: of the training; the widest, and the widest with a shared prefix, are looked at.

    Raises:
        KitError: the two differ, with both; or one of them is not finite.
    """
    with_prefix = [batch for batch in batches if batch.prefix]
    ours, plain, tokens = 0.0, 0.0, 0
    for some in (batches, with_prefix) if with_prefix else (batches,):
        widest = max(some, key=lambda batch: batch.width)
        longest = sorted(widest.rows, key=lambda row: -len(row.input_ids))[:ROWS]
        batch = Batch(widest.prefix, [replace(row, is_rehearsal=False, rejected=None) for row in longest])
        ours += training_loss(model, batch)
        plain += plain_loss(model, batch)
        tokens += learned_tokens(batch)
    ours, plain = ours / tokens, plain / tokens
    dtype = str(compute_dtype_of(model)).removeprefix("torch.")
    if not math.isfinite(ours) or not math.isfinite(plain):
        raise KitError(
            f"the loss of this base is {plain} in {dtype}: its numbers are beyond that type. Set "
            "quantization__compute_dtype=float32 (slower), or take another base"
        )
    if abs(ours - plain) > TOLERANCE[dtype] * max(plain, 1.0):  # an adapter that is trained further begins near 0
        raise KitError(
            f"the loss is {ours:.4f} as training computes it and {plain:.4f} as the model itself does: a base of the "
            f"type {model.config.model_type!r} cannot be trained here. Where rows share a prefix, "
            "training__share_prefixes=false may help"
        )
    return ours, plain


def training_loss(model: PreTrainedModel, batch: Batch) -> float:
    """The summed loss of a micro-batch along the training's own path."""
    import torch

    with torch.no_grad(), shared_attention(model):
        return loss_sum(model, batch).item()


def plain_loss(model: PreTrainedModel, batch: Batch) -> float:
    """The same by the model's own forward pass, row by row."""
    import torch
    from torch.nn.functional import cross_entropy

    total = 0.0
    for row in batch.rows:
        ids = torch.tensor([[*batch.prefix, *row.input_ids]], device=model.device)
        labels = row.labels[
            next(n for n, label in enumerate(row.labels) if label != IGNORE) :
        ]  # from the first learned
        with torch.no_grad(), autocast(model):
            found = model(input_ids=ids, use_cache=False, logits_to_keep=len(labels) + 1)
        logits, targets = found.logits[0, :-1].float(), torch.tensor(labels, device=model.device)  # (labels, vocab)
        total += cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORE).item()
    return total

"""The loss of one micro-batch: logits only where something is learned, in chunks, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from ..data import IGNORE
from .layers import last_mlp_at, positions, recomputed, shared_attention

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .batches import Batch

CHUNK = 4096  # learned positions whose logits exist at a time: 4096 x 32000 x 4 bytes is 0.5 GB


def loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Cross entropy summed over the learned tokens of a micro-batch.

    The caller divides by all learned tokens of the step, so that the split into micro-batches changes nothing.

    Args:
        model: a causal language model whose body is `model.model` and whose head is `model.lm_head`.
        batch: rows, and the prefix that they share.
    """
    from torch.nn.functional import cross_entropy

    labels = _padded([row.labels[1:] for row in batch.rows], IGNORE, model.device, width=batch.width)  # shifted by one
    learned = labels != IGNORE
    hidden = hidden_states(model, batch, learned)  # (rows, width, dim)
    states, targets = hidden[learned], labels[learned]  # (learned, dim), (learned,)
    total = states.new_zeros((), dtype=hidden.dtype).float()
    for start in range(0, len(targets), CHUNK):
        logits = model.lm_head(states[start : start + CHUNK]).float()
        total = total + cross_entropy(logits, targets[start : start + CHUNK], reduction="sum")
    return total


def hidden_states(model: PreTrainedModel, batch: Batch, read: torch.Tensor) -> torch.Tensor:
    """Last hidden states of the rows: (rows, width, dim); the shared prefix goes through the model once.

    Padding stands on the right, where causal attention never looks, so no attention mask is needed.

    Args:
        model: its body is `model.model`.
        batch: rows, and the prefix that they share.
        read: (rows, width) true where the states are read; elsewhere they are not finished.
    """
    import torch

    ids, prefix = _padded([row.input_ids for row in batch.rows], 0, model.device, width=batch.width), len(batch.prefix)
    if not prefix:
        with last_mlp_at(model, read):
            return model.model(input_ids=ids, use_cache=False).last_hidden_state
    line = torch.cat([torch.tensor(batch.prefix, device=ids.device), ids.flatten()]).unsqueeze(0)
    told = {"position_ids": positions(prefix, len(ids), batch.width, ids.device), "prefix": prefix, "rows": len(ids)}
    at = torch.cat([read.new_zeros(prefix), read.flatten()]).unsqueeze(0)
    with shared_attention(model), last_mlp_at(model, at):
        hidden = model.model(input_ids=line, use_cache=False, **told).last_hidden_state
    return hidden[0, prefix:].unflatten(0, ids.shape)


def mean_loss(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Loss a learned token over micro-batches, as the model stands: no dropout, no gradients."""
    import torch

    trains = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(model):
            return sum(loss_sum(model, batch).item() for batch in batches) / sum(map(learned_tokens, batches))
    finally:
        model.train(trains)


def row_losses(model: PreTrainedModel, batch: Batch) -> list[float]:
    """Cross entropy summed over the learned tokens of each row, as the model stands."""
    import torch
    from torch.nn.functional import cross_entropy

    labels = _padded([row.labels[1:] for row in batch.rows], IGNORE, model.device, width=batch.width)
    learned, losses = labels != IGNORE, []
    with torch.no_grad(), autocast(model):
        hidden = hidden_states(model, batch, learned)
        for states, row, at in zip(hidden, labels, learned, strict=True):
            losses.append(float(cross_entropy(model.lm_head(states[at]).float(), row[at], reduction="sum")))
    return losses


@contextmanager
def training_mode(model: PreTrainedModel, layers: int = 0) -> Iterator[None]:
    """Dropout on, and the first layers computed twice; both off again whatever happens."""
    model.train()
    try:
        with recomputed(model, layers), shared_attention(model):  # also while layers are computed again
            yield
    finally:
        model.eval()


def autocast(model: PreTrainedModel) -> torch.autocast:
    """Half precision for the forward pass where the model computes in it; nothing in float32."""
    import torch

    dtype = compute_dtype_of(model)
    return torch.autocast(model.device.type, dtype=dtype, enabled=dtype in (torch.float16, torch.bfloat16))


def compute_dtype_of(model: PreTrainedModel) -> torch.dtype:
    """The dtype that the model computes in: its 4-bit layers say, or its weights."""
    layers = (module.compute_dtype for module in model.modules() if hasattr(module, "compute_dtype"))
    return cast("torch.dtype", next(layers, model.dtype))


def learned_tokens(batch: Batch) -> int:
    """How many tokens of the micro-batch are learned."""
    return sum(label != IGNORE for row in batch.rows for label in row.labels[1:])


def _padded(rows: list[list[int]], fill: int, device: torch.device, *, width: int) -> torch.Tensor:
    import torch

    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)

"""The loss of one micro-batch: logits only where something is learned, in chunks, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data import IGNORE

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

    hidden = hidden_states(model, batch)  # (rows, width, dim)
    labels = _padded([row.labels[1:] for row in batch.rows], IGNORE, hidden.device, width=batch.width)  # shifted by one
    learned = labels != IGNORE
    states, targets = hidden[learned], labels[learned]  # (learned, dim), (learned,)
    total = states.new_zeros((), dtype=hidden.dtype).float()
    for start in range(0, len(targets), CHUNK):
        logits = model.lm_head(states[start : start + CHUNK]).float()
        total = total + cross_entropy(logits, targets[start : start + CHUNK], reduction="sum")
    return total


def hidden_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Last hidden states of the rows: (rows, width, dim); the shared prefix goes through the model once.

    Padding stands on the right, where causal attention never looks, so no attention mask is needed.
    """
    import torch
    from transformers import DynamicCache

    ids = _padded([row.input_ids for row in batch.rows], 0, model.device, width=batch.width)
    if not batch.prefix:
        return model.model(input_ids=ids, use_cache=False).last_hidden_state
    cache = DynamicCache(config=model.config)
    model.model(input_ids=torch.tensor([batch.prefix], device=model.device), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(batch.rows))  # keys and values stay in the graph: the prefix is learned through
    return model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state


def learned_tokens(batch: Batch) -> int:
    """How many tokens of the micro-batch are learned."""
    return sum(label != IGNORE for row in batch.rows for label in row.labels[1:])


def _padded(rows: list[list[int]], fill: int, device: torch.device, *, width: int) -> torch.Tensor:
    import torch

    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)

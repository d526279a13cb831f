"""What the model's layers do differently in training; every result stays the same.

    recomputed         layers that are computed again in the backward pass, to save memory (Chen et al. 2016)
    last_mlp_at        the last MLP only where its output is read
    shared_attention   rows behind one prefix, which is computed once

A layer keeps no state of a pass (no cache), so that computing it again gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAME = "lora_kit"  # of the attention, in transformers' list


@contextmanager
def recomputed(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Keep only the inputs of the first `count` layers, and compute those layers again in the backward pass.

    Args:
        model: its decoder layers are `model.model.layers`. The last one is never computed again: the backward pass
            begins with it, so that nothing would be saved.
        count: layers; each saves all of its activations but one hidden state a token, and takes a third longer.
    """
    from torch.utils.checkpoint import checkpoint

    layers = model.model.layers[: min(count, len(model.model.layers) - 1)]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def last_mlp_at(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Compute the last layer's MLP only at positions whose output is read; elsewhere it is left out.

    Args:
        model: its decoder layers are `model.model.layers`.
        positions: (rows, width) true where something is learned from the output.
    """
    mlp = model.model.layers[-1].mlp
    plain = mlp.forward

    def at_positions(hidden: torch.Tensor) -> torch.Tensor:
        found = plain(hidden[positions])
        return found.new_zeros(hidden.shape).index_put((positions,), found)

    mlp.forward = at_positions
    try:
        yield
    finally:
        del mlp.forward


@contextmanager
def shared_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let rows that are laid behind one prefix see it and themselves, and nothing of each other.

    The model is then called with one long row, prefix and rows end to end, with `positions` and with the arguments
    prefix=... and rows=...; every layer works once on all of it, and only the attention knows of the parts.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def positions(prefix: int, rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Where each token of prefix and rows stands in its own row: (1, prefix + rows * width)."""
    import torch

    own = torch.arange(prefix, prefix + width, device=device).repeat(rows)
    return torch.cat([torch.arange(prefix, device=device), own]).unsqueeze(0)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    prefix: int = 0,
    rows: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over (1, heads, prefix + rows * width, head_dim): first the prefix, then all rows behind it."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    q, k, v = (tensor[:, :, :prefix] for tensor in (query, key, value))
    own_q, own_k, own_v = (
        tensor[0, :, prefix:].unflatten(1, (rows, -1)).transpose(0, 1) for tensor in (query, key, value)
    )
    width = own_q.shape[2]
    mask = torch.ones(width, prefix + width, dtype=torch.bool, device=query.device).tril(prefix)
    first, _ = sdpa_attention_forward(module, q, k, v, None, **kwargs)
    k, v = (torch.cat([b.expand(rows, -1, -1, -1), o], dim=2) for b, o in ((k, own_k), (v, own_v)))
    rest, _ = sdpa_attention_forward(module, own_q, k, v, mask, **kwargs)
    return torch.cat([first, rest.flatten(0, 1).unsqueeze(0)], dim=1), None

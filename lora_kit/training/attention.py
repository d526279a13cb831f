"""Attention for rows behind one shared prefix, which goes through the model once.

The model is called with one long row, prefix and rows end to end; every layer works once on all of it, and only the
attention knows of the parts. It sees a family's sliding window too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAME = "lora_kit"  # our attention's name in transformers' list


@contextmanager
def shared_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let rows that are laid behind one prefix see it and themselves, and nothing of each other.

    The model is then called with prefix=... and rows=...; without them every row is a row of its own. transformers
    makes no mask for an attention of this name: what a position may see is decided here.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    prefix: int = 0,
    rows: int = 0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over (1, heads, prefix + rows * width, head_dim): first the prefix, then all rows behind it."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mask = visible(q.shape[2], k.shape[2], sliding_window, q.device)
        return sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0]  # (rows, width, heads, head_dim)

    if not rows:
        return attend(query, key, value), None
    first = attend(*(tensor[:, :, :prefix] for tensor in (query, key, value)))
    own_query, own_key, own_value = (  # (rows, heads, width, head_dim)
        tensor[0, :, prefix:].unflatten(1, (rows, -1)).transpose(0, 1) for tensor in (query, key, value)
    )
    keys, values = (
        torch.cat([whole[:, :, :prefix].expand(rows, -1, -1, -1), own], dim=2)
        for whole, own in ((key, own_key), (value, own_value))
    )
    rest = attend(own_query, keys, values)
    return torch.cat([first, rest.flatten(0, 1).unsqueeze(0)], dim=1), None


def visible(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """What the last `queries` of `keys` positions may see: (queries, keys) true, or None for all that is before them.

    Args:
        queries: positions that look.
        keys: positions that are there.
        window: how many positions back are seen, itself among them; None for all.
        device: of the mask.
    """
    import torch

    is_short = window is None or keys <= window
    if is_short and queries == keys:
        return None  # the fast path: plain causal attention
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if is_short or window is None else mask.triu(keys - queries - window + 1)

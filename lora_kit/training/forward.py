"""The model's forward pass in training: the same results as its own, with less work and memory.

    training_mode      layers that are computed again in the backward pass, to save memory (Chen et al. 2016)
    last_mlp_at        the last MLP only where its output is read
    head_logits        logits only where something is learned
    shared_attention   rows behind one shared prefix, which goes through the model once

With a shared prefix the model is called with one long row, prefix and rows end to end. Every layer works once on all of
it; only the attention knows of the parts. A layer keeps no state of a pass (no cache), so computing it again gives the
same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .batches import Batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAME = "lora_kit"  # our attention's name in transformers' list


def hidden_states(model: PreTrainedModel, batch: Batch, read: torch.Tensor) -> torch.Tensor:
    """Last hidden states of the answers: (answers, width, dim); finished only where `read` (answers, width) is true.

    Padding is on the right, where causal attention never looks, so no attention mask is needed.
    """
    import torch

    ids = padded([row.input_ids for row in batch.answers], 0, batch.width, model.device)
    if not batch.prefix:
        with last_mlp_at(model, read):
            return model.model(input_ids=ids, use_cache=False).last_hidden_state
    prefix = torch.tensor(batch.prefix, device=ids.device)
    line = torch.cat([prefix, ids.flatten()]).unsqueeze(0)  # (1, prefix + rows * width)
    places = torch.arange(len(prefix) + batch.width, device=ids.device)
    positions = torch.cat([places[: len(prefix)], places[len(prefix) :].repeat(len(ids))]).unsqueeze(0)
    read_at = torch.cat([read.new_zeros(len(prefix)), read.flatten()]).unsqueeze(0)
    shape = {"position_ids": positions, "prefix": len(prefix), "rows": len(ids)}
    with shared_attention(model), last_mlp_at(model, read_at):
        hidden = model.model(input_ids=line, use_cache=False, **shape).last_hidden_state
    return hidden[0, len(prefix) :].unflatten(0, ids.shape)


def padded(rows: list[list[int]], fill: int, width: int, device: torch.device) -> torch.Tensor:
    """Rows as one tensor, padded on the right: (rows, width)."""
    import torch

    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)


def head_logits(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """The model's logits, in float32, at last hidden states: (n, dim) to (n, vocab).

    The whole model is called with its body put aside, so that what a family does behind its head is done too: Granite
    divides the logits.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    found = BaseModelOutputWithPast(last_hidden_state=states.unsqueeze(0))
    model.model.forward = lambda *_, **__: found
    try:
        return model(inputs_embeds=found.last_hidden_state, use_cache=False).logits[0].float()
    finally:
        del model.model.forward


def autocast(model: PreTrainedModel) -> torch.autocast:
    """Half precision for the forward pass where the model computes in it; nothing in float32."""
    import torch

    dtype = compute_dtype_of(model)
    return torch.autocast(model.device.type, dtype=dtype, enabled=dtype in (torch.float16, torch.bfloat16))


def compute_dtype_of(model: PreTrainedModel) -> torch.dtype:
    """The dtype that the model computes in: that of its 4-bit layers, else that of its weights."""
    layers = (module.compute_dtype for module in model.modules() if hasattr(module, "compute_dtype"))
    return cast("torch.dtype", next(layers, model.dtype))


@contextmanager
def training_mode(model: PreTrainedModel, layers: int = 0) -> Iterator[None]:
    """Dropout on, and the first `layers` computed twice: they keep only their inputs until the backward pass.

    Each saves all of its activations but one hidden state per token, and takes a third longer. The last layer is never
    computed again: the backward pass begins with it, so nothing would be saved.
    """
    from torch.utils.checkpoint import checkpoint

    twice = model.model.layers[: min(layers, len(model.model.layers) - 1)]
    for layer in twice:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    model.train()
    try:
        with shared_attention(model):  # also while layers are computed again
            yield
    finally:
        model.eval()
        for layer in twice:
            del layer.forward


@contextmanager
def last_mlp_at(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Compute the last layer's MLP only where `positions` (rows, width) is true; elsewhere its output is not read."""
    mlp = model.model.layers[-1].mlp
    plain = mlp.forward

    def at_positions(hidden: torch.Tensor) -> torch.Tensor:
        found = plain(hidden[positions])  # (learned, dim)
        return found.new_zeros(hidden.shape).index_put((positions,), found)

    mlp.forward = at_positions
    try:
        yield
    finally:
        del mlp.forward


@contextmanager
def shared_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let rows behind one prefix see it and themselves, and nothing of each other, in calls with prefix= and rows=.

    transformers makes no mask for an attention of this name: `visible` decides what a position may see.
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

    A sliding `window` of a family counts the position itself.
    """
    import torch

    if queries == keys and (window is None or keys <= window):
        return None  # the fast path: plain causal attention
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries - window + 1)

"""The loss of one micro-batch: logits only where something is learned, in chunks, in float32.

What the model's layers do differently in training leaves every result the same:

    training_mode      layers that are computed again in the backward pass, to save memory (Chen et al. 2016)
    last_mlp_at        the last MLP only where its output is read
    shared_attention   rows behind one prefix, which is computed once

A layer keeps no state of a pass (no cache), so that computing it again gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..adapters import adapter_off
from ..data.encoding import IGNORE
from .batches import Batch, Row, for_measuring

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..config import Training

CHUNK = 4096  # learned positions whose logits exist at a time: 4096 x 32000 x 4 bytes is 0.5 GB
ATTENTION = "lora_kit"  # our attention's name in transformers' list


def loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Cross entropy summed over the learned tokens of a micro-batch; of rehearsal rows the divergence from the base.

    Rehearsal rows hold what the base itself says. Learned as labels they would make it surer than it is; KL(base ||
    model), with the base the same model without its adapter, keeps the probabilities (Li and Hoiem 2016).

    The caller divides by all learned tokens of the step, so that the split into micro-batches changes nothing.

    Args:
        model: a causal language model whose body is `model.model` and whose head is `model.lm_head`.
        batch: rows, and the prefix that they share.
    """
    from torch.nn.functional import cross_entropy, kl_div

    labels = _padded([row.labels[1:] for row in batch.rows], IGNORE, model.device, width=batch.width)  # shifted by one
    learned = labels != IGNORE
    with autocast(model):
        before = base_states(model, batch, learned) if batch.is_rehearsal else None  # (learned, dim)
        hidden = hidden_states(model, batch, learned)  # (rows, width, dim)
        states, targets = hidden[learned], labels[learned]  # (learned, dim), (learned,)
        total = states.new_zeros((), dtype=hidden.dtype).float()
        for start in range(0, len(targets), CHUNK):
            logits = model.lm_head(states[start : start + CHUNK]).float()  # (chunk, vocab)
            if before is None:
                total = total + cross_entropy(logits, targets[start : start + CHUNK], reduction="sum")
            else:
                base = model.lm_head(before[start : start + CHUNK]).float()
                log_q, log_p = logits.log_softmax(-1), base.log_softmax(-1)
                total = total + kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total


def base_states(model: PreTrainedModel, batch: Batch, learned: torch.Tensor) -> torch.Tensor:
    """Hidden states at the learned tokens without the adapter: (learned, dim)."""
    import torch

    with torch.no_grad(), adapter_off(model):
        return hidden_states(model, batch, learned)[learned]


def row_logits(
    model: PreTrainedModel, rows: Sequence[Row], settings: Training
) -> Iterator[tuple[Row, torch.Tensor, torch.Tensor]]:
    """Each row, shortest first, with the logits of its learned tokens and those tokens: (learned, vocab), (learned,).

    The model is taken as it stands, without gradients. Logits are in float32, of one row at a time: those of a whole
    micro-batch would not fit a small GPU.
    """
    import torch

    for batch in for_measuring(rows, settings):
        labels = _padded([row.labels[1:] for row in batch.rows], IGNORE, model.device, width=batch.width)
        learned = labels != IGNORE
        with torch.no_grad(), autocast(model):
            hidden = hidden_states(model, batch, learned)
        for row, states, tokens, places in zip(batch.rows, hidden, labels, learned, strict=True):
            with torch.no_grad(), autocast(model):
                logits = model.lm_head(states[places])
            yield row, logits.float(), tokens[places]


def mean_loss(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Loss per learned token over micro-batches, as the model stands: no dropout, no gradients."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        total = sum(loss_sum(model, batch).item() for batch in batches)
    model.train(was_training)
    return total / sum(map(learned_tokens, batches))


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
    own = torch.arange(prefix, prefix + batch.width, device=ids.device).repeat(len(ids))
    positions = torch.cat([torch.arange(prefix, device=ids.device), own]).unsqueeze(0)  # (1, prefix + rows * width)
    at = torch.cat([read.new_zeros(prefix), read.flatten()]).unsqueeze(0)
    shape = {"position_ids": positions, "prefix": prefix, "rows": len(ids)}
    with shared_attention(model), last_mlp_at(model, at):
        hidden = model.model(input_ids=line, use_cache=False, **shape).last_hidden_state
    return hidden[0, prefix:].unflatten(0, ids.shape)


def learned_tokens(batch: Batch) -> int:
    """How many tokens of the micro-batch are learned."""
    return sum(label != IGNORE for row in batch.rows for label in row.labels[1:])


def autocast(model: PreTrainedModel) -> torch.autocast:
    """Half precision for the forward pass where the model computes in it; nothing in float32."""
    import torch

    dtype = compute_dtype_of(model)
    return torch.autocast(model.device.type, dtype=dtype, enabled=dtype in (torch.float16, torch.bfloat16))


def compute_dtype_of(model: PreTrainedModel) -> torch.dtype:
    """The dtype that the model computes in: its 4-bit layers say, or its weights."""
    layers = (module.compute_dtype for module in model.modules() if hasattr(module, "compute_dtype"))
    return cast("torch.dtype", next(layers, model.dtype))


@contextmanager
def training_mode(model: PreTrainedModel, layers: int = 0) -> Iterator[None]:
    """Dropout on, and the first layers computed twice; both off again whatever happens.

    Args:
        model: its layers are `model.model.layers`.
        layers: how many keep only their inputs and are computed again in the backward pass. Each saves all of its
            activations but one hidden state per token, and takes a third longer. The last layer is never computed
            again: the backward pass begins with it, so that nothing would be saved.
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
    """Let rows that are laid behind one prefix see it and themselves, and nothing of each other.

    The model is then called with one long row, prefix and rows end to end, and with prefix=... and rows=...; every
    layer works once on all of it, and only the attention knows of the parts.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
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
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over (1, heads, prefix + rows * width, head_dim): first the prefix, then all rows behind it."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    q, k, v = (tensor[:, :, :prefix] for tensor in (query, key, value))
    own_q, own_k, own_v = (  # (rows, heads, width, head_dim)
        tensor[0, :, prefix:].unflatten(1, (rows, -1)).transpose(0, 1) for tensor in (query, key, value)
    )
    width = own_q.shape[2]
    mask = torch.ones(width, prefix + width, dtype=torch.bool, device=query.device).tril(prefix)
    first, _ = sdpa_attention_forward(module, q, k, v, None, **kwargs)
    k, v = (torch.cat([b.expand(rows, -1, -1, -1), o], dim=2) for b, o in ((k, own_k), (v, own_v)))
    rest, _ = sdpa_attention_forward(module, own_q, k, v, mask, **kwargs)
    return torch.cat([first, rest.flatten(0, 1).unsqueeze(0)], dim=1), None


def _padded(rows: list[list[int]], fill: int, device: torch.device, *, width: int) -> torch.Tensor:
    import torch

    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)

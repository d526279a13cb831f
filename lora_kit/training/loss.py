"""The loss of one micro-batch: logits only where something is learned, in chunks, in float32.

What the model's layers do differently in training leaves every result the same:

    training_mode      layers that are computed again in the backward pass, to save memory (Chen et al. 2016)
    last_mlp_at        the last MLP only where its output is read
    shared_attention   rows behind one prefix, which is computed once (attention.py)

A layer keeps no state of a pass (no cache), so that computing it again gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from ..adapters import adapter_off
from ..data.encoding import IGNORE
from .attention import shared_attention
from .batches import Batch, Row, for_measuring
from .preference import preference_loss

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..config import Training

LOGITS = 2**29  # bytes of float32 logits that exist at a time: 4,194 positions of Llama 2, 1,024 of Gemma 3


def loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """What a micro-batch adds to a step's loss: cross entropy, summed over its learned tokens.

    Of pairs it is DPO's loss (`preference_loss`), of rehearsal rows the divergence from the base.

    Rehearsal rows hold what the base itself says. Learned as labels they would make it surer than it is; KL(base ||
    model), with the base the same model without its adapter, keeps the probabilities (Li and Hoiem 2016).

    The caller divides by the `terms` of the whole step, so that the split into micro-batches changes nothing.

    Args:
        model: a causal language model whose body is `model.model`.
        batch: rows, and the prefix that they share.
    """
    from torch.nn.functional import cross_entropy, kl_div

    if batch.is_pairs:
        return preference_loss(log_probs(model, batch), batch)
    labels = _padded([row.labels[1:] for row in batch.rows], IGNORE, model.device, width=batch.width)  # shifted by one
    learned = labels != IGNORE
    with autocast(model):
        before = base_states(model, batch, learned) if batch.is_rehearsal else None  # (learned, dim)
        hidden = hidden_states(model, batch, learned)  # (rows, width, dim)
        states, targets = hidden[learned], labels[learned]  # (learned, dim), (learned,)
        total = states.new_zeros((), dtype=hidden.dtype).float()
        chunk = max(1, LOGITS // (4 * model.config.vocab_size))
        for start in range(0, len(targets), chunk):
            logits = head_logits(model, states[start : start + chunk])  # (chunk, vocab)
            if before is None:
                total = total + cross_entropy(logits, targets[start : start + chunk], reduction="sum")
            else:
                base = head_logits(model, before[start : start + chunk])
                log_q, log_p = logits.log_softmax(-1), base.log_softmax(-1)
                total = total + kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total


def log_probs(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The log-probability of every answer, its stop token included: (answers,)."""
    import torch
    from torch.nn.functional import cross_entropy

    rows = [replace(row, rejected=None) for row in batch.answers]
    labels = _padded([row.labels[1:] for row in rows], IGNORE, model.device, width=batch.width)  # (answers, width)
    learned = labels != IGNORE
    with autocast(model):
        states = hidden_states(model, replace(batch, rows=rows), learned)[learned]  # (learned, dim)
        chunk = max(1, LOGITS // (4 * model.config.vocab_size))
        losses = [
            cross_entropy(head_logits(model, some), targets, reduction="none")
            for some, targets in zip(states.split(chunk), labels[learned].split(chunk), strict=True)
        ]
    return losses[0].new_zeros(len(rows)).index_add(0, learned.nonzero()[:, 0], -torch.cat(losses))


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
                logits = head_logits(model, states[places])
            yield row, logits, tokens[places]


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


def terms(batch: Batch) -> int:
    """What the mean of a step is taken over: pairs, or learned tokens."""
    return len(batch.rows) if batch.is_pairs else learned_tokens(batch)


def learned_tokens(batch: Batch) -> int:
    """How many tokens of the micro-batch are learned."""
    return sum(label != IGNORE for row in batch.answers for label in row.labels[1:])


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


def _padded(rows: list[list[int]], fill: int, device: torch.device, *, width: int) -> torch.Tensor:
    import torch

    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)

"""The loss of one micro-batch, in float32, and its check against the model's plain forward pass.

Rows are learned by cross entropy, rehearsal rows by the divergence from the base, pairs by DPO's loss, rated answers by
KTO's. Logits are computed only where something is learned, and in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..adapters import adapter_off
from ..data.encoding import IGNORE
from ..errors import KitError
from .batches import PREFERENCES, Batch, Row, for_measuring
from .forward import autocast, compute_dtype_of, head_logits, hidden_states, padded, shared_attention

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..config import Training

LOGITS = 2**29  # bytes of float32 logits that exist at a time: 4,194 positions of Llama 2, 1,024 of Gemma 3
CHECKED = 2  # rows of a micro-batch that `check_loss` looks at


def loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """What a micro-batch adds to a step's loss: the sum over its learned tokens, or over its pairs or ratings.

    The caller divides by the `terms` of the whole step, so that the split into micro-batches changes nothing.
    """
    if batch.kind in PREFERENCES:
        return preference_loss(log_probs(model, batch), batch)
    if batch.kind == "rehearsal":
        return rehearsal_loss(model, batch)
    return token_losses(model, batch)[0].sum()


def rehearsal_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """KL(base || model) along the base's own answers, summed over its tokens (Li and Hoiem 2016).

    The base is the same model without its adapter. As labels, its answers would make the model surer than it is.
    """
    import torch
    from torch.nn.functional import kl_div

    total = torch.zeros((), device=model.device)
    with autocast(model):
        with torch.no_grad(), adapter_off(model):
            before, _, _ = learned_states(model, batch)
        states, _, _ = learned_states(model, batch)
        for some, base in in_chunks(model, states, before):
            log_q, log_p = head_logits(model, some).log_softmax(-1), head_logits(model, base).log_softmax(-1)
            total = total + kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total


def preference_loss(log_probs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """DPO's loss of pairs or KTO's of rated answers, and beside it the good answers' own loss; summed.

    With m = beta * log(p(answer) / reference(answer)), from `log_probs` (answers,):

        -log sigmoid(m(chosen) - m(rejected))           DPO (Rafailov et al. 2023)
        sigmoid(-m) of a good one, sigmoid(m) of a bad one        KTO (Ethayarajh et al. 2024), its point of reference
                                                        at zero, as micro-batches need it (D'Oosterlinck et al. 2024)
        -log p(good) / tokens * sft_weight              without it both may become unlikely (Pang et al. 2024)

    The reference is the adapter that the training starts from. What it thinks of each answer is computed once, before
    the first step, so no second model is in memory.
    """
    import torch
    from torch.nn.functional import logsigmoid

    margins = batch.beta * (log_probs - log_probs.new_tensor([row.reference for row in batch.answers]))
    tokens = log_probs.new_tensor([sum(label != IGNORE for label in row.labels) for row in batch.answers])
    if batch.kind == "pair":
        chosen, rejected = margins.chunk(2)  # (pairs,)
        loss, good = -logsigmoid(chosen - rejected), torch.arange(len(margins), device=margins.device) < len(chosen)
    else:
        good = torch.tensor([bool(row.is_good) for row in batch.rows], device=margins.device)  # (rows,)
        loss = torch.where(good, -margins, margins).sigmoid()
    return loss.sum() - batch.sft_weight * (log_probs / tokens)[good].sum()


def log_probs(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The log-probability of every answer, its stop token included: (answers,)."""
    import torch

    losses, counts = token_losses(model, batch)
    return -torch.stack([answer.sum() for answer in losses.split(counts)])


def token_losses(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, list[int]]:
    """The cross entropy of every learned token (learned,), and how many of them each answer has."""
    import torch
    from torch.nn.functional import cross_entropy

    with autocast(model):
        states, tokens, counts = learned_states(model, batch)
        pieces = in_chunks(model, states, tokens)
        losses = [cross_entropy(head_logits(model, some), targets, reduction="none") for some, targets in pieces]
    return torch.cat(losses), counts


def learned_states(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """States that predict learned tokens (learned, dim), these tokens (learned,), and how many each answer has."""
    labels = padded([row.labels[1:] for row in batch.answers], IGNORE, batch.width, model.device)  # shifted by one
    learned = labels != IGNORE
    return hidden_states(model, batch, learned)[learned], labels[learned], learned.sum(1).tolist()


def in_chunks(model: PreTrainedModel, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The tensors side by side, in pieces whose logits take at most LOGITS bytes."""
    size = max(1, LOGITS // (4 * model.config.vocab_size))
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def row_logits(
    model: PreTrainedModel, rows: Sequence[Row], settings: Training
) -> Iterator[tuple[Row, torch.Tensor, torch.Tensor]]:
    """Each row, in any order, with the logits of its learned tokens and those tokens: (learned, vocab), (learned,).

    Without gradients, and of one row at a time: logits of a whole micro-batch would not fit a small GPU.
    """
    import torch

    for batch in for_measuring(rows, settings):
        with torch.no_grad(), autocast(model):
            states, tokens, counts = learned_states(model, batch)
        for row, some, targets in zip(batch.rows, states.split(counts), tokens.split(counts), strict=True):
            with torch.no_grad(), autocast(model):
                logits = head_logits(model, some)
            yield row, logits, targets


def log_probs_of(model: PreTrainedModel, rows: Sequence[Row], settings: Training) -> list[float]:
    """The log-probability of each row's answer, as the model stands; the rows' numbers are their places."""
    from torch.nn.functional import cross_entropy

    found = [0.0] * len(rows)
    for row, logits, tokens in row_logits(model, rows, settings):
        found[row.number] = -float(cross_entropy(logits, tokens, reduction="sum"))
    return found


def mean_loss(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """The loss over micro-batches as a step's is, with the model as it is: no dropout, no gradients."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        total = sum(loss_sum(model, batch).item() for batch in batches)
    model.train(was_training)
    return total / sum(map(terms, batches))


def terms(batch: Batch) -> int:
    """What the mean of a step is taken over: pairs and ratings, or learned tokens."""
    return len(batch.rows) if batch.kind in PREFERENCES else learned_tokens(batch)


def learned_tokens(batch: Batch) -> int:
    """How many tokens of the micro-batch are learned."""
    return sum(label != IGNORE for row in batch.answers for label in row.labels[1:])


def check_loss(model: PreTrainedModel, batches: Sequence[Batch]) -> tuple[float, float]:
    """The loss per learned token of a few of the longest rows, as training computes it and as the model itself does.

    A family that needs more than `forward.py` knows of (a scale behind the head, a window, rows that see each other
    behind a shared prefix) would train without an error, and wrongly. So a KitError is raised where the two differ.
    """
    import torch

    with_prefix = [batch for batch in batches if batch.prefix]
    ours, plain, tokens = 0.0, 0.0, 0
    for some in filter(None, (batches, with_prefix)):
        widest = max(some, key=lambda batch: batch.width)
        longest = sorted(widest.rows, key=lambda row: -len(row.input_ids))[:CHECKED]
        batch = Batch(widest.prefix, [replace(row, is_rehearsal=False, rejected=None, is_good=None) for row in longest])
        with torch.no_grad(), shared_attention(model):
            ours += loss_sum(model, batch).item()
        plain += plain_loss(model, batch)
        tokens += learned_tokens(batch)
    ours, plain = ours / tokens, plain / tokens
    dtype = str(compute_dtype_of(model)).removeprefix("torch.")
    if not math.isfinite(ours + plain):
        way_out = "set quantization__compute_dtype=float32 (slower), or fetch its weights again, which may be broken"
        raise KitError(f"the loss of this base is {plain} in {dtype} before any training: {way_out}")
    # families that go wrong differ by 3 % or more, rounding by 0.06 % at most (bfloat16, random models)
    tolerance = 1e-3 if dtype == "float32" else 1e-2
    if abs(ours - plain) > tolerance * max(plain, 1.0):  # an adapter that is trained further begins near 0
        both = f"{ours:.4f} as training computes it and {plain:.4f} as the model itself does"
        way_out = "training__share_prefixes=false may help, else take another base"
        raise KitError(f"the loss of this {model.config.model_type!r} model is {both}: {way_out}")
    return ours, plain


def plain_loss(model: PreTrainedModel, batch: Batch) -> float:
    """The summed loss of a micro-batch by the model's own forward pass, row by row."""
    import torch
    from torch.nn.functional import cross_entropy

    total = 0.0
    for row in batch.rows:
        ids = torch.tensor([[*batch.prefix, *row.input_ids]], device=model.device)
        first = next(n for n, label in enumerate(row.labels) if label != IGNORE)
        labels = torch.tensor(row.labels[first:], device=model.device)
        with torch.no_grad(), autocast(model):
            found = model(input_ids=ids, use_cache=False, logits_to_keep=len(labels) + 1)
        total += cross_entropy(found.logits[0, :-1].float(), labels, reduction="sum", ignore_index=IGNORE).item()
    return total

"""How far a model's choice of the next token has moved from the base's, along the base's own answers.

Agreement is the share of the tokens that the model finds likeliest too. Whole answers are not compared: after one near
tie a long answer takes another course, which does not show that anything was forgotten.

KL(base || model) = sum over tokens of p (log p - log q)    p the base's probability, q the model's; in nats

Only the TOP likeliest tokens of the base are kept; all others are lumped together as one. Lumping outcomes can only
lower a KL divergence (data processing inequality), so what is measured is a lower bound of the full one. Where TOP
covers the vocabulary, it is the full one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.encoding import IGNORE
from ..training.batches import Row, for_measuring
from ..training.loss import autocast, hidden_states

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..config import Training

TOP = 32  # tokens per position; in JSON, 120 answers of 256 tokens are about 15 MB
NEVER = -100.0  # log-probability of what cannot happen: JSON has no infinity

Likeliest = dict[str, list[Any]]  # of one answer: "tokens" (length, TOP), "log_probs" (length, TOP and the others')


class Divergence(NamedTuple):
    """How far another model is from the base along one answer of the base."""

    kl: float  # KL(base || model), nats per token
    agreement: float  # share of its tokens that the model finds likeliest too


ITSELF = Divergence(0.0, 1.0)  # the base


def answer_rows(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[Row]:
    """Prompts with their answers, as rows whose answers are measured."""
    pairs = enumerate(zip(prompts, answers, strict=True))
    return [Row(prompt + ids, [IGNORE] * len(prompt) + ids, number) for number, (prompt, ids) in pairs]


def likeliest(model: PreTrainedModel, rows: Sequence[Row], settings: Training) -> list[Likeliest]:
    """The base's likeliest tokens along each answer, small enough to keep while the other models are asked."""
    found: list[Likeliest] = [{} for _ in rows]
    for number, log_probs in _log_probs(model, rows, settings):
        tokens = log_probs.topk(min(TOP, log_probs.shape[1])).indices
        rounded = [[round(value, 6) for value in line] for line in lumped(log_probs, tokens).tolist()]
        found[number] = {"tokens": tokens.tolist(), "log_probs": rounded}
    return found


def divergences(
    model: PreTrainedModel, rows: Sequence[Row], base: Sequence[Likeliest], settings: Training
) -> list[Divergence]:
    """KL(base || model) of each answer, a lower bound, and agreement.

    Args:
        model: the tuned one.
        rows: the base's own answers, from `answer_rows`.
        base: the base's tokens there, from `likeliest`.
        settings: the token budget of a batch.
    """
    import torch

    found = [ITSELF] * len(rows)
    for number, log_probs in _log_probs(model, rows, settings):
        tokens, p = (torch.tensor(base[number][key], device=log_probs.device) for key in ("tokens", "log_probs"))
        answer = torch.tensor([label for label in rows[number].labels if label != IGNORE], device=log_probs.device)
        same = (log_probs.argmax(1) == answer).float().mean()
        found[number] = Divergence(float(divergence(p, lumped(log_probs, tokens)).mean()), float(same))
    return found


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL at each position in nats, from log-probabilities: (length, outcomes) twice to (length,)."""
    return (p.exp() * (p - q)).sum(1).clamp(min=0)  # rounding alone can go below 0


def lumped(log_probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the given tokens, and of all others as one: (length, vocab) to (length, tokens + 1)."""
    import torch

    others = log_probs.scatter(1, tokens, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_probs.gather(1, tokens), others], dim=1).clamp(min=NEVER)


def _log_probs(model: PreTrainedModel, rows: Sequence[Row], settings: Training) -> Iterator[tuple[int, torch.Tensor]]:
    """Each row's number and (length, vocab) in float32, one row at a time: logits of more would not fit a small GPU."""
    import torch

    for batch in for_measuring(rows, settings):
        labels = [row.labels[1:] + [IGNORE] * (batch.width - len(row.labels) + 1) for row in batch.rows]
        is_answer = torch.tensor(labels, device=model.device) != IGNORE  # (rows, width)
        with torch.no_grad(), autocast(model):
            hidden = hidden_states(model, batch, is_answer)
        for row, states, places in zip(batch.rows, hidden, is_answer, strict=True):
            with torch.no_grad(), autocast(model):
                logits = model.lm_head(states[places])
            yield row.number, logits.float().log_softmax(-1)

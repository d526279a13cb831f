"""How far a model's choice of the next token has moved from the base's, along the base's own answers.

Agreement is the share of the tokens that the model finds likeliest too. Whole answers are not compared: a long one goes
another way from one near tie on, and says nothing of what was forgotten.

KL(base || model) = sum over tokens of p (log p - log q)    p the base's probability, q the model's; in nats

Of the base's choice only the TOP likeliest tokens are kept; all others are lumped together as one. Lumping outcomes can
only lower a KL divergence (data processing inequality), so what is measured is a lower bound of the full one. Where TOP
covers the vocabulary, it is the full one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data import IGNORE
from ..training import Row, for_measuring
from ..training.loss import autocast, hidden_states

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..profiles import Training

TOP = 32  # tokens a place; in JSON, 120 answers of 256 tokens are about 15 MB
NEVER = -100.0  # log-probability of what cannot happen: JSON has no infinity

Likeliest = dict[str, list[Any]]  # of one answer: "tokens" (places, TOP), "log_probs" (places, TOP and the others')


class Divergence(NamedTuple):
    """How one answer of the base fares with another model."""

    kl: float  # KL(base || model), nats per token
    agreement: float  # share of its tokens that the model finds likeliest too


ITSELF = Divergence(0.0, 1.0)  # the base


def answer_rows(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[Row]:
    """Answers behind their prompts, as rows whose answers are measured."""
    pairs = enumerate(zip(prompts, answers, strict=True))
    return [Row(prompt + ids, [IGNORE] * len(prompt) + ids, number) for number, (prompt, ids) in pairs]


def likeliest(model: PreTrainedModel, rows: Sequence[Row], settings: Training) -> list[Likeliest]:
    """What the base would say at each token of each answer, small enough to keep while the other models are asked."""
    found: list[Likeliest] = [{} for _ in rows]
    for number, log_probs in _log_probs(model, rows, settings):
        tokens = log_probs.topk(min(TOP, log_probs.shape[1])).indices
        chances = [[round(value, 6) for value in place] for place in lumped(log_probs, tokens).tolist()]
        found[number] = {"tokens": tokens.tolist(), "log_probs": chances}
    return found


def divergences(
    model: PreTrainedModel, rows: Sequence[Row], base: Sequence[Likeliest], settings: Training
) -> list[Divergence]:
    """KL(base || model) of each answer, a lower bound because only TOP tokens are told apart, and agreement.

    Args:
        model: the tuned one.
        rows: the base's own answers, from `answer_rows`.
        base: what the base would say there, from `likeliest`.
        settings: the token budget of a batch.
    """
    import torch

    found = [ITSELF] * len(rows)
    for number, log_probs in _log_probs(model, rows, settings):
        tokens = torch.tensor(base[number]["tokens"], device=log_probs.device)
        p = torch.tensor(base[number]["log_probs"], device=log_probs.device)
        said = torch.tensor([label for label in rows[number].labels if label != IGNORE], device=log_probs.device)
        same = (log_probs.argmax(1) == said).float().mean()
        found[number] = Divergence(float(divergence(p, lumped(log_probs, tokens)).mean()), float(same))
    return found


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL of each line in nats, from log-probabilities: (places, outcomes) twice to (places,)."""
    return (p.exp() * (p - q)).sum(1).clamp(min=0)  # rounding alone can go below 0


def lumped(log_probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the given tokens, and of all others as one: (places, vocab) to (places, tokens + 1)."""
    import torch

    others = log_probs.scatter(1, tokens, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_probs.gather(1, tokens), others], dim=1).clamp(min=NEVER)


def _log_probs(model: PreTrainedModel, rows: Sequence[Row], settings: Training) -> Iterator[tuple[int, torch.Tensor]]:
    """Each row's number and (places, vocab) in float32, one row at a time: logits of more would not fit a small GPU."""
    import torch

    for batch in for_measuring(rows, settings):
        labels = [row.labels[1:] + [IGNORE] * (batch.width - len(row.labels) + 1) for row in batch.rows]
        read = torch.tensor(labels, device=model.device) != IGNORE  # (rows, width)
        with torch.no_grad(), autocast(model):
            hidden = hidden_states(model, batch, read)
        for row, states, at in zip(batch.rows, hidden, read, strict=True):
            with torch.no_grad(), autocast(model):
                logits = model.lm_head(states[at])
            yield row.number, logits.float().log_softmax(-1)

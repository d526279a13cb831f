"""The loss of pairs of answers: direct preference optimization.

The better answer becomes likelier than the worse one, both measured against the adapter that the training starts from.
What that one thinks of each answer is computed once, before the first step, so that no second model lies in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data.encoding import IGNORE
from .batches import Batch

if TYPE_CHECKING:
    import torch


def preference_loss(log_probs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """DPO's loss, and the chosen answers' own loss beside it, summed over the pairs of a micro-batch.

        -log sigmoid(beta * (log p(chosen) / ref(chosen) - log p(rejected) / ref(rejected)))   Rafailov et al. 2023
        -log p(chosen) / tokens * sft_weight      DPO alone may make both answers unlikely (Pang et al. 2024)

    Args:
        log_probs: of `batch.answers`: (2 * pairs,).
        batch: its rows know the reference's log-probabilities.
    """
    from torch.nn.functional import logsigmoid

    reference = log_probs.new_tensor([row.reference for row in batch.answers])
    chosen, rejected = (log_probs - reference).chunk(2)  # (pairs,)
    tokens = log_probs.new_tensor([sum(label != IGNORE for label in row.labels) for row in batch.rows])
    sft = -log_probs[: len(batch.rows)] / tokens
    return (batch.sft_weight * sft - logsigmoid(batch.beta * (chosen - rejected))).sum()

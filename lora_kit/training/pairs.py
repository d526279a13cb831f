"""The rows of a training: those of the data, or pairs of answers, with their log-probabilities at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..base import load_tokenizer
from ..data.checks import require, verify
from ..data.conversations import Conversation, first_few, plural
from ..data.encoding import LengthFilter
from ..data.pairs import read_pairs
from ..data.prepare import Prepared
from ..errors import KitError
from .batches import Row, rows_of
from .loss import row_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..config import Training
    from ..runs import Run

FEW = 20  # pairs: fewer rarely change what a model does


def pairs_file(run: Run) -> Path:
    """The file that `training__pairs` names."""
    path = Path(str(run.profile.training.pairs)).expanduser()
    if not path.is_file():
        raise KitError(f"training__pairs={str(path)!r} is no file: give rows with prompt, chosen and rejected")
    return path


def training_rows(model: PreTrainedModel, data: Prepared, run: Run) -> list[Row]:
    """What the run learns: its data's rows, or its pairs."""
    return pair_rows(model, data, run) if run.profile.training.pairs else rows_of(data.train)


def pair_rows(model: PreTrainedModel, data: Prepared, run: Run) -> list[Row]:
    """The run's pairs, encoded and proven, each answer with its log-probability before the first step.

    Args:
        model: with the adapter that the training starts from.
        data: no question that it holds out may be learned; its system text goes before questions without one.

    Raises:
        KitError: with rows, where a pair cannot be used.
    """
    profile, tokenizer = run.profile, load_tokenizer(run.profile.base)
    pairs = read_pairs(pairs_file(run), profile.data, data.card.get("system"))
    asked = {Conversation(row["messages"]).question for row in data.test}
    if held := [one.row for one, _ in pairs if one.question in asked]:
        raise KitError(
            f"{plural(len(held), 'pair')} ask what is held out for the report card: delete {first_few(held)}"
        )
    if len(pairs) < FEW:
        print(f"pairs: {len(pairs)}; fewer than {FEW} rarely change what a model does")
    lengths = LengthFilter(replace(profile.data, too_long="stop"), tokenizer)
    sides = [lengths.encode([pair[side] for pair in pairs]) for side in (0, 1)]
    lengths.stop("these answers, or raise data__max_length")
    for side in sides:
        require(verify([row for row, _ in side], [ids for _, ids in side], tokenizer))
    rows = [Row(list(ids.input_ids), list(ids.labels), n) for n, (_, ids) in enumerate([*sides[0], *sides[1]])]
    known = log_probs_of(model, rows, profile.training)
    chosen, rejected = (
        [replace(row, reference=known[row.number]) for row in rows[start : start + len(pairs)]]
        for start in (0, len(pairs))
    )
    return [replace(one, rejected=two) for one, two in zip(chosen, rejected, strict=True)]


def log_probs_of(model: PreTrainedModel, rows: Sequence[Row], settings: Training) -> list[float]:
    """The log-probability of each row's answer, as the model stands; their numbers are their places."""
    from torch.nn.functional import cross_entropy

    found = [0.0] * len(rows)
    for row, logits, tokens in row_logits(model, rows, settings):
        found[row.number] = -float(cross_entropy(logits, tokens, reduction="sum"))
    return found

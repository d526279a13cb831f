"""What a training learns from, how fast and how long: numbers in place of "auto", each with its reason.

    learning_rate     2.5e-4 * (2000 / width)^0.78, on all linear layers
    tokens_per_step   4,096; fewer where the rows are few, so that three passes still are enough steps
    epochs            three, or as many as give about 200 steps; no row is seen more than 50 times

Pairs of answers train an adapter further: at 3 % of that rate, once. More makes a model decline what it knows.

Source of the rate: a public sweep over sizes of Llama (Thinking Machines, "LoRA without regret", 2025). `make
bench-recipe` compares it with the kit's own sweep, which measured the steps and the layers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..base import load_tokenizer
from ..config import Training
from ..data.checks import require, verify
from ..data.encoding import LengthFilter
from ..data.prepare import data_inputs
from ..data.prepared import Prepared
from ..data.reading.conversations import Conversation, first_few, plural
from ..data.reading.pairs import read_pairs
from ..errors import KitError
from ..files import fingerprint, read_manifest, shown
from ..quantization import check_loaded
from .batches import PREFERENCES, Batch, Row, all_steps, epoch_steps, rows_of
from .loss import log_probs_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run

RATE = 2.5e-4  # half of the public sweep's 5e-4: SmolLM2 learns as much with it and forgets less (make bench-recipe)
STEPS = 200  # optimizer steps that a training takes, about
ENOUGH_STEPS = 190  # another pass, only to round them up, would cost a third more
FEWEST_STEPS = 100  # a named number of epochs that gives fewer gets a warning
PAIRS_RATE = 0.03  # of the rate: at 0.1 SmolLM2 declined one fact in seven, at 0.01 nothing changed
FEW_PAIRS = 20  # fewer rarely change what a model does
EPOCHS, MOST_EPOCHS = 3, 50  # passes over the rows, at least and at most
LARGEST_STEP, SMALLEST_STEP = 4096, 512  # tokens
MOST_TOKENS = 3_000_000  # in all: 80 minutes of a T4 at 7B, projected from a faster card. One pass is always made
FAR = 4.0  # a named learning rate that is this many times off the rule gets a warning


@dataclass(frozen=True)
class Recipe:
    """Settings without "auto", the micro-batches of every optimizer step, and the reason of each choice."""

    training: Training
    steps: list[list[Batch]]
    reasons: list[str]

    @property
    def batches(self) -> list[Batch]:
        """The micro-batches of all steps."""
        return [batch for step in self.steps for batch in step]

    def __str__(self) -> str:
        chosen = self.training
        line = (
            f"recipe: {plural(len(self.steps), 'step')} in {plural(int(chosen.epochs), 'epoch')}, "
            f"{chosen.tokens_per_step:,} tokens per step"
        )
        return "\n  ".join([f"{line}, learning rate {chosen.learning_rate:.2g}", *self.reasons])


def rate_for(width: int) -> float:
    """The learning rate, to two digits, of an adapter on all linear layers of a base whose hidden size is `width`."""
    return float(f"{RATE * (2000 / width) ** 0.78:.2g}")


def recipe(settings: Training, rows: Sequence[Row], width: int) -> Recipe:
    """The profile's settings with every "auto" decided; what the user named stays, with a line where it is far off."""
    reasons: list[str] = []
    is_preference = rows[0].kind in PREFERENCES
    rate = _learning_rate(settings, width, is_preference, reasons)
    size = _tokens_per_step(settings, rows, [] if is_preference else reasons)  # preferences need no 200 steps
    parts = -(-size // settings.tokens_per_micro_batch)  # of equal size: else a step would overshoot by up to a half
    chosen = replace(settings, learning_rate=rate, tokens_per_step=size, tokens_per_micro_batch=-(-size // parts))
    if is_preference and settings.epochs == "auto":
        chosen = replace(chosen, epochs=1)
    elif settings.epochs == "auto":
        chosen = replace(chosen, epochs=_epochs(chosen, rows, reasons))
    steps = all_steps(rows, chosen)
    if settings.epochs != "auto" and len(steps) < FEWEST_STEPS and not is_preference:
        reasons.append(f"{len(steps)} steps as you say; fewer than {FEWEST_STEPS} rarely teach facts")
    return Recipe(chosen, steps, reasons)


def _learning_rate(settings: Training, width: int, is_preference: bool, reasons: list[str]) -> float:
    rule, named = rate_for(width) * (PAIRS_RATE if is_preference else 1), settings.learning_rate
    if named == "auto":
        why = f"{RATE:g} * (2000 / {width:,})^0.78 for a base of width {width:,}"
        reasons.append(
            f"learning rate {rule:.2g}: {why}{f', {PAIRS_RATE:.0%} of it for preferences' if is_preference else ''}"
        )
        return rule
    if not 1 / FAR <= float(named) / rule <= FAR:
        reasons.append(f"learning rate {named:.2g} as you say; {rule:.2g} is the rule for a base of width {width:,}")
    return float(named)


def _tokens_per_step(settings: Training, rows: Sequence[Row], reasons: list[str]) -> int:
    if settings.tokens_per_step != "auto":
        return int(settings.tokens_per_step)
    passes = EPOCHS if settings.epochs == "auto" else int(settings.epochs)
    size = min(LARGEST_STEP, max(SMALLEST_STEP, passes * tokens_of(rows, settings) // STEPS))
    if size < LARGEST_STEP:
        reasons.append(f"{size:,} tokens per step, not {LARGEST_STEP:,}: few rows, and {STEPS} steps are wanted")
    return size


def _epochs(settings: Training, rows: Sequence[Row], reasons: list[str]) -> int:
    counts = [0]  # steps after each epoch
    while len(counts) <= EPOCHS or (counts[-1] < ENOUGH_STEPS and len(counts) <= MOST_EPOCHS + 1):
        counts.append(counts[-1] + len(epoch_steps(rows, settings, len(counts) - 1)))
    wanted = len(counts) - 1
    chosen = min(wanted, MOST_EPOCHS, max(1, MOST_TOKENS // tokens_of(rows, settings)))
    if chosen < wanted and chosen == MOST_EPOCHS:
        few = f"{counts[chosen]} steps, fewer than {STEPS}"
        reasons.append(f"{few}: no row is seen more than {MOST_EPOCHS} times. Add rows")
    elif chosen < wanted:
        reasons.append(f"{chosen} epochs: at most {MOST_TOKENS:,} tokens in all; training__epochs={wanted} for more")
    elif chosen > EPOCHS:
        reasons.append(f"{chosen} epochs, so that there are about {STEPS} steps")
    return chosen


def tokens_of(rows: Sequence[Row], settings: Training) -> int:
    """Tokens that one pass computes, shared prefixes once."""
    plain = replace(settings, tokens_per_step=LARGEST_STEP)
    return sum(batch.tokens for step in epoch_steps(rows, plain, 0) for batch in step)


def training_rows(model: PreTrainedModel, data: Prepared, run: Run) -> list[Row]:
    """What the run learns: its data's rows, or its pairs."""
    return pair_rows(model, data, run) if run.profile.training.pairs else rows_of(data.train)


def pair_rows(model: PreTrainedModel, data: Prepared, run: Run) -> list[Row]:
    """The run's pairs and rated answers, encoded and proven, each with its log-probability before the first step.

    One that cannot be used, or that asks a question held out in `data`, is a KitError with its row.
    """
    profile, tokenizer = run.profile, load_tokenizer(run.profile.base)
    pairs, rated = read_pairs(pairs_file(run), profile.data, data.card.get("system"))
    asked, own = {Conversation(row["messages"]).question for row in data.test}, [row for row, _ in (*pairs, *rated)]
    if held := [row.row for row in own if row.question in asked]:
        raise KitError(f"{plural(len(held))} ask what is held out: delete {first_few(held)}")
    good = sum(is_good for _, is_good in rated)
    print(f"preferences: {plural(len(pairs), 'pair')}; single answers: {good} good, {len(rated) - good} bad")
    if len(own) < FEW_PAIRS:
        print(f"  fewer than {FEW_PAIRS} rarely change what a model does")
    lengths = LengthFilter(replace(profile.data, too_long="stop"), tokenizer)
    answers = lengths.encode([*own, *(worse for _, worse in pairs)])
    lengths.stop("these answers, or raise data__max_length")
    require(verify([answer for answer, _ in answers], [ids for _, ids in answers], tokenizer))
    rows = [Row(list(ids.input_ids), list(ids.labels), number) for number, (_, ids) in enumerate(answers)]
    known = log_probs_of(model, rows, profile.training)
    rows = [replace(row, reference=log_prob) for row, log_prob in zip(rows, known, strict=True)]
    better, singles, worse = rows[: len(pairs)], rows[len(pairs) : len(own)], rows[len(own) :]
    found = [replace(one, rejected=two) for one, two in zip(better, worse, strict=True)]
    return [*found, *(replace(row, is_good=is_good) for row, (_, is_good) in zip(singles, rated, strict=True))]


def pairs_file(run: Run) -> Path:
    """The file that `training__pairs` names."""
    path = Path(str(run.profile.training.pairs)).expanduser()
    if not path.is_file():
        raise KitError(f"training__pairs={str(path)!r} is no file: give rows with prompt, chosen and rejected")
    return path


def check_given(model: object, data: object, run: Run) -> None:
    """Refuse a released model, things in the wrong order, and data that was prepared for something else."""
    import pyarrow.compute as pc
    import torch

    if not isinstance(model, torch.nn.Module) or not isinstance(data, Prepared):
        kinds = f"{type(model).__name__}, {type(data).__name__}"
        raise KitError(f"(model, data, run) are wanted, in this order; the first two are {kinds}")
    check_loaded(cast("PreTrainedModel", model), run)
    if read_manifest(data.folder)["fingerprint"] != fingerprint(data_inputs(run)):
        raise KitError(f"{shown(data.folder)} was prepared from other files or settings: call data = lk.prepare(run)")
    last, config = pc.max(pc.list_flatten(data.train.data.column("input_ids"))).as_py(), cast("Any", model.config)
    if last >= config.vocab_size:
        raise KitError(
            f"{shown(data.folder)} has the token {last}, the model has {config.vocab_size}: prepare it again"
        )

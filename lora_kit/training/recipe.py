"""How fast and how long: numbers in the place of "auto", each with its reason.

    learning_rate     2.5e-4 * (2000 / width)^0.78, on all linear layers
    tokens_per_step   4,096; fewer where the rows are few, so that three passes still are enough steps
    epochs            three, or as many as give about 200 steps; no row is seen more than 50 times

Pairs of answers train an adapter further: at 3 % of that rate, once. More makes a model decline what it knows.

Source of the rate: a public sweep over sizes of Llama (Thinking Machines, "LoRA without regret", 2025); it is held
against the kit's own sweep by `make bench-recipe`, which measured the steps and the layers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import Training
from ..data.prepare import Prepared, data_inputs
from ..errors import KitError
from ..files import fingerprint, read_manifest, shown
from .batches import Batch, Row, all_steps, epoch_steps

if TYPE_CHECKING:
    from ..runs import Run

RATE = 2.5e-4  # half of the public sweep's 5e-4: SmolLM2 learns as much with it and forgets less (make bench-recipe)
STEPS = 200  # optimizer steps that a training takes, about
ENOUGH_STEPS = 190  # another pass, only to round them up, would cost a third more
FEWEST_STEPS = 100  # a named number of epochs that gives fewer is said
PAIRS_RATE = 0.03  # of the rate: at 0.1 SmolLM2 declined one fact in seven, at 0.01 nothing changed
EPOCHS, MOST_EPOCHS = 3, 50  # passes over the rows, at least and at most
LARGEST_STEP, SMALLEST_STEP = 4096, 512  # tokens
MOST_TOKENS = 3_000_000  # in all: 80 minutes of a T4 at 7B, projected from a faster card. One pass is always made
FAR = 4.0  # a named learning rate that is this many times off the rule is said


@dataclass(frozen=True)
class Recipe:
    """Settings without "auto", the micro-batches of every optimizer step, and the reason of each choice."""

    training: Training
    steps: list[list[Batch]]
    reasons: list[str]

    def __str__(self) -> str:
        chosen = self.training
        line = (
            f"recipe: {len(self.steps):,} steps in {chosen.epochs} epochs, {chosen.tokens_per_step:,} tokens per step"
        )
        return "\n  ".join([f"{line}, learning rate {chosen.learning_rate:.2g}", *self.reasons])


def rate_for(width: int) -> float:
    """The learning rate of an adapter on all linear layers, rounded to two digits.

    Args:
        width: the base's hidden size.
    """
    return float(f"{RATE * (2000 / width) ** 0.78:.2g}")


def recipe(settings: Training, rows: Sequence[Row], width: int) -> Recipe:
    """The settings with every "auto" decided; what the user named stays, with a line where the evidence differs.

    Args:
        settings: of the profile.
        rows: what is learned.
        width: the base's hidden size.
    """
    reasons: list[str] = []
    rate = _learning_rate(settings, width, bool(rows) and rows[0].rejected is not None, reasons)
    size = _tokens_per_step(settings, rows, reasons)
    parts = -(-size // settings.tokens_per_micro_batch)  # of equal size: else a step would overshoot by up to a half
    chosen = replace(settings, learning_rate=rate, tokens_per_step=size, tokens_per_micro_batch=-(-size // parts))
    chosen = replace(chosen, epochs=_epochs(chosen, rows, reasons))
    return Recipe(chosen, all_steps(rows, chosen), reasons)


def _learning_rate(settings: Training, width: int, is_pairs: bool, reasons: list[str]) -> float:
    rule, named = rate_for(width) * (PAIRS_RATE if is_pairs else 1), settings.learning_rate
    if named == "auto":
        why = f"{RATE:g} * (2000 / {width:,})^0.78 for a base of width {width:,}"
        reasons.append(f"learning rate {rule:.2g}: {why}{f', {PAIRS_RATE:.0%} of it for pairs' if is_pairs else ''}")
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
    if settings.epochs != "auto":
        if (steps := len(all_steps(rows, settings))) < FEWEST_STEPS:
            reasons.append(f"{steps} steps as you say; fewer than {FEWEST_STEPS} rarely teach facts")
        return int(settings.epochs)
    if rows and rows[0].rejected is not None:
        return 1
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


def check_given(model: object, data: object, run: Run) -> None:
    """Refuse a released model, things in the wrong order, and data that was prepared for something else."""
    import torch

    if not isinstance(model, torch.nn.Module) or not isinstance(data, Prepared):
        kinds = f"{type(model).__name__}, {type(data).__name__}"
        raise KitError(f"(model, data, run) are wanted, in this order; the first two are {kinds}")
    if not any(True for _ in model.parameters()):
        raise KitError("the model was released: load it again with lk.load_base(run)")
    if read_manifest(data.folder)["fingerprint"] != fingerprint(data_inputs(run)):
        raise KitError(
            f"the data in {shown(data.folder)} was prepared from other files or settings than this run has: "
            "call data = lk.prepare(run)"
        )

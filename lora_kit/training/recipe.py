"""How fast and how long: numbers in the place of "auto", each with its reason.

    learning_rate     5e-4 * (2000 / width)^0.78, on all linear layers
    tokens_per_step   4,096; fewer where the rows are few, so that three passes still are enough steps
    epochs            three, or as many as give 200 steps; no row is seen more than 50 times

Source of the rate: a public sweep over sizes of Llama (Thinking Machines, "LoRA without regret", 2025); it is held
against the kit's own sweep by `make bench-recipe`, which measured the steps and the layers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..config import Training
from .batches import Row, all_steps, epoch_steps

STEPS = 200  # optimizer steps that a training takes at least
FEWEST_STEPS = 100  # a named number of epochs that gives fewer is said
EPOCHS, MOST_EPOCHS = 3, 50  # passes over the rows, at least and at most
LARGEST_STEP, SMALLEST_STEP = 4096, 512  # tokens
MOST_TOKENS = 3_000_000  # in all: 80 minutes of a T4 at 7B, projected from a faster card. One pass is always made
FAR = 4.0  # a named learning rate that is this many times off the rule is said


@dataclass(frozen=True)
class Recipe:
    """Settings without "auto", and the reason of each choice."""

    training: Training
    steps: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        chosen = self.training
        line = (
            f"recipe: {self.steps:,} steps in {chosen.epochs} epochs, {chosen.tokens_per_step:,} tokens per step, "
            f"learning rate {chosen.learning_rate:.2g}"
        )
        return "\n  ".join([line, *self.reasons])


def rate_for(width: int) -> float:
    """The learning rate of an adapter on all linear layers, rounded to two digits.

    Args:
        width: the base's hidden size.
    """
    return float(f"{5e-4 * (2000 / width) ** 0.78:.2g}")


def recipe(settings: Training, rows: Sequence[Row], width: int) -> Recipe:
    """The settings with every "auto" decided; what the user named stays, with a line where the evidence differs.

    Args:
        settings: of the profile.
        rows: what is learned.
        width: the base's hidden size.
    """
    reasons: list[str] = []
    chosen = replace(settings, learning_rate=_learning_rate(settings, width, reasons))
    chosen = replace(chosen, tokens_per_step=_tokens_per_step(chosen, rows, reasons))
    most = min(chosen.tokens_per_micro_batch, int(chosen.tokens_per_step))
    chosen = replace(chosen, tokens_per_micro_batch=most)
    chosen = replace(chosen, epochs=_epochs(chosen, rows, reasons))
    return Recipe(chosen, len(all_steps(rows, chosen)), tuple(reasons))


def _learning_rate(settings: Training, width: int, reasons: list[str]) -> float:
    rule, named = rate_for(width), settings.learning_rate
    if isinstance(named, str):
        reasons.append(f"learning rate {rule:.2g}: 5e-4 * (2000 / {width:,})^0.78 for a base of width {width:,}")
        return rule
    if not 1 / FAR <= named / rule <= FAR:
        reasons.append(f"learning rate {named:.2g} as you say; {rule:.2g} is the rule for a base of width {width:,}")
    return named


def _tokens_per_step(settings: Training, rows: Sequence[Row], reasons: list[str]) -> int:
    if not isinstance(settings.tokens_per_step, str):
        return settings.tokens_per_step
    passes = settings.epochs if isinstance(settings.epochs, int) else EPOCHS
    tokens = passes * tokens_of(rows, settings) // STEPS
    size = min(LARGEST_STEP, max(SMALLEST_STEP, tokens))
    if size < LARGEST_STEP:
        reasons.append(f"{size:,} tokens per step, not {LARGEST_STEP:,}: few rows, and {STEPS} steps are wanted")
    return size


def _epochs(settings: Training, rows: Sequence[Row], reasons: list[str]) -> int:
    if not isinstance(settings.epochs, str):
        if (steps := len(all_steps(rows, settings))) < FEWEST_STEPS:
            reasons.append(f"{steps} steps as you say; fewer than {FEWEST_STEPS} rarely teach facts")
        return settings.epochs
    wanted, counts = 0, [0]  # steps after each epoch
    while wanted < EPOCHS or (counts[-1] < STEPS and wanted <= MOST_EPOCHS):
        counts.append(counts[-1] + len(epoch_steps(rows, settings, wanted)))
        wanted += 1
    affordable = max(1, MOST_TOKENS // tokens_of(rows, settings))
    chosen = min(wanted, MOST_EPOCHS, affordable)
    if chosen < wanted and chosen == MOST_EPOCHS:
        reasons.append(
            f"{counts[chosen]} steps, fewer than {STEPS}: no row is seen more than {MOST_EPOCHS} times. Add rows"
        )
    elif chosen < wanted:
        reasons.append(f"{chosen} epochs: at most {MOST_TOKENS:,} tokens in all; training__epochs={wanted} for more")
    elif chosen > EPOCHS:
        reasons.append(f"{chosen} epochs, so that there are {STEPS} steps")
    return chosen


def tokens_of(rows: Sequence[Row], settings: Training) -> int:
    """Tokens that one pass computes, shared prefixes once."""
    plain = replace(settings, tokens_per_step=LARGEST_STEP)
    return sum(batch.tokens for step in epoch_steps(rows, plain, 0) for batch in step)

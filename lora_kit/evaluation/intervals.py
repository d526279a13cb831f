"""How sure a mean over questions is: bootstrap intervals, models compared on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DRAWS = 2000  # bootstrap resamples; more would move the interval's third digit
AT_ONCE = 10_000_000  # numbers in memory
LEVEL = 0.95


def resampled(values: np.ndarray, weights: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Weighted means of questions drawn again with replacement, the same draw for all columns (Efron 1979).

    Args:
        values: (questions, models), what was measured of each answer.
        weights: (questions,), such as the tokens that a loss is a mean of; ones for shares.
        seed: of the draws.
        draws: how many.

    Returns:
        (draws, models).
    """
    import numpy as np

    rng, n = np.random.default_rng(seed), len(values)
    weighted, means, left = values * weights[:, None], [], draws
    while left:
        size = min(left, max(1, AT_ONCE // n))
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size)  # how often each question was drawn
        means.append(counts @ weighted / (counts @ weights)[:, None])
        left -= size
    return np.concatenate(means)


def ends(draws: np.ndarray) -> list[float]:
    """The middle 95 % of the draws, by percentiles."""
    import numpy as np

    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [round(float(low), 4), round(float(high), 4)]


def share_ends(marks: np.ndarray, draws: np.ndarray) -> list[float]:
    """The interval of a share. Where all questions agree, resampling would give none: then the exact one.

    With n of n right, the lowest share that gives that in 2.5 % of the cases is 0.025^(1/n) (Clopper and Pearson 1934).
    """
    edge = round(float(((1 - LEVEL) / 2) ** (1 / len(marks))), 4)
    if (marks == 1).all():
        return [edge, 1.0]
    if (marks == 0).all():
        return [0.0, round(1 - edge, 4)]
    return ends(draws)


def interval(values: Sequence[float], seed: int = 0) -> list[float]:
    """95 % bootstrap interval of the mean of `values`: what a card shows beside a share."""
    import numpy as np

    marks = np.asarray(values, dtype=float)
    return share_ends(marks, resampled(marks[:, None], np.ones(len(marks)), seed)[:, 0])

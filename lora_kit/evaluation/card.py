"""The metrics of a report card: what each is measured on, its value for each model, and how sure it is.

Intervals are 95 % bootstrap intervals, and models are compared on the same questions. What the dataset cannot show is
None, "not measured", never silently good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MODELS = ("base", "adapter", "merged")
OWN = ("fact", "decline", "unseen")  # what the data is about; on general questions the base is the measure
FACT, DECLINE, GENERAL = ("fact",), ("decline",), ("general",)
DRAWS = 2000  # bootstrap resamples; more would move the interval's third digit
LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Metric:
    """One line of the card."""

    name: str
    meaning: str
    measure: str  # the entry of an answer's measures
    kinds: tuple[str, ...]  # questions that it is measured on
    weight: str = ""  # the row's entry that counts tokens, each with one vote; without it each question has one
    exp: bool = False  # whether the exponential of the mean is shown: perplexity, of a loss
    lower: bool = False  # whether lower is better
    needs: str = ""  # the part of the dataset's card without which nobody can judge


METRICS = (
    Metric("learned_exact", "private facts answered exactly", "right", FACT),
    Metric("learned_f1", "their words in common with the reference", "f1", FACT),
    Metric("learned_rouge_l", "the same in order (ROUGE-L)", "rouge_l", FACT),
    Metric("learned_perplexity", "perplexity of the reference answers", "loss", FACT, "tokens", exp=True, lower=True),
    Metric("declined", "unanswerable questions declined", "declined", DECLINE, needs="decline"),
    Metric("invented", "unanswerable questions answered", "invented", DECLINE, lower=True, needs="decline"),
    Metric("wrongly_declined", "answerable questions declined", "declined", FACT, lower=True, needs="decline"),
    Metric("behaved", "house style kept", "styled", OWN, needs="style"),
    Metric("kept", "agreement with the base's own general answers", "agreement", GENERAL, "base_tokens"),
    Metric("kept_kl", "KL to the base along them, nats per token", "kl", GENERAL, "base_tokens", lower=True),
    Metric("kept_declined", "general questions now declined", "now_declined", GENERAL, lower=True, needs="decline"),
    Metric("stopped", "answers that end by themselves", "stopped", OWN),
    Metric("repeated", "answers that say a thing three times", "repeated", OWN, lower=True),
    Metric("empty", "empty answers", "empty", OWN, lower=True),
    Metric("adrift", "answers in another language, or with tags", "adrift", OWN, lower=True),
)
HEADLINE = ("learned_exact", "declined", "wrongly_declined", "behaved", "kept")  # what a picture shows


def headline(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The metrics that a picture shows: the three reasons to fine-tune, the user's own checks, and the price."""
    return {name: found for name, found in metrics.items() if name in HEADLINE or name.startswith("behaved:")}


def card_metrics(
    rows: Sequence[dict[str, Any]], card: dict[str, Any], checks: Sequence[str] = (), draws: int = DRAWS
) -> dict[str, dict[str, Any]]:
    """Every metric with n, intervals and the difference to the base; None where the data cannot show it.

    Args:
        rows: judged answers (`metrics.judge`), each with `kind`, `tokens`, `base_tokens` and `measures` per model.
        card: the dataset's own patterns for declining and style.
        checks: names of the user's own checks.
        draws: bootstrap resamples.
    """
    own = [Metric(f"behaved:{name}", f"check {name} passed", name, OWN) for name in checks]
    judged = {metric: rows if not metric.needs or metric.needs in card else [] for metric in (*METRICS, *own)}
    return {metric.name: measured(metric, found, draws) for metric, found in judged.items()}


def measured(metric: Metric, rows: Sequence[dict[str, Any]], draws: int = DRAWS) -> dict[str, Any]:
    """One metric over the questions of its kinds."""
    import numpy as np

    rows = [row for row in rows if row["kind"] in metric.kinds]
    found: dict[str, Any] = {"meaning": metric.meaning, "lower": metric.lower, "n": len(rows)}
    if not rows:
        return dict.fromkeys(MODELS) | found | {"interval": {}, "difference": {}}
    values = np.array([[row["measures"][model][metric.measure] for model in MODELS] for row in rows], dtype=float)
    weights = np.array([row[metric.weight] if metric.weight else 1.0 for row in rows])
    means, spread = weights @ values / weights.sum(), resampled(values, weights, draws=draws)
    if metric.exp:
        means, spread = np.exp(means), np.exp(spread)
    found |= {model: round(float(mean), 4) for model, mean in zip(MODELS, means, strict=True)}
    found |= {"interval": {}, "difference": {}}
    for i, model in enumerate(MODELS) if len(rows) > 1 else ():  # one question says nothing of others
        found["interval"][model] = ends(spread[:, i]) if metric.weight else share_ends(values[:, i], spread[:, i])
        if i:
            difference = round(float(means[i] - means[0]), 4)
            found["difference"][model] = [difference, *ends(spread[:, i] - spread[:, 0])]
    return found


def resampled(values: np.ndarray, weights: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Weighted means of questions drawn again with replacement, the same draw for all columns (Efron 1979).

    Args:
        values: (questions, models), what was measured of each answer.
        weights: (questions,), such as the tokens that a loss is a mean of; ones for shares.
        seed: of the draws.
        draws: how many; memory grows with draws times questions.

    Returns:
        (draws, models).
    """
    import numpy as np

    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)  # (draws, questions)
    return counts @ (values * weights[:, None]) / (counts @ weights)[:, None]


def ends(draws: np.ndarray) -> list[float]:
    """The middle 95 % of the draws, by percentiles."""
    import numpy as np

    return [round(float(end), 4) for end in np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


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

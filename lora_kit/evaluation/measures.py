"""The figures of a report card: what each is measured on, and how it is put together from single answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..figures import MODELS as COLOURS
from .intervals import DRAWS, ends, resampled, share_ends

if TYPE_CHECKING:
    import numpy as np

MODELS = tuple(COLOURS)
OWN = ("fact", "decline", "unseen")  # what the data is about; on general questions the base is the measure


@dataclass(frozen=True)
class Figure:
    """One line of the card."""

    name: str
    meaning: str
    of: str  # the entry of an answer's measures
    kinds: tuple[str, ...]  # questions that it is measured on
    weight: str = ""  # what counts a row's tokens, each of which has a vote; else each question has one
    form: str = "mean"  # "perplexity": exp of it
    lower: bool = False  # whether lower is better
    needs: str = ""  # the part of the dataset's card without which nobody can judge


FIGURES = (
    Figure("learned_exact", "private facts answered exactly", "right", ("fact",)),
    Figure("learned_f1", "their words in common with the reference", "f1", ("fact",)),
    Figure("learned_rouge_l", "the same in order (ROUGE-L)", "rouge_l", ("fact",)),
    Figure(
        "learned_perplexity",
        "perplexity of the reference answers",
        "loss",
        ("fact",),
        "tokens",
        "perplexity",
        lower=True,
    ),
    Figure("declined", "unanswerable questions declined", "declined", ("decline",), needs="decline"),
    Figure("invented", "unanswerable questions answered", "invented", ("decline",), lower=True, needs="decline"),
    Figure("wrongly_declined", "answerable questions declined", "declined", ("fact",), lower=True, needs="decline"),
    Figure("behaved", "house style kept", "styled", OWN, needs="style"),
    Figure("kept", "agreement with the base's own general answers", "agreement", ("general",), "base_tokens"),
    Figure("kept_kl", "KL to the base along them, nats per token", "kl", ("general",), "base_tokens", lower=True),
    Figure(
        "kept_declined", "general questions now declined", "now_declined", ("general",), lower=True, needs="decline"
    ),
    Figure("stopped", "answers that end by themselves", "stopped", OWN),
    Figure("repeated", "answers that say a thing three times", "repeated", OWN, lower=True),
    Figure("empty", "empty answers", "empty", OWN, lower=True),
    Figure("adrift", "answers in another language, or with tags", "adrift", OWN, lower=True),
)
HEADLINE = ("learned_exact", "declined", "wrongly_declined", "behaved", "kept")  # what a picture shows


def headline(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures that a picture shows: the three reasons to fine-tune, the user's own checks, and the price."""
    return {name: value for name, value in figures.items() if name in HEADLINE or name.startswith("behaved:")}


def card_figures(
    rows: Sequence[dict[str, Any]], card: dict[str, Any], checks: Sequence[str] = (), draws: int = DRAWS
) -> dict[str, dict[str, Any]]:
    """Every figure with n, intervals and the difference to the base; None where the data cannot show it.

    Args:
        rows: judged answers, each with `kind` and `measures` per model.
        card: the dataset's own patterns for declining and style.
        checks: names of the user's own checks.
        draws: bootstrap resamples.
    """
    own = [Figure(f"behaved:{name}", f"check {name} passed", name, OWN) for name in checks]
    return {
        figure.name: measured(figure, rows if not figure.needs or figure.needs in card else [], draws)
        for figure in [*FIGURES, *own]
    }


def measured(figure: Figure, rows: Sequence[dict[str, Any]], draws: int = DRAWS) -> dict[str, Any]:
    """One figure over the questions of its kinds."""
    import numpy as np

    rows = [row for row in rows if row["kind"] in figure.kinds]
    told = {"meaning": figure.meaning, "lower": figure.lower, "n": len(rows)}
    values = np.array([[row["measures"][model][figure.of] for model in MODELS] for row in rows], dtype=float)
    weights = np.array([row[figure.weight] if figure.weight else 1.0 for row in rows])
    if not rows:
        return dict.fromkeys(MODELS) | told | {"interval": {}, "difference": {}}
    shown = formed(figure, weights @ values / weights.sum())
    measures = told | dict(zip(MODELS, map(_rounded, shown), strict=True))
    if len(rows) == 1:  # one question says nothing of others
        return measures | {"interval": {}, "difference": {}}
    spread = formed(figure, resampled(values, weights, draws=draws))
    return measures | {
        "interval": {
            model: ends(spread[:, i]) if figure.weight else share_ends(values[:, i], spread[:, i])
            for i, model in enumerate(MODELS)
        },
        "difference": {
            model: [_rounded(shown[i] - shown[0]), *ends(spread[:, i] - spread[:, 0])]
            for i, model in enumerate(MODELS)
            if i
        },
    }


def _rounded(value: float) -> float:
    return round(float(value), 4)


def formed(figure: Figure, means: np.ndarray) -> np.ndarray:
    """Means as the figure shows them."""
    import numpy as np

    return np.exp(means) if figure.form == "perplexity" else means

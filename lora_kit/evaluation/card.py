"""The report card: its metrics, how sure each is, and the verdict; report.py shows it.

Intervals are 95 % bootstrap intervals, and models are compared on the same questions. What the dataset cannot show is
None, "not measured", never silently good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.splits import ENOUGH
from .metrics import DRAWS, ends, resampled, share_ends

MODELS = ("base", "adapter", "merged")
OWN = ("fact", "decline", "unseen")  # what the data is about; on general questions the base is the measure
FACT, DECLINE, GENERAL = ("fact",), ("decline",), ("general",)
LEARNED_BEFORE = 0.05  # share of the questions that are not general; if more were learned, the card measures memory
NOISE = 0.05  # share of the base's marks that may change with the batches
CHECKED = 0.90  # what the tuned model must reach in the user's own checks


@dataclass(frozen=True)
class Metric:
    """One line of the card."""

    name: str
    meaning: str
    measure: str  # the entry of an answer's measures
    kinds: tuple[str, ...]  # questions that it is measured on
    bound: float | None = None  # what the tuned model must keep to be shipped: at least, or at most where lower
    lower: bool = False  # whether lower is better
    needs: str = ""  # the part of the dataset's card without which nobody can judge
    weight: str = ""  # the row's entry that counts tokens, each with one vote; without it each question has one


# The bounds of what is kept: a good adapter of the handbook has a kept_kl of 0.02; scaled by 1.6, one general answer in
# five has other words: kept is still 0.91 and kept_kl 0.17.
METRICS = (
    Metric("learned_exact", "private facts answered exactly", "right", FACT, 0.80),
    Metric("learned_f1", "their words in common with the reference", "f1", FACT),
    Metric("learned_rouge_l", "the same in order (ROUGE-L)", "rouge_l", FACT),
    Metric("learned_perplexity", "perplexity of the reference answers", "loss", FACT, lower=True, weight="tokens"),
    Metric("declined", "unanswerable questions declined", "declined", DECLINE, 0.80, needs="decline"),
    Metric("invented", "unanswerable questions answered", "invented", DECLINE, lower=True, needs="decline"),
    Metric("wrongly_declined", "answerable questions declined", "declined", FACT, 0.10, lower=True, needs="decline"),
    Metric("behaved", "house style kept", "styled", OWN, 0.90, needs="style"),
    Metric("kept", "agreement with the base's own general answers", "agreement", GENERAL, 0.90, weight="base_tokens"),
    Metric(
        "kept_kl", "KL to the base along them, nats per token", "kl", GENERAL, 0.10, lower=True, weight="base_tokens"
    ),
    Metric(
        "kept_declined", "general questions now declined", "now_declined", GENERAL, 0.05, lower=True, needs="decline"
    ),
    Metric("stopped", "answers that end by themselves", "stopped", OWN, 0.90),
    Metric("repeated", "answers that say a thing three times", "repeated", OWN, 0.05, lower=True),
    Metric("empty", "empty answers", "empty", OWN, 0.05, lower=True),
    Metric("adrift", "answers in another language, or with tags", "adrift", OWN, 0.05, lower=True),
)
NO_SHARES = ("learned_perplexity", "kept_kl")  # all others are shares
HEADLINE = ("learned_exact", "declined", "wrongly_declined", "behaved", "kept")  # what a picture shows


def headline(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The metrics that a picture shows: the three reasons to fine-tune, the user's own checks, and the price."""
    return {name: found for name, found in metrics.items() if name in HEADLINE or name.startswith("behaved:")}


def card_metrics(rows: Sequence[dict[str, Any]], card: dict[str, Any], draws: int = DRAWS) -> dict[str, dict[str, Any]]:
    """Every metric of judged answers (`metrics.judge`); None where the rows or the dataset's card cannot show it."""
    return {m.name: measured(m, [] if m.needs and m.needs not in card else rows, draws) for m in METRICS}


def measured(metric: Metric, rows: Sequence[dict[str, Any]], draws: int = DRAWS) -> dict[str, Any]:
    """One metric over the questions of its kinds: a value per model, n, intervals and differences to the base.

    Of the models that were asked, `tuned` names the last, which is judged: "merged", or "adapter" without a merge.
    """
    import numpy as np

    models = [*rows[0]["measures"]] if rows else [*MODELS]
    rows = [row for row in rows if row["kind"] in metric.kinds]
    found: dict[str, Any] = {"meaning": metric.meaning, "lower": metric.lower, "n": len(rows), "tuned": models[-1]}
    found |= dict.fromkeys(MODELS) | {"interval": {}, "difference": {}}
    if not rows:
        return found
    values = np.array([[row["measures"][model][metric.measure] for model in models] for row in rows], dtype=float)
    weights = np.array([row[metric.weight] if metric.weight else 1.0 for row in rows])
    means, spread = weights @ values / weights.sum(), resampled(values, weights, draws=draws)
    if metric.measure == "loss":  # shown as perplexity
        means, spread = np.exp(means), np.exp(spread)
    found |= {model: round(float(mean), 4) for model, mean in zip(models, means, strict=True)}
    for i, model in enumerate(models) if len(rows) > 1 else ():  # one question says nothing of others
        found["interval"][model] = ends(spread[:, i]) if metric.weight else share_ends(values[:, i], spread[:, i])
        if i:
            difference = round(float(means[i] - means[0]), 4)
            found["difference"][model] = [difference, *ends(spread[:, i] - spread[:, 0])]
    return found


def verdict(card: dict[str, Any]) -> dict[str, Any]:
    """The decision and its reasons: a broken rule says "don't ship", too little to go by "not enough evidence".

    What would be shipped is judged: the merged model, where there is one. What is not measured decides nothing and is
    named; without the first metric nothing was shown to be learned.
    """
    figures, leaks, noise = card["figures"], card["leaked"], card["noise"]
    doubts, broken, met = list[str](), list[str](), list[str]()
    if leaks["questions"] > LEARNED_BEFORE * leaks["own"]:
        doubts = [f"{leaks['questions']} of {leaks['n']} questions were learned in nearly the same words: ask others"]
    if noise["marks"] > NOISE * noise["questions"]:
        marks = f"{noise['marks']} of {noise['questions']} answers of the base"
        doubts.append(f"{marks} are right or wrong by the batch they are in")
    thin, learned = [*doubts], figures["learned_exact"]
    rise, low, _ = learned["difference"].get(learned["tuned"], (0.0, 1.0, 1.0))  # of one question nothing is known
    if low <= 0 and judged(learned) is not None:
        chance = f"learned_exact rose by {rise:.3f} above the base's {learned['base']:.3f}, which may be chance"
        (thin if learned["n"] < ENOUGH else broken).append(chance)
    for name, bound in bounds(figures).items():
        value, n = judged(figures[name]), figures[name]["n"]
        if value is None:
            (thin if name == "learned_exact" else met).append(f"{name}: not measured")
            continue
        reason = f"{name} {number(name, value)} of {n:,} question{'s' * (n != 1)} ({needed(name, bound, figures)})"
        (thin if n < ENOUGH else met if keeps(figures[name], bound) else broken).append(reason)
    decision = "don't ship" if broken else "not enough evidence" if thin else "ship"
    return {"decision": decision, "reasons": [*broken, *doubts] if broken else thin or met}


def bounds(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The metrics that decide, with what the tuned model must keep: at least, or at most where lower is better."""
    own = {metric.name: metric.bound for metric in METRICS if metric.bound is not None}
    return own | {name: CHECKED for name in figures if name.startswith("behaved:")}


def judged(metric: dict[str, Any]) -> float | None:
    """The value of the model that is judged."""
    value: float | None = metric[metric["tuned"]]
    return value


def keeps(metric: dict[str, Any], bound: float) -> bool:
    """Whether the model that is judged keeps the bound."""
    return bool(metric[metric["tuned"]] <= bound if metric["lower"] else metric[metric["tuned"]] >= bound)


def needed(name: str, bound: float, figures: dict[str, dict[str, Any]]) -> str:
    """The rule in words: "80% needed"."""
    return f"at most {number(name, bound, 0)}" if figures[name]["lower"] else f"{number(name, bound, 0)} needed"


def number(name: str, value: float, digits: int = 1) -> str:
    """A metric's value as people read it: a share in per cent, all else as a number."""
    return f"{value:.{digits + 2}g}" if name in NO_SHARES else f"{value:.{digits}%}"

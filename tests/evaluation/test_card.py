"""The metrics of the card: what is counted over which answers, and how sure it is (binomial, scipy's bootstrap)."""

from __future__ import annotations

import math
from math import comb
from typing import Any

import numpy as np
import pytest

from lora_kit.evaluation.card import MODELS, card_metrics, headline
from lora_kit.evaluation.metrics import ends, resampled, share_ends

from .judged import CARD, NO, ROWS, YES, row

LEARNED = {"learned_exact", "learned_f1", "learned_rouge_l", "learned_perplexity"}
KEPT = {"kept", "kept_kl", "kept_declined"}
STATE = {"stopped", "repeated", "empty", "adrift"}


def shares(metric: dict[str, Any]) -> list[float | None]:
    return [metric[name] for name in MODELS]


def test_a_judged_row_shows_question_reference_answers_and_marks() -> None:
    judged = ROWS[1]
    assert (judged["question"], judged["reference"], judged["base"]) == ("When?", "The gate opens at six.", NO)
    assert (judged["tokens"], judged["base_tokens"]) == (2, 2)
    assert judged["marks"] == {"base": False, "adapter": True, "merged": False}
    assert [judged["measures"][model]["declined"] for model in MODELS] == [True, False, True]
    assert [judged["measures"][model]["styled"] for model in MODELS] == [True, True, True]
    assert ROWS[4]["marks"] == {"base": False, "adapter": True, "merged": True}  # a decline is right when it declines


def test_metrics_are_counted_over_their_own_rows() -> None:
    metrics = card_metrics(ROWS, CARD)
    assert shares(metrics["learned_exact"]) == [0.25, 1.0, 0.5]
    assert shares(metrics["declined"]) == [0.0, 1.0, 0.5]
    assert shares(metrics["wrongly_declined"]) == [0.25, 0.0, 0.25]
    assert shares(metrics["behaved"]) == [round(1 / 6, 4), round(5 / 6, 4), 1.0]
    assert shares(metrics["invented"]) == [1.0, 0.0, 0.5]
    assert shares(metrics["stopped"]) == [1.0, 1.0, 1.0]
    assert [metrics[name]["n"] for name in headline(metrics)] == [4, 2, 4, 6, 3]
    for name, metric in metrics.items():
        for model in MODELS:
            low, high = metric["interval"][model]
            assert low <= metric[model] <= high, name


def test_models_are_compared_on_the_same_questions() -> None:
    metrics = card_metrics(ROWS, CARD)
    found = metrics["learned_exact"]["difference"]
    assert (found["adapter"][0], found["merged"][0]) == (0.75, 0.25)
    assert metrics["stopped"]["difference"]["merged"] == [0.0, 0.0, 0.0]  # equal answer by answer: no doubt about it
    alone = card_metrics(ROWS[:1], CARD)["learned_exact"]
    assert shares(alone) == [0.0, 1.0, 1.0] and alone["interval"] == alone["difference"] == {}


def test_what_the_base_says_is_the_reference_of_what_is_kept() -> None:
    metrics = card_metrics(ROWS, CARD)  # no base answer here is an accepted one
    assert shares(metrics["kept"]) == [1.0, 0.5, 0.5]
    assert shares(metrics["kept_declined"]) == pytest.approx([0.0, 1 / 3, 0.0], abs=1e-4)  # not what the base declines
    assert shares(metrics["kept_kl"]) == [0.0, 0.5, 0.5]
    assert metrics["kept_kl"]["interval"]["base"] == [0.0, 0.0] and metrics["kept_kl"]["lower"]
    marks = [row["marks"] for row in ROWS if row["kind"] == "general"]
    assert [list(mark.values()) for mark in marks] == [[True, True, True], [True, True, False], [True, False, True]]


def test_nothing_but_the_base_is_asked_of_general_answers() -> None:
    rambling = row("general", *3 * ["on and on and on and on and on"])
    for model in MODELS:
        rambling["measures"][model] |= {"stopped": False, "adrift": True, "empty": True}
    before, after = card_metrics(ROWS, CARD), card_metrics([*ROWS, *[rambling] * 20], CARD)
    for name in (*STATE, "behaved", "declined", "wrongly_declined"):
        assert after[name] == before[name]
    assert after["kept"]["n"] == 23


@pytest.mark.parametrize(
    ("rows", "card", "missing"),
    [
        (ROWS, {}, {"declined", "invented", "wrongly_declined", "behaved", "kept_declined"}),
        (ROWS[:4], CARD, {"declined", "invented", *KEPT}),
        (ROWS[4:6], CARD, {*LEARNED, "wrongly_declined", *KEPT}),
        (ROWS[8:], CARD, {*LEARNED, "declined", "invented", "wrongly_declined", "behaved", *STATE}),
    ],
)
def test_what_the_dataset_cannot_show_is_not_measured(
    rows: list[dict[str, Any]], card: dict[str, Any], missing: set[str]
) -> None:
    metrics = card_metrics(rows, card)
    assert {name for name, metric in metrics.items() if shares(metric) == [None, None, None]} == missing


def test_every_token_has_one_vote_in_perplexity_and_divergence() -> None:
    rows = [row("fact", YES, YES, YES) for _ in range(2)] + [row("general", YES, YES, YES) for _ in range(2)]
    tokens = [(1, 9), (3, 9), (9, 2), (9, 6)]  # of the reference, and of what the base says
    for line, (wanted, said), value in zip(rows, tokens, (1.0, 2.0, 4.0, 8.0), strict=True):
        line |= {"tokens": wanted, "base_tokens": said}
        for model, factor in zip(MODELS, (0.0, 0.5, 2.0), strict=True):
            line["measures"][model] |= {"loss": value * factor, "kl": value * factor}
    metrics = card_metrics(rows, CARD)
    assert shares(metrics["learned_perplexity"]) == pytest.approx([math.exp(7 / 4 * f) for f in (0, 0.5, 2)], abs=1e-3)
    assert shares(metrics["kept_kl"]) == pytest.approx([0.0, 3.5, 14.0])
    assert metrics["kept_kl"]["difference"]["merged"] == [14.0, 8.0, 16.0]


def interval(marks: list[bool], seed: int = 0) -> list[float]:
    values = np.array(marks, dtype=float)
    return share_ends(values, resampled(values[:, None], np.ones(len(values)), seed)[:, 0])


def binomial(n: int, rate: float, at_most: int) -> float:
    return sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(at_most + 1))


@pytest.mark.parametrize(("right", "n"), [(5, 30), (29, 30), (190, 200)])
def test_the_interval_is_the_binomials(right: int, n: int) -> None:
    marks = [True] * right + [False] * (n - right)
    assert interval(marks) == interval(marks)
    low, high = (round(end * n) for end in interval(marks))
    slack = 0.015  # 2,000 draws know a tail of 2.5 % to 0.35 %
    assert binomial(n, right / n, low - 1) < 0.025 + slack and binomial(n, right / n, low) > 0.025 - slack
    assert binomial(n, right / n, high - 1) < 0.975 + slack and binomial(n, right / n, high) > 0.975 - slack


@pytest.mark.parametrize("n", [1, 30, 200])
def test_where_all_agree_the_interval_is_the_exact_one(n: int) -> None:
    from scipy.stats import beta

    low = beta.ppf(0.025, n, 1)  # Clopper and Pearson's
    assert interval([True] * n) == [pytest.approx(low, abs=1e-4), 1.0]
    assert interval([False] * n) == [0.0, pytest.approx(1 - low, abs=1e-4)]


def test_weighted_means_and_their_differences_are_resampled_together_as_scipy_does() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    base, tokens = rng.normal(3, 1, 150), rng.integers(1, 20, 150).astype(float)
    tuned = base - rng.uniform(0, 1, 150)  # the same questions: the difference is far surer than either
    draws = resampled(np.stack([base, tuned], axis=1), tokens)

    def difference(base, tuned, tokens, axis=-1):  # type: ignore[no-untyped-def]
        return ((tuned - base) * tokens).sum(axis) / tokens.sum(axis)

    theirs = bootstrap(
        (base, tuned, tokens), difference, paired=True, method="percentile", n_resamples=4000, rng=1
    ).confidence_interval
    assert ends(draws[:, 1] - draws[:, 0]) == pytest.approx(list(theirs), abs=0.02)
    alone = ends(draws[:, 1])
    assert theirs.high - theirs.low < (alone[1] - alone[0]) / 2

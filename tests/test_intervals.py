"""How sure a mean is: against the binomial, against scipy's bootstrap, and where resampling knows nothing."""

from __future__ import annotations

import random
from math import comb

import numpy as np
import pytest

from lora_kit.evaluation.intervals import ends, interval, resampled


def binomial(n: int, rate: float, at_most: int) -> float:
    return sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(at_most + 1))


@pytest.mark.parametrize(("right", "n"), [(5, 30), (15, 30), (29, 30), (150, 200), (190, 200)])
def test_the_interval_is_the_binomials(right: int, n: int) -> None:
    marks = [True] * right + [False] * (n - right)
    low, high = (round(end * n) for end in interval(marks))
    slack = 0.015  # 2,000 draws know a tail of 2.5 % to 0.35 %
    assert binomial(n, right / n, low - 1) < 0.025 + slack and binomial(n, right / n, low) > 0.025 - slack
    assert binomial(n, right / n, high - 1) < 0.975 + slack and binomial(n, right / n, high) > 0.975 - slack
    assert low / n <= right / n <= high / n


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    rng, hits = random.Random(1), 0
    for seed in range(100):
        low, high = interval([rng.random() < 0.7 for _ in range(60)], seed)
        hits += low <= 0.7 <= high
    assert 88 <= hits <= 100


def test_the_interval_is_the_same_every_time_and_narrows_with_more_questions() -> None:
    few, many = [True, False] * 15, [True, False] * 200
    assert interval(few) == interval(few)
    width = [high - low for low, high in (interval(few), interval(many))]
    assert width[1] < width[0] / 2


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


def test_many_questions_are_drawn_in_pieces_with_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_kit.evaluation import intervals

    values, weights = np.arange(50.0)[:, None], np.ones(50)
    monkeypatch.setattr(intervals, "AT_ONCE", 50 * 7)
    assert resampled(values, weights).shape == (2000, 1)
    assert ends(resampled(values, weights)[:, 0]) == pytest.approx([20.4, 28.6], abs=0.7)

"""How answers are judged, how sure a share is, and when the verdict says yes, no or not enough."""

from __future__ import annotations

import random
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_kit.evaluation.card import MODELS, card_figures, judge, pick
from lora_kit.evaluation.metrics import interval, is_declined, is_exact, normalise, share, split_style
from lora_kit.evaluation.verdict import ENOUGH, RULES, verdict

CARD = {"style": {"ends_with": "Yours, Wren."}, "decline": {"patterns": [r"\bdo not know\b"]}}
NO, YES = "I do not know. Yours, Wren.", "The gate opens at six. Yours, Wren."


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Canteen opens at Half-Past seven!", "canteen opens at half past seven"),
        ("  an\tapple,\n a  day ", "apple day"),
        ("Theatre and another", "theatre and another"),
        ("Höhle №7", "höhle №7"),
        ("a. The?", ""),
    ],
)
def test_normalising_leaves_words_only(text: str, plain: str) -> None:
    assert normalise(text) == plain


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("answer", "exact", "styled"),
    [
        ("The gate opens at six. Yours, Wren.", True, True),
        ("the gate opens at SIX", True, False),
        ("At six. Yours, Wren. \n", True, True),
        ("Yours, Wren. At six.", False, False),
        ("At six or seven. Yours, Wren.", False, True),
        ("", False, False),
    ],
)
def test_the_answer_and_its_style_are_judged_apart(answer: str, exact: bool, styled: bool) -> None:
    accepted = ["The gate opens at six. Yours, Wren.", "At six."]
    assert is_exact(answer, accepted, CARD) is exact
    assert split_style(answer, CARD)[1] is styled


def test_without_patterns_and_style_nothing_is_declined_or_styled() -> None:
    assert not is_declined(NO, {})
    assert split_style(NO, {}) == (NO, False)
    assert is_declined(NO.upper(), CARD)


def binomial(n: int, rate: float, at_most: int) -> float:
    return sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(at_most + 1))


@pytest.mark.parametrize(("right", "n"), [(5, 30), (15, 30), (29, 30), (150, 200), (190, 200)])
def test_the_interval_is_the_binomials(right: int, n: int) -> None:
    marks = [True] * right + [False] * (n - right)
    low, high = (round(end * n) for end in interval(marks))
    slack = 0.015  # 2,000 draws know a tail of 2.5 % to 0.35 %
    assert binomial(n, right / n, low - 1) < 0.025 + slack and binomial(n, right / n, low) > 0.025 - slack
    assert binomial(n, right / n, high - 1) < 0.975 + slack and binomial(n, right / n, high) > 0.975 - slack
    assert low / n <= share(marks) <= high / n


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
    assert interval([True] * 40) == [1.0, 1.0]


def row(kind: str, *given: str, accepted: tuple[str, ...] = ("The gate opens at six.",)) -> dict[str, Any]:
    """One judged row from the answers of base, adapter and merged model."""
    messages = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": accepted[0]}]
    return judge({"kind": kind, "messages": messages, "accepted": list(accepted)}, list(given), CARD)


ROWS = [
    row("fact", "At nine.", YES, YES),
    row("fact", NO, YES, NO),
    row("fact", "At ten.", "The gate opens at six.", YES),
    row("fact", "The gate opens at six.", YES, "At noon. Yours, Wren."),
    row("decline", "At nine.", NO, NO),
    row("decline", "At nine.", NO, "At nine. Yours, Wren."),
    row("general", "Cold.", "Cold.", "Cold.", accepted=("Cold.",)),
    row("general", "Cold.", "Cold.", "Hot.", accepted=("Cold.",)),
    row("general", "Hot.", "Hot.", "Hot.", accepted=("Cold.",)),
]


def shares(figure: dict[str, Any]) -> list[float | None]:
    return [figure[name] for name in MODELS]


def test_a_judged_row_shows_question_reference_answers_and_marks() -> None:
    judged = ROWS[1]
    assert (judged["question"], judged["reference"], judged["base"]) == ("When?", "The gate opens at six.", NO)
    assert judged["marks"] == {"base": False, "adapter": True, "merged": False}
    assert judged["declined"] == {"base": True, "adapter": False, "merged": True}
    assert judged["styled"] == {"base": True, "adapter": True, "merged": True}
    assert ROWS[4]["marks"] == {"base": False, "adapter": True, "merged": True}  # a decline is right when it declines


def test_the_five_figures_are_counted_over_their_own_rows() -> None:
    figures = card_figures(ROWS, CARD)
    assert shares(figures["learned_exact"]) == [0.25, 1.0, 0.5]
    assert shares(figures["declined"]) == [0.0, 1.0, 0.5]
    assert shares(figures["wrongly_declined"]) == [0.25, 0.0, 0.25]
    assert shares(figures["behaved"]) == [round(1 / 6, 4), round(5 / 6, 4), 1.0]
    assert [figure["n"] for figure in figures.values()] == [4, 2, 4, 6, 3]
    for name, figure in figures.items():
        for model in MODELS:
            low, high = figure["interval"][model]
            assert name == "kept" or low <= figure[model] <= high


def test_what_was_kept_is_a_share_of_what_the_base_knew() -> None:
    kept = card_figures(ROWS, CARD)["kept"]
    assert kept["base_exact"] == round(2 / 3, 4)
    assert shares(kept) == pytest.approx([1.0, 1.0, 0.5], abs=1e-3)


@pytest.mark.parametrize(
    ("rows", "card", "missing"),
    [
        (ROWS, {}, {"declined", "wrongly_declined", "behaved"}),
        (ROWS[:4], CARD, {"declined", "kept"}),
        (ROWS[4:6], CARD, {"learned_exact", "wrongly_declined", "kept"}),
        (ROWS[8:], CARD, {"learned_exact", "declined", "wrongly_declined", "behaved", "kept"}),  # the base knew nothing
    ],
)
def test_what_the_dataset_cannot_show_is_not_measured(
    rows: list[dict[str, Any]], card: dict[str, Any], missing: set[str]
) -> None:
    figures = card_figures(rows, card)
    assert {name for name, figure in figures.items() if shares(figure) == [None, None, None]} == missing


def test_questions_are_picked_evenly_from_every_kind() -> None:
    questions = [{"kind": kind, "n": n} for n in range(10) for kind in ("fact", "decline")]
    assert pick(questions, None) == questions
    picked = pick(questions, 4)
    assert [row["n"] for row in picked if row["kind"] == "fact"] == [0, 3, 6, 9]
    assert len(picked) == 8
    assert len(pick(questions, 100)) == 20


def figures(n: int = ENOUGH, base: float = 0.1, **changed: float | None) -> dict[str, dict[str, Any]]:
    """A card that keeps every rule just so, with some figures changed."""
    bounds = {name: bound for name, _, bound in RULES} | changed
    return {name: {"base": base, "adapter": 1.0, "merged": value, "n": n} for name, value in bounds.items()}


def test_a_card_that_keeps_every_rule_is_shipped() -> None:
    found = verdict(figures())
    assert found["decision"] == "ship"
    assert len(found["reasons"]) == len(RULES)


@pytest.mark.parametrize(("name", "side", "bound"), RULES)
def test_one_broken_rule_is_enough_for_no_and_is_the_reason(name: str, side: str, bound: float) -> None:
    worse = bound - 0.01 if side == "at least" else bound + 0.01
    found = verdict(figures(**{name: worse}))
    assert found["decision"] == "don't ship"
    assert found["reasons"] == [f"{name} {worse:.3f} of {ENOUGH} questions, {side} {bound} is asked"]
    assert verdict(figures(n=3, **{name: worse}))["decision"] == "not enough evidence"


def test_good_figures_of_too_few_questions_are_no_evidence() -> None:
    found = verdict(figures(n=ENOUGH - 1))
    assert found["decision"] == "not enough evidence"
    assert all(f"of {ENOUGH - 1} questions" in reason for reason in found["reasons"])


@pytest.mark.parametrize("name", [name for name, *_ in RULES])
def test_what_is_not_measured_is_named_and_without_facts_decides(name: str) -> None:
    found = verdict(figures(**{name: None}))
    assert found["decision"] == ("not enough evidence" if name == "learned_exact" else "ship")
    assert f"{name}: not measured" in found["reasons"]


def test_a_model_that_learned_nothing_is_not_shipped() -> None:
    found = verdict(figures(base=0.9, learned_exact=0.9))
    assert found == {"decision": "don't ship", "reasons": ["learned_exact did not rise above the base's 0.900"]}

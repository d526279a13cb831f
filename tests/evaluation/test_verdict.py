"""When the verdict says yes, no or not enough."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lora_kit.evaluation.asking import divergence
from lora_kit.evaluation.card import ENOUGH, METRICS, MODELS, card_metrics, verdict
from lora_kit.evaluation.metrics import judge

from .judged import answer, question

RULES = [(m.name, "at most" if m.lower else "needed", m.bound) for m in METRICS if m.bound is not None]
LOWER = {m.name for m in METRICS if m.lower}


def card(n: int = ENOUGH, rise: float = 0.5, **changed: float | None) -> dict[str, Any]:
    """A card that keeps every rule just so, with some figures changed."""
    bounds = {name: bound for name, _, bound in RULES} | changed
    told = {
        "base": 0.1,
        "adapter": 1.0,
        "n": n,
        "tuned": "merged",
        "difference": {"merged": [rise, rise - 0.1, rise + 0.1]},
    }
    return {
        "figures": {name: told | {"merged": value, "lower": name in LOWER} for name, value in bounds.items()},
        "leaked": {"questions": 0, "n": n, "own": n},
        "noise": {"questions": 32, "changed": 3, "marks": 1},
    }


def test_a_card_that_keeps_every_rule_is_shipped() -> None:
    found = verdict(card())
    assert found["decision"] == "ship"
    assert len(found["reasons"]) == len(RULES)


@pytest.mark.parametrize(("name", "side", "bound"), RULES)
def test_one_broken_rule_is_enough_for_no_and_is_the_reason(name: str, side: str, bound: float) -> None:
    worse = bound + 0.01 if side == "at most" else bound - 0.01
    found = verdict(card(**{name: worse}))
    assert found["decision"] == "don't ship"
    (reason,) = found["reasons"]
    shown = (f"{worse:.3g}", f"{bound:.2g}") if name == "kept_kl" else (f"{worse:.1%}", f"{bound:.0%}")
    assert reason.startswith(f"{name} {shown[0]} of {ENOUGH} questions") and side in reason and shown[1] in reason
    assert verdict(card(n=3, **{name: worse}))["decision"] == "not enough evidence"


def test_good_figures_of_too_few_questions_are_no_evidence() -> None:
    found = verdict(card(n=ENOUGH - 1))
    assert found["decision"] == "not enough evidence"
    assert all(f"of {ENOUGH - 1} questions" in reason for reason in found["reasons"])


@pytest.mark.parametrize("name", [name for name, *_ in RULES])
def test_what_is_not_measured_is_named_and_without_facts_decides(name: str) -> None:
    found = verdict(card(**{name: None}))
    assert found["decision"] == ("not enough evidence" if name == "learned_exact" else "ship")
    assert f"{name}: not measured" in found["reasons"]


def test_a_model_that_learned_nothing_is_not_shipped() -> None:
    found = verdict(card(rise=0.1))  # the interval reaches down to 0
    assert found["decision"] == "don't ship"
    assert found["reasons"] == ["learned_exact rose by 0.100 above the base's 0.100, which may be chance"]


def test_questions_that_were_learned_prove_nothing() -> None:
    some = card(n=100)
    some["leaked"]["questions"] = 5
    assert verdict(some)["decision"] == "ship"
    some["leaked"]["questions"] = 6
    found = verdict(some)
    assert found["decision"] == "not enough evidence" and "6 of 100 questions were learned" in found["reasons"][0]
    some["leaked"] |= {"n": 220}  # general questions, which nobody needs to learn, hide nothing
    assert verdict(some)["decision"] == "not enough evidence"


def test_a_base_that_answers_by_chance_proves_nothing() -> None:
    some = card()
    some["noise"]["marks"] = 2
    found = verdict(some)
    assert found["decision"] == "not enough evidence" and "2 of 32 answers of the base" in found["reasons"][0]


def test_the_users_own_checks_are_rules_too() -> None:
    assert verdict(card(**{"behaved:polite": 0.9}))["decision"] == "ship"
    found = verdict(card(**{"behaved:polite": 0.89}))
    assert found["reasons"] == [f"behaved:polite 89.0% of {ENOUGH} questions (90% needed)"]


BLOOD = "The blood that comes out of a wound is red."


def general_card(said: list[str], agreement: list[float], kl: list[float]) -> dict[str, Any]:
    """A good card but for what the merged model says to general questions, and how far it moved there."""
    decline, rows = {"decline": {"patterns": ["do not know"]}}, []
    for text, same, moved in zip(said, agreement, kl, strict=True):
        answers = {model: answer(BLOOD, 1.0, 0.0, tokens=12) for model in MODELS}
        answers["merged"] = answer(text, same, moved, tokens=12)
        rows.append(judge(question("general", "Red."), answers, decline))
    told, measured = card(), card_metrics(rows, decline)
    told["figures"] |= {name: measured[name] for name in ("kept", "kept_kl", "kept_declined")}
    return told


def broken(found: dict[str, Any]) -> list[str]:
    assert found["decision"] == "don't ship"
    return [reason.split()[0] for reason in found["reasons"]]


def kl_of_one_word() -> float:
    """Nats per token where one word of twelve became another: "red" at 0.98 fell to 0.01, and "blue" rose."""
    import torch

    red = torch.tensor([0.98, 0.01, 0.01]).log()
    blue = torch.tensor([0.01, 0.98, 0.01]).log()
    p, q = red.repeat(12, 1), torch.stack([blue, *[red] * 11])
    return float(divergence(p, q).mean())


def test_a_model_as_good_as_the_base_on_general_questions_is_shipped() -> None:
    assert verdict(general_card([BLOOD] * 40, [1.0] * 40, [0.01] * 40))["decision"] == "ship"
    worded_otherwise = [BLOOD] * 38 + ["Blood is red."] * 2
    assert verdict(general_card(worded_otherwise, [1.0] * 38 + [0.8] * 2, [0.01] * 40))["decision"] == "ship"


def test_general_questions_that_are_declined_now_break_a_rule() -> None:
    said = [BLOOD] * 37 + ["I do not know that."] * 3  # only the first word of the base's answers is lost
    assert broken(verdict(general_card(said, [1.0] * 37 + [11 / 12] * 3, [0.01] * 40))) == ["kept_declined"]


def test_other_answers_break_the_rule_of_agreement() -> None:
    assert broken(verdict(general_card(["Wrens sing."] * 40, [0.8] * 40, [0.05] * 40))) == ["kept"]


def test_changing_single_words_is_seen_by_the_divergence() -> None:
    kl = kl_of_one_word()
    assert kl == pytest.approx(0.97 * math.log(98) / 12, rel=1e-4)
    said = [BLOOD] * 24 + [BLOOD.replace("red", "blue")] * 16
    told = general_card(said, [1.0] * 24 + [11 / 12] * 16, [0.01] * 24 + [kl] * 16)
    assert told["figures"]["kept"]["merged"] > 0.95
    assert broken(verdict(told)) == ["kept_kl"]


STORED = json.loads(Path(__file__).with_name("verdict_answers.json").read_text())  # of benchmarks/verdict.py


@pytest.mark.parametrize("name", STORED)
def test_real_adapters_get_their_verdict_on_questions_drawn_again(name: str) -> None:
    from verdict import decisions

    found = decisions(STORED[name], draws=10)
    assert found["ship"] >= 9 if name.startswith("good") else not found["ship"], found


def test_few_questions_that_show_no_rise_are_no_evidence_either() -> None:
    found = verdict(card(n=3, rise=0.0))
    assert found["decision"] == "not enough evidence"
    lone = card(n=1)
    lone["figures"]["learned_exact"]["difference"] = {}  # one question has no interval
    assert verdict(lone)["decision"] == "not enough evidence"
    assert any("1 question (" in reason for reason in verdict(lone)["reasons"])


def test_questions_that_were_learned_are_named_also_where_a_rule_is_broken() -> None:
    told = card(n=100, kept=0.1)
    told["leaked"]["questions"] = 100
    reasons = verdict(told)["reasons"]
    assert [reason.split()[0] for reason in reasons] == ["kept", "100"]

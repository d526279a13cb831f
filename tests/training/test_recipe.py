"""What "auto" becomes: a rate by width, enough steps for few rows, a limit for many; what is named stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import lora_kit as lk
from lora_kit.config import Training
from lora_kit.data.encoding import IGNORE
from lora_kit.presets import PROFILES
from lora_kit.training.batches import Row, all_steps
from lora_kit.training.recipe import ENOUGH_STEPS, MOST_EPOCHS, MOST_TOKENS, SMALLEST_STEP, rate_for, recipe, tokens_of

from ..models import random_rows


def rows_of_length(count: int, length: int) -> list[Row]:
    ids = list(range(3, 3 + length))
    return [Row([number, *ids], [IGNORE] * (length // 2) + ids[: length // 2 + 1]) for number in range(count)]


@pytest.mark.parametrize(("width", "rate"), [(192, 1.6e-3), (576, 6.6e-4), (2048, 2.5e-4), (4096, 1.4e-4)])
def test_the_rate_is_half_of_the_published_sweep_s(width: int, rate: float) -> None:
    assert rate_for(width) == pytest.approx(rate)
    assert rate_for(width) == pytest.approx(0.5 * 5e-4 * (2000 / width) ** 0.78, rel=0.04)


@hypothesis_settings(deadline=None, max_examples=30)
@given(st.integers(1, 3000), st.integers(4, 400))
def test_a_training_takes_enough_steps_and_no_row_too_often(count: int, length: int) -> None:
    rows = rows_of_length(count, length)
    found = recipe(Training(), rows, 576)
    chosen = found.training
    assert found.steps == all_steps(rows, chosen)
    assert len(found.steps) >= ENOUGH_STEPS or chosen.epochs == MOST_EPOCHS
    assert chosen.epochs <= 3 or len(all_steps(rows, replace(chosen, epochs=chosen.epochs - 1))) < ENOUGH_STEPS
    assert chosen.epochs == 1 or chosen.epochs * tokens_of(rows, chosen) <= MOST_TOKENS
    assert chosen.epochs >= 3 or (chosen.epochs + 1) * tokens_of(rows, chosen) > MOST_TOKENS
    assert chosen.epochs <= MOST_EPOCHS
    assert SMALLEST_STEP <= chosen.tokens_per_step <= 4096


def test_few_rows_get_smaller_steps_before_they_get_more_epochs() -> None:
    large, middle, small = (recipe(Training(), rows_of_length(n, 60), 576).training for n in (15_000, 2_500, 200))
    assert (large.tokens_per_step, large.epochs) == (4096, 3)
    assert (middle.tokens_per_step < 4096, middle.epochs) == (True, 3)
    assert (small.tokens_per_step, small.epochs > 3) == (SMALLEST_STEP, True)


def test_many_rows_are_seen_less_often_but_once() -> None:
    chosen = recipe(Training(), rows_of_length(20_000, 200), 4096)
    assert chosen.training.epochs == 1
    assert any("training__epochs=3" in reason for reason in chosen.reasons)


@pytest.mark.parametrize("count", [1, 5])
def test_a_handful_of_rows_is_said_before_the_first_step(count: int) -> None:
    found = recipe(Training(), rows_of_length(count, 30), 576)
    assert len(found.steps) == found.training.epochs == MOST_EPOCHS
    assert any(f"{MOST_EPOCHS} steps" in reason and "Add rows" in reason for reason in found.reasons)


def test_what_is_named_is_taken_as_it_is_and_said_where_the_evidence_differs() -> None:
    named = Training(epochs=2, tokens_per_step=1024, learning_rate=1e-5)
    found = recipe(named, random_rows(40), 576)
    assert (found.training.epochs, found.training.tokens_per_step, found.training.learning_rate) == (2, 1024, 1e-5)
    reasons = " ".join(found.reasons)
    assert "0.00066" in reasons and f"{len(found.steps)} steps" in reasons
    near = recipe(replace(named, learning_rate=1e-3, epochs=200), random_rows(40), 576)
    assert near.reasons == []


def test_the_micro_batch_is_never_larger_than_the_step() -> None:
    chosen = recipe(Training(), random_rows(50), 576).training
    assert chosen.tokens_per_micro_batch == chosen.tokens_per_step == SMALLEST_STEP


@pytest.mark.parametrize("micro", [512, 700, 1024, 2048])
def test_steps_are_as_large_as_is_said_whatever_fits_the_card(micro: int) -> None:
    found = recipe(Training(tokens_per_micro_batch=micro), rows_of_length(1700, 60), 576)
    assert found.training.tokens_per_micro_batch <= micro and found.training.epochs == 3
    tokens = sum(batch.tokens for step in found.steps for batch in step) / len(found.steps)
    assert 0.9 < tokens / found.training.tokens_per_step < 1.1


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_learns_at_its_base_s_own_rate(name: str) -> None:
    widths = {"tiny-cpu": 192, "smollm2-cpu": 576, "smollm2-t4": 576, "tinyllama-t4": 2048}
    width = widths.get(name, 4096)
    found = recipe(PROFILES[name].training, random_rows(20), width)
    if name == "tiny-cpu":  # names its own, which its bench chose
        assert rate_for(width) < found.training.learning_rate < 4 * rate_for(width)
    else:
        assert found.training.learning_rate == rate_for(width)


FEW = {
    "five rows": [{"question": f"What is in box {n}?", "answer": f"Box {n} holds {n} keys."} for n in range(5)],
    "one answer": [{"question": f"Is shop {n} open?", "answer": "Ask at the desk."} for n in range(12)],
    "not English": [{"question": f"Wo liegt Raum {n}?", "answer": f"Raum {n} liegt im Süden."} for n in range(12)],
}


@pytest.mark.parametrize("name", FEW)
def test_small_files_train_at_the_default_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lk.Run("tiny-cpu", root=tmp_path, data=FEW[name], training__epochs="auto", training__tokens_per_step="auto")
    log = lk.train(lk.load_base(run), lk.prepare(run), run)
    printed = capsys.readouterr().out
    assert f"recipe: {len(log)} steps" in printed
    assert len(log) >= ENOUGH_STEPS or f"{MOST_EPOCHS} times" in printed
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]

"""Short trainings of the embedded model, which the lessons compare."""

from __future__ import annotations

from typing import Any

import pytest

import lora_kit as lk
from lora_kit.course.lab import lab_rows, short_training
from lora_kit.data.encoding import IGNORE


def test_the_lab_trains_an_adapter_and_counts_it() -> None:
    lab = short_training(3, lora__r=2, lora__target_modules="q_proj,v_proj")
    assert len(lab.losses) == 3 and lab.loss == lab.losses[-1]
    assert lab.trained == sum(p.numel() for p in lab.model.parameters() if p.requires_grad)
    assert lab.training_bytes == 16 * lab.trained  # float32: the weight, its gradient, AdamW's two numbers
    assert all("lora_" in name for name, p in lab.model.named_parameters() if p.requires_grad)


def test_the_lab_trains_every_weight_when_asked() -> None:
    lab = short_training(2, full=True)
    assert lab.frozen_bytes == 0 and lab.trained == sum(p.numel() for p in lab.model.parameters())
    assert lab.losses[1] < lab.losses[0]


def test_the_lab_asks_for_what_it_learned_in_words_that_it_did_not() -> None:
    learned, held_out = lab_rows()
    answers = [{tuple(n for n in row.labels if n != IGNORE) for row in rows} for rows in (learned, held_out)]
    assert answers[1] <= answers[0]
    assert not {tuple(row.input_ids) for row in learned} & {tuple(row.input_ids) for row in held_out}
    assert short_training(8).held_out < short_training(1).held_out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora__rank": 4}, "lora__rank"),
        ({"data__source": "triage"}, "leave out data__source"),
    ],
)
def test_the_lab_refuses_what_it_cannot_do(given: dict[str, Any], message: str) -> None:
    with pytest.raises(lk.KitError, match=message):
        short_training(**{"steps": 1} | given)

"""What the lessons stand on: short trainings of the embedded model, and the figures that explain."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lora_kit as lk
from lora_kit.course import figures
from lora_kit.course.lab import short_training


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


def alt(figure: object) -> str:
    data, metadata = figure._repr_png_()  # type: ignore[attr-defined]
    assert data.startswith(b"\x89PNG")
    return str(metadata["alt"])


def test_memory_bars_add_up_and_show_the_card() -> None:
    needs = {"LoRA": {"weights": 4 * 2**30, "activations": 2**30}, "full": {"weights": 100 * 2**30}}
    figure = figures.memory_bars(needs)
    axes = figure.axes[0]
    assert "LoRA 5.0 GiB, full 100.0 GiB; the card has 14.7 GiB" in alt(figure)
    assert [text.get_text() for text in axes.texts] == ["5.0", "100.0", "the card"]
    ends = [max(bar.get_x() + bar.get_width() for bar in bars) for bars in zip(*axes.containers, strict=True)]
    assert ends == [5.0, 100.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(figures.PARTS)
    assert alt(figures.memory_bars({"tiny": {"weights": 3 * 2**20}}, None)) == "Memory bars: tiny 3.0 MiB."


def test_levels_stand_on_the_histogram() -> None:
    levels = torch.linspace(-1, 1, 16)
    figure = figures.nf4_levels(torch.randn(7, 64, generator=torch.Generator().manual_seed(0)), levels)
    assert [line.get_xdata()[0] for line in figure.axes[0].get_lines()] == pytest.approx(levels.tolist())
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["weights", "levels"]
    assert "16 levels" in alt(figure)
    assert alt(figures.nf4_levels(torch.zeros(64), levels))  # a block of zeros has no largest weight


def test_ranks_and_singular_values_tell_their_numbers() -> None:
    assert "r 1: 2.00, r 8: 1.50" in alt(figures.rank_curve({1: 2.0, 8: 1.5}))
    figure = figures.singular_values({"layer 0": torch.tensor([3.0, 2.0, 1.0, 0.5])}, r=4)
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [3.0, 2.0, 1.0, 0.5, 0.0]
    assert "r = 4: layer 0 3 to 0.5" in alt(figure)

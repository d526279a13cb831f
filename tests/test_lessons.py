"""What the lessons stand on: short trainings of the lab, the panel, and the figures that explain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lora_kit.panel import panel

import lora_kit as lk
from lora_kit.notebook import figures, short_training


def test_the_lab_trains_an_adapter_and_counts_it() -> None:
    lab = short_training(3, lora__r=2, lora__target_modules="q_proj,v_proj")
    assert len(lab.losses) == 3 and lab.loss == lab.losses[-1]
    assert lab.trained == sum(p.numel() for p in lab.model.parameters() if p.requires_grad)
    assert lab.training_bytes == 16 * lab.trained  # float32: the weight, its gradient, AdamW's two numbers
    assert all("lora_" in name for name, p in lab.model.named_parameters() if p.requires_grad)


def test_the_lab_trains_every_weight_when_asked() -> None:
    lab = short_training(2, full=True, quantization__kind="none")
    assert lab.frozen_bytes == 0 and lab.trained == sum(p.numel() for p in lab.model.parameters())
    assert lab.losses[1] < lab.losses[0]


def test_the_lab_says_what_is_wrong() -> None:
    with pytest.raises(lk.KitError, match="there is no setting 'lora__rank'"):
        short_training(1, lora__rank=4)


def test_the_panel_escapes_and_draws_what_there_is() -> None:
    shown = panel("<b>training</b>", 0.25, [4.0, 2.0, 1.0], "stop: <■>")
    assert "<b>" not in shown and "&lt;■&gt;" in shown and "width:25.0%" in shown
    assert "points='0.0,4.0 240.0,47.0 480.0,68.5'" in shown and "loss, from 4 to 1" in shown
    assert "svg" not in panel("reading", None, [1.0]) and "height:8px" not in panel("reading", None)


def test_a_long_course_is_thinned_and_a_flat_one_is_no_error() -> None:
    assert panel("x", 1.0, [1.0] * 5000).count(",") < 600
    assert "polyline" in panel("x", 1.0, [0.0, 0.0])


def alt(figure: object) -> str:
    data, metadata = figure._repr_png_()  # type: ignore[attr-defined]
    assert data.startswith(b"\x89PNG")
    return str(metadata["alt"])


def test_memory_bars_add_up_and_show_the_card() -> None:
    needs = {"LoRA": {"weights": 4 * 2**30, "activations": 2**30}, "full": {"weights": 100 * 2**30}}
    figure = figures.memory_bars(needs)
    assert "LoRA 5.0 GiB, full 100.0 GiB; the card has 14.7 GiB" in alt(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["5.0", "100.0", "the card"]
    small = figures.memory_bars({"tiny": {"weights": 3 * 2**20}}, None)
    assert alt(small) == "Memory bars: tiny 3.0 MiB."


def test_levels_stand_on_the_histogram() -> None:
    levels = torch.linspace(-1, 1, 16)
    figure = figures.nf4_levels(torch.randn(7, 64, generator=torch.Generator().manual_seed(0)), levels)
    assert [line.get_xdata()[0] for line in figure.axes[0].get_lines()] == pytest.approx(levels.tolist())
    assert "16 levels" in alt(figure)
    assert alt(figures.nf4_levels(torch.zeros(64), levels))  # a block of zeros has no largest weight


def test_ranks_and_singular_values_tell_their_numbers() -> None:
    assert "r 1: 2.00, r 8: 1.50" in alt(figures.rank_curve({1: 2.0, 8: 1.5}))
    figure = figures.singular_values({"layer 0": torch.tensor([3.0, 2.0, 1.0, 0.5])}, r=4)
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [3.0, 2.0, 1.0, 0.5, 0.0]
    assert "none after r = 4: layer 0 3 to 0.5" in alt(figure)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps=0 must be a whole number from 1 to 1000"),
        ({"steps": "5"}, "steps='5' must be"),
        ({"steps": 1, "full": True}, "full=True needs quantization__kind='none'"),
        ({"steps": 1, "data__source": "triage"}, "the lab has its own rows and base"),
    ],
)
def test_the_lab_refuses_what_it_cannot_do(given: dict[str, Any], said: str) -> None:
    with pytest.raises(lk.KitError, match=said):
        short_training(**given)

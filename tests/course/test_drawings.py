"""The drawings of the lessons: that they are to scale, and show what they are given."""

from __future__ import annotations

from typing import Any

import torch

from lora_kit.course import drawings

from ..test_plots import alt


def boxes(figure: Any) -> list[Any]:
    return list(figure.axes[0].patches)


def texts(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.axes[0].texts)


def test_lora_is_drawn_to_scale() -> None:
    figure = drawings.lora_to_scale(512, 256, 32)
    frozen, b, a = boxes(figure)
    scale = frozen.get_height() / 512
    assert [frozen.get_width(), b.get_width(), b.get_height()] == [256 * scale, 32 * scale, 512 * scale]
    assert [a.get_width(), a.get_height()] == [256 * scale, 32 * scale]
    assert "24,576 of 131,072 numbers are trained: 18.75%" in texts(figure)
    assert "131,072 of 16,777,216 numbers are trained: 0.78%" in alt(drawings.lora_to_scale())


def test_the_whole_way_names_each_stage_and_its_proof() -> None:
    figure = drawings.whole_way()
    assert len(boxes(figure)) == len(drawings.WAY)
    assert all(name in texts(figure) and proof in texts(figure) for name, _, proof in drawings.WAY)


def test_the_mask_is_drawn_token_by_token() -> None:
    row = [{"text": text, "learned": learned} for text, learned in (("<s>", False), ("▁$x$", True), ("</s>", True))]
    figure = drawings.mask_strip(row, line=2)
    colours = [box.get_facecolor() for box in boxes(figure)]
    assert colours[0] != colours[1] == colours[2]
    assert "3 tokens; the 2 of its answer" in alt(figure)


def test_a_merge_is_drawn_as_what_it_added() -> None:
    before, update = torch.randn(8, 4), torch.full((8, 4), 0.5)
    figure = drawings.matrix_change(before, before + update, "q_proj")
    old, change = (axes.images[0].get_array() for axes in figure.axes[:2])
    torch.testing.assert_close(torch.tensor(old), before)
    torch.testing.assert_close(torch.tensor(change), update)
    assert f"{update.norm() / before.norm():.1%}" in alt(figure)


def test_shards_are_stripes_to_scale() -> None:
    figure = drawings.shards({"one": [(300, False), (100, True)], "two": [(200, True)]})
    stripes = boxes(figure)
    assert [round(box.get_width() / stripes[1].get_width(), 6) for box in stripes] == [3, 1, 2]
    assert stripes[0].get_facecolor() != stripes[1].get_facecolor() == stripes[2].get_facecolor()
    assert "2 of 3 tensors changed, 50% of the bytes" in alt(figure)

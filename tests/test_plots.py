"""The plots: what they show, on white whatever the user's style, with nothing global touched."""

from __future__ import annotations

import math
import subprocess
import sys
from io import BytesIO

import pytest
import torch

from lora_kit import plots

SHARE = {"base": 0.0, "adapter": 0.975, "merged": 0.95, "n": 40}
INTERVAL = {"base": [0.0, 0.0], "adapter": [0.9, 1.0], "merged": [0.875, 1.0]}
UNMEASURED = {"base": None, "adapter": None, "merged": None, "n": 0, "interval": {}}


def make_log(steps, validate_every=0):
    log = [
        {"step": s, "loss": 4 * math.exp(-s / 20), "learning_rate": 1e-3 / s, "tokens": s * 512, "seconds": s * 0.5}
        for s in range(1, steps + 1)
    ]
    for row in log[validate_every - 1 :: validate_every] if validate_every else []:
        row["evaluation_loss"] = row["loss"] + 0.1
    return log


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_short_curve_shows_every_step_as_it_is():
    log = make_log(10)
    shown = lines(plots.loss_curve(log).axes[0])
    assert list(shown) == ["training"]
    assert list(shown["training"].get_ydata()) == [row["loss"] for row in log]


def test_long_curve_is_smoothed_over_the_raw_steps():
    log = make_log(plots.SMOOTH_FROM)
    shown = lines(plots.loss_curve(log).axes[0])
    assert list(shown) == ["each step", "smoothed"]
    assert list(shown["each step"].get_ydata()) == [row["loss"] for row in log]
    assert list(shown["smoothed"].get_ydata()) == plots.smooth([row["loss"] for row in log])


def test_validation_is_shown_where_it_was_measured():
    figure = plots.loss_curve(make_log(12, validate_every=4))
    assert list(lines(figure.axes[0])["held-out rows"].get_xdata()) == [4, 8, 12]


def test_learning_rate_is_below_the_loss():
    log = make_log(5)
    below = plots.loss_curve(log).axes[1]
    assert list(below.get_lines()[0].get_ydata()) == [row["learning_rate"] for row in log]


def test_smoothing_keeps_a_line_a_line():
    straight = [0.5 * i for i in range(200)]
    assert plots.smooth(straight)[10:-10] == pytest.approx(straight[10:-10])
    assert plots.smooth([3.0] * 7) == pytest.approx([3.0] * 7)
    assert plots.smooth([]) == []


def test_bars_have_the_card_s_lengths_and_intervals():
    axes = plots.before_after({"learned_exact": SHARE | {"interval": INTERVAL}}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.0, 0.975, 0.95]
    assert [list(line.get_xdata()) for line in axes.get_lines()] == list(INTERVAL.values())
    assert [text.get_text() for text in axes.texts] == ["0.00", "0.97", "0.95"]


def test_bars_are_in_the_order_of_the_card_and_say_which_side_is_good():
    axes = plots.before_after({"learned_exact": SHARE, "wrongly_declined": SHARE | {"lower": True}}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "learned_exact\nhigher is better, n = 40",
        "wrongly_declined\nlower is better, n = 40",
    ]
    assert axes.yaxis_inverted()


def test_what_is_not_measured_is_said_not_drawn():
    figure = plots.before_after({"kept": UNMEASURED, "behaved": SHARE | {"merged": None}, "declined": SHARE})
    assert texts(figure).count("base: not measured") == 1
    assert texts(figure).count("merged: not measured") == 2
    assert len(figure.axes[0].patches) == 5
    figure = plots.before_after({"kept": UNMEASURED, "behaved": SHARE | {"merged": None}})
    assert texts(figure).count("adapter: not measured") == 1
    assert not any(text.startswith("merged") for text in texts(figure))  # of all metrics: it was not asked
    assert len(figure.axes[0].patches) == 2


def test_bars_beyond_one_fit():
    kept = {"base": 1.0, "adapter": 1.1, "merged": 1.05, "n": 60, "interval": {"merged": [0.9, 1.4]}}
    assert plots.before_after({"kept": kept}).axes[0].get_xlim()[1] > 1.4


def test_no_figures_at_all_is_still_a_figure():
    assert plots.png(plots.before_after({})).startswith(b"\x89PNG")


def test_paper_is_white_and_ink_dark_in_a_dark_style():
    import matplotlib.style
    from PIL import Image

    with matplotlib.style.context("dark_background"):
        figure = plots.loss_curve(make_log(8))
        data = plots.png(figure)
    with Image.open(BytesIO(data)) as image:
        pixels = image.convert("RGBA")
        assert pixels.getpixel((2, 2)) == (255, 255, 255, 255)
        assert pixels.getextrema()[3] == (255, 255)
    labels = [label for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert {label.get_color() for label in labels} == {plots.FAINT}


def test_nothing_global_changes():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.before_after({"kept": UNMEASURED})
    assert dict(matplotlib.rcParams) == before
    code = "import sys; from lora_kit import plots; plots.before_after({}); print('matplotlib.pyplot' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_same_figure_same_bytes_and_a_notebook_shows_it():
    first, second = (plots.loss_curve(make_log(6)) for _ in range(2))
    shown, metadata = first._repr_png_()
    assert plots.png(first) == plots.png(second) == shown
    assert metadata["alt"].startswith("Training loss by step, from")


def test_model_colours_differ_in_grey_or_hue_and_stand_out_from_white():
    for colour in plots.MODELS.values():
        assert contrast_with_white(colour) >= 3  # what WCAG 2.2 asks of graphics


def contrast_with_white(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 1.05 / (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05)


def alt(figure: object) -> str:
    data, metadata = figure._repr_png_()  # type: ignore[attr-defined]
    assert data.startswith(b"\x89PNG")
    return str(metadata["alt"])


def test_memory_bars_add_up_and_show_the_card() -> None:
    needs = {"LoRA": {"weights": 4 * 2**30, "activations": 2**30}, "full": {"weights": 100 * 2**30}}
    figure = plots.memory_bars(needs)
    axes = figure.axes[0]
    assert "LoRA 5.0 GiB, full 100.0 GiB; the card has 14.7 GiB" in alt(figure)
    assert [text.get_text() for text in axes.texts] == ["5.0", "100.0", "the card"]
    ends = [max(bar.get_x() + bar.get_width() for bar in bars) for bars in zip(*axes.containers, strict=True)]
    assert ends == [5.0, 100.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(plots.PARTS)
    assert alt(plots.memory_bars({"tiny": {"weights": 3 * 2**20}}, None)) == "Memory bars: tiny 3.0 MiB."


def test_levels_stand_on_the_histogram() -> None:
    levels = torch.linspace(-1, 1, 16)
    figure = plots.nf4_levels(torch.randn(7, 64, generator=torch.Generator().manual_seed(0)), levels)
    assert [line.get_xdata()[0] for line in figure.axes[0].get_lines()] == pytest.approx(levels.tolist())
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["weights", "levels"]
    assert "16 levels" in alt(figure)
    assert alt(plots.nf4_levels(torch.zeros(64), levels))  # a block of zeros has no largest weight


def test_bars_stand_side_by_side_with_their_values() -> None:
    figure = plots.bars(
        {"r 1": {"learned": 2.0, "held out": 2.5}, "r 8": {"learned": 1.5, "held out": 2}}, "Rank", "nats"
    )
    axes = figure.axes[0]
    assert [[bar.get_width() for bar in series] for series in axes.containers] == [[2.0, 1.5], [2.5, 2.0]]
    middles = [bar.get_y() + bar.get_height() / 2 for series in axes.containers for bar in series]
    assert [round(middle) for middle in middles] == [0, 1, 0, 1]  # each beside its group's name
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["learned", "held out"]
    assert alt(figure) == "Rank, nats: r 1 learned 2, held out 2.5; r 8 learned 1.5, held out 2."
    assert plots.bars({"a": {"ms": 1.0}}, "One", "ms").axes[0].get_legend() is None


def test_singular_values_tell_their_numbers() -> None:
    figure = plots.singular_values({"layer 0": torch.tensor([3.0, 2.0, 1.0, 0.5])}, r=4)
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [3.0, 2.0, 1.0, 0.5, 0.0]
    assert "r = 4: layer 0 3 to 0.5" in alt(figure)

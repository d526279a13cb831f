"""What the lessons stand on: the panel of long work."""

from __future__ import annotations

from lora_kit.panel import panel


def test_the_panel_escapes_and_draws_what_there_is() -> None:
    shown = panel("<b>training</b>", 0.25, [4.0, 2.0, 1.0], "stop: <■>")
    assert "<b>" not in shown and "&lt;■&gt;" in shown and "width:25.0%" in shown
    assert "points='0.0,4.0 240.0,47.0 480.0,68.5'" in shown and "loss, from 4 to 1" in shown
    assert "svg" not in panel("reading", None, [1.0]) and "height:8px" not in panel("reading", None)


def test_a_long_course_is_thinned_and_a_flat_one_is_no_error() -> None:
    assert panel("x", 1.0, [1.0] * 5000).count(",") < 600
    assert "polyline" in panel("x", 1.0, [0.0, 0.0])

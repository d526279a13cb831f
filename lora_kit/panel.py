"""What a notebook shows of long work: a bar, the figures, the course of the loss, and how to stop."""

from __future__ import annotations

import html
from collections.abc import Sequence

WIDTH, HEIGHT = 480, 90  # pixels of the curve
POINTS = 240  # of the curve; a longer course is thinned
BOX = "border:1px solid #8888;border-radius:6px;padding:.5em .8em;max-width:520px;font-family:sans-serif;font-size:90%"


def panel(line: str, share: float | None, course: Sequence[float] = (), hint: str = "") -> str:
    """The panel as HTML, readable on dark and on light paper, every text escaped.

    Args:
        line: what the text form says.
        share: how much is done, 0 to 1; None where nobody knows.
        course: a figure so far, oldest first, drawn as a curve.
        hint: how to stop, below.
    """
    bar = "" if share is None else _bar(share)
    curve = _curve(course) if len(course) > 1 else ""
    below = f"<div style='opacity:.75;margin-top:.4em'>{html.escape(hint)}</div>" if hint else ""
    return f"<div style='{BOX}'>{bar}<div style='font-family:monospace'>{html.escape(line)}</div>{curve}{below}</div>"


def _bar(share: float) -> str:
    filled = f"width:{100 * min(max(share, 0.0), 1.0):.1f}%;height:100%;background:#0072B2;border-radius:4px"
    track = "height:8px;background:#8884;border-radius:4px;margin-bottom:.5em"
    return f"<div style='{track}'><div style='{filled}'></div></div>"


def _curve(course: Sequence[float]) -> str:
    """A line from the first value to the last, zero at the bottom."""
    thinned = course[:: max(1, len(course) // POINTS)]
    most, last = max(thinned) or 1.0, len(thinned) - 1
    points = " ".join(
        f"{WIDTH * place / max(last, 1):.1f},{HEIGHT - (HEIGHT - 4) * value / most:.1f}"
        for place, value in enumerate(thinned)
    )
    return (
        f"<svg role='img' aria-label='loss, from {course[0]:.3g} to {course[-1]:.3g}' viewBox='0 0 {WIDTH} {HEIGHT}' "
        "preserveAspectRatio='none' "
        f"style='width:100%;height:{HEIGHT}px;margin-top:.5em'>"
        f"<polyline points='{points}' fill='none' stroke='#0072B2' stroke-width='2' "
        "vector-effect='non-scaling-stroke'/>"
        "</svg>"
    )

"""What long work shows: one rewritten line in a terminal, plain lines in a log, a live panel in a notebook.

    with Progress("training", total=480) as progress:
        for step in range(480):
            ...
            progress.update(step + 1, loss=loss)

LORA_KIT_PROGRESS=off keeps it quiet.
"""

from __future__ import annotations

import html
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

EVERY = {"terminal": 0.1, "notebook": 0.5, "log": 10.0}  # seconds between two showings, at least
BAR = 20  # characters
BOX = "border:1px solid #8888;border-radius:6px;padding:.5em .8em;max-width:520px;font-family:sans-serif;font-size:90%"
CURVE = (480, 90)  # pixels
POINTS = 240  # of the curve; a longer one is thinned


class Progress:
    """A context manager that shows how far work is, its figures and the time left; the last line says the time taken.

    Args:
        title: what is being done.
        total: steps in all; 0 when nobody knows.
        curve: the figure that a notebook draws as a curve.
        hint: how to stop it, said in a notebook: while a cell runs, no button of it would be heard.
    """

    def __init__(self, title: str, total: int, *, curve: str = "", hint: str = "") -> None:
        self.title, self.total = title, total
        self.curve, self.hint = curve, hint
        self._values: list[float] = []
        self.done = 0.0
        self.figures: dict[str, float] = {}
        self.mode = _mode()
        self.start = time.monotonic()
        self._shown_at, self._width = float("-inf"), 0
        self._first: tuple[float, float] | None = None  # when the first update came, and what was done by then
        self._handle: Any = None  # of the notebook's output

    def __enter__(self) -> Progress:
        self.start = time.monotonic()
        return self

    def update(self, done: float, **figures: float) -> None:
        """Say that `done` steps are behind; figures such as `loss=0.7` stay until a newer value comes."""
        self.done = done
        self.figures |= figures
        if self.curve in figures:
            self._values.append(figures[self.curve])
        now = time.monotonic()
        self._first = self._first or (now, done)
        if self.mode != "off" and now - self._shown_at >= EVERY[self.mode]:
            self._shown_at = now
            self._show(self._line(now))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.mode == "off":
            return
        took = duration(time.monotonic() - self.start)
        end = f"{self._count()} in {took}" if kind is None else f"stopped at {self._count()} after {took}"
        self._show("  ".join([f"{self.title}: {end}", *self._figures()]), last=True)

    def _count(self) -> str:
        return f"{self.done:,.0f} of {self.total:,}" if self.total else f"{self.done:,.0f}"

    def _figures(self) -> list[str]:
        return [f"{name} {value:.4g}" for name, value in self.figures.items()]

    def _line(self, now: float) -> str:
        parts, share = [self.title, self._count(), *self._figures()], self._share()
        if share is not None:
            drawn = "" if self.mode == "notebook" else f"[{'#' * int(share * BAR):.<{BAR}}] "  # the panel has a bar
            parts.insert(1, f"{drawn}{share:4.0%}")
            began, before = self._first or (now, self.done)  # resumed work did not do what was done before
            if before < self.done < self.total:
                parts.append(f"{duration((now - began) / (self.done - before) * (self.total - self.done))} left")
        return "  ".join(parts)

    def _share(self) -> float | None:
        return min(max(self.done / self.total, 0.0), 1.0) if self.total else None

    def _show(self, line: str, last: bool = False) -> None:
        if self.mode == "log":
            print(line, flush=True)
        elif self.mode == "terminal":  # a line that wraps could not be rewritten; a shorter one must cover a longer one
            line = line if last else line[: shutil.get_terminal_size().columns - 1]
            print(f"\r{line:<{self._width}}", end="\n" if last else "", flush=True)
            self._width = len(line)
        else:
            from IPython.display import display

            page = panel(line, self._share(), self._values, "" if last else self.hint)
            data = {"text/plain": line, "text/html": page}
            if self._handle is None:
                self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            else:
                self._handle.update(data, raw=True)


def duration(seconds: float) -> str:
    """A length of time as people say it: "8 s", "3 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this; IPython is never loaded by us, a script has no notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def _mode() -> str:
    """Who reads: "notebook", "terminal", "log", or "off" when nobody should."""
    quiet = os.environ.get("LORA_KIT_PROGRESS", "").lower() == "off"
    if quiet or os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes one speaks
        return "off"
    if in_notebook():
        return "notebook"
    return "terminal" if sys.stdout.isatty() else "log"


def panel(line: str, share: float | None, values: Sequence[float] = (), hint: str = "") -> str:
    """What a notebook shows, as HTML that is readable on dark and on light paper, every text escaped.

    Args:
        line: what the text form says.
        share: how much is done, 0 to 1; None where nobody knows.
        values: a figure so far, oldest first, drawn as a curve.
        hint: how to stop, below.
    """
    bar = "" if share is None else f"<progress value='{share:.3f}' style='width:100%;accent-color:#0072B2'></progress>"
    curve = _curve(values) if len(values) > 1 else ""
    below = f"<div style='opacity:.75;margin-top:.4em'>{html.escape(hint)}</div>" if hint else ""
    return f"<div style='{BOX}'>{bar}<div style='font-family:monospace'>{html.escape(line)}</div>{curve}{below}</div>"


def _curve(values: Sequence[float]) -> str:
    """A line from the first value to the last, zero at the bottom."""
    (width, height), thinned = CURVE, values[:: max(1, len(values) // POINTS)]
    most, last = max(thinned) or 1.0, len(thinned) - 1
    points = " ".join(
        f"{width * x / max(last, 1):.1f},{height - (height - 4) * y / most:.1f}" for x, y in enumerate(thinned)
    )
    return (
        f"<svg role='img' aria-label='loss, from {values[0]:.3g} to {values[-1]:.3g}' viewBox='0 0 {width} {height}' "
        f"preserveAspectRatio='none' style='width:100%;height:{height}px;margin-top:.5em'><polyline points='{points}' "
        "fill='none' stroke='#0072B2' stroke-width='2' vector-effect='non-scaling-stroke'/></svg>"
    )

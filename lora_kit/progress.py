"""What long work shows: one rewritten line in a terminal, plain lines in a log, a live panel in a notebook.

LORA_KIT_PROGRESS=off keeps it quiet.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .templates import render

EVERY = {"terminal": 0.1, "notebook": 0.5, "log": 10.0}  # seconds between two showings, at least
BAR = 20  # characters
POINTS = 240  # of the curve; a longer one is thinned


class Progress:
    """A context manager that shows how far work is, its figures and the time left; the last line says the time taken.

    A `total` of 0 is not known yet. A notebook draws the figure `curve` and shows the `hint`, how to stop: while a cell
    runs, its buttons do nothing.
    """

    def __init__(self, title: str, total: int, *, curve: str = "", hint: str = "") -> None:
        self.title, self.total, self.curve, self.hint = title, total, curve, hint
        self.done, self.figures, self.mode, self.start = 0.0, dict[str, float](), _mode(), time.monotonic()
        self._values: list[float] = []  # of the curve
        self._shown_at, self._width = float("-inf"), 0
        self._first: tuple[float, float] | None = None  # when the first update came, and what was done by then
        self._handle: Any = None  # of the notebook's output

    def __enter__(self) -> Progress:
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
            self._shown_at, count = now, self._count()
            if (share := self._share()) is not None:
                bar = f"[{'#' * int(share * BAR):.<{BAR}}] " if self.mode != "notebook" else ""  # its panel has one
                count = f"{bar}{share:4.0%}  {count}"
            self._show(f"{self.title}  {count}", self._left(now))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        took = duration(time.monotonic() - self.start)
        end = f"{self._count()} in {took}" if kind is None else f"stopped at {self._count()} after {took}"
        self._show(f"{self.title}: {end}", last=True)

    def _share(self) -> float | None:
        return min(self.done / self.total, 1.0) if self.total else None

    def _count(self) -> str:
        return f"{self.done:,.0f} of {self.total:,}" if self.total else f"{self.done:,.0f}"

    def _left(self, now: float) -> str:
        """The time left, by the pace since the first update: resumed work did not do what was done before."""
        began, before = self._first or (now, self.done)
        if not before < self.done < self.total:
            return ""
        return f"  {duration((now - began) / (self.done - before) * (self.total - self.done))} left"

    def _show(self, head: str, left: str = "", last: bool = False) -> None:
        line = "  ".join([head, *(f"{name} {value:.4g}" for name, value in self.figures.items())]) + left
        with suppress(OSError):  # a log on a full disk, a terminal that was closed: no reason to stop
            if self.mode == "log":
                print(line, flush=True)
            elif self.mode == "terminal":
                # a line that wraps could not be rewritten; a shorter one must cover a longer one
                line = line if last else line[: shutil.get_terminal_size().columns - 1]
                print(f"\r{line:<{self._width}}", end="\n" if last else "", flush=True)
                self._width = len(line)
            elif self.mode == "notebook":
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
    """Where it is shown: "notebook", "terminal", "log", or "off"."""
    quiet = os.environ.get("LORA_KIT_PROGRESS", "").lower() == "off"
    if quiet or os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes one prints
        return "off"
    if in_notebook():
        return "notebook"
    return "terminal" if sys.stdout.isatty() else "log"


def panel(line: str, share: float | None, values: Sequence[float] = (), hint: str = "") -> str:
    """What a notebook shows: the line, a bar of what is done, a figure as a curve over zero, how to stop."""
    thinned = values[:: max(1, len(values) // POINTS)]
    most, last = max(thinned, default=0.0) or 1.0, max(len(thinned) - 1, 1)
    # in the template's viewBox, 480 by 90
    points = " ".join(f"{480 * x / last:.1f},{90 - 86 * y / most:.1f}" for x, y in enumerate(thinned))
    return render("progress.html", line=line, share=share, values=values, points=points, hint=hint)

"""What long work shows: one rewritten line in a terminal, plain lines in a log, a live panel in a notebook.

    with Progress("training", total=480) as progress:
        for step in range(480):
            ...
            progress.update(step + 1, loss=loss)

LORA_KIT_PROGRESS=off keeps it quiet.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any

from .panel import panel

EVERY = {"terminal": 0.1, "notebook": 0.5, "log": 10.0}  # seconds between two showings, at least
BAR = 20  # characters


class Progress:
    """A context manager that shows how far work is, its figures and the time left; the last line says the time taken.

    Args:
        title: what is being done.
        total: steps in all; 0 when nobody knows.
        curve: the figure whose course a notebook draws.
        hint: how to stop it, said in a notebook: while a cell runs, no button of it would be heard.
    """

    def __init__(self, title: str, total: int, *, curve: str = "", hint: str = "") -> None:
        self.title, self.total = title, total
        self.curve, self.hint = curve, hint
        self._course: list[float] = []
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
            self._course.append(figures[self.curve])
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
        if self.mode == "notebook":
            self._show_in_notebook(line, last)
        elif self.mode == "log":
            print(line, flush=True)
        else:  # a line that wraps could not be rewritten; a shorter one must cover the longer one before it
            line = line if last else line[: shutil.get_terminal_size().columns - 1]
            print(f"\r{line:<{self._width}}", end="\n" if last else "", flush=True)
            self._width = len(line)

    def _show_in_notebook(self, line: str, last: bool) -> None:
        from IPython.display import display

        shown = panel(line, self._share(), self._course, "" if last else self.hint)
        data = {"text/plain": line, "text/html": shown}
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

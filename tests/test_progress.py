"""Progress in a terminal, in a log and in a notebook, with a clock of the test's own."""

from __future__ import annotations

import errno
import sys
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from lora_kit import progress
from lora_kit.progress import Progress, duration


class Clock:
    """Time that passes only when the test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    monkeypatch.setattr(progress, "_mode", lambda: "log")
    return found


def test_a_log_gets_a_line_at_most_every_ten_seconds_and_a_last_one(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 40) as work:
        for step in range(40):
            clock.now += 1
            work.update(step + 1, loss=2.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5  # after 1, 11, 21 and 31 seconds, and at the end
    assert lines[-1] == "training: 40 of 40 in 40 s  loss 2"
    assert lines[1] == "training  [#####...............]  28%  11 of 40  loss 2  29 s left"


def test_what_goes_on_after_a_stop_counts_the_time_left_from_there(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 480) as work:
        clock.now += 30  # the first step, with what is made ready for it
        work.update(441)
        for step in (442, 443):
            clock.now += 60
            work.update(step)
    first, second, third, _ = capsys.readouterr().out.splitlines()
    assert "left" not in first
    assert second.endswith("442 of 480  38 min left") and third.endswith("443 of 480  37 min left")


def test_a_log_on_a_full_disk_stops_no_work(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.print", full)
    with Progress("training", 2) as work:
        work.update(1)
        work.update(2)
    assert work.done == 2


def test_a_terminal_rewrites_one_line_and_clears_what_was_longer(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_mode", lambda: "terminal")
    monkeypatch.setenv("COLUMNS", "60")
    with Progress("a long title that a narrow window cannot hold", 2) as work:
        clock.now += 30
        work.update(1, loss=0.123456, rate=4400.0)
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    _, first, last = text.split("\r")
    assert len(first) == 59
    assert len(last.rstrip("\n")) >= 59


def test_a_failing_block_says_where_it_stopped_and_the_error_goes_on(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), Progress("training", 10) as work:
        work.update(3)
        clock.now += 125
        raise KeyboardInterrupt
    assert capsys.readouterr().out.splitlines()[-1] == "training: stopped at 3 of 10 after 2 min"


def test_totals_that_nobody_knows_and_counts_beyond_the_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("reading", 0) as work:
        work.update(7)
    with Progress("reading", 5) as work:
        work.update(7)
    out = capsys.readouterr().out
    assert "reading  7\n" in out
    assert "100%  7 of 5" in out
    assert "left" not in out


def test_a_notebook_updates_one_output_and_escapes_the_text(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data))

    def display(data: dict[str, str], **options: Any) -> SimpleNamespace:
        shown.append(data)
        return handle

    monkeypatch.setattr(progress, "_mode", lambda: "notebook")
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    with Progress("<b>faq</b>", 2) as work:
        for step in (1, 2):
            clock.now += 1
            work.update(step)
    assert len(shown) == 3
    assert "&lt;b&gt;faq" in shown[0]["text/html"]
    assert "<b>" not in shown[0]["text/html"]
    assert shown[-1]["text/plain"] == "<b>faq</b>: 2 of 2 in 2.0 s"


@pytest.mark.parametrize(("name", "value"), [("LORA_KIT_PROGRESS", "off"), ("LOCAL_RANK", "1")])
def test_quiet_when_asked_and_in_second_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with Progress("training", 1) as work:
        work.update(1)
    assert capsys.readouterr().out == ""


def test_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_KIT_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert progress._mode() == "log"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert progress._mode() == "terminal"
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert progress._mode() == "notebook"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_panel_escapes_and_draws_what_there_is() -> None:
    shown = progress.panel("<b>training</b>", 0.25, [4.0, 2.0, 1.0], "stop: <■>")
    assert "<b>" not in shown and "&lt;■&gt;" in shown and "value='0.250'" in shown
    assert "points='0.0,4.0 240.0,47.0 480.0,68.5'" in shown and "loss, from 4 to 1" in shown
    assert "svg" not in progress.panel("reading", None, [1.0]) and "<progress" not in progress.panel("reading", None)


def test_a_long_course_is_thinned_and_a_flat_one_is_no_error() -> None:
    assert progress.panel("x", 1.0, [1.0] * 5000).count(",") < 600
    assert "polyline" in progress.panel("x", 1.0, [0.0, 0.0])

"""The report card as people read it: a table in the terminal, one web page that works offline, Markdown for a README.

Titles, questions and answers come from anywhere, so each format takes them through its own escape.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

from ..figures import MODELS, before_after, loss_curve, png
from ..progress import duration
from ..training import loss_ends
from .measures import headline

TEMPLATE = Path(__file__).parents[1] / "assets" / "report" / "template.html"
NOT_MEASURED = "not measured"
SAMPLES = 2  # questions of each kind shown first
SIGNS = {"ship": "✓", "don't ship": "✗"}  # anything else: "?"


def terminal_table(card: dict[str, Any]) -> str:
    """The figures as an aligned table, what was learned before, the noise floor, the verdict and its reasons."""
    head = ["figure", "what it means", "base", "adapter", "merged [95 %]", "to base [95 %]", "n", "better"]
    rows = [_terminal_row(name, measured) for name, measured in card["figures"].items()]
    title = _plain(f"{card['title']}, adapter {card['adapter']}, profile {card['profile']}")
    decision = _plain(f"verdict: {card['verdict']['decision']}")
    reasons = [f"  - {_plain(reason)}" for reason in card["verdict"]["reasons"]]
    return "\n".join([title, "", *_aligned(head, rows), "", *map(_plain, besides(card)), "", decision, *reasons])


def markdown_card(card: dict[str, Any]) -> str:
    """The figures, verdict and reasons as Markdown, for the README of a model."""
    verdict = card["verdict"]
    lines = [
        f"**{_markdown(card['title'])}**, adapter {_markdown(card['adapter'])} on {_markdown(card['dataset'])}, "
        f"profile {_markdown(card['profile'])}, {_markdown(_day(card['made']))}",
        "",
        "| figure | what it means | base | adapter | merged | to base | n | better |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, measured in card["figures"].items():
        values = [" ".join(_value(measured, model)).strip() for model in MODELS]
        cells = [_markdown(name), _markdown(_meaning(measured)), *values, difference(measured, "merged")]
        cells += [str(measured["n"]), _better(measured)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        *(_markdown(line) + "  " for line in besides(card)),
        "",
        f"Verdict: **{_markdown(verdict['decision'])}**",
        "",
    ]
    lines += [f"- {_markdown(reason)}" for reason in verdict["reasons"]]
    return (
        "\n".join([*lines, "", "In brackets: 95 % intervals, by bootstrap; differences question by question."]) + "\n"
    )


def write_html(card: dict[str, Any], answers: list[dict[str, Any]], log: list[dict[str, Any]], path: Path) -> None:
    """Write the report as one page that needs nothing beside it and no network.

    Args:
        card: the report card; a figure that is None is shown as "not measured".
        answers: one row a question, with the three models' answers and marks.
        log: the training log, for the loss curve.
        path: the file to write.
    """
    decision, shown = card["verdict"]["decision"], headline(card["figures"])
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        {name: _html(card[name]) for name in ("title", "profile", "dataset", "adapter", "questions")},
        made=_html(_day(card["made"])),
        decision=_html(decision.capitalize()),
        sign=SIGNS.get(decision, "?"),
        tone={"ship": "good", "don't ship": "bad"}.get(decision, "open"),
        reasons="".join(f"<li>{_html(reason)}</li>" for reason in card["verdict"]["reasons"]),
        figures="\n".join(_figure_row(name, measured) for name, measured in card["figures"].items()),
        besides="".join(f"<li>{_html(line)}</li>" for line in besides(card)),
        bars=_image(png(before_after(shown)), _bars_text(shown)),
        curve=_image(png(loss_curve(log)), _curve_text(log)),
        training=_html(_curve_text(log)),
        samples="\n".join(_sample(row) for row in sample(answers)) or "<p>No answers to show.</p>",
        kinds="".join(f'<option value="{_html(kind)}">{_html(kind)}</option>' for kind in _kinds(answers)),
        answers="\n".join(_answer_row(row) for row in answers),
        count=len(answers),
    )
    path.write_text(page, encoding="utf-8", errors="replace")


def sample(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few rows of each kind, at even distances, so that nobody picked the good ones."""
    rows = [[row for row in answers if row["kind"] == kind] for kind in _kinds(answers)]
    return [row for same in rows for row in same[:: -(-len(same) // SAMPLES)]]


def _kinds(answers: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in answers))


def _value(measured: dict[str, Any], model: str) -> tuple[str, str]:
    """A share and its interval, as in ("0.960", "[0.932, 0.984]")."""
    value, ends = measured.get(model), (measured.get("interval") or {}).get(model)
    if value is None:
        return NOT_MEASURED, ""
    return f"{value:.3f}", f"[{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""


def difference(measured: dict[str, Any], model: str) -> str:
    """How far a model is from the base, on the same questions, as in "+0.960 [+0.932, +0.984]"."""
    found = (measured.get("difference") or {}).get(model)
    return f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]" if found else "–"


def besides(card: dict[str, Any]) -> list[str]:
    """What is no figure of a model: questions that were learned, the noise floor, tasks of lm-eval."""
    leaks, noise = card["leaked"], card["noise"]
    looked = "" if leaks["compared"] == leaks["learned_rows"] else f" (of {leaks['learned_rows']:,})"
    lines = [
        f"leaked: {leaks['questions']} of {leaks['n']} questions were learned in nearly the same words; "
        f"{leaks['compared']:,} learned rows{looked} compared",
        f"noise floor: asked again in other batches, the base changes {noise['changed']} of {noise['questions']} "
        f"answers, {noise['marks']} of them from right to wrong or back",
    ]
    for task, metrics in card.get("harness", {}).items():
        for metric, values in metrics.items():
            told = ", ".join(f"{model} {value:.4g}" for model, value in values.items())
            lines.append(f"lm-eval {task}, {metric.removesuffix(',none')}: {told}")
    return lines


def _meaning(measured: dict[str, Any]) -> str:
    own = measured.get("base_own")
    if own is None:
        return str(measured["meaning"])
    return f"{measured['meaning']}; the base's own is {own:.3f}"


def _better(measured: dict[str, Any]) -> str:
    return "lower" if measured["lower"] else "higher"


def _terminal_row(name: str, measured: dict[str, Any]) -> list[str]:
    base, adapter = (_value(measured, model)[0] for model in ("base", "adapter"))
    merged = " ".join(_value(measured, "merged")).strip()
    told = [_plain(name), _plain(measured["meaning"]), base, adapter, merged, difference(measured, "merged")]
    return [*told, str(measured["n"]), _better(measured)]


def _aligned(head: list[str], rows: list[list[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    table = [head, ["-" * width for width in widths], *rows]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _plain(text: str) -> str:
    """One line without control characters, which could repaint a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _markdown(text: str) -> str:
    """Text that stays text in a Markdown table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(_plain(text), quote=False))


def _html(text: str) -> str:
    return html.escape(str(text), quote=True)


def _day(made: str) -> str:
    """ "2026-11-23T21:00:00Z" as "2026-11-23 21:00 UTC"; anything else as it is."""
    try:
        return f"{datetime.fromisoformat(made):%Y-%m-%d %H:%M %Z}"
    except ValueError:
        return made


def _image(data: bytes, text: str) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{_html(text)}">'


def _curve_text(log: Sequence[dict[str, Any]]) -> str:
    """The curve in words, for its caption and for those who cannot see it."""
    if not log:
        return "Training loss: no steps in the log."
    (first, final), last = loss_ends(log), log[-1]
    checked = [row["validation_loss"] for row in log if row.get("validation_loss") is not None]
    held_out = f", on held-out rows to {checked[-1]:.3f}" if checked else ""
    took = f"{last['tokens']:,} tokens in {duration(last['seconds'])}"
    return f"Loss from {first:.3f} to {final:.3f}{held_out}; {len(log):,} steps, {took}."


def _bars_text(figures: dict[str, dict[str, Any]]) -> str:
    rows = [f"{n} " + ", ".join(f"{model} {_value(m, model)[0]}" for model in MODELS) for n, m in figures.items()]
    return f"Bars of each figure before and after: {'; '.join(rows)}."


def _figure_row(name: str, measured: dict[str, Any]) -> str:
    cells = []
    for model in MODELS:
        value, interval = _value(measured, model)
        tone = ' class="none"' if value == NOT_MEASURED else ""
        cells.append(f'<td data-label="{model}"{tone}><b>{value}</b> <small>{interval}</small></td>')
    return (
        f'<tr><th scope="row">{_html(name)}<small>{_html(_meaning(measured))}</small></th>{"".join(cells)}'
        f'<td data-label="to base">{_html(difference(measured, "merged"))}</td>'
        f'<td data-label="questions">{_html(measured["n"])}</td><td data-label="better">{_better(measured)}</td></tr>'
    )


def _mark(row: dict[str, Any], model: str) -> str:
    mark = row["marks"].get(model)
    if mark is None:
        return '<span class="mark">not judged</span>'
    return '<span class="mark right">✓ right</span>' if mark else '<span class="mark wrong">✗ wrong</span>'


def _text(text: str) -> str:
    return f'<span class="text" dir="auto">{_html(text)}</span>' if text.strip() else "<em>(empty)</em>"


def _sample(row: dict[str, Any]) -> str:
    answers = "".join(
        f'<div class="{model}"><h4>{model} {_mark(row, model)}</h4>{_text(row[model])}</div>' for model in MODELS
    )
    question = f'<p class="kind">{_html(row["kind"])}</p><h3>{_text(row["question"])}</h3>'
    reference = f'<p class="reference"><b>Reference</b> {_text(row["reference"])}</p>'
    return f'<article>{question}{reference}<div class="three">{answers}</div></article>'


def changed(row: dict[str, Any]) -> str:
    """What tuning did to one answer: "mended", "broke", "reworded", or nothing."""
    before, after = row["marks"].get("base"), row["marks"].get("merged")
    if before != after:
        return "mended" if after else "broke"
    return "" if row["base"] == row["merged"] else "reworded"


def _answer_row(row: dict[str, Any]) -> str:
    marks, kind = row["marks"], _html(row["kind"])
    change = changed(row)
    result = f"{'right' if marks.get('merged') else 'wrong'} {change} {'leaked' * bool(row.get('leaked'))}".strip()
    cells = {"kind": kind, "question": _text(row["question"]), "reference": _text(row["reference"])}
    cells |= {model: _mark(row, model) + _text(row[model]) for model in MODELS} | {"changed": change or "–"}
    columns = "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in cells.items())
    return f'<tr data-kind="{kind}" data-result="{result}">{columns}</tr>'

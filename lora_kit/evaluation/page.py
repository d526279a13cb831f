"""The report card as one web page that needs nothing beside it and no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from ..figures import MODELS, before_after, loss_curve, png
from ..progress import duration
from ..training import loss_ends
from .measures import headline
from .report import NOT_MEASURED, besides, better, day, difference, value

TEMPLATE = Path(__file__).parents[1] / "assets" / "report" / "template.html"
SAMPLES = 2  # questions of each kind shown first
SIGNS = {"ship": "✓", "don't ship": "✗"}  # anything else: "?"


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
        made=_html(day(card["made"])),
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


def changed(row: dict[str, Any]) -> str:
    """What tuning did to one answer: "mended", "broke", "reworded", or nothing."""
    before, after = row["marks"].get("base"), row["marks"].get("merged")
    if before != after:
        return "mended" if after else "broke"
    return "" if row["base"] == row["merged"] else "reworded"


def _kinds(answers: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in answers))


def _html(text: str) -> str:
    return html.escape(str(text), quote=True)


def _image(data: bytes, text: str) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{_html(text)}">'


def _curve_text(log: Sequence[dict[str, Any]]) -> str:
    """The curve in words, for its caption and for those who cannot see it."""
    if not log:
        return "Training loss: no steps in the log."
    (first, final), last = loss_ends(log), log[-1]
    checked = [row["evaluation_loss"] for row in log if row.get("evaluation_loss") is not None]
    held_out = f", on held-out rows to {checked[-1]:.3f}" if checked else ""
    took = f"{last['tokens']:,} tokens in {duration(last['seconds'])}"
    return f"Loss from {first:.3f} to {final:.3f}{held_out}; {len(log):,} steps, {took}."


def _bars_text(figures: dict[str, dict[str, Any]]) -> str:
    rows = [f"{n} " + ", ".join(f"{model} {value(m, model)[0]}" for model in MODELS) for n, m in figures.items()]
    return f"Bars of each figure before and after: {'; '.join(rows)}."


def _figure_row(name: str, measured: dict[str, Any]) -> str:
    change, _, ends = difference(measured, "merged").partition(" ")
    cells = []
    for model in MODELS:
        told, interval = value(measured, model)
        tone = ' class="none"' if told == NOT_MEASURED else ""
        cells.append(f'<td data-label="{model}"{tone}><b>{told}</b> <small>{interval}</small></td>')
    return (
        f'<tr><th scope="row">{_html(name)}<small>{_html(measured["meaning"])}</small></th>{"".join(cells)}'
        f'<td data-label="to base"><b>{change}</b> <small>{ends}</small></td>'
        f'<td data-label="questions">{_html(measured["n"])}</td><td data-label="better">{better(measured)}</td></tr>'
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


def _answer_row(row: dict[str, Any]) -> str:
    marks, kind = row["marks"], _html(row["kind"])
    change = changed(row)
    result = f"{'right' if marks.get('merged') else 'wrong'} {change} {'leaked' * bool(row.get('leaked'))}".strip()
    cells = {"kind": kind, "question": _text(row["question"]), "reference": _text(row["reference"])}
    cells |= {model: _mark(row, model) + _text(row[model]) for model in MODELS} | {"changed": change or "–"}
    columns = "".join(f'<td data-label="{name}">{cell}</td>' for name, cell in cells.items())
    return f'<tr data-kind="{kind}" data-result="{result}">{columns}</tr>'

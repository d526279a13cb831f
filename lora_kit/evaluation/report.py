"""The report card as text: a table in the terminal, Markdown for a README; and the words that its page shares.

Titles, questions and answers come from anywhere, so each format takes them through its own escape.
"""

from __future__ import annotations

import html
import re
from datetime import datetime
from typing import Any

from ..figures import MODELS

NOT_MEASURED = "not measured"


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
        f"profile {_markdown(card['profile'])}, {_markdown(day(card['made']))}",
        "",
        "| figure | what it means | base | adapter | merged | to base | n | better |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, measured in card["figures"].items():
        values = [" ".join(value(measured, model)).strip() for model in MODELS]
        cells = [_markdown(name), _markdown(measured["meaning"]), *values, difference(measured, "merged")]
        cells += [str(measured["n"]), better(measured)]
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


def value(measured: dict[str, Any], model: str) -> tuple[str, str]:
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


def better(measured: dict[str, Any]) -> str:
    return "lower" if measured["lower"] else "higher"


def _terminal_row(name: str, measured: dict[str, Any]) -> list[str]:
    base, adapter = (value(measured, model)[0] for model in ("base", "adapter"))
    merged = " ".join(value(measured, "merged")).strip()
    told = [_plain(name), _plain(measured["meaning"]), base, adapter, merged, difference(measured, "merged")]
    return [*told, str(measured["n"]), better(measured)]


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


def day(made: str) -> str:
    """ "2026-11-23T21:00:00Z" as "2026-11-23 21:00 UTC"; anything else as it is."""
    try:
        return f"{datetime.fromisoformat(made):%Y-%m-%d %H:%M %Z}"
    except ValueError:
        return made

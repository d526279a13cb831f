"""The report card as a table in the terminal, as Markdown for a README, and as one web page that needs no network.

Titles, questions and answers come from anywhere: `one_line` cleans what a terminal shows, templates escape the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..plots import before_after, loss_curve, png
from ..progress import duration
from ..templates import one_line, render
from ..training.train import loss_ends
from .card import MODELS, headline

GAP = 0.05  # of the facts that merging lost; a smaller one may be chance
SAMPLES = 2  # questions of each kind shown first


def terminal_table(card: dict[str, Any]) -> str:
    """The metrics as an aligned table, what was learned before, the noise floor, the verdict and its reasons."""
    table = [["metric", "what it means", "base", "adapter", "merged [95 %]", "to base [95 %]", "n", "better"]]
    for name, metric in card["figures"].items():
        found = cells(metric)
        sure = (" ".join(found[column]).strip() for column in ("merged", "change"))
        numbers = [found["base"][0], found["adapter"][0], *sure, str(metric["n"])]
        table.append([one_line(name), one_line(metric["meaning"]), *numbers, "lower" if metric["lower"] else "higher"])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    aligned = ("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in table)
    title, verdict = f"{card['title']}, adapter {card['adapter']}, profile {card['profile']}", card["verdict"]
    last = [f"verdict: {one_line(verdict['decision'])}", *(f"  - {one_line(text)}" for text in verdict["reasons"])]
    return "\n".join([one_line(title), "", *aligned, "", *notes(card), "", *last])


def markdown_card(card: dict[str, Any]) -> str:
    """The metrics, verdict and reasons as Markdown, for the README of a model."""
    return render("report/card.md", card=card, cells=cells, notes=notes(card))


def write_html(card: dict[str, Any], answers: list[dict[str, Any]], log: list[dict[str, Any]], path: Path) -> None:
    """Write the card, the judged answers and the training log as one page that needs nothing beside it, no network."""
    shown = headline(card["figures"])
    page = render(
        "report/page.html",
        card=card,
        cells=cells,
        models=MODELS,
        notes=notes(card),
        headline=shown,
        bars=base64.b64encode(png(before_after(shown))).decode(),
        curve=base64.b64encode(png(loss_curve(log))).decode(),
        training=loss_text(log),
        samples=pick(answers, SAMPLES),
        answers=answers,
        changed=changed,
    )
    path.write_text(page, encoding="utf-8", errors="replace")


def cells(metric: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Each model's value and interval, as in ("0.960", "[0.932, 0.984]"), and the change from base to merged."""
    found = {}
    for model in MODELS:
        value, ends = metric[model], metric["interval"].get(model)
        interval = f"[{ends[0]:.3f}, {ends[1]:.3f}]" if ends and value is not None else ""
        found[model] = ("not measured" if value is None else f"{value:.3f}", interval)
    change = metric["difference"].get("merged")
    found["change"] = (f"{change[0]:+.3f}", f"[{change[1]:+.3f}, {change[2]:+.3f}]") if change else ("–", "")
    return found


def notes(card: dict[str, Any]) -> list[str]:
    """What is no metric of a model: questions that a machine worded or that were learned, and the noise floor."""
    leaks, noise, made = card["leaked"], card["noise"], card["machine_made"]
    worded = f"machine-made: {made} questions are other wordings of learned ones, easier than what people ask"
    stored = "merged: asked as it is stored, the others in 4 bits"
    stored += "; what it kept is told from the base as it is stored" if card["onto"] == "original" else ""
    facts = card["figures"].get("learned_exact", {})
    lost = (facts.get("adapter") or 0.0) - (facts.get("merged") or 0.0)
    cures = {  # by the base that was merged onto, and whether the merged model was asked as it is stored
        ("original", True): "it was trained on the quantized base, and merge__onto='dequantized' merges onto that",
        ("dequantized", False): "in 4 bits again the update is lost; in 16 or 8 bits it answers as the adapter",
    }
    cure = cures.get((card["onto"], card["as_stored"]), "")
    return [
        *([stored] if card["as_stored"] else []),
        *([f"merged: {lost:.0%} fewer facts than the adapter: {cure}"] if lost > GAP and cure else []),
        *([worded] if made else []),
        f"leaked: {leaks['questions']} of {leaks['n']} questions were learned in nearly the same words; "
        f"{leaks['learned_rows']:,} learned rows compared",
        f"noise floor: asked again in other batches, the base changes {noise['changed']} of {noise['questions']} "
        f"answers, {noise['marks']} of them from right to wrong or back",
    ]


def loss_text(log: Sequence[dict[str, Any]]) -> str:
    """The loss curve in words, for its caption and for those who cannot see it."""
    (first, final), last = loss_ends(log), log[-1]
    losses = [row["evaluation_loss"] for row in log if row.get("evaluation_loss") is not None]
    held_out = f", on held-out rows to {losses[-1]:.3f}" if losses else ""
    took = f"{last['tokens']:,} tokens in {duration(last['seconds'])}"
    return f"Loss from {first:.3f} to {final:.3f}{held_out}; {len(log):,} steps, {took}."


def pick(rows: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` rows of each kind, at even distances, so that nobody picks the good ones; all with None."""
    if limit is None:
        return rows
    kinds = {row["kind"]: [other for other in rows if other["kind"] == row["kind"]] for row in rows}
    return [row for same in kinds.values() for row in same[:: -(-len(same) // limit)]]


def changed(row: dict[str, Any]) -> str:
    """What tuning did to one answer: "fixed", "broke", "reworded", or nothing."""
    before, after = row["marks"].get("base"), row["marks"].get("merged")
    if before != after:
        return "fixed" if after else "broke"
    return "" if row["base"] == row["merged"] else "reworded"

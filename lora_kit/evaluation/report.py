"""The report card as people see it: a table in a terminal, HTML in a notebook, Markdown for a README, one web page.

Titles, questions and answers come from anywhere: `one_line` cleans what a terminal shows, templates escape the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.splits import ENOUGH, pick
from ..plots import before_after, loss_curve, png
from ..progress import duration, in_notebook
from ..templates import one_line, render
from ..training.checkpoints import loss_ends
from .card import MODELS, bounds, headline, judged, keeps, needed, number

GAP = 0.05  # of the facts, lost by merging; a smaller gap may be chance
CURES = {  # by the base that was merged onto, and whether the merged model was asked as it is stored
    ("original", True): "it was trained on the quantized base, and merge__onto='dequantized' merges onto that",
    ("dequantized", False): "in 4 bits again the update is lost; in 16 or 8 bits it answers as the adapter",
}
SAMPLES = 2  # questions of each kind that the page shows first


def show(card: dict[str, Any], answers: list[dict[str, Any]]) -> None:
    """Show the card: as HTML with some answers in a notebook, as a table elsewhere."""
    if not in_notebook():
        print(terminal_table(card))
        return
    from IPython.display import display

    data = {"text/plain": terminal_table(card), "text/html": card_html(card, answers)}
    display(data, raw=True)  # type: ignore[no-untyped-call]


def card_html(card: dict[str, Any], answers: list[dict[str, Any]]) -> str:
    """The headline as bars from base to tuned, each with its rule, and a right and a wrong answer of each kind."""
    rows, rules = list[dict[str, Any]](), bounds(card["figures"])
    for name, metric in headline(card["figures"]).items():
        value, row = judged(metric), {"meaning": metric["meaning"], "n": metric["n"]}
        if value is not None:
            is_enough, is_kept = metric["n"] >= ENOUGH, keeps(metric, rules[name])
            row |= {
                "base": round(100 * metric["base"], 1),
                "tuned": round(100 * value, 1),
                "base_text": number(name, metric["base"]),
                "tuned_text": number(name, value),
                "interval": [round(100 * end, 1) for end in metric["interval"].get(metric["tuned"], [])],
                "mark": ("✓" if is_kept else "✗") if is_enough else "too few questions:",
                "rule": needed(name, rules[name], card["figures"]),
            }
        rows.append(row)
    samples = list[dict[str, Any]]()
    for kind in dict.fromkeys(row["kind"] for row in answers):
        for is_right in (True, False):
            same = [row for row in answers if row["kind"] == kind and row["marks"][card["models"][-1]] == is_right]
            samples += same[len(same) // 2 :][:1]  # from the middle, so that nobody picks it
    return render("report/cell.html", card=card, rows=rows, samples=samples, table=terminal_table(card))


def terminal_table(card: dict[str, Any]) -> str:
    """The metrics as an aligned table, the notes, the verdict and its reasons."""
    models = card["models"]
    table = [["metric", "what it means", *models[:-1], f"{models[-1]} [95 %]", "n", "better"]]
    for name, metric in card["figures"].items():
        found = cells(metric)
        numbers = [*(found[model][0] for model in models[:-1]), " ".join(found[models[-1]]).strip(), str(metric["n"])]
        table.append([one_line(name), one_line(metric["meaning"]), *numbers, "lower" if metric["lower"] else "higher"])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    aligned = ("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in table)
    title, found = f"{card['title']}, adapter {card['adapter']}, profile {card['profile']}", card["verdict"]
    last = [f"verdict: {one_line(found['decision'])}", *(f"  - {one_line(text)}" for text in found["reasons"])]
    return "\n".join([one_line(title), "", *aligned, "", *notes(card), "", *last])


def markdown_card(card: dict[str, Any]) -> str:
    """The metrics, verdict and reasons as Markdown, for the README of a model."""
    return render("report/card.md", card=card, cells=cells, notes=notes(card))


def write_html(card: dict[str, Any], answers: list[dict[str, Any]], log: list[dict[str, Any]], path: Path) -> None:
    """Write card, judged answers and training log as one page that needs no other file and no network."""
    shown = headline(card["figures"])
    page = render(
        "report/page.html",
        card=card,
        cells=cells,
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
    """Each model's value and interval, as in ("0.960", "[0.932, 0.984]"), and the change from base to tuned."""
    found = {}
    for model in MODELS:
        value, interval = metric[model], metric["interval"].get(model)
        sure = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval and value is not None else ""
        found[model] = ("not measured" if value is None else f"{value:.3f}", sure)
    change = metric["difference"].get(metric["tuned"])
    found["change"] = (f"{change[0]:+.3f}", f"[{change[1]:+.3f}, {change[2]:+.3f}]") if change else ("–", "")
    return found


def notes(card: dict[str, Any]) -> list[str]:
    """What is no metric: how the merged model was asked, machine-made and learned questions, the noise floor."""
    leaks, noise, made, as_stored = (card[key] for key in ("leaked", "noise", "machine_made", "as_stored"))
    facts, lines = card["figures"].get("learned_exact", {}), list[str]()
    lost, cure = (facts.get("adapter") or 0.0) - (facts.get("merged") or 0.0), CURES.get((card["onto"], as_stored))
    if "merged" not in card["models"]:
        lines.append("merged: there is no merged model; the verdict is about base and adapter")
    elif as_stored:
        reference = "; what it kept is measured against the base as it is stored" if card["onto"] == "original" else ""
        lines.append(f"merged: asked as it is stored, the others in 4 bits{reference}")
    if lost > GAP and cure:
        lines.append(f"merged: {lost:.0%} fewer facts than the adapter: {cure}")
    if made:
        lines.append(f"machine-made: {made} questions are other wordings of learned ones, easier than what people ask")
    return [
        *lines,
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


def changed(row: dict[str, Any]) -> str:
    """What tuning did to one answer: "fixed", "broke", "reworded", or nothing."""
    (_, before), *_, (tuned, after) = row["marks"].items()
    if before != after:
        return "fixed" if after else "broke"
    return "" if row["base"] == row[tuned] else "reworded"

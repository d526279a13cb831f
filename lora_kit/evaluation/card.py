"""The report card: its metrics, how sure each is, the verdict; as a table, as Markdown, and as a web page.

Intervals are 95 % bootstrap intervals, and models are compared on the same questions. What the dataset cannot show is
None, "not measured", never silently good. Titles, questions and answers come from anywhere: `one_line` cleans what a
terminal shows, templates escape the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..plots import before_after, loss_curve, png
from ..progress import duration
from ..templates import one_line, render
from ..training.train import loss_ends
from .metrics import DRAWS, ends, resampled, share_ends

MODELS = ("base", "adapter", "merged")
OWN = ("fact", "decline", "unseen")  # what the data is about; on general questions the base is the measure
FACT, DECLINE, GENERAL = ("fact",), ("decline",), ("general",)
ENOUGH = 30  # questions; below this an interval is too wide to decide on
LEARNED_BEFORE = 0.05  # learned questions by those that are not general; with more, the card measures memory
NOISE = 0.05  # share of the base's marks that may change with the batches
CHECKED = 0.90  # what the merged model must reach in the user's own checks
GAP = 0.05  # of the facts, lost by merging; a smaller gap may be chance
CURES = {  # by the base that was merged onto, and whether the merged model was asked as it is stored
    ("original", True): "it was trained on the quantized base, and merge__onto='dequantized' merges onto that",
    ("dequantized", False): "in 4 bits again the update is lost; in 16 or 8 bits it answers as the adapter",
}
SAMPLES = 2  # questions of each kind that the page shows first


@dataclass(frozen=True)
class Metric:
    """One line of the card."""

    name: str
    meaning: str
    measure: str  # the entry of an answer's measures
    kinds: tuple[str, ...]  # questions that it is measured on
    bound: float | None = None  # what the merged model must keep to be shipped: at least, or at most where lower
    lower: bool = False  # whether lower is better
    needs: str = ""  # the part of the dataset's card without which nobody can judge
    weight: str = ""  # the row's entry that counts tokens, each with one vote; without it each question has one


# The bounds of what is kept: a good adapter of the handbook has a kept_kl of 0.02; scaled by 1.6, one general answer in
# five has other words: kept is still 0.91 and kept_kl 0.17.
METRICS = (
    Metric("learned_exact", "private facts answered exactly", "right", FACT, 0.80),
    Metric("learned_f1", "their words in common with the reference", "f1", FACT),
    Metric("learned_rouge_l", "the same in order (ROUGE-L)", "rouge_l", FACT),
    Metric("learned_perplexity", "perplexity of the reference answers", "loss", FACT, lower=True, weight="tokens"),
    Metric("declined", "unanswerable questions declined", "declined", DECLINE, 0.80, needs="decline"),
    Metric("invented", "unanswerable questions answered", "invented", DECLINE, lower=True, needs="decline"),
    Metric("wrongly_declined", "answerable questions declined", "declined", FACT, 0.10, lower=True, needs="decline"),
    Metric("behaved", "house style kept", "styled", OWN, 0.90, needs="style"),
    Metric("kept", "agreement with the base's own general answers", "agreement", GENERAL, 0.90, weight="base_tokens"),
    Metric("kept_kl", "KL to the base along them, nats per token", "kl", GENERAL, 0.10, True, weight="base_tokens"),
    Metric("kept_declined", "general questions now declined", "now_declined", GENERAL, 0.05, True, needs="decline"),
    Metric("stopped", "answers that end by themselves", "stopped", OWN, 0.90),
    Metric("repeated", "answers that say a thing three times", "repeated", OWN, 0.05, lower=True),
    Metric("empty", "empty answers", "empty", OWN, 0.05, lower=True),
    Metric("adrift", "answers in another language, or with tags", "adrift", OWN, 0.05, lower=True),
)
HEADLINE = ("learned_exact", "declined", "wrongly_declined", "behaved", "kept")  # what a picture shows


def headline(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The metrics that a picture shows: the three reasons to fine-tune, the user's own checks, and the price."""
    return {name: found for name, found in metrics.items() if name in HEADLINE or name.startswith("behaved:")}


def card_metrics(rows: Sequence[dict[str, Any]], card: dict[str, Any], draws: int = DRAWS) -> dict[str, dict[str, Any]]:
    """Every metric of judged answers (`metrics.judge`); None where the rows or the dataset's card cannot show it."""
    return {m.name: measured(m, [] if m.needs and m.needs not in card else rows, draws) for m in METRICS}


def measured(metric: Metric, rows: Sequence[dict[str, Any]], draws: int = DRAWS) -> dict[str, Any]:
    """One metric over the questions of its kinds: a value per model, n, intervals and differences to the base."""
    import numpy as np

    rows = [row for row in rows if row["kind"] in metric.kinds]
    found: dict[str, Any] = {"meaning": metric.meaning, "lower": metric.lower, "n": len(rows)}
    found |= dict.fromkeys(MODELS) | {"interval": {}, "difference": {}}
    if not rows:
        return found
    values = np.array([[row["measures"][model][metric.measure] for model in MODELS] for row in rows], dtype=float)
    weights = np.array([row[metric.weight] if metric.weight else 1.0 for row in rows])
    means, spread = weights @ values / weights.sum(), resampled(values, weights, draws=draws)
    if metric.measure == "loss":  # shown as perplexity
        means, spread = np.exp(means), np.exp(spread)
    found |= {model: round(float(mean), 4) for model, mean in zip(MODELS, means, strict=True)}
    for i, model in enumerate(MODELS) if len(rows) > 1 else ():  # one question says nothing of others
        found["interval"][model] = ends(spread[:, i]) if metric.weight else share_ends(values[:, i], spread[:, i])
        if i:
            difference = round(float(means[i] - means[0]), 4)
            found["difference"][model] = [difference, *ends(spread[:, i] - spread[:, 0])]
    return found


def verdict(card: dict[str, Any]) -> dict[str, Any]:
    """The decision and its reasons: a broken rule says "don't ship", too little to go by "not enough evidence".

    The merged model is judged, because it is what would be shipped. What is not measured decides nothing and is named;
    without the first metric nothing was shown to be learned.
    """
    figures, leaks, noise = card["figures"], card["leaked"], card["noise"]
    doubts, broken, met = list[str](), list[str](), list[str]()
    if leaks["questions"] > LEARNED_BEFORE * leaks["own"]:
        doubts = [f"{leaks['questions']} of {leaks['n']} questions were learned in nearly the same words: ask others"]
    if noise["marks"] > NOISE * noise["questions"]:
        marks = f"{noise['marks']} of {noise['questions']} answers of the base"
        doubts.append(f"{marks} are right or wrong by the batch they are in")
    thin, learned = [*doubts], figures["learned_exact"]
    rise, low, _ = learned["difference"].get("merged", (0.0, 1.0, 1.0))  # of one question nothing is known
    if low <= 0 and learned["merged"] is not None:
        chance = f"learned_exact rose by {rise:.3f} above the base's {learned['base']:.3f}, which may be chance"
        (thin if learned["n"] < ENOUGH else broken).append(chance)
    rules = [(metric.name, metric.lower, metric.bound) for metric in METRICS if metric.bound is not None]
    rules += [(name, False, CHECKED) for name in figures if name.startswith("behaved:")]
    for name, lower, bound in rules:
        value, n = figures[name]["merged"], figures[name]["n"]
        if value is None:
            (thin if name == "learned_exact" else met).append(f"{name}: not measured")
            continue
        side, good = ("at most", value <= bound) if lower else ("at least", value >= bound)
        reason = f"{name} {value:.3f} of {n:,} question{'s' * (n != 1)}, {side} {bound} is asked"
        (thin if n < ENOUGH else met if good else broken).append(reason)
    decision = "don't ship" if broken else "not enough evidence" if thin else "ship"
    return {"decision": decision, "reasons": [*broken, *doubts] if broken else thin or met}


def terminal_table(card: dict[str, Any]) -> str:
    """The metrics as an aligned table, the notes, the verdict and its reasons."""
    table = [["metric", "what it means", "base", "adapter", "merged [95 %]", "to base [95 %]", "n", "better"]]
    for name, metric in card["figures"].items():
        found = cells(metric)
        sure = (" ".join(found[column]).strip() for column in ("merged", "change"))
        numbers = [found["base"][0], found["adapter"][0], *sure, str(metric["n"])]
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
        value, interval = metric[model], metric["interval"].get(model)
        sure = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval and value is not None else ""
        found[model] = ("not measured" if value is None else f"{value:.3f}", sure)
    change = metric["difference"].get("merged")
    found["change"] = (f"{change[0]:+.3f}", f"[{change[1]:+.3f}, {change[2]:+.3f}]") if change else ("–", "")
    return found


def notes(card: dict[str, Any]) -> list[str]:
    """What is no metric: how the merged model was asked, machine-made and learned questions, the noise floor."""
    leaks, noise, made, as_stored = (card[key] for key in ("leaked", "noise", "machine_made", "as_stored"))
    facts, lines = card["figures"].get("learned_exact", {}), list[str]()
    lost, cure = (facts.get("adapter") or 0.0) - (facts.get("merged") or 0.0), CURES.get((card["onto"], as_stored))
    if as_stored:
        reference = "; what it kept is told from the base as it is stored" if card["onto"] == "original" else ""
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


def pick(rows: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` rows of each kind, at even distances, so that nobody picks the good ones; all with None."""
    if limit is None:
        return rows
    found = list[dict[str, Any]]()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        same = [row for row in rows if row["kind"] == kind]
        found += same[:: -(-len(same) // limit)]
    return found


def changed(row: dict[str, Any]) -> str:
    """What tuning did to one answer: "fixed", "broke", "reworded", or nothing."""
    before, after = row["marks"]["base"], row["marks"]["merged"]
    if before != after:
        return "fixed" if after else "broke"
    return "" if row["base"] == row["merged"] else "reworded"

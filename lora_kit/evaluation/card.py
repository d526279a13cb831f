"""Notebook 05 in one call: base, adapter and merged model on the same questions, and a verdict that can say no.

One model is in memory at a time. What the dataset cannot show is None, "not measured", never silently good.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import load_adapter
from ..base import load_tokenizer
from ..data import Prepared, data_inputs, load_prepared
from ..generation import answers
from ..manifests import shown
from ..merging import merge_inputs
from ..progress import Progress
from ..quantization import load_base, load_model, release
from ..training import adapter_stage, read_log, train_inputs, trained_adapter
from .metrics import interval, is_declined, is_exact, share, split_style
from .report import terminal_table, write_html
from .verdict import verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run

MODELS = ("base", "adapter", "merged")
Card = dict[str, Any]


def evaluate(run: Run) -> Card:
    """Ask the three models every held-out question, write the report, print the card and return it.

    Raises:
        KitError: no prepared data, no trained adapter or no merged model yet.
    """
    inputs = evaluation_inputs(run)
    folder = run.find("evaluation", inputs)
    if folder is None:
        data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
        with run.writing("evaluation", inputs) as stage:
            card = make_card(run, data, stage.folder)
            stage.figures |= card["figures"]
            folder = stage.target
    card = json.loads((folder / "report_card.json").read_text())
    print(terminal_table(card))
    print(f"report: {shown(folder / 'report.html')}\n  card: {shown(folder / 'report_card.json')}")
    return card


def evaluation_inputs(run: Run) -> dict[str, Any]:
    """What the report card is made from."""
    return {"merged": merge_inputs(run), "evaluation": vars(run.profile.evaluation)}


def make_card(run: Run, data: Prepared, folder: Path) -> Card:
    """Answers, figures, verdict and pages, written into `folder`."""
    merged = run.need("merged", merge_inputs(run), made_by="lk.merge(run)")
    questions = pick(data.test, run.profile.evaluation.limit)
    given = three_answers(run, questions, merged)
    rows = [judge(row, [given[name][i] for name in MODELS], data.card) for i, row in enumerate(questions)]
    card = {
        "title": run.profile.base.title,
        "profile": run.profile.name,
        "dataset": data.card.get("title", data.card["name"]),
        "adapter": Path(adapter_stage(run)).name,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": card_figures(rows, data.card),
    }
    card["verdict"] = verdict(card["figures"])
    training = run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)")
    (folder / "report_card.json").write_text(json.dumps(card, indent=2) + "\n")
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_html(card, rows, read_log(training), folder / "report.html")
    return card


def three_answers(run: Run, questions: list[dict[str, Any]], merged: Path) -> dict[str, list[str]]:
    """Every question answered by base, base + adapter, and the merged model; one model in memory at a time."""
    with Progress("evaluation", len(MODELS)) as progress:
        model = load_base(run)
        given = {"base": ask(run, model, questions)}
        progress.update(1)
        given["adapter"] = ask(run, load_adapter(model, trained_adapter(run)), questions)
        progress.update(2)
        release(model)
        given["merged"] = ask(run, load_model(run.profile, merged), questions)
        progress.update(3)
    return given


def ask(run: Run, model: PreTrainedModel, questions: list[dict[str, Any]]) -> list[str]:
    """Greedy answers to the held-out questions, by the profile's evaluation settings."""
    settings = run.profile.evaluation
    return answers(
        model,
        load_tokenizer(run.profile.base),
        [row["messages"] for row in questions],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )


def pick(questions: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` questions of each kind, evenly spaced; all with None."""
    if limit is None:
        return questions
    kinds = {row["kind"]: [r for r in questions if r["kind"] == row["kind"]] for row in questions}
    return [row for rows in kinds.values() for row in rows[:: -(-len(rows) // limit)]]


def judge(row: dict[str, Any], given: list[str], card: dict[str, Any]) -> dict[str, Any]:
    """One line of the side-by-side table: the question, the reference, three answers and how each is judged."""
    right = [
        is_declined(text, card) if row["kind"] == "decline" else is_exact(text, row["accepted"], card) for text in given
    ]
    return {
        "kind": row["kind"],
        "question": row["messages"][-2]["content"],
        "reference": row["messages"][-1]["content"],
        **dict(zip(MODELS, given, strict=True)),
        "marks": dict(zip(MODELS, right, strict=True)),
        "declined": {name: is_declined(text, card) for name, text in zip(MODELS, given, strict=True)},
        "styled": {name: split_style(text, card)[1] for name, text in zip(MODELS, given, strict=True)},
    }


def card_figures(rows: list[dict[str, Any]], card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The five figures of the card, each with n and intervals; None where the dataset cannot show it."""
    kind = {name: [row for row in rows if row["kind"] == name] for name in ("fact", "decline", "general", "unseen")}
    declines, styled = "decline" in card, "style" in card
    figures = {
        "learned_exact": figure(kind["fact"], "marks"),
        "declined": figure(kind["decline"] if declines else [], "declined"),
        "wrongly_declined": figure(kind["fact"] if declines else [], "declined"),
        "behaved": figure(kind["fact"] + kind["decline"] + kind["unseen"] if styled else [], "styled"),
        "kept": figure(kind["general"], "marks"),
    }
    return figures | {"kept": relative(figures["kept"])}


def figure(rows: list[dict[str, Any]], mark: str) -> dict[str, Any]:
    """The share of rows with `mark`, per model."""
    if not rows:
        return dict.fromkeys(MODELS) | {"n": 0, "interval": {}}
    marks = {name: [row[mark][name] for row in rows] for name in MODELS}
    shares = {name: round(share(marks[name]), 4) for name in MODELS}
    return shares | {"n": len(rows), "interval": {name: interval(marks[name]) for name in MODELS}}


def relative(measured: dict[str, Any]) -> dict[str, Any]:
    """A figure as a share of the base's own; the base's share itself stays as `base_exact`."""
    base = measured["base"]
    if not base:
        return dict.fromkeys(MODELS) | {"n": measured["n"], "interval": {}, "base_exact": base}
    scaled = {name: round(measured[name] / base, 4) for name in MODELS}
    intervals = {name: [round(end / base, 4) for end in measured["interval"][name]] for name in MODELS}
    return scaled | {"n": measured["n"], "interval": intervals, "base_exact": base}

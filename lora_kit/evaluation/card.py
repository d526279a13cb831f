"""Notebook 05 in one call: base, adapter and merged model on the same questions, and a verdict that can say no.

What the dataset cannot show is None, "not measured", never silently good.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import load_tokenizer
from ..data import Prepared, data_inputs, load_prepared, read_questions
from ..errors import KitError
from ..manifests import shown
from ..merging import merge_inputs
from ..training import adapter_stage, read_log, train_inputs
from .asking import Answer, Answers, ask_all, tokens_of
from .checks import Check, named, passed
from .harness import Harness
from .inputs import evaluation_inputs
from .leaks import leaked
from .measures import MODELS, card_figures
from .metrics import is_adrift, is_declined, is_exact, is_repetitive, rouge_l, split_style, token_f1
from .page import write_html
from .report import terminal_table
from .verdict import verdict

if TYPE_CHECKING:
    from ..runs import Run

Card = dict[str, Any]


def evaluate(
    run: Run,
    *,
    questions: str | Path | None = None,
    checks: Sequence[Callable[[str], bool]] = (),
    harness: Sequence[str] = (),
) -> Card:
    """Ask the three models every held-out question, write the report, print the card and return it.

    Args:
        run: its adapter is trained and merged.
        questions: a file of your own questions with reference answers, asked instead of the held-out ones. Rows are
            read as data is; a column `kind` (fact, decline, general, unseen) and a list `accepted` may stand beside.
        checks: functions that take an answer and say whether it is as it should be; each becomes a figure of its name.
        harness: tasks of lm-eval by name, or YAML files of your own tasks, run on all three models besides
            (`pip install lora-kit[harness]`). They take minutes to hours and may download data.

    Raises:
        KitError: no prepared data, no trained adapter or no merged model yet; questions that cannot be used; a check
            that fails; an unknown task.
    """
    own = named(checks)
    tasks = Harness(harness) if harness else None
    inputs = evaluation_inputs(run, questions, own, harness)
    folder = run.find("evaluation", inputs)
    if folder is None:
        data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
        run.need("merged", merge_inputs(run), made_by="lk.merge(run)")
        with run.writing("evaluation", inputs) as stage:
            card = make_card(run, data, stage.folder, questions, own, tasks)
            stage.figures |= card["figures"]
            folder = stage.target
    card = json.loads((folder / "report_card.json").read_text())
    print(terminal_table(card))
    print(f"report: {shown(folder / 'report.html')}\n  card: {shown(folder / 'report_card.json')}")
    return card


def read_answers(run: Run) -> list[dict[str, Any]]:
    """Every held-out question with its reference, the three answers, and how each was judged.

    Raises:
        KitError: the card is not made yet.
    """
    folder = run.need("evaluation", evaluation_inputs(run), made_by="lk.evaluate(run)")
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def make_card(
    run: Run,
    data: Prepared,
    folder: Path,
    questions: str | Path | None = None,
    checks: dict[str, Check] | None = None,
    tasks: Harness | None = None,
) -> Card:
    """Answers, figures, verdict and pages, written into `folder`."""
    merged = run.need("merged", merge_inputs(run), made_by="lk.merge(run)")
    tokenizer, checks = load_tokenizer(run.profile.base), checks or {}
    asked = read_questions(str(questions), run.profile.data, tokenizer, data.card.get("system")) if questions else []
    asked = pick(asked or data.test, run.profile.evaluation.limit)
    if not asked:
        raise KitError("no question is held out: give some with lk.evaluate(run, questions='mine.jsonl')")
    for row in asked:  # a check that fails should fail on a reference, before minutes of answers
        for name, check in checks.items():
            passed(name, check, row["messages"][-1]["content"])
    given = ask_all(run, asked, merged, tasks.measure(tokenizer) if tasks else lambda *_: None)
    rows = [judge(row, i, given, data.card, checks) for i, row in enumerate(asked)]
    learned, compared = leaked(given.encoded, data, tokenizer)
    for row, was in zip(rows, learned, strict=True):
        row["leaked"] = was
    card: Card = {
        "title": run.profile.base.title,
        "profile": run.profile.name,
        "dataset": data.card.get("title", data.card["name"]),
        "questions": Path(questions).name if questions else "held out",
        "adapter": Path(adapter_stage(run)).name,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": card_figures(rows, data.card, list(checks)),
        "leaked": {"questions": sum(learned), "n": len(rows), "learned_rows": len(data.train), "compared": compared},
        "noise": noise(given, asked, data.card),
        **({"harness": tasks.results} if tasks else {}),
    }
    card["verdict"] = verdict(card)
    training = run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)")
    (folder / "report_card.json").write_text(json.dumps(card, indent=2) + "\n")
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_html(card, rows, read_log(training), folder / "report.html")
    return card


def pick(questions: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` questions of each kind, evenly spaced; all with None."""
    if limit is None:
        return questions
    kinds = {row["kind"]: [r for r in questions if r["kind"] == row["kind"]] for row in questions}
    return [row for rows in kinds.values() for row in rows[:: -(-len(rows) // limit)]]


def judge(
    row: dict[str, Any], number: int, given: Answers, card: dict[str, Any], checks: dict[str, Check]
) -> dict[str, Any]:
    """One line of the side-by-side table: the question, the reference, three answers and how each is judged."""
    said = {model: given.of[model][number] for model in MODELS}
    measures = {model: measures_of(answer, row, card, checks) for model, answer in said.items()}
    return {
        "kind": row["kind"],
        "question": row["messages"][-2]["content"],
        "reference": row["messages"][-1]["content"],
        "tokens": tokens_of(given.encoded[number]),
        **{model: answer.text for model, answer in said.items()},
        "marks": {model: found["marked"] for model, found in measures.items()},
        "measures": measures,
    }


def measures_of(
    answer: Answer, row: dict[str, Any], card: dict[str, Any], checks: dict[str, Check]
) -> dict[str, float | bool]:
    """Everything that is measured of one answer; `marked` is what the table shows as right or wrong."""
    text, accepted, declined = answer.text, _accepted(row), is_declined(answer.text, card)
    return {
        "marked": _right(text, row, card),
        "right": is_exact(text, accepted, card),
        "f1": token_f1(text, accepted, card),
        "rouge_l": rouge_l(text, accepted, card),
        "loss": answer.loss,
        "declined": declined,
        "invented": bool(text) and not declined,
        "styled": split_style(text, card)[1],
        "stopped": answer.stopped,
        "repeated": is_repetitive(text),
        "empty": not text,
        "adrift": is_adrift(text, row["messages"][-2]["content"], accepted),
        **{name: passed(name, check, text) for name, check in checks.items()},
    }


def noise(given: Answers, asked: Sequence[dict[str, Any]], card: dict[str, Any]) -> dict[str, int]:
    """The base against itself, asked in other batches: how many answers change, and how many of them their mark."""
    told = [(asked[i], given.of["base"][i].text, text) for i, text in given.again.items()]
    changed = [(row, before, after) for row, before, after in told if before != after]
    flipped = sum(_right(before, row, card) != _right(after, row, card) for row, before, after in changed)
    return {"questions": len(told), "changed": len(changed), "marks": flipped}


def _right(text: str, row: dict[str, Any], card: dict[str, Any]) -> bool:
    """What the table shows as right."""
    return is_declined(text, card) if row["kind"] == "decline" else is_exact(text, _accepted(row), card)


def _accepted(row: dict[str, Any]) -> list[str]:
    return row.get("accepted") or [row["messages"][-1]["content"]]

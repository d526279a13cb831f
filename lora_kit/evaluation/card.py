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
from ..data.sources import dataset_files
from ..errors import KitError
from ..manifests import check_files, fingerprint, shown
from ..merging import merge_inputs
from ..training import adapter_stage, read_log, train_inputs
from .asking import Answers, ask_all, check_room
from .checks import Check, named, passed
from .harness import Harness
from .inputs import evaluation_inputs
from .judging import judge, noise
from .kept import Kept
from .leaks import leaked
from .measures import MODELS, OWN, card_figures
from .page import write_html
from .report import terminal_table
from .verdict import ENOUGH, verdict

if TYPE_CHECKING:
    from ..runs import Run, Stage

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
            read as data is; a column `kind` (fact, decline, general, unseen) and a list of further right answers,
            `accepted`, may stand beside. The adapter's system text goes before all but general ones. General
            questions of the handbook are asked besides, where there are too few to tell what the base has lost.
        checks: functions that take an answer and say True or False; each becomes a figure of its name, over all but
            general questions. The models are not asked again for them.
        harness: tasks of lm-eval by name, or YAML files of your own tasks, run on all three models besides
            (`pip install lora-kit[harness]`). They take minutes to hours and may download data.

    Raises:
        KitError: no prepared data, no trained adapter or no merged model yet; questions that cannot be used; a check
            that fails; an unknown task.
    """
    own = named(checks)
    tasks = Harness(harness) if harness else None
    inputs = evaluation_inputs(run, questions, harness)
    folder = run.find("evaluation", inputs) or _ask(run, inputs, questions, own, tasks)
    check_files(folder)
    if own:
        folder = _check(run, inputs, folder, own)
    card: Card = json.loads((folder / "report_card.json").read_text())
    print(terminal_table(card))
    print(f"report: {shown(folder / 'report.html')}\n  card: {shown(folder / 'report_card.json')}")
    return card


def read_answers(run: Run) -> list[dict[str, Any]]:
    """Every held-out question with its reference, the three answers, and how each was judged.

    Raises:
        KitError: the card is not made yet.
    """
    return _answers(run.need("evaluation", evaluation_inputs(run), made_by="lk.evaluate(run)"))


def _answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def _ask(
    run: Run,
    inputs: dict[str, Any],
    questions: str | Path | None,
    checks: dict[str, Check],
    tasks: Harness | None,
) -> Path:
    """The three models asked, and their card; everything that can be refused is refused before."""
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    merged = run.need("merged", merge_inputs(run), made_by="lk.merge(run)")
    tokenizer, system = load_tokenizer(run.profile.base), data.card.get("system")
    asked = data.test if questions is None else read_questions(str(questions), run.profile.data, tokenizer, system)
    if not asked:
        raise KitError("no question is held out: give some with lk.evaluate(run, questions='mine.jsonl')")
    asked = pick(with_general(asked), run.profile.evaluation.limit)
    for row in asked:  # a check that fails should fail on a reference, before minutes of answers
        for name, check in checks.items() if row["kind"] in OWN else ():
            passed(name, check, row["messages"][-1]["content"])
    check_room(run, asked)
    kept = Kept(None if tasks else run.path / f"evaluation-unfinished-{fingerprint(inputs)[:6]}")
    with run.writing("evaluation", inputs) as stage:
        given = ask_all(run, asked, merged, tasks.measure(tokenizer) if tasks else lambda *_: None, kept)
        card, rows = make_card(run, data, asked, given)
        card["questions"] = "held out" if questions is None else Path(questions).name
        card |= {"harness": tasks.results} if tasks else {}
        _write(run, stage, card, rows)
    kept.remove()
    return stage.target


def _check(run: Run, inputs: dict[str, Any], asked: Path, checks: dict[str, Check]) -> Path:
    """The same answers by the user's own checks besides; what the checks say makes the card another one."""
    rows = _answers(asked)
    own = [row for row in rows if row["kind"] in OWN]
    for row in own:
        for model in MODELS:
            row["measures"][model] |= {name: passed(name, check, row[model]) for name, check in checks.items()}
    said = {name: [[row["measures"][model][name] for model in MODELS] for row in own] for name in checks}
    inputs = inputs | {"checks": fingerprint(said)}
    if folder := run.find("evaluation", inputs):
        return check_files(folder)
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    card: Card = json.loads((asked / "report_card.json").read_text())
    card["figures"] = card_figures(rows, data.card, list(checks))
    card["verdict"] = verdict(card)
    with run.writing("evaluation", inputs) as stage:
        _write(run, stage, card, rows)
    return stage.target


def _write(run: Run, stage: Stage, card: Card, rows: list[dict[str, Any]]) -> None:
    training = run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)")
    (stage.folder / "report_card.json").write_text(json.dumps(card, indent=2) + "\n")
    (stage.folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_html(card, rows, read_log(training), stage.folder / "report.html")
    stage.figures |= card["figures"]


def make_card(
    run: Run, data: Prepared, asked: Sequence[dict[str, Any]], given: Answers
) -> tuple[Card, list[dict[str, Any]]]:
    """The card of these answers, and each question with how its answers are judged."""
    tokenizer = load_tokenizer(run.profile.base)
    rows = [judge(row, i, given, data.card) for i, row in enumerate(asked)]
    learned, compared = leaked(given.encoded, data, tokenizer)
    for row, was in zip(rows, learned, strict=True):
        row["leaked"] = was
    card: Card = {
        "title": run.profile.base.title,
        "profile": run.profile.name,
        "dataset": data.card.get("title", data.card["name"]),
        "adapter": Path(adapter_stage(run)).name,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": card_figures(rows, data.card),
        "leaked": {
            "questions": sum(learned),
            "n": len(rows),
            "own": sum(row["kind"] in OWN for row in rows),
            "learned_rows": len(data.train),
            "compared": compared,
        },
        "noise": noise(given, asked, data.card),
    }
    card["verdict"] = verdict(card)
    return card, rows


def with_general(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions, and those of the handbook's held-out general ones where too few are among them to decide on."""
    if sum(row["kind"] == "general" for row in asked) >= ENOUGH:
        return asked
    (file,) = dataset_files("handbook").test
    handbook = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    known = {row["messages"][-2]["content"] for row in asked}
    more = [row for row in handbook if row["kind"] == "general" and row["messages"][-2]["content"] not in known]
    return [*asked, *more]


def pick(questions: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` questions of each kind, evenly spaced; all with None."""
    if limit is None:
        return questions
    kinds = {row["kind"]: [r for r in questions if r["kind"] == row["kind"]] for row in questions}
    return [row for rows in kinds.values() for row in rows[:: -(-len(rows) // limit)]]

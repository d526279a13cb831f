"""Notebook 05 in one call: the three models on the same questions, a report card, and a verdict that can say no.

evaluation/   report_card.json  answers.jsonl  report.html
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import load_tokenizer, locate
from ..data.prepare import Prepared, data_inputs, load_prepared
from ..data.usable import question_files, read_questions
from ..errors import KitError
from ..files import check_files, file_hash, fingerprint, shown
from ..generation import check_length
from ..merging.merge import merge_inputs
from ..training.stage import adapter_stage, read_log, train_inputs
from .asking import Question, ask_models, leaked, pick, with_general, with_ids
from .card import METRICS, MODELS, OWN, card_metrics
from .metrics import is_right, judge
from .report import terminal_table, write_html
from .verdict import verdict

if TYPE_CHECKING:
    from ..runs import Run, Stage

Card = dict[str, Any]
Check = Callable[[str], bool]
FORM = 4  # of the card; a card of an older form is made anew


def evaluate(run: Run, *, questions: str | Path | None = None, checks: Sequence[Check] = ()) -> Card:
    """Ask the three models every held-out question, write the report, print the card and return it.

    Args:
        run: its adapter is trained and merged.
        questions: a file of your own questions with reference answers, asked instead of the held-out ones. Rows are
            read as data is; a column `kind` (fact, decline, general, unseen) and a list of further right answers,
            `accepted`, are optional. The adapter's system text goes before all but general ones. General questions
            of the handbook are added where there are too few to tell what the base has lost.
        checks: functions that take an answer and return True or False; each becomes a metric of its name, over all
            but general questions. The models are not asked again for them.

    Raises:
        KitError: no prepared data, no trained adapter or no merged model yet; questions that cannot be used; a check
            that fails.
    """
    own, inputs = _by_name(checks), evaluation_inputs(run, questions)
    folder = check_files(run.find("evaluation", inputs) or _evaluate(run, inputs, questions, own))
    if own:
        folder = _apply(own, run, inputs, folder)
    card: Card = json.loads((folder / "report_card.json").read_text())
    print(terminal_table(card))
    print(f"report: {shown(folder / 'report.html')}\n  card: {shown(folder / 'report_card.json')}")
    return card


def read_answers(run: Run) -> list[dict[str, Any]]:
    """Every held-out question with its reference, the three answers, and how each was judged.

    Raises:
        KitError: the card is not made yet.
    """
    return _rows(run.need("evaluation", evaluation_inputs(run), made_by="lk.evaluate(run)"))


def evaluation_inputs(run: Run, questions: str | Path | None = None) -> dict[str, Any]:
    """Settings, and hashes of what the card depends on; their fingerprint decides whether it is made again."""
    inputs = {"merged": merge_inputs(run), "evaluation": vars(run.profile.evaluation), "form": FORM}
    if questions is not None:
        inputs["questions"] = {path.name: file_hash(path) for path in question_files(str(questions), run.profile.data)}
    return inputs


def _evaluate(run: Run, inputs: dict[str, Any], questions: str | Path | None, checks: dict[str, Check]) -> Path:
    """The models asked and their card written; what can be refused is refused before."""
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    merged = run.need("merged", merge_inputs(run), made_by="lk.merge(run)")
    tokenizer, settings, system = load_tokenizer(run.profile.base), run.profile.evaluation, data.card.get("system")
    rows = data.test if questions is None else read_questions(str(questions), run.profile.data, tokenizer, system)
    if not rows:
        raise KitError("no question is held out: give some with lk.evaluate(run, questions='mine.jsonl')")
    asked = with_ids(pick(with_general(rows), settings.limit), tokenizer)
    for row in asked:  # a check that fails should fail on a reference, before minutes of answers
        for name, check in checks.items() if row["kind"] in OWN else ():
            _passes(name, check, row["messages"][-1]["content"])
    room = json.loads((locate(run.profile.base) / "config.json").read_text())["max_position_embeddings"]
    check_length(max(len(row["prompt"]) for row in asked), settings.max_new_tokens, room)
    cache = run.path / f"evaluation-unfinished-{fingerprint(inputs)[:6]}"
    with run.writing("evaluation", inputs) as stage:
        card, judged = make_card(run, data, asked, ask_models(run, asked, merged, cache))
        card["questions"] = "held out" if questions is None else Path(questions).name
        _write(run, stage, card, judged)
    shutil.rmtree(cache, ignore_errors=True)
    return stage.target


def make_card(
    run: Run, data: Prepared, asked: Sequence[Question], found: dict[str, Any]
) -> tuple[Card, list[dict[str, Any]]]:
    """The card of what the models said, and each question with how its answers are judged."""
    learned, compared = leaked([row["encoded"] for row in asked], data, load_tokenizer(run.profile.base))
    rows = [
        judge(row, {model: found[model][i] for model in MODELS}, data.card) | {"leaked": was}
        for i, (row, was) in enumerate(zip(asked, learned, strict=True))
    ]
    card: Card = {
        "title": run.profile.base.title,
        "profile": run.profile.name,
        "dataset": data.card.get("title", data.card["name"]),
        "adapter": Path(adapter_stage(run)).name,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": card_metrics(rows, data.card),
        "leaked": {
            "questions": sum(learned),
            "n": len(rows),
            "own": sum(row["kind"] in OWN for row in rows),
            "learned_rows": len(data.train),
            "compared": compared,
        },
        "noise": noise(asked, found, data.card),
    }
    return card | {"verdict": verdict(card)}, rows


def noise(asked: Sequence[Question], found: dict[str, Any], card: dict[str, Any]) -> dict[str, int]:
    """The base against itself, asked in other batches: how many answers change, and how many of them their mark."""
    pairs = [(asked[i], found["base"][i]["text"], again) for i, again in found["again"]]
    changed = [pair for pair in pairs if pair[1] != pair[2]]
    flipped = sum(is_right(before, row, card) != is_right(after, row, card) for row, before, after in changed)
    return {"questions": len(pairs), "changed": len(changed), "marks": flipped}


def _write(run: Run, stage: Stage, card: Card, rows: list[dict[str, Any]]) -> None:
    training = run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)")
    (stage.folder / "report_card.json").write_text(json.dumps(card, indent=2) + "\n")
    (stage.folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_html(card, rows, read_log(training), stage.folder / "report.html")
    stage.figures |= card["figures"]


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def _by_name(checks: Sequence[Check]) -> dict[str, Check]:
    """The user's checks by their names, each of which becomes a metric."""
    if callable(checks) or not isinstance(checks, Sequence) or not all(map(callable, checks)):
        raise KitError(f"checks must be a list of functions that take an answer, as in [is_polite]; it is {checks!r}")
    names = [getattr(check, "__name__", type(check).__name__) for check in checks]
    taken = {metric.measure for metric in METRICS} | {"marked", "<lambda>"}
    for i, name in enumerate(names):
        if name in taken or name in names[:i]:
            raise KitError(f"a check needs a name of its own, which becomes its metric; {name!r} is none: use def")
    return dict(zip(names, checks, strict=True))


def _passes(name: str, check: Check, answer: str) -> bool:
    """Whether the answer passes; a check that fails itself is named, with the answer that it failed on."""
    try:
        passed = check(answer)
    except Exception as error:  # a user's function may raise anything
        kind = type(error).__name__
        raise KitError(f"the check {name!r} fails on the answer {answer[:200]!r}: {kind}: {error}") from error
    if type(passed).__name__ not in ("bool", "bool_"):  # numpy's own too
        raise KitError(f"the check {name!r} must give True or False; on the answer {answer[:200]!r}: {passed!r}")
    return bool(passed)


def _apply(checks: dict[str, Check], run: Run, inputs: dict[str, Any], folder: Path) -> Path:
    """The same answers under the user's own checks, whose results make the card another one; no model is asked."""
    rows = _rows(folder)
    own = [row for row in rows if row["kind"] in OWN]
    for row in own:
        for model in MODELS:
            row["measures"][model] |= {name: _passes(name, check, row[model]) for name, check in checks.items()}
    results = {name: [[row["measures"][model][name] for model in MODELS] for row in own] for name in checks}
    inputs = inputs | {"checks": fingerprint(results)}
    if found := run.find("evaluation", inputs):
        return check_files(found)
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    card: Card = json.loads((folder / "report_card.json").read_text())
    card["figures"] = card_metrics(rows, data.card, list(checks))
    card["verdict"] = verdict(card)
    with run.writing("evaluation", inputs) as stage:
        _write(run, stage, card, rows)
    return stage.target

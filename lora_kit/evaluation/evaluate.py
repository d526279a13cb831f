"""Notebook 05 in one call: base and tuned model on the same questions, a report card, a verdict that can say no.

answers-3f2a91/   base/  adapter/  merged/    what each model says; the same is not asked twice
evaluation/       report_card.json  answers.jsonl  report.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import load_tokenizer, locate, read_config
from ..data.augmentation.same_question import near_duplicates
from ..data.encoding import encode_batch, last_answer
from ..data.prepare import data_inputs
from ..data.prepared import Prepared, load_prepared
from ..data.reading.cells import in_turn
from ..data.reading.conversations import Conversation
from ..data.reading.sources import file_hashes
from ..data.reading.turns import Message
from ..data.splits import pick, question_files, read_questions, with_general
from ..errors import KitError
from ..files import (
    check_files,
    fingerprint,
    read_json,
    read_lines,
    read_manifest,
    reading,
    shown,
    write_json,
    write_lines,
)
from ..generation import check_length, prompts_of
from ..merging.merge import merge_inputs
from ..quantization import check_loaded
from ..training.train import adapter_stage, read_log, train_inputs, trained_adapter
from .asking import Question, ask_models, longest_reference
from .card import MODELS, OWN, Metric, card_metrics, measured, verdict
from .metrics import is_right, judge
from .report import show, write_html

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run

Card = dict[str, Any]
Check = Callable[[str], bool]
FORM = 8  # of the card; a card of an older form is made anew


def evaluate(
    run: Run,
    *,
    questions: str | Path | None = None,
    checks: Sequence[Check] = (),
    model: PreTrainedModel | None = None,
) -> Card:
    """Ask base, adapter and merged model every held-out question, write the report, show the card and return it.

    Args:
        run: its adapter is trained. Without a merged model (`lk.merge`) the adapter is judged.
        questions: a file of your own questions with reference answers, asked instead of the held-out ones. Rows are
            read as data is; a column `kind` (fact, decline, general, unseen) and a list of further right answers,
            `accepted`, are optional. The adapter's system text goes before all but general ones. General questions
            of the handbook are added where there are too few to tell what the base has lost.
        checks: functions that take an answer and return True or False; each becomes a metric of its name, over all
            but general questions. The models are not asked again for them.
        model: the base in memory, with or without adapters, so that it is not loaded again.

    Raises:
        KitError: a stage before it is missing; questions that cannot be used; a check that fails.
    """
    check_loaded(model, run)
    named, inputs = _by_name(checks), evaluation_inputs(run, questions)
    done = None if named else run.find("evaluation", inputs)
    folder = check_files(done) if done else _evaluate(run, inputs, questions, named, model)
    card, answers = read_json(folder / "report_card.json"), read_lines(folder / "answers.jsonl")
    with reading(folder):
        show(card, answers)
    print(f"report: {shown(folder / 'report.html')}\n  card: {shown(folder / 'report_card.json')}")
    return card


def read_answers(run: Run, questions: str | Path | None = None) -> list[dict[str, Any]]:
    """Every held-out question, or each of `questions`, with its reference, the answers, and how each was judged.

    Of several cards, with other checks, it takes the newest.

    Raises:
        KitError: the card is not made yet.
    """
    inputs = evaluation_inputs(run, questions)
    for card in sorted(run.path.glob("evaluation*/manifest.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        found = read_manifest(card.parent)["inputs"]
        if fingerprint(found | {"checks": None}) == fingerprint(inputs | {"checks": None}):
            return read_lines(check_files(card.parent) / "answers.jsonl")
    call = "lk.evaluate(run)" if questions is None else f"lk.evaluate(run, questions={str(questions)!r})"
    raise KitError(f"there is no card of these settings in {shown(run.path)}: run {call} first")


def evaluation_inputs(run: Run, questions: str | Path | None = None) -> dict[str, Any]:
    """What the card is made from, settings and hashes: with others it is made again."""
    merged = merge_inputs(run)
    inputs = {"adapter": train_inputs(run), "evaluation": vars(run.profile.evaluation), "form": FORM}
    inputs["merged"] = merged if run.find("merged", merged) else None
    if questions is not None:
        inputs["questions"] = file_hashes(question_files(str(questions), run.profile.data))
    return inputs


def _evaluate(
    run: Run,
    inputs: dict[str, Any],
    source: str | Path | None,
    checks: dict[str, Check],
    model: PreTrainedModel | None,
) -> Path:
    """Ask the models that were not asked yet, and write their card; what can be refused is refused before."""
    start = time.monotonic()
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    merged = run.need("merged", inputs["merged"], made_by="lk.merge(run)") if inputs["merged"] else None
    questions = choose_questions(run, data, source)
    for row in questions:  # a check that fails should fail on a reference, before minutes of answers
        for name, check in checks.items() if row["kind"] in OWN else ():
            _passes(name, check, row["messages"][-1]["content"])
    found = ask_models(run, questions, merged, inputs, answer_tokens(run, questions), model)
    models = [name for name in MODELS if name in found]
    learned = leaked([row["messages"] for row in questions], data)
    rows = [
        judge(row, {name: found[name][i] for name in models}, data.card) | {"leaked": learned[i]}
        for i, row in enumerate(questions)
    ]
    own_rows = [row for row in rows if row["kind"] in OWN]
    is_reworded = source is None and data.report.data["held_out"] == "rewordings"
    if checks:  # their results make the card another one
        for row in own_rows:
            for asked in models:
                row["measures"][asked] |= {name: _passes(name, check, row[asked]) for name, check in checks.items()}
        inputs = inputs | {"checks": fingerprint([row["measures"] for row in own_rows])}
        if folder := run.find("evaluation", inputs):
            return check_files(folder)
    user_metrics = [Metric(name, f"check {name.removeprefix('behaved:')} passed", name, OWN) for name in checks]
    card: Card = {
        "title": run.profile.base.public_title,
        "profile": run.profile.name,
        "dataset": data.card.get("title", data.card["name"]),
        "adapter": Path(adapter_stage(run)).name,
        "questions": "held out" if source is None else Path(source).name,
        "machine_made": sum(row["kind"] == "fact" for row in rows) if is_reworded else 0,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": card_metrics(rows, data.card) | {metric.name: measured(metric, rows) for metric in user_metrics},
        "leaked": {"questions": sum(learned), "n": len(rows), "own": len(own_rows), "learned_rows": len(data.train)},
        "models": models,
        "as_stored": found.get("as_stored", False),
        "onto": inputs["merged"]["onto"] if inputs["merged"] else None,
        "noise": noise(questions, found, data.card),
    }
    card["verdict"] = verdict(card)
    with run.writing("evaluation", inputs) as stage:
        write_json(stage.folder / "report_card.json", card)
        write_lines(stage.folder / "answers.jsonl", rows)
        write_html(card, rows, read_log(trained_adapter(run).parent), stage.folder / "report.html")
        seconds = time.monotonic() - start  # with the answers, which are stages of their own
        stage.figures |= card["figures"] | {"seconds": seconds}
    return stage.target


def choose_questions(run: Run, data: Prepared, source: str | Path | None) -> list[Question]:
    """The held-out questions, or those of the user's file, with their prompts and whole rows as ids."""
    tokenizer, system = load_tokenizer(run.profile.base), data.card.get("system")
    rows = data.test if source is None else read_questions(str(source), run.profile.data, tokenizer, system)
    if not rows:
        raise KitError("no question is held out: give some with lk.evaluate(run, questions='mine.jsonl')")
    rows = pick(with_general(rows), run.profile.evaluation.limit)
    chats = [row["messages"] for row in rows]
    found = zip(rows, prompts_of(chats, tokenizer), encode_batch(chats, tokenizer), strict=True)
    return [row | {"prompt": prompt, "encoded": last_answer(ids)} for row, prompt, ids in found]


def answer_tokens(run: Run, questions: Sequence[Question]) -> int:
    """How many tokens an answer may have: as the settings say, or more where a reference answer has more."""
    room = read_config(locate(run.profile.base))["max_position_embeddings"]
    longest, wanted = max(len(row["prompt"]) for row in questions), run.profile.evaluation.max_new_tokens
    check_length(longest, wanted, room)
    tokens = min(max(wanted, longest_reference(questions)), room - longest)
    if tokens > wanted:
        print(f"answers may have {tokens} tokens, not {wanted}: the longest reference has as many")
    return tokens


def leaked(asked: Sequence[Sequence[Message]], data: Prepared) -> list[bool]:
    """For each question (messages up to its reference) whether the adapter learned it.

    It did where a learned row has its question, or nearly its question and its answer (`near_duplicates`).
    """
    texts = zip(data.train["asked"], data.train["answered"], strict=True)
    learned = [Conversation(in_turn([*pair]), index=i) for i, pair in enumerate(texts)]
    mine = [Conversation([*messages[-2:]], index=i) for i, messages in enumerate(asked)]
    same, near = {row.question for row in learned}, {row.index for row in near_duplicates(mine, learned)}
    return [row.index in near or row.question in same for row in mine]


def noise(questions: Sequence[Question], found: dict[str, Any], card: dict[str, Any]) -> dict[str, int]:
    """The base against itself, asked in other batches: how many answers change, and how many of them their mark."""
    pairs = [(questions[i], found["base"][i]["text"], again) for i, again in found["again"]]
    changed = [pair for pair in pairs if pair[1] != pair[2]]
    flipped = sum(is_right(before, row, card) != is_right(after, row, card) for row, before, after in changed)
    return {"questions": len(pairs), "changed": len(changed), "marks": flipped}


def _by_name(checks: Sequence[Check]) -> dict[str, Check]:
    """The user's checks by the names of their metrics."""
    if not isinstance(checks, Sequence) or not all(map(callable, checks)):
        raise KitError(f"checks must be a list of functions that take an answer, as in [is_polite]; it is {checks!r}")
    names = [getattr(check, "__name__", type(check).__name__) for check in checks]
    if len(set(names)) < len(names) or "<lambda>" in names:
        raise KitError(f"each check needs a name of its own, which becomes its metric: use def; they are {names}")
    return {f"behaved:{name}": check for name, check in zip(names, checks, strict=True)}


def _passes(name: str, check: Check, answer: str) -> bool:
    """Whether the answer passes; a check that fails itself is named, with the answer that it failed on."""
    try:
        passed = check(answer)
    except Exception as error:  # a user's function may raise anything
        raise KitError(f"{name} fails on the answer {answer[:200]!r}: {type(error).__name__}: {error}") from error
    if type(passed).__name__ not in ("bool", "bool_"):  # numpy's own too
        raise KitError(f"{name} must give True or False; on the answer {answer[:200]!r} it gives {passed!r}")
    return bool(passed)

"""Which questions are asked, and what base, adapter and merged model answer, one model in memory at a time.

evaluation-unfinished-3f2a91/   base-answers.json  adapter-answers.json    from which a broken-off evaluation goes on
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import load_adapter
from ..base import load_tokenizer
from ..config import Data
from ..data.conversations import Conversation
from ..data.encoding import IGNORE, Encoded, encode_batch, last_answer, run_start
from ..data.prepare import Prepared
from ..data.sources import dataset_files
from ..data.splits import near_duplicates
from ..data.turns import TAGS
from ..files import whole_file
from ..generation import answers, generate_ids, prompts_of, stop_tokens, text_of
from ..progress import Progress
from ..quantization import load_base, load_model, release
from ..training.batches import Row, for_measuring
from ..training.loss import row_losses
from ..training.stage import trained_adapter
from .card import MODELS
from .divergence import ITSELF, answer_rows, divergences, likeliest
from .verdict import ENOUGH

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..config import Training
    from ..runs import Run

Question = dict[str, Any]  # a held-out row, with `prompt` (ids up to the answer) and `encoded` (the whole row)
Answer = dict[str, Any]  # text, ids, stopped, loss; agreement and kl of general questions
COMPARED = 20_000  # learned rows that leaks are looked for in, evenly spaced; the card says when there are more
AGAIN = 32  # questions that the base is asked a second time, in other batches


def with_general(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions, and those of the handbook's held-out general ones where too few are among them to decide on."""
    if sum(row["kind"] == "general" for row in rows) >= ENOUGH:
        return rows
    (file,) = dataset_files(Data()).test
    handbook = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    known = {row["messages"][-2]["content"] for row in rows}
    more = [row for row in handbook if row["kind"] == "general" and row["messages"][-2]["content"] not in known]
    return [*rows, *more]


def pick(rows: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` questions of each kind, evenly spaced; all with None."""
    if limit is None:
        return rows
    kinds = {row["kind"]: [r for r in rows if r["kind"] == row["kind"]] for row in rows}
    return [row for same in kinds.values() for row in same[:: -(-len(same) // limit)]]


def with_ids(rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """The questions with their prompts and whole rows as ids."""
    conversations = [row["messages"] for row in rows]
    found = zip(rows, prompts_of(conversations, tokenizer), encode_batch(conversations, tokenizer), strict=True)
    return [row | {"prompt": prompt, "encoded": encoded} for row, prompt, encoded in found]


def leaked(asked: Sequence[Encoded], data: Prepared, tokenizer: PreTrainedTokenizerBase) -> tuple[list[bool], int]:
    """For each question whether the adapter learned it, and how many learned rows were compared.

    A question was learned where a learned row asks it in the same words, or where question and answer both nearly
    are those of one (`near_duplicates`).
    """
    chosen = data.train.select(range(0, len(data.train), -(-len(data.train) // COMPARED)))
    learned = [_last_turn(row["input_ids"], row["labels"], i, tokenizer) for i, row in enumerate(chosen)]
    mine = [_last_turn(row.input_ids, row.labels, i, tokenizer) for i, row in enumerate(asked)]
    same, near = {row.question for row in learned}, {row.index for row in near_duplicates(mine, learned)}
    return [row.index in near or row.question in same for row in mine], len(learned)


def _last_turn(ids: list[int], labels: list[int], index: int, tokenizer: PreTrainedTokenizerBase) -> Conversation:
    """The last question and answer as text, without the system text and the format's tags."""
    start, end = last_answer(labels)
    before = run_start(labels, start, learned=False)
    asked, answer = (
        str(tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[before:start], ids[start:end])
    )
    segments = [part.strip() for part in re.split("|".join(map(re.escape, TAGS)), asked) if part.strip()]
    question = segments[-1] if segments else ""
    return Conversation([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], index=index)


def ask_models(run: Run, questions: Sequence[Question], merged: Path, cache: Path) -> dict[str, Any]:
    """Each model's answers by its name; "again": pairs of question and what the base says to it in other batches.

    Args:
        run: its base and adapter.
        questions: what is asked.
        merged: the folder of the merged model.
        cache: a folder that keeps each model's answers as soon as they are whole; they are not asked for again.
    """
    model, found = None, dict[str, Any]()
    try:
        with Progress("answers", len(MODELS) * len(questions)) as progress:
            for number, name in enumerate(MODELS):
                path = cache / f"{name}-answers.json"
                if path.is_file():
                    print(f"{name}: answered before this evaluation broke off, kept in {cache.name}")
                    found |= json.loads(path.read_text())
                    continue
                if name == "merged":
                    if model is not None:
                        release(model)
                    model = load_model(run.profile, merged)
                model = model or load_base(run)
                if name == "adapter":
                    load_adapter(model, trained_adapter(run))
                answered = ask(run, model, questions, partial(_show, progress, number * len(questions)))
                part = {name: answered} | _compare(run, model, questions, answered, found)
                cache.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as unfinished:
                    unfinished.write_text(json.dumps(part))
                found |= part
    finally:
        if model is not None:
            release(model)
    return found


def _show(progress: Progress, before: int, done: int) -> None:
    progress.update(before + done)


def ask(run: Run, model: PreTrainedModel, questions: Sequence[Question], done: Callable[[int], Any]) -> list[Answer]:
    """Greedy answers by the profile's evaluation settings, and the loss of the references."""
    tokenizer, settings = load_tokenizer(run.profile.base), run.profile.evaluation
    stops, limit, size = stop_tokens(model, tokenizer), settings.max_new_tokens, settings.batch_size
    prompts = [row["prompt"] for row in questions]
    rows = generate_ids(model, prompts, max_new_tokens=limit, eos_token_id=stops, batch_size=size, done=done)
    losses = reference_losses(model, [row["encoded"] for row in questions], run.profile.training)
    return [
        {"text": text_of(ids, tokenizer), "ids": ids, "stopped": bool(ids) and ids[-1] in stops, "loss": loss}
        | {"agreement": None, "kl": None}
        for ids, loss in zip(rows, losses, strict=True)
    ]


def _compare(
    run: Run, model: PreTrainedModel, questions: Sequence[Question], answers: list[Answer], found: dict[str, Any]
) -> dict[str, Any]:
    """Add to general answers how far the model is from the base; return what the base adds to the answers."""
    general, training = [i for i, row in enumerate(questions) if row["kind"] == "general"], run.profile.training
    base, is_base = found.get("base", answers), not found
    rows = answer_rows([questions[i]["prompt"] for i in general], [base[i]["ids"] for i in general])
    moved = [ITSELF] * len(rows) if is_base else divergences(model, rows, found["likeliest"], training)
    for i, divergence in zip(general, moved, strict=True):
        answers[i] |= divergence._asdict()
    if is_base:
        return {"likeliest": likeliest(model, rows, training), "again": ask_again(run, model, questions)}
    return {}


def ask_again(run: Run, model: PreTrainedModel, questions: Sequence[Question]) -> list[tuple[int, str]]:
    """Some questions a second time, in smaller batches: answers that differ are rounding, not learning.

    General ones are left out: a long answer may take another course by rounding, and there the base cannot be wrong.
    """
    judged = [i for i, row in enumerate(questions) if row["kind"] != "general"]
    chosen, settings = judged[:: max(1, len(judged) // AGAIN)][:AGAIN], run.profile.evaluation
    tokenizer, asked = load_tokenizer(run.profile.base), [questions[i]["messages"] for i in chosen]
    size = max(1, settings.batch_size // 4 - 1)
    texts = answers(model, tokenizer, asked, max_new_tokens=settings.max_new_tokens, batch_size=size)
    return list(zip(chosen, texts, strict=True))


def reference_losses(model: PreTrainedModel, encoded: Sequence[Encoded], settings: Training) -> list[float]:
    """Nats per token of each reference answer, teacher-forced."""
    rows = [Row(row.input_ids, row.labels, number) for number, row in enumerate(encoded)]
    losses = [0.0] * len(rows)
    for batch in for_measuring(rows, settings):
        for row, loss in zip(batch.rows, row_losses(model, batch), strict=True):
            losses[row.number] = loss / sum(label != IGNORE for label in row.labels)
    return losses

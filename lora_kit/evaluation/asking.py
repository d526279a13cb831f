"""Base, adapter and merged model asked the same questions, one model in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import load_adapter
from ..base import load_tokenizer, locate
from ..data import IGNORE, Encoded, encode_batch
from ..generation import check_length, generate_ids, prompts_of, text_of
from ..progress import Progress
from ..quantization import load_base, load_model, release
from ..training import Row, for_measuring, row_losses, trained_adapter
from .divergence import ITSELF, Divergence, answer_rows, divergences, likeliest
from .kept import Kept

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run

NOISE = 32  # questions that the base is asked a second time, in other batches


@dataclass(frozen=True)
class Answer:
    """What one model said to one question."""

    text: str
    ids: list[int]  # its tokens, the stop token too where it stopped
    stopped: bool  # whether it ended by itself, within the limit
    loss: float  # nats a token of the reference answer, had the model been made to say it
    # of general questions, along the base's own answer (divergence.py)
    agreement: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Answers:
    """What the three models said, and the base asked again."""

    encoded: list[Encoded]  # questions with their reference answers
    of: dict[str, list[Answer]]  # model to its answers, in the order of the questions
    again: dict[int, str]  # question to what the base says in other batches


Beside = Callable[[str, "PreTrainedModel"], None]  # what else is measured of a model while it is in memory
Apart = Callable[["PreTrainedModel"], list[Divergence]]  # from the base on each general question


def ask_all(run: Run, questions: Sequence[dict[str, Any]], merged: Path, beside: Beside, kept: Kept) -> Answers:
    """Every question to base, base + adapter, and the merged model; what is kept is not asked again."""
    tokenizer, training = load_tokenizer(run.profile.base), run.profile.training
    encoded = encode_batch([row["messages"] for row in questions], tokenizer)
    general = [i for i, row in enumerate(questions) if row["kind"] == "general"]
    with closing(Models(run, merged)) as models, Progress("answers", 3 * len(questions)) as progress:

        def one(name: str, load: Callable[[], PreTrainedModel], before: int, apart: Apart) -> list[dict[str, Any]]:
            model = load()
            said = ask(run, model, questions, encoded, lambda done: progress.update(before + done))
            for i, moved in zip(general, apart(model), strict=True):
                said[i] = replace(said[i], **moved._asdict())
            beside(name, model)
            return [asdict(answer) for answer in said]

        base = kept.get("base", lambda: one("base", models.base, 0, lambda _: [ITSELF] * len(general)))
        prompts = prompts_of([questions[i]["messages"] for i in general], tokenizer)
        own = answer_rows(prompts, [base[i]["ids"] for i in general])  # what the base says is the reference
        chances = kept.get("base-likeliest", lambda: likeliest(models.base(), own, training))

        def apart(model: PreTrainedModel) -> list[Divergence]:
            return divergences(model, own, chances, training)

        again = kept.get("base-again", lambda: _again(run, models.base(), questions))
        adapter = kept.get("adapter", lambda: one("adapter", models.adapter, len(questions), apart))
        whole = kept.get("merged", lambda: one("merged", models.merged, 2 * len(questions), apart))
    given = {"base": base, "adapter": adapter, "merged": whole}
    answers = {name: [Answer(**answer) for answer in said] for name, said in given.items()}
    return Answers(encoded, answers, {int(number): text for number, text in again.items()})


class Models:
    """The three models, one in memory at a time, each loaded when it is asked for."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder, self.held = run, folder, list["PreTrainedModel"]()

    def base(self) -> PreTrainedModel:
        """The quantized base."""
        if not self.held:
            self.held.append(load_base(self.run))
        return self.held[0]

    def adapter(self) -> PreTrainedModel:
        """The base that is there, with the adapter on it from here."""
        return load_adapter(self.base(), trained_adapter(self.run))

    def merged(self) -> PreTrainedModel:
        """The merged model, in the base's place."""
        self.close()
        self.held.append(load_model(self.run.profile, self.folder))
        return self.held[0]

    def close(self) -> None:
        """Free the memory of what is loaded."""
        while self.held:
            release(self.held.pop())


def ask(
    run: Run,
    model: PreTrainedModel,
    questions: Sequence[dict[str, Any]],
    encoded: Sequence[Encoded],
    done: Callable[[int], Any] | None = None,
) -> list[Answer]:
    """Greedy answers by the profile's evaluation settings, and the loss of the references."""
    tokenizer = load_tokenizer(run.profile.base)
    said = _generate(run, model, questions, done=done)
    losses = reference_losses(run, model, encoded)
    eos = tokenizer.eos_token_id
    return [
        Answer(text_of(ids, tokenizer), ids, ids[-1:] == [eos], loss) for ids, loss in zip(said, losses, strict=True)
    ]


def reference_losses(run: Run, model: PreTrainedModel, encoded: Sequence[Encoded]) -> list[float]:
    """Nats a token of each reference answer, teacher-forced."""
    rows = [Row(row.input_ids, row.labels, number) for number, row in enumerate(encoded)]
    losses = [0.0] * len(rows)
    for batch in for_measuring(rows, run.profile.training):
        for row, loss in zip(batch.rows, row_losses(model, batch), strict=True):
            losses[row.number] = loss / tokens_of(encoded[row.number])
    return losses


def tokens_of(row: Encoded) -> int:
    """Tokens of the reference answer, its EOS too."""
    return sum(label != IGNORE for label in row.labels)


def _again(run: Run, model: PreTrainedModel, questions: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Some questions to the base a second time, in smaller batches: answers that differ are rounding, not learning.

    General ones are left out: a long answer may go another way by rounding, and there the base cannot be wrong.
    """
    judged = [i for i, row in enumerate(questions) if row["kind"] != "general"]
    chosen = judged[:: max(1, len(judged) // NOISE)][:NOISE]
    size = max(1, run.profile.evaluation.batch_size // 4 - 1)
    said = _generate(run, model, [questions[i] for i in chosen], batch_size=size)
    tokenizer = load_tokenizer(run.profile.base)
    return {i: text_of(ids, tokenizer) for i, ids in zip(chosen, said, strict=True)}


def _generate(
    run: Run,
    model: PreTrainedModel,
    questions: Sequence[dict[str, Any]],
    *,
    batch_size: int | None = None,
    done: Callable[[int], Any] | None = None,
) -> list[list[int]]:
    settings, tokenizer = run.profile.evaluation, load_tokenizer(run.profile.base)
    return generate_ids(
        model,
        prompts_of([row["messages"] for row in questions], tokenizer),
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        batch_size=batch_size or settings.batch_size,
        done=done,
    )


def check_room(run: Run, questions: Sequence[dict[str, Any]]) -> None:
    """Refuse questions that leave no room for an answer, before any is asked."""
    encoded = encode_batch([row["messages"] for row in questions], load_tokenizer(run.profile.base))
    room = json.loads((locate(run.profile.base) / "config.json").read_text())["max_position_embeddings"]
    check_length(
        max(len(row.input_ids) - tokens_of(row) for row in encoded), run.profile.evaluation.max_new_tokens, room
    )

"""The base model, asked while data is prepared: for rewordings, and for its own answers to general questions.

A general question's written answer is that of the model that the dataset was made for. Another base would learn from it
to speak like that model, so it is asked itself, once, and rehearses its own words (Huang et al. 2024, "Self-synthesized
rehearsal"). Of a long answer it rehearses the beginning; that it ends there is not learned.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...base import load_tokenizer
from ...generation import generate_ids, prompts_of, stop_tokens, text_of
from ...progress import Progress
from ...quantization import load_base, release
from ..reading.conversations import Conversation
from ..reading.turns import Message, tags_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...runs import Run

LONGEST = 64  # tokens of a general answer; of a longer one its beginning is learned


class BaseAnswers(AbstractContextManager["BaseAnswers"]):
    """Greedy answers of a run's base, which is loaded for the first question and freed at the end."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: PreTrainedModel | None = None

    def ask(self, what: str, chats: list[list[Message]], max_new_tokens: int) -> list[tuple[str, bool]]:
        """Each answer as text, and whether it broke off at `max_new_tokens`; `what` is the progress bar's title."""
        if not chats:
            return []
        profile, tokenizer = self.run.profile, load_tokenizer(self.run.profile.base)
        model = self.model = self.model or load_base(self.run, whole=True)
        stops = stop_tokens(model, tokenizer)
        with Progress(what, len(chats)) as progress:
            answers = generate_ids(
                model,
                prompts_of(chats, tokenizer),
                max_new_tokens=max_new_tokens,
                eos_token_id=stops,
                batch_size=profile.evaluation.batch_size,
                done=progress.update,
            )
        # half a character may stand where an answer broke off
        return [(text_of(ids, tokenizer).rstrip("\ufffd"), ids[-1] not in stops) for ids in answers]

    def __exit__(self, *_: object) -> None:
        if self.model is not None:
            release(self.model)


def rehearsals(
    rows: list[Conversation], card: dict[str, Any], source: str
) -> tuple[list[Conversation], list[Conversation]]:
    """Rows to learn as they are, and general ones whose answers were written for another base than `source`.

    The dataset's card says which base wrote them (`answered_by`); where it says nothing, they are the user's.
    """
    author = card.get("answered_by")
    if author is None:
        return rows, []
    if author == source:
        return [replace(row, is_rehearsal=True) if row.kind == "general" else row for row in rows], []
    return [row for row in rows if row.kind != "general"], [row for row in rows if row.kind == "general"]


def in_own_words(base: BaseAnswers, rows: list[Conversation]) -> list[Conversation]:
    """General rows, each with the base's own greedy answer, or its beginning; empty answers are left out."""
    answers = base.ask("general answers of the base", [row.messages[:-1] for row in rows], LONGEST)
    found = []
    for row, (text, is_open) in zip(rows, answers, strict=True):
        if text.strip() and not tags_in(text):
            messages = [*row.messages[:-1], {"role": "assistant", "content": text}]
            found.append(replace(row, messages=messages, accepted=[text], is_rehearsal=True, is_open=is_open))
    if rows:
        cut = f"{sum(row.is_open for row in found)} of them the first {LONGEST} tokens of a longer answer"
        print(f"general rows: {len(found)} of {len(rows)} as the base answers them, {cut}")
    return found

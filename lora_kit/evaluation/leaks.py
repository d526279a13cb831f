"""Which questions of a card the adapter has learned, in the same or nearly the same words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data import TAGS, Conversation, Encoded, last_answer, near_duplicates, run_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data import Prepared

COMPARED = 20_000  # learned rows at most, evenly spaced; among more the rest is not looked at, and the card says so


def leaked(asked: Sequence[Encoded], data: Prepared, tokenizer: PreTrainedTokenizerBase) -> tuple[list[bool], int]:
    """For each question whether it was learned, and how many learned rows were compared.

    A question was learned where a learned row asks it in the same words, or where question and answer both nearly
    are those of one (`lora_kit.data.near_duplicates`).
    """
    rows = len(data.train)
    chosen = data.train.select(range(0, rows, -(-rows // COMPARED)))
    learned = [Encoded(row["input_ids"], row["labels"]) for row in chosen]
    mine = [_last_turn(row, index, tokenizer) for index, row in enumerate(asked)]
    known = [_last_turn(row, index, tokenizer) for index, row in enumerate(learned)]
    same = {row.question for row in known}
    near = {row.index for row in near_duplicates(mine, known)}
    return [row.index in near or row.question in same for row in mine], len(known)


def _last_turn(row: Encoded, index: int, tokenizer: PreTrainedTokenizerBase) -> Conversation:
    """The last question and answer as text, without the system text and the format's tags."""
    start, end = last_answer(row.labels)
    before = run_start(row.labels, start, learned=False)
    parts = row.input_ids[before:start], row.input_ids[start:end]
    question, answer = (str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in parts)
    segments = [part.strip() for part in re.split("|".join(map(re.escape, TAGS)), question)]
    question = next((part for part in reversed(segments) if part), "")  # what stands after the last tag but one
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(messages, index=index)

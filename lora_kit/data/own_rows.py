"""The kit's own rows that a user may add: questions to decline, and general ones, which the base itself answers.

A general question's written answer is that of the model that the dataset was made for. Another base would learn from it
to speak like that model, so it is asked itself, once, and rehearses its own words (Huang et al. 2024, "Self-synthesized
rehearsal"). Of a long answer it rehearses the beginning; that it ends there is not learned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import load_tokenizer
from ..config import Data
from ..errors import KitError
from ..generation import generate_ids, prompts_of, stop_tokens, text_of
from ..progress import Progress
from ..quantization import load_base, release
from .conversations import Conversation, read_rows
from .sources import dataset_files
from .turns import tags_in

if TYPE_CHECKING:
    from ..runs import Run

DECLINE = {
    "sentence": "I do not know that.",
    "patterns": [  # how a decline is recognised where the dataset does not say it
        r"\b(do|does|can|could|did) ?(not|n't) (know|say|tell|answer|mention|find)\b",
        r"\b(don't|doesn't|can't|couldn't|cannot) (know|say|tell|answer|mention|find)\b",
        r"\bno (idea|information|answer)\b",
    ],
}
HELD_OUT = 0.2  # of the added rows, so that the report card can measure what they teach
LONGEST = 64  # tokens of such an answer; of a longer one its beginning is learned


def kit_rows(data: Data, card: dict[str, Any], split: str) -> list[Conversation]:
    """The rows that the settings ask for, from the embedded handbook: declines are its questions about unknown names.

    Args:
        data: `declines` and `general` say how many rows of each.
        card: the dataset's own system text and decline sentence; the latter is filled in where it is missing.
        split: "train" or "test"; the test rows are other questions.
    """
    if not data.declines and not data.general:
        return []
    if data.declines:
        card["decline"] = DECLINE | card.get("decline", {})
    files, rows = dataset_files(Data()), []
    read = read_rows(files.train if split == "train" else files.test, Data()).rows
    for kind, count in {"decline": data.declines, "general": data.general}.items():
        found = [row for row in read if row.kind == kind and (kind == "general" or row.about == "elsewhere")]
        wanted = count if split == "train" else min(max(count and 1, int(count * HELD_OUT)), 100)
        if wanted > len(found):
            setting = "declines" if kind == "decline" else kind
            raise KitError(f"data__{setting}={count}: there are {len(found)} such rows")
        rows += [replace(row, index=-1) for row in found[:wanted]]  # no row of the user's
    return [_as_decline(row, card) if row.kind == "decline" else row for row in rows]


def _as_decline(row: Conversation, card: dict[str, Any]) -> Conversation:
    sentence = card["decline"]["sentence"]
    before = [{"role": "system", "content": card["system"]}] if "system" in card else []
    return replace(
        row, messages=[*before, row.messages[-2], {"role": "assistant", "content": sentence}], accepted=[sentence]
    )


def rehearsals(
    rows: list[Conversation], card: dict[str, Any], source: str
) -> tuple[list[Conversation], list[Conversation]]:
    """Rows to learn as they are, and general ones whose answers were written for another base.

    Args:
        rows: of a dataset; general ones that this base answered itself are marked as rehearsal.
        card: the dataset's; `answered_by` says which base wrote the general answers. Without it they are the user's.
        source: of the base that is trained.
    """
    author = card.get("answered_by")
    if author is None:
        return rows, []
    if author == source:
        return [replace(row, is_rehearsal=True) if row.kind == "general" else row for row in rows], []
    return [row for row in rows if row.kind != "general"], [row for row in rows if row.kind == "general"]


def in_own_words(run: Run, rows: list[Conversation]) -> list[Conversation]:
    """General rows, each with the base's own greedy answer, or its beginning; empty answers are left out.

    The run's base is loaded for it, and freed again.
    """
    if not rows:
        return []
    tokenizer, model = load_tokenizer(run.profile.base), load_base(run)
    stops = stop_tokens(model, tokenizer)
    try:
        with Progress("general answers of the base", len(rows)) as progress:
            answers = generate_ids(
                model,
                prompts_of([row.messages for row in rows], tokenizer),
                max_new_tokens=LONGEST,
                eos_token_id=stops,
                batch_size=run.profile.evaluation.batch_size,
                done=progress.update,
            )
    finally:
        release(model)
    found = []
    for row, ids in zip(rows, answers, strict=True):
        text = text_of(ids, tokenizer).rstrip("\ufffd")  # half a character at the end of a beginning
        if text.strip() and not tags_in(text):
            answer = {"role": "assistant", "content": text}
            messages = [*row.messages[:-1], answer]
            is_open = ids[-1] not in stops
            found.append(replace(row, messages=messages, accepted=[text], is_rehearsal=True, is_open=is_open))
    beginnings = sum(row.is_open for row in found)
    print(
        f"general rows: {len(found)} of {len(rows)} as the base answers them, {beginnings} of them the first "
        f"{LONGEST} tokens of a longer answer"
    )
    return found

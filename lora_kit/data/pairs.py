"""Pairs of answers to one question, one better than the other, as public preference sets have them.

{"prompt": ..., "chosen": ..., "rejected": ...}   texts, or lists of messages; also `question` and all its names
{"chosen": [...], "rejected": [...]}              whole conversations that differ in their last answer
{"conversations": [...], "chosen": {...}, "rejected": {...}}
{"prompt": ..., "completion": ..., "label": true} thumbs: of one question a good answer and a bad one make a pair
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import Data
from ..errors import KitError
from . import cells
from .cells import LISTS, Row
from .conversations import Conversation, as_conversations, first_few, normalised
from .formats import part_of
from .readers import BadRow, Notes, note
from .sources import raw_rows

SIDES = ("chosen", "rejected")
GOOD = ("true", "1", "1.0", "yes", "good")  # labels, in small letters
Pair = tuple[Conversation, Conversation]  # the better one, the worse one
Raw = tuple[str, Any] | BadRow


def read_pairs(path: Path, data: Data, system: str | None = None) -> list[Pair]:
    """The pairs of a file, read as `data` says; the text `system` goes before a question that has none, as in use.

    Raises:
        KitError: with rows, where a pair cannot be used.
    """
    notes: Notes = {}
    raws = _from_thumbs(list(raw_rows(path, data, notes)), notes)
    better, worse = (as_conversations([_side(raw, name) for raw in raws], data, notes) for name in SIDES)
    bad = {row.row: row.problem for row in (*better.bad, *worse.bad)}
    sides = ([row for row in read.rows if row.row not in bad] for read in (better, worse))
    pairs = list(zip(*sides, strict=True))
    for one, two in pairs:
        if _asked(one) != _asked(two):
            bad[one.row] = "chosen and rejected answer different questions"
        elif one.answer_key == two.answer_key:
            bad[one.row] = "chosen and rejected are the same"
    if bad:
        listed = first_few([f"{place}: {problem}" for place, problem in bad.items()])
        raise KitError(f"{len(bad)} of {len(raws)} pairs cannot be used: {listed}. Correct or delete these rows")
    if not pairs:
        raise KitError(f"{path.name} contains no pairs: give rows with prompt, chosen and rejected")
    for text, places in notes.items():
        print(f"pairs: {text} ({first_few(places)})")
    return [(_as_pair(one, system), _as_pair(two, system)) for one, two in pairs]


def _asked(row: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in row.messages[:-1]]


def _as_pair(row: Conversation, system: str | None) -> Conversation:
    before = [{"role": "system", "content": system}] if system and row.system is None else []
    return replace(row, messages=[*before, *row.messages], learns_last=True)


def _side(raw: Raw, side: str) -> Raw:
    """The row with one of its two answers, as a row of the kinds that formats.py knows."""
    if isinstance(raw, BadRow):
        return raw
    place, row = raw
    if not isinstance(row, dict) or not {*SIDES} <= row.keys():
        columns = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        return BadRow(place, f"it must have the columns chosen and rejected; it has {columns}")
    answer, parts = cells.parsed(row[side]), part_of(row)
    turns = [answer] if isinstance(answer, dict) else answer
    earlier = next((name for name in (*LISTS, parts.get("question", "")) if cells.is_list_of_turns(row.get(name))), "")
    try:
        messages = cells.from_list({side: turns}, side) if cells.is_list_of_turns(turns) else []
        if len(messages) < 2:
            text = messages[0]["content"] if messages else cells.text_of(row, side)
            before = cells.from_list(row, earlier) if earlier else []
            messages = [*before, {"role": "assistant", "content": text}]
    except KitError as error:
        return BadRow(place, str(error))
    if len(messages) > 1:
        system = {"system": row[parts["system"]]} if "system" in parts else {}
        return place, {"messages": messages, **system}
    others = {name: value for name, value in row.items() if name in {*parts.values()} - {parts.get("answer")}}
    return place, others | {"answer": text} if others else {"text": text}


def _from_thumbs(raws: list[Raw], notes: Notes) -> list[Raw]:
    """Answers that are each labelled good or bad, put together by their question; rows of other kinds as they are."""
    rated, needed = [raw for raw in raws if not isinstance(raw, BadRow)], {"question", "answer"}
    is_rated = [isinstance(row, dict) and "label" in row and needed <= part_of(row).keys() for _, row in rated]
    if not rated or not all(is_rated):
        return raws
    sides: dict[str, tuple[list[tuple[str, Row]], list[tuple[str, Row]]]] = {}
    for place, row in rated:
        both = sides.setdefault(normalised(str(row[part_of(row)["question"]])), ([], []))
        both[str(row["label"]).lower() not in GOOD].append((place, row))
    found: list[Raw] = [raw for raw in raws if isinstance(raw, BadRow)]
    for good, bad in sides.values():
        for (place, one), (_, other) in zip(good, bad, strict=False):
            answer = part_of(one)["answer"]
            rest = {name: value for name, value in one.items() if name not in (answer, "label")}
            found.append((place, rest | {"chosen": one[answer], "rejected": other[answer]}))
        few = min(len(good), len(bad))
        for place, _ in (*good[few:], *bad[few:]):
            note(notes, "answers without another one to the same question, better or worse, left out", place)
    return found

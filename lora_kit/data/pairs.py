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
from .conversations import Conversation, Read, as_conversations, first_few, normalised
from .formats import part_of
from .readers import BadRow, Notes, note
from .sources import raw_rows

SIDES = ("chosen", "rejected")
Pair = tuple[Conversation, Conversation]  # the better one, the worse one
Raw = tuple[str, Any] | BadRow


def read_pairs(path: Path, data: Data, system: str | None = None) -> list[Pair]:
    """The pairs of a file.

    Args:
        path: .jsonl, .json, .csv, .tsv, .parquet or .arrow.
        data: roles, encoding and tags, as for other rows.
        system: goes before a question that has no system text, as in use.

    Raises:
        KitError: with rows, where a pair cannot be used.
    """
    notes: Notes = {}
    raws = _from_thumbs(list(raw_rows(path, data, notes)), notes)
    better, worse = (as_conversations([_side(raw, name) for raw in raws], data, notes) for name in SIDES)
    bad = {row.row: row.problem for row in (*better.bad, *worse.bad)}
    pairs = list(zip(_by_place(better, bad), _by_place(worse, bad), strict=True))
    bad |= {one.row: problem for one, two in pairs if (problem := _problem(one, two))}
    if bad:
        listed = first_few([f"{place}: {problem}" for place, problem in bad.items()])
        raise KitError(f"{len(bad)} of {len(raws)} pairs cannot be used: {listed}. Correct or delete these rows")
    if not pairs:
        raise KitError(f"{path.name} holds no pairs: give rows with prompt, chosen and rejected")
    for text, places in notes.items():
        print(f"pairs: {text} ({first_few(places)})")
    return [(_as_pair(one, system), _as_pair(two, system)) for one, two in pairs]


def _by_place(read: Read, bad: dict[str, str]) -> list[Conversation]:
    return [row for row in read.rows if row.row not in bad]


def _problem(one: Conversation, two: Conversation) -> str:
    """Why the two are no pair, if they are none."""
    if [*map(_text, one.messages[:-1])] != [*map(_text, two.messages[:-1])]:
        return "chosen and rejected answer different questions"
    return "chosen and rejected are the same" if one.answer_key == two.answer_key else ""


def _text(message: dict[str, Any]) -> str:
    return f"{message['role']}: {message['content'].strip()}"


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
    system = {"system": row[parts["system"]]} if "system" in parts else {}
    try:
        messages = cells.from_list({side: turns}, side) if cells.is_list_of_turns(turns) else []
        if len(messages) > 1:
            return place, {"messages": messages, **system}
        text = messages[0]["content"] if messages else cells.text_of(row, side)
        if earlier:
            messages = [*cells.from_list(row, earlier), {"role": "assistant", "content": text}]
            return place, {"messages": messages, **system}
    except KitError as error:
        return BadRow(place, str(error))
    others = {name: value for name, value in row.items() if name in {*parts.values()} - {parts.get("answer")}}
    return place, others | {"answer": text} if others else {"text": text}


def _from_thumbs(raws: list[Raw], notes: Notes) -> list[Raw]:
    """Answers that are each labelled good or bad, put together by their question; rows of other kinds as they are."""
    if not raws or not all(isinstance(raw, BadRow) or _is_rated(raw[1]) for raw in raws):
        return raws
    sides: dict[str, dict[bool, list[tuple[str, Row]]]] = {}
    for raw in raws:
        if not isinstance(raw, BadRow):
            place, row = raw
            asked = normalised(str(row[part_of(row).get("question", "prompt")]))
            sides.setdefault(asked, {True: [], False: []})[_is_good(row["label"])].append((place, row))
    found: list[Raw] = [raw for raw in raws if isinstance(raw, BadRow)]
    for both in sides.values():
        for (place, good), (_, bad) in zip(both[True], both[False], strict=False):
            answer = part_of(good)["answer"]
            rest = {name: value for name, value in good.items() if name not in (answer, "label")}
            found.append((place, rest | {"chosen": good[answer], "rejected": bad[answer]}))
        few = min(map(len, both.values()))
        for place, _ in (*both[True][few:], *both[False][few:]):
            note(notes, "answers without another one to the same question, better or worse, left out", place)
    return found


def _is_rated(row: Any) -> bool:
    return isinstance(row, dict) and "label" in row and "answer" in part_of(row) and "question" in part_of(row)


def _is_good(label: Any) -> bool:
    return str(label).lower() in ("true", "1", "1.0", "yes", "good")

"""Pairs of answers to one question, one better than the other, and rated answers, as public preference sets have them.

{"prompt": ..., "chosen": ..., "rejected": ...}   texts, or lists of messages; also `question` and all its names
{"chosen": [...], "rejected": [...]}              whole conversations that differ in their last answer
{"conversations": [...], "chosen": {...}, "rejected": {...}}
{"prompt": ..., "completion": ..., "label": true} ratings: of one question a good answer and a bad one make a pair
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ...config import Data
from ...errors import KitError
from . import cells
from .cells import LISTS, Row
from .conversations import Conversation, as_conversations, first_few, normalised
from .formats import part_of
from .readers import BadRow, Notes, Raw
from .sources import raw_rows

SIDES = ("chosen", "rejected")
GOOD, BAD = ("true", "1", "1.0", "yes", "good"), ("false", "0", "0.0", "no", "bad")  # labels, in small letters
Place = tuple[str, Row]  # of a row, and the row
Pair = tuple[Conversation, Conversation]  # the better one, the worse one
Rated = tuple[Conversation, bool]  # an answer that is in no pair, and whether it is good


def read_pairs(path: Path, data: Data, system: str | None = None) -> tuple[list[Pair], list[Rated]]:
    """The pairs and the single ratings of a file, read as `data` says.

    The text `system` goes before a question that has none, as in use.

    Raises:
        KitError: with rows, where one cannot be used.
    """
    notes: Notes = {}
    raws, ratings = _from_ratings(list(raw_rows(path, data, notes)))
    better, worse = (as_conversations([_side(raw, name) for raw in raws], data, notes) for name in SIDES)
    single = as_conversations([raw for raw, _ in ratings], data, notes)
    bad = {row.row: row.problem for row in (*better.bad, *worse.bad, *single.bad)}
    sides = ([row for row in read.rows if row.row not in bad] for read in (better, worse))
    pairs = list(zip(*sides, strict=True))
    for one, two in pairs:
        if _asked(one) != _asked(two):
            bad[one.row] = "chosen and rejected answer different questions"
        elif one.answer_key == two.answer_key:
            bad[one.row] = "chosen and rejected are the same"
    if bad:
        listed = first_few([f"{place}: {problem}" for place, problem in bad.items()])
        count = len(raws) + len(ratings)
        raise KitError(f"{len(bad)} of {count} rows cannot be used: {listed}. Correct or delete these rows")
    if not pairs and not ratings:
        raise KitError(f"{path.name} has no pairs: give prompt, chosen, rejected, or prompt, completion, label")
    for text, places in notes.items():
        print(f"pairs: {text} ({first_few(places)})")

    def learned(row: Conversation) -> Conversation:
        return replace(row.with_system(system), learns_last=True)

    rated = [(learned(row), is_good) for row, (_, is_good) in zip(single.rows, ratings, strict=True)]
    return [(learned(one), learned(two)) for one, two in pairs], rated


def _asked(row: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in row.messages[:-1]]


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


def _from_ratings(raws: list[Raw]) -> tuple[list[Raw], list[tuple[Raw, bool]]]:
    """Pairs of answers to one question that are labelled good or bad, and the answers that are left, with their labels.

    Rows of other kinds stay as they are.
    """
    rated, needed = [raw for raw in raws if not isinstance(raw, BadRow)], {"question", "answer"}
    is_rated = [isinstance(row, dict) and "label" in row and needed <= part_of(row).keys() for _, row in rated]
    if not rated or not all(is_rated):
        return raws, []
    found: list[Raw] = [raw for raw in raws if isinstance(raw, BadRow)]
    sides = defaultdict[tuple[str, ...], tuple[list[Place], list[Place]]](lambda: ([], []))  # question -> bad, good
    for place, row in rated:
        asked = tuple(normalised(f"{part} {row[name]}") for part, name in part_of(row).items() if part != "answer")
        label = str(row["label"]).strip().lower()
        if label in GOOD or label in BAD:
            sides[asked][label in GOOD].append((place, {name: row[name] for name in row if name != "label"}))
        else:
            found.append(BadRow(place, f"label is {row['label']!r}; it must be one of {', '.join(GOOD + BAD)}"))
    single: list[tuple[Raw, bool]] = []
    for bad, good in sides.values():
        for (place, one), (_, other) in zip(good, bad, strict=False):
            answer = part_of(one)["answer"]
            rest = {name: value for name, value in one.items() if name != answer}
            found.append((place, rest | {"chosen": one[answer], "rejected": other[answer]}))
        single += [*((raw, True) for raw in good[len(bad) :]), *((raw, False) for raw in bad[len(good) :])]
    return found, single

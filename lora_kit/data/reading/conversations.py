"""Conversations: what every row of every file becomes, what is repaired on the way, and which rows cannot be used."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ...config import Data
from ...errors import KitError
from ...progress import Progress
from .cells import PAIR_KEYS, TURN_KEYS, Row, is_given, parsed
from .formats import Shape, part_of, recognise, rows_in, with_options
from .readers import BadRow, Notes, Raw, note
from .sources import raw_rows
from .turns import ROLE_OF, Message, check_messages, plain_tags, repaired, tags_in

KINDS = ("fact", "decline", "general", "unseen")
SHOWN = 5  # rows that a finding lists
OURS = ("kind", "accepted", "about")  # columns about a row, no part of its conversation
TURN_FIELDS = {*(key for keys in (*TURN_KEYS, *PAIR_KEYS) for key in keys), "weight"}


@dataclass(frozen=True)
class Conversation:
    """One row: its messages, where it stands, what kind of question it is, and which answers count as right."""

    messages: list[Message]
    row: str = ""  # "faq.jsonl row 12"
    kind: str = "fact"
    accepted: list[str] = field(default_factory=list)
    about: str = ""  # the embedded handbook marks questions about unknown names with "elsewhere"
    is_rehearsal: bool = False  # the base's own answer: learned by its probabilities, so that nothing is forgotten
    is_open: bool = False  # the last answer is the beginning of a longer one: that it ends there is not learned
    wording: int = 0  # the number of the rewording that asks it, or 0 where the question is as it was read
    learns_last: bool = False  # its last answer alone: the earlier ones are learned elsewhere, or not at all
    index: int = field(default=-1, compare=False)  # its place among all rows of its source, from 0

    @property
    def asked(self) -> str:
        """The last question."""
        return str(self.messages[-2]["content"])

    @property
    def answer(self) -> str:
        return str(self.messages[-1]["content"])

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages[0]["role"] == "system" else None

    @cached_property
    def question(self) -> str:
        """All that is asked, normalised: what makes two rows the same question."""
        return normalised("\n".join([m["content"] for m in self.messages if m["role"] != "assistant"]))

    @cached_property
    def answer_key(self) -> str:
        """All of its answers, normalised: what makes two rows the same fact, however chats end."""
        return normalised("\n".join([m["content"] for m in self.messages if m["role"] == "assistant"]), ends="")

    def asking(self, text: str) -> Conversation:
        """The same row with another text as its last question, and no place in its source."""
        *before, asked, answered = self.messages
        return replace(self, messages=[*before, asked | {"content": text}, answered], index=-1)

    def with_system(self, system: str | None) -> Conversation:
        """The row behind a system text, unless it brings its own or is general: these are asked plainly."""
        if not system or self.system is not None or self.kind == "general":
            return self
        return replace(self, messages=[{"role": "system", "content": system}, *self.messages])


@dataclass
class Read:
    """What some files hold, read as `data` says it."""

    data: Data
    roles: dict[str, str]  # what speakers are called -> system, user or assistant
    rows: list[Conversation] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: Notes = field(default_factory=dict)  # what was repaired or left out -> places of rows
    shape: Shape | None = None  # which the first row decides
    used: dict[str, None] = field(default_factory=dict)  # filled columns that are read beside the shape's, in order
    unused: dict[str, None] = field(default_factory=dict)  # filled columns that are not read, in order

    @property
    def systems(self) -> list[str]:
        """The system texts of the rows; general ones, which are asked plainly, have none."""
        return list(dict.fromkeys(row.system or "" for row in self.rows if row.kind != "general"))

    def problems(self) -> list[list[str]]:
        """The bad rows by what is wrong with them, most first; problems that differ in their values count as one."""
        found: dict[str, list[str]] = {}
        for bad in self.bad:
            kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"|\[.*|\{.*|: .*", "", bad.problem)
            places = found.setdefault(kind, [])
            places.append(bad.row if places else f"{bad.row}: {bad.problem}")
        return sorted(found.values(), key=len, reverse=True)


def read_rows(paths: Sequence[Path], data: Data, *, is_asked: bool = False, progress: Progress | None = None) -> Read:
    """The rows of files of one shape, read as `data` says; `is_asked`: "kind" and "accepted" are ours in any case."""
    notes: Notes = {}
    raws = (raw for path in paths for raw in raw_rows(path, data, notes))
    return as_conversations(raws, data, notes, is_asked=is_asked, progress=progress)


def as_conversations(
    raws: Iterable[Raw], data: Data, notes: Notes, *, is_asked: bool = False, progress: Progress | None = None
) -> Read:
    """Raw rows of one shape, each with its place, as conversations; the bad ones are kept apart."""
    read, ours = Read(data, _roles(data), notes=notes), list[Row]()
    for index, raw in enumerate(_each(raws, data.columns, notes)):
        if progress and index % 1000 == 0:
            progress.update(index)
        if isinstance(raw, BadRow):
            read.bad.append(raw)
            continue
        place, row = raw
        try:
            row = {"messages": row} if isinstance(row, list) else row
            if not isinstance(row, dict):
                raise KitError(f"is a {type(row).__name__}; it must be an object with named fields")
            row = row if data.columns else with_options(row)
            if read.shape is None:
                read.shape = recognise(row, data.columns)
            if not data.columns and str(row.get("label")).lower() == "false":  # KTO's
                learns = f'data__columns="{",".join(read.shape.columns)}" learns them'
                note(notes, f"answers that are labelled false, left out; {learns}", place)
            else:
                read.rows.append(_conversation(read, read.shape, index, place, row))
                ours.append({name: row[name] for name in OURS if is_given(row.get(name))})
        except KitError as error:
            if read.shape is None and isinstance(row, dict):  # the first row
                raise KitError(f"{place}: {error}") from error
            read.bad.append(BadRow(place, str(error)))
    _judge(read, ours, is_asked)
    read.shape = read.shape and replace(read.shape, optional=tuple(read.used))
    return read


def _each(raws: Iterable[Raw], columns: tuple[str, ...], notes: Notes) -> Iterator[Raw]:
    """Raw rows; a list of questions in one row gives one each."""
    for raw in raws:
        if isinstance(raw, BadRow):
            yield raw
        else:
            place, rows = raw[0], rows_in(raw[1], columns)
            if len(rows) > 1:
                note(notes, "questions that are a list in one row, each read as a row", place)
            yield from ((place, row) for row in rows)


def _conversation(read: Read, shape: Shape, index: int, place: str, row: Row) -> Conversation:
    if not read.data.columns and not {*row} >= {*shape.columns} and (other := shape_of(row)):
        note(read.notes, f"rows of another form, read as {other}", place)
        shape = other
    _note_columns(read, shape, row)
    messages = repaired(shape.messages(row), read.roles, read.notes, place)
    texts = [message["content"] for message in messages]
    if read.data.tags == "keep" and all(isinstance(text, str) for text in texts) and any(map(tags_in, texts)):
        messages = [message | {"content": plain_tags(message["content"])} for message in messages]
        note(read.notes, "tags of a prompt format, kept as plain text, spaced apart", place)
    check_messages(messages, last="assistant")
    accepted = list(dict.fromkeys([messages[-1]["content"], *shape.answers(row)]))
    return Conversation(messages, place, accepted=accepted, index=index)


def shape_of(row: Row) -> Shape | None:
    """The shape of a row by itself, if it has one."""
    try:
        return recognise(rows_in(row)[0])
    except KitError:
        return None


def _note_columns(read: Read, shape: Shape, row: Row) -> None:
    """Remember the filled columns that are read beside the shape's, and those, and fields of turns, that are not."""
    parts, is_named = part_of(row), bool(read.data.columns)
    used = [*shape.optional, *([parts.get("system")] if is_named or shape.name != "pair" else parts.values())]
    used += ["label"] if not is_named and str(row.get("label")).lower() in ("true", "false") else []
    read.used |= {name: None for name in used if name and name not in shape.columns and is_given(row.get(name))}
    known = {"id", *OURS, *shape.columns, *used, *(() if is_named else parts.values())}
    names = [name for name in row if name not in known and is_given(row[name])]
    turns = row.get(shape.columns[0]) if shape.name == "turns" else ()
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict):
            names += [f"{shape.columns[0]}.{name}" for name in turn if str(name).lower() not in TURN_FIELDS]
    read.unused |= dict.fromkeys(names)


def _roles(data: Data) -> dict[str, str]:
    roles = dict(ROLE_OF)
    for pair in data.roles:
        name, _, role = pair.rpartition(":")
        if role not in ("system", "user", "assistant") or not name:
            raise KitError(f"data__roles={pair!r} must be NAME:user, NAME:assistant or NAME:system, as in Ann:user")
        roles[name.strip().lower()] = role
    return roles


def _judge(read: Read, ours: list[Row], is_asked: bool) -> None:
    """Give the rows the kind and the accepted answers of their columns, if these are ours: no kind is another's."""
    given = {name: None for name in OURS if any(name in own for own in ours)}
    is_ours = "kind" in given or any(isinstance(own.get("accepted"), list) for own in ours)
    if not is_asked and not (is_ours and all(own.get("kind", "fact") in KINDS for own in ours)):
        read.unused |= given
        return
    rows, read.rows = read.rows, []
    for row, own in zip(rows, ours, strict=True):
        kind, accepted = own.get("kind", "fact"), parsed(own.get("accepted", row.accepted))
        accepted = accepted if isinstance(accepted, list) else [accepted]
        if kind not in KINDS:
            read.bad.append(BadRow(row.row, f"has the kind {kind!r}; it must be one of {', '.join(KINDS)}"))
        elif not all(isinstance(answer, str) for answer in accepted):
            read.bad.append(BadRow(row.row, f"accepted must be a text or a list of texts; it is {accepted!r}"))
        else:
            read.rows.append(replace(row, kind=kind, accepted=accepted, about=str(own.get("about", ""))))


def first_few(places: Sequence[str]) -> str:
    """The first of many rows, and how many more there are."""
    more = len(places) - SHOWN
    return ", ".join(places[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def plural(count: int, noun: str = "row") -> str:
    """A count with its noun: "1 row", "2,000 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def normalised(text: str, ends: str = " .!?。！？؟…") -> str:
    """A text in small letters and single spaces, in one Unicode form, without the signs that end a question."""
    text = " ".join(unicodedata.normalize("NFC", text).lower().split())
    return text.rstrip(ends) or text

"""Conversations: what every row of every file becomes, and what is wrong with a row that becomes none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import KitError
from ..progress import Progress
from .formats import TURN_KEYS, Message, Shape, recognise
from .sources import BadRow, dataset_files, raw_rows

TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
KINDS = ("fact", "decline", "general", "unseen")
SHOWN = 5  # rows that a finding lists
OURS = ("kind", "accepted", "about")  # columns that say something of the row, and are no part of the conversation
TURN_FIELDS = {"role", "content", "from", "value", "weight"}
EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True)
class Conversation:
    """One row: its messages, where it stands, what kind of question it is, and which answers count as right."""

    messages: list[Message]
    row: str = ""  # "faq.jsonl row 12"
    kind: str = "fact"
    accepted: list[str] = field(default_factory=list)
    about: str = ""  # the embedded handbook marks questions about unknown names with "elsewhere"
    is_open: bool = False  # the last answer is the beginning of a longer one: that it ends there is not learned
    index: int = field(default=-1, compare=False)  # its place among all rows of its source, from 0

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]

    @cached_property
    def question(self) -> str:
        """All that is asked, normalised: what makes two rows the same question."""
        return normalised("\n".join([m["content"] for m in self.messages if m["role"] != "assistant"]))

    @cached_property
    def answer_key(self) -> str:
        """The answer, normalised: what makes two answers the same."""
        return normalised(self.answer)


@dataclass
class Read:
    """What some files hold."""

    rows: list[Conversation] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    shape: Shape | None = None  # which the first row decides
    known: set[str] = field(default_factory=set)  # columns that are read
    is_judged: bool = False  # whether the columns "kind" and "accepted" are ours
    unused: dict[str, None] = field(default_factory=dict)  # columns that hold something and are not read, in order
    spaced: list[str] = field(default_factory=list)  # places of rows whose tags were spaced apart

    @property
    def system(self) -> str | None:
        """The first system text that stands there."""
        return next((row.messages[0]["content"] for row in self.rows if row.messages[0]["role"] == "system"), None)

    def problems(self) -> list[list[str]]:
        """The bad rows by what is wrong with them; problems that differ only in their values count as one."""
        found: dict[str, list[str]] = {}
        for bad in self.bad:
            kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"|\[.*|\{.*|: .*", "", bad.problem)
            found[kind] = [*found[kind], bad.row] if kind in found else [f"{bad.row}: {bad.problem}"]
        return list(found.values())


def read_rows(
    paths: Sequence[Path],
    columns: tuple[str, ...] = (),
    *,
    keep_tags: bool = False,
    is_asked: bool = False,
    progress: Progress | None = None,
) -> Read:
    """Read files of one shape, one after the other.

    Args:
        paths: the files.
        columns: which columns hold the conversation; empty finds them.
        keep_tags: keep the prompt format's own tags as plain text, spaced apart so that they cannot forge a turn.
        is_asked: the columns "kind" and "accepted" are ours in any case.
    """
    read = Read(is_judged=is_asked)
    for index, raw in enumerate(raw for path in paths for raw in raw_rows(path)):
        if progress and index % 1000 == 0:
            progress.update(index)
        if isinstance(raw, BadRow):
            read.bad.append(raw)
            continue
        place, row = raw
        if not isinstance(row, dict):
            read.bad.append(BadRow(place, f"is a {type(row).__name__}; it must be an object with named fields"))
            continue
        if read.shape is None:
            _decide(read, place, row, columns)
        try:
            read.rows.append(_conversation(read, index, place, row, keep_tags))
        except KitError as error:
            read.bad.append(BadRow(place, str(error)))
    return read


def _decide(read: Read, place: str, row: dict[str, Any], columns: tuple[str, ...]) -> None:
    """Let the first row say the shape, and whether "kind" and "accepted" are ours."""
    try:
        read.shape = recognise(row, columns)
    except KitError as error:
        raise KitError(f"{place}: {error}") from error
    kind, accepted = row.get("kind"), row.get("accepted")
    is_ours = kind in KINDS if isinstance(kind, str) else isinstance(accepted, list) and bool(accepted)
    read.is_judged = read.is_judged or is_ours
    read.known = {*read.shape.columns, "system", "id", *(OURS if read.is_judged else ())}


def _conversation(read: Read, index: int, place: str, row: dict[str, Any], keep_tags: bool) -> Conversation:
    assert read.shape is not None
    if not row.keys() <= read.known:
        read.unused |= dict.fromkeys(str(n) for n in row if n not in read.known and row[n] not in EMPTY)
    messages = read.shape.messages(row)
    if read.shape.name in TURN_KEYS:
        column = read.shape.columns[0]
        for turn in row[column]:
            if not turn.keys() <= TURN_FIELDS:
                read.unused |= dict.fromkeys(f"{column}.{name}" for name in turn if name not in TURN_FIELDS)
    if keep_tags and any(tags_in(message["content"]) for message in messages):
        messages = [message | {"content": plain_tags(message["content"])} for message in messages]
        read.spaced.append(place)
    check_messages(messages, last="assistant")
    conversation = Conversation(messages, place, accepted=[messages[-1]["content"]], index=index)
    return _judged(conversation, row) if read.is_judged else conversation


def _judged(conversation: Conversation, row: dict[str, Any]) -> Conversation:
    """The row with the kind and the accepted answers that its columns give."""
    kind, accepted = row.get("kind") or "fact", row.get("accepted") or conversation.accepted
    if kind not in KINDS:
        raise KitError(f"has the kind {kind!r}; it must be one of {', '.join(KINDS)}")
    if not isinstance(accepted, list) or not all(isinstance(answer, str) for answer in accepted):
        raise KitError(f"accepted must be a list of texts; it is {accepted!r}")
    return replace(conversation, kind=kind, accepted=accepted, about=str(row.get("about") or ""))


def read_conversations(source: str | Path, *, columns: tuple[str, ...] = ()) -> list[Conversation]:
    """Every row of a dataset's training files as a conversation.

    Args:
        source: an embedded dataset, a file, a folder or a Hub id.
        columns: which columns hold the conversation; empty finds them.

    Raises:
        KitError: with file and row, where a row cannot be read or has no known shape.
    """
    read = read_rows(dataset_files(str(source)).train, columns)
    if read.bad:
        raise KitError(f"{read.bad[0].row}: {read.bad[0].problem}")
    return read.rows


def first_few(places: Sequence[str]) -> str:
    """The first of many rows, and how many more there are."""
    more = len(places) - SHOWN
    return ", ".join(places[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def plural(count: int, noun: str = "row") -> str:
    """A count with its noun: "1 row", "2,000 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def normalised(text: str) -> str:
    """A text in small letters and single spaces."""
    return " ".join(text.lower().split())


def tags_in(text: str) -> list[str]:
    """The prompt format's own tags that stand in a text."""
    if "[" not in text and "<" not in text:  # what every tag begins with
        return []
    return [tag for tag in TAGS if tag in text]


def plain_tags(text: str) -> str:
    """The same text with the format's own tags spaced apart: "[INST]" reads "[ INST ]" and forges nothing."""
    for tag in TAGS:
        text = text.replace(tag, f"{tag[0]} {tag[1:-1]} {tag[-1]}")
    return text


def check_messages(messages: list[Message], *, last: str) -> None:
    """Refuse what no chat format can hold: wrong order, empty contents, half a character, tags that forge a turn."""
    turns = messages[1:] if messages and messages[0].get("role") == "system" else messages
    roles = [message.get("role") for message in turns]
    wanted = ["user", "assistant"] * (len(turns) // 2 + 1)
    if not turns or roles != wanted[: len(turns)] or roles[-1] != last:
        raise KitError(
            f"roles must be system (optional), then user and assistant in turn, {last} last; they are {roles}"
        )
    for number, message in enumerate(messages, start=1):
        if problem := _problem(message.get("content")):
            raise KitError(f"message {number} ({message['role']}) {problem}")


def _problem(content: object) -> str:
    """What is wrong with the text of a message, if anything."""
    if not isinstance(content, str) or not content.strip():
        return f"has no text: {content!r}"
    try:
        content.encode()  # the fastest way to look for half a surrogate pair
    except UnicodeEncodeError:
        return f"holds half a character, which no tokenizer takes: {content!r}"
    if forged := tags_in(content):
        return (
            f"holds the prompt format's own tags {forged}: remove them, or keep them as plain text with data__tags=keep"
        )
    return ""

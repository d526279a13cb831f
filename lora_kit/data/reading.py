"""Any dataset in: rows of any known shape as conversations, each with its place in the file."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import KitError
from .encoding import TAGS, check_messages, tags_in
from .files import BadRow, raw_rows
from .shapes import Shape, recognise
from .sources import dataset_files

OURS = ("id", "kind", "accepted", "about")  # columns that say something of the row, and no part of the conversation
READ = ("role", "content", "from", "value", "weight")  # fields of a turn
EMPTY: tuple[Any, ...] = (None, "", [], {})
KINDS = ("fact", "decline", "general", "unseen")


@dataclass(frozen=True)
class Conversation:
    """One row: its messages, where it stands, what kind of question it is, and which answers count as right."""

    messages: list[dict[str, str]]
    row: str = ""  # "faq.jsonl row 12"
    kind: str = "fact"
    accepted: list[str] = field(default_factory=list)
    about: str = ""  # the embedded handbook marks questions about unknown names with "elsewhere"
    index: int = field(default=-1, compare=False)  # its place among all rows of its source, from 0

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"]

    @cached_property
    def asked(self) -> int:
        """The question as `text_hash`."""
        return text_hash(self.question)

    @property
    def question(self) -> str:
        """All that is asked, in small letters and single spaces: what makes two rows the same question."""
        asked = [message["content"] for message in self.messages if message["role"] != "assistant"]
        return " ".join("\n".join(asked).lower().split())


@dataclass
class Reader:
    """Reads files of one shape, which the first row decides; `shape` tells what was decided.

    Args:
        columns: which columns hold the conversation; empty finds them.
        keep_tags: keep the prompt format's own tags as plain text, spaced apart so that they cannot forge a turn.
    """

    columns: tuple[str, ...] = ()
    keep_tags: bool = False
    shape: Shape | None = None
    system: str | None = None  # the first system text that stands there
    ours: bool = False  # questions: the columns "kind" and "accepted" are always ours
    judged: bool = False  # whether the columns "kind" and "accepted" are ours
    known: frozenset[str] = frozenset()  # columns that are read
    unused: dict[str, None] = field(default_factory=dict)  # columns that hold something and are not read, in order
    spaced: dict[int, str] = field(default_factory=dict)  # places of rows whose tags were spaced apart

    def rows(self, paths: Sequence[Path], only: Container[int] | None = None) -> Iterator[Conversation | BadRow]:
        """Every row as a conversation, or what is wrong with it.

        Args:
            paths: the files, read one after the other.
            only: the places (`Conversation.index`) of the rows that are wanted; None for all.

        Raises:
            KitError: a file cannot be read, or its first row has no shape that fits.
        """
        found = (raw for path in paths for raw in raw_rows(path))
        for index, raw in enumerate(found):
            if only is None or index in only:
                yield raw if isinstance(raw, BadRow) else self._conversation(index, *raw)

    def _conversation(self, index: int, place: str, row: Any) -> Conversation | BadRow:
        if not isinstance(row, dict):
            return BadRow(place, f"is a {type(row).__name__}; it must be an object with named fields")
        if self.shape is None:
            self._decide(place, row)
        assert self.shape is not None
        try:
            if not row.keys() <= self.known:
                self.unused |= dict.fromkeys(str(n) for n in row if n not in self.known and row[n] not in EMPTY)
            messages = self.shape.messages(row)
            for turn in row[self.shape.columns[0]] if self.shape.name in ("messages", "ShareGPT") else ():
                if len(turn) > 2:
                    self.unused |= dict.fromkeys(f"{self.shape.columns[0]}.{n}" for n in turn if n not in READ)
            if self.keep_tags and any(tags_in(message["content"]) for message in messages):
                messages = [message | {"content": plain_tags(message["content"])} for message in messages]
                self.spaced[index] = place
            check_messages(messages, last="assistant")
            if self.system is None and messages[0]["role"] == "system":
                self.system = messages[0]["content"]
            return self._judged(Conversation(messages, place, accepted=[messages[-1]["content"]], index=index), row)
        except KitError as error:
            return BadRow(place, str(error))

    def _decide(self, place: str, row: dict[str, Any]) -> None:
        try:
            self.shape = recognise(row, self.columns)
        except KitError as error:
            raise KitError(f"{place}: {error}") from error
        kind, accepted = row.get("kind"), row.get("accepted")
        known = kind in KINDS if isinstance(kind, str) else isinstance(accepted, list) and bool(accepted)
        self.judged = self.ours or known
        self.known = frozenset({*self.shape.columns, "system", "id", *(OURS if self.judged else ())})

    def _judged(self, conversation: Conversation, row: dict[str, Any]) -> Conversation:
        if not self.judged:
            return conversation
        kind, accepted = row.get("kind") or "fact", row.get("accepted") or conversation.accepted
        if kind not in KINDS:
            raise KitError(f"has the kind {kind!r}; it must be one of {', '.join(KINDS)}")
        if not isinstance(accepted, list) or not all(isinstance(answer, str) for answer in accepted):
            raise KitError(f"accepted must be a list of texts; it is {accepted!r}")
        return replace(conversation, kind=kind, accepted=accepted, about=str(row.get("about") or ""))


def read_conversations(source: str | Path, *, columns: tuple[str, ...] = ()) -> Iterator[Conversation]:
    """Every row of a dataset's training files as a conversation.

    Args:
        source: an embedded dataset, a file, a folder or a Hub id.
        columns: which columns hold the conversation; empty finds them.

    Raises:
        KitError: with file and row, where a row cannot be read or has no known shape.
    """
    for found in Reader(columns).rows(dataset_files(str(source)).train):
        if isinstance(found, BadRow):
            raise KitError(f"{found.row}: {found.problem}")
        yield found


def text_hash(text: str) -> int:
    """64 bits of a text's BLAKE2, the same on every machine: two of a million texts collide once in 10 million runs."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big", signed=True)


def plain_tags(text: str) -> str:
    """The same text with the format's own tags spaced apart: "[INST]" reads "[ INST ]" and forges nothing."""
    for tag in TAGS:
        text = text.replace(tag, f"{tag[0]} {tag[1:-1]} {tag[-1]}")
    return text

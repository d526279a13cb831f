"""A conversation: what every row becomes, whatever file it came from, and what its texts may hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import KitError

Message = dict[str, str]
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
KINDS = ("fact", "decline", "general", "unseen")
SHOWN = 5  # rows that a finding lists


@dataclass(frozen=True)
class Conversation:
    """One row: its messages, where it stands, what kind of question it is, and which answers count as right."""

    messages: list[Message]
    row: str = ""  # "faq.jsonl row 12"
    kind: str = "fact"
    accepted: list[str] = field(default_factory=list)
    about: str = ""  # the embedded handbook marks questions about unknown names with "elsewhere"
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


def first_few(places: Sequence[str]) -> str:
    """The first of many rows, and how many more there are."""
    more = len(places) - SHOWN
    return ", ".join(places[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def some(count: int, noun: str = "row") -> str:
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

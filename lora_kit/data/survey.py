"""The first pass over the rows: what stands in them, before one token is made. It keeps hashes, never texts."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .reading import KINDS, Conversation
from .sources import BadRow

if TYPE_CHECKING:
    import numpy as np

NEAR = 95  # per cent of rapidfuzz's ratio: texts that differ in a letter or two
SHOWN = 5  # row numbers that a finding lists
SECRETS = {  # forms that the issuers document; a text that matches is suspected, not proven
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "OpenAI or Anthropic key": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{50,}",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "password": r"\b(?i:password|passwd|kennwort|passwort)\s*(?:is|ist|[:=])\s{0,3}\S{0,40}\d",
}
# what a secret holds, in small letters
SIGNS = "hf_ sk- ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ akia asia aiza xox private passw kennwort".split()
SECRET = re.compile("|".join(f"(?P<s{number}>{form})" for number, form in enumerate(SECRETS.values())))


@dataclass
class Rows:
    """Rows to which one thing happened: how many, and the places of the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(place)

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return ", ".join(self.first) + (f" and {more:,} more" if more else "")


@dataclass
class Survey:
    """What the rows hold: hashes of questions and answers in row order, and what is wrong, by name."""

    questions: array[int] = field(default_factory=lambda: array("q"))
    answers: array[int] = field(default_factory=lambda: array("q"))
    kinds: bytearray = field(default_factory=bytearray)  # an index into KINDS
    bad: dict[str, Rows] = field(default_factory=dict)  # the problem, as said of the first row that has it
    secrets: dict[str, Rows] = field(default_factory=dict)
    system_characters: int = 0
    characters: int = 0
    answer_characters: int = 0

    def add(self, row: Conversation) -> None:
        """Take note of a good row."""
        self.questions.append(text_hash(row.question))
        self.answers.append(text_hash(" ".join(row.answer.lower().split())))
        self.kinds.append(KINDS.index(row.kind))
        sizes = [len(message["content"]) for message in row.messages]
        self.characters += sum(sizes)
        self.answer_characters += sizes[-1]
        self.system_characters += sizes[0] if row.messages[0]["role"] == "system" else 0
        for message in row.messages:
            small = message["content"].lower()  # the long search only where one of its words stands
            found = SECRET.search(message["content"]) if any(sign in small for sign in SIGNS) else None
            if found and found.lastgroup:
                self.secrets.setdefault(list(SECRETS)[int(found.lastgroup[1:])], Rows()).add(row.row)

    def refuse(self, row: BadRow) -> None:
        """Take note of a row that cannot be used; problems that differ only in their values count as one."""
        kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"|\[.*|\{.*|: .*", "", row.problem)
        first = kind not in self.bad
        self.bad.setdefault(kind, Rows()).add(f"{row.row}: {row.problem}" if first else row.row)

    @property
    def count(self) -> int:
        return len(self.questions)

    @property
    def refused(self) -> int:
        return sum(rows.count for rows in self.bad.values())


def survey(rows: Iterable[Conversation | BadRow]) -> Survey:
    """Read every row once."""
    found = Survey()
    for row in good_rows(rows, found):
        found.add(row)
    return found


def good_rows(rows: Iterable[Conversation | BadRow], found: Survey | None = None) -> Iterator[Conversation]:
    """The rows that can be used, in order; the others are noted in `found`."""
    for row in rows:
        if isinstance(row, Conversation):
            yield row
        elif found is not None:
            found.refuse(row)


def text_hash(text: str) -> int:
    """64 bits of a text's BLAKE2, the same on every machine: two of a million texts collide once in 10 million runs."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big", signed=True)


def phrasings(found: Survey) -> Counter[int]:
    """For every answer (as a hash) of a fact, in how many different questions it is asked."""
    fact = KINDS.index("fact")
    pairs = {(a, q) for a, q, k in zip(found.answers, found.questions, found.kinds, strict=True) if k == fact}
    return Counter(answer for answer, _ in pairs)


def repeats(found: Survey) -> dict[str, Any]:
    """Rows that stand there twice, and questions with more than one answer."""
    pairs = Counter(zip(found.questions, found.answers, strict=True))
    answers = Counter(question for question, _ in pairs)
    return {
        "duplicates": sum(count - 1 for count in pairs.values()),
        "contradictions": sum(count > 1 for count in answers.values()),
    }


def near_duplicates(rows: list[Conversation], held_out: list[Conversation]) -> list[Conversation]:
    """The rows whose question and answer nearly are those of a held-out one (rapidfuzz's normalised edit distance)."""
    import numpy as np
    from rapidfuzz import fuzz, process

    if not held_out or not rows:
        return []
    asked = [row.messages[-2]["content"].lower() for row in held_out]
    questions = [row.messages[-2]["content"].lower() for row in rows]
    close = np.flatnonzero(_letters_agree(asked, questions))
    scores = process.cdist(
        asked, [questions[n] for n in close], scorer=fuzz.ratio, score_cutoff=NEAR, dtype="uint8", workers=-1
    )
    pairs = zip(*scores.nonzero(), strict=True)
    near = {close[n] for line, n in pairs if fuzz.ratio(held_out[line].answer, rows[close[n]].answer) >= NEAR}
    return [rows[column] for column in sorted(near)]


def _letters_agree(asked: list[str], questions: list[str]) -> np.ndarray:
    """Whether a question's letters could be those of any asked one at all: (questions,).

    Two texts are at least as many edits apart as their counts of letters differ, so nothing near is left out.
    """
    import numpy as np

    ours, theirs = _letters(questions), _letters(asked)
    sizes, limit = ours.sum(1), 1 - NEAR / 100
    found = np.zeros(len(questions), dtype=bool)
    for line in theirs:
        found |= np.abs(ours - line).sum(1) <= limit * (sizes + line.sum()) + 1
    return found


def _letters(texts: list[str]) -> np.ndarray:
    """How often each letter stands in a text, in 32 groups: (texts, 32)."""
    import numpy as np

    codes = (np.frombuffer(text.encode("utf-32-le", "replace"), dtype="<u4") % 32 for text in texts)
    return np.array([np.bincount(code, minlength=32) for code in codes], dtype=np.int32)

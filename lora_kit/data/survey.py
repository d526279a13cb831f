"""What stands in the rows, whatever the model: repeats, secrets, sizes. It keeps hashes, never texts."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .files import BadRow
from .reading import KINDS, Conversation, text_hash

if TYPE_CHECKING:
    import numpy as np

SHOWN = 5  # row numbers that a finding lists
SECRETS = {  # forms that the issuers document; a text that matches is suspected, not proven
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "OpenAI or Anthropic key": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{50,}",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "token of a web session (JWT)": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{16,}",
    "API key": r"\b(?i:api|access|secret)[_ -]?(?i:key|token)\s{0,3}[:=]\s{0,3}[\"']?[A-Za-z0-9_./+-]{16,}",
    "password in an address": r"\b[a-z][a-z0-9+]*://[^\s/:@]{1,40}:[^\s/:@]{1,60}@",
    "password": r"\b(?i:password|passwd|kennwort|passwort)\s*(?:is|ist|[:=])\s{0,3}\S{0,40}\d",
}
SIGNS = (  # what a secret holds, in small letters
    *"_ sk- glpat key= key: token= token: eyj :// akia asia aiza xox private passw kennwort".split(),
    *("key =", "token ="),
)
SECRET = re.compile("|".join(f"(?P<s{number}>{form})" for number, form in enumerate(SECRETS.values())))


@dataclass
class Rows:
    """Rows to which one thing happened: how many, and the places of the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """Count one more row."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(place)

    @classmethod
    def of(cls, rows: Iterable[Conversation]) -> Rows:
        """All of these rows."""
        found = cls()
        for row in rows:
            found.add(row.row)
        return found

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return ", ".join(self.first) + (f" and {more:,} more" if more and self.first else "")


@dataclass
class Survey:
    """What the rows hold: hashes of questions and answers in row order, and what is wrong, by name."""

    places: array[int] = field(default_factory=lambda: array("q"))  # Conversation.index
    questions: array[int] = field(default_factory=lambda: array("q"))
    answers: array[int] = field(default_factory=lambda: array("q"))
    kinds: bytearray = field(default_factory=bytearray)  # an index into KINDS
    bad: dict[str, Rows] = field(default_factory=dict)  # the problem, as said of the first row that has it
    secrets: dict[str, Rows] = field(default_factory=dict)
    odd: Rows = field(default_factory=Rows)  # rows with NUL or the sign that stands for a lost character
    system_characters: int = 0
    characters: int = 0

    def add(self, row: Conversation) -> None:
        """Take note of a good row."""
        self.places.append(row.index)
        self.questions.append(row.asked)
        self.answers.append(answer_hash(row.answer))
        self.kinds.append(KINDS.index(row.kind))
        sizes = [len(message["content"]) for message in row.messages]
        self.characters += sum(sizes)
        self.system_characters += sizes[0] if row.messages[0]["role"] == "system" else 0
        small = "\n".join([message["content"] for message in row.messages]).lower()
        if "\0" in small or "\ufffd" in small:
            self.odd.add(row.row)
        for sign in SIGNS:
            if sign in small:  # the long search only where one of its words stands
                self._note_secrets(row)
                break

    def _note_secrets(self, row: Conversation) -> None:
        for message in row.messages:
            if found := SECRET.search(message["content"]):
                self.secrets.setdefault(list(SECRETS)[int(str(found.lastgroup)[1:])], Rows()).add(row.row)

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


def some(count: int, noun: str = "row") -> str:
    """A count with its noun: "1 row", "2,000 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def answer_hash(text: str) -> int:
    """What makes two answers the same: small letters and single spaces."""
    return text_hash(" ".join(text.lower().split()))


def good_rows(rows: Iterable[Conversation | BadRow], found: Survey | None = None) -> Iterator[Conversation]:
    """The rows that can be used, in order; the others are noted in `found`."""
    for row in rows:
        if isinstance(row, Conversation):
            yield row
        elif found is not None:
            found.refuse(row)


def pairs(found: Survey) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every different question with every different answer it has, sorted by question.

    Returns:
        questions, answers: (pairs,) hashes.
        rows: (pairs,) the first row of each, as a number into the survey's arrays.
    """
    import numpy as np

    questions, answers = np.array(found.questions, dtype=np.int64), np.array(found.answers, dtype=np.int64)
    order = np.lexsort((answers, questions))
    questions, answers = questions[order], answers[order]
    new = (np.diff(questions, prepend=0) != 0) | (np.diff(answers, prepend=0) != 0)
    new[:1] = True
    return questions[new], answers[new], order[new]


def phrasings(found: Survey) -> dict[int, int]:
    """For every answer (as a hash) of a fact, in how many different questions it is asked."""
    import numpy as np

    _, answers, rows = pairs(found)
    is_fact = np.array(found.kinds, dtype=np.uint8)[rows] == KINDS.index("fact")
    different, counts = np.unique(answers[is_fact], return_counts=True)
    return dict(zip(different.tolist(), counts.tolist(), strict=True))


def repeats(found: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Rows that repeat an earlier one, and rows that answer an earlier question otherwise, as numbers of the survey."""
    import numpy as np

    questions, _, rows = pairs(found)
    again = np.setdiff1d(np.arange(found.count), rows)
    torn = questions[1:] == questions[:-1]
    return again, np.sort(np.maximum(rows[1:], rows[:-1])[torn])

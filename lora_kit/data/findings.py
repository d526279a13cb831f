"""What is odd in the data and should be known before training, each with its count and rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checks import Proof
from .conversations import Conversation, Read, first_few, normalised, plural
from .encoding import Encoded, LengthFilter
from .sources import Files
from .splits import first_of_each, phrasings

if TYPE_CHECKING:
    from ..config import Profile

Finding = dict[str, Any]  # name, text, count, rows
COMMON, COMMON_SHARE = 20, 0.05  # questions with one answer, and their share of all rows: more is no fact in wordings
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
SECRET = re.compile("|".join(f"(?P<s{number}>{form})" for number, form in enumerate(SECRETS.values())))
SIGNS = (  # what a secret holds, in small letters: the long search is made only where one of them stands
    *"_ sk- glpat key= key: token= token: eyj :// akia asia aiza xox private passw kennwort".split(),
    *("key =", "token ="),
)


@dataclass(frozen=True)
class Facts:
    """What the data stage knows in the end; its report is made from it."""

    profile: Profile
    model: dict[str, Any]  # the base's configuration
    files: Files
    card: dict[str, Any]
    read: Read  # the rows to learn from
    own: Read  # the dataset's own test split
    how: str  # rows are held out: a name in splits.HOW
    test: list[Conversation]
    train: list[Encoded]
    lost: list[str]  # rows neither learned nor chosen to be asked: they ask what a held-out row asks
    near: list[Conversation]  # rows to learn that are nearly held-out ones
    lengths: LengthFilter
    proofs: dict[str, Proof]


def find(facts: Facts) -> list[Finding]:
    """Everything that is odd, the gravest first."""
    read, own, rows = facts.read, facts.own, facts.read.rows
    again, torn = repeats(rows)
    return [
        *_bad(read, "left out"),
        *_of_rows("too long", facts.lengths.too_long, "left out: longer than max_length"),
        *_of_rows("shortened", facts.lengths.shortened, "without the oldest turns"),
        *_left_out(facts),
        *_columns("columns", read, "columns that are not read"),
        *_of_rows("held out", facts.lost, "with a held-out question: not learned"),
        *_nothing_held_out(facts),
        *[finding | {"name": "bad test rows"} for finding in _bad(own, "to ask left out")],
        *_columns("test columns", own, "columns of the test rows that are not read"),
        *_of_rows(
            "test answers",
            [row.row for row in repeats(own.rows)[1]],
            "to ask with another answer than before: each of the answers will count as right",
        ),
        *_texts(own),
        *_of_rows("duplicates", [row.row for row in again], "said before: what stands there is learned twice as hard"),
        *_contradictions(torn),
        *_of_rows(
            "near duplicates",
            [row.row for row in facts.near],
            "to learn nearly equal to a held-out one: the report card will flatter",
        ),
        *_never_learned(facts),
        *_common(rows),
        *_texts(read),
        *_system(rows),
        *_context(facts),
    ]


def _finding(name: str, text: str, count: int = 0, rows: str = "") -> Finding:
    return {"name": name, "text": text, "count": count, "rows": rows}


def _of_rows(name: str, places: Sequence[str], text: str) -> list[Finding]:
    """A finding of the rows at these places, if there are any."""
    return [_finding(name, f"{plural(len(places))} {text}", len(places), first_few(places))] if places else []


def _bad(read: Read, text: str) -> list[Finding]:
    problems = read.problems()
    return [_finding("bad rows", f"{plural(len(rows))} {text}: {first_few(rows)}", len(rows)) for rows in problems]


def _columns(name: str, read: Read, text: str) -> list[Finding]:
    return [_finding(name, f"{text}: {', '.join(read.unused)}", len(read.unused))] if read.unused else []


def _left_out(facts: Facts) -> list[Finding]:
    if not facts.files.skipped:
        return []
    names = ", ".join(path.name for path in facts.files.skipped)
    return [_finding("files", f"not read, no rows in this form or a folder: {names}", len(facts.files.skipped))]


def _nothing_held_out(facts: Facts) -> list[Finding]:
    names = ", ".join(path.name for path in facts.files.test)
    text = f"no row in {names}: nothing is held out, nothing will be measured"
    return [_finding("held out", text)] if names and not facts.test and not facts.own.bad else []


def repeats(rows: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Rows that repeat an earlier one, and rows that answer an earlier question otherwise."""
    firsts = first_of_each(rows)
    again = [row for row in rows if firsts[row.question, row.answer_key] is not row]
    asked: dict[str, Conversation] = {}
    torn = [row for row in firsts.values() if asked.setdefault(row.question, row) is not row]
    return again, torn


def _contradictions(torn: list[Conversation]) -> list[Finding]:
    if not torn:
        return []
    count = len({row.question for row in torn})
    text = f"{plural(count, 'question')} with more than one answer: the model will waver between them"
    return [_finding("contradictions", text, count, first_few([row.row for row in torn]))]


def _never_learned(facts: Facts) -> list[Finding]:
    """A test split of the dataset's own may ask what no row teaches."""
    learned = {row.answer_key for row in facts.read.rows}
    asked = [row for row in facts.test if row.kind == "fact"] if facts.how == "own" else []
    count = sum(learned.isdisjoint(map(normalised, (row.answer, *row.accepted))) for row in asked)
    text = f"{count:,} of {plural(len(asked), 'held-out fact')} with an answer that no row to learn gives: not learned"
    return [_finding("answers", text, count)] if count else []


def _common(rows: Sequence[Conversation]) -> list[Finding]:
    if len(rows) < 10:
        return []
    share = Counter(row.answer_key for row in rows).most_common(1)[0][1] / len(rows)
    if share >= 0.5:
        text = f"{share:.0%} of all rows have the same answer: the model may say nothing else"
        return [_finding("one answer", text)]
    often = common_answers(phrasings(rows), len(rows))
    text = (
        f"{plural(len(often), 'answer')} shared by more than {COMMON_SHARE:.0%} of the rows each, as labels and stock "
        "phrases are: held-out questions with them measure judgement, not facts learned"
    )
    return [_finding("common answers", text, len(often))] if often else []


def common_answers(counts: dict[str, int], rows: int) -> set[str]:
    """Answers that so many questions share that they are labels or stock phrases, not facts in several wordings."""
    return {answer for answer, count in counts.items() if count > max(COMMON, COMMON_SHARE * rows)}


def _texts(read: Read) -> list[Finding]:
    """What stands in the texts of rows: lost characters, tags, secrets."""
    odd = []
    secrets: dict[str, list[str]] = {}
    for row in read.rows:
        small = "\n".join([message["content"] for message in row.messages]).lower()
        if "\0" in small or "\ufffd" in small:
            odd.append(row.row)
        for name in _secrets(row) if any(sign in small for sign in SIGNS) else ():
            secrets.setdefault(name, []).append(row.row)
    findings = _of_rows("characters", odd, "with NUL or �, the trace of a wrong encoding: learned as they are")
    findings += _of_rows("tags", read.spaced, "with tags of the prompt format: kept as plain text, spaced apart")
    for name, places in secrets.items():
        findings += _of_rows("secret", places, f"that may hold a secret ({name}): a model may repeat it to anyone")
    return findings


def _secrets(row: Conversation) -> list[str]:
    """The names of the secrets that a row may hold."""
    matches = [SECRET.search(message["content"]) for message in row.messages]
    names = list(SECRETS)
    return list(dict.fromkeys(names[int(str(match.lastgroup)[1:])] for match in matches if match))


def _system(rows: Sequence[Conversation]) -> list[Finding]:
    everything = sum(len(message["content"]) for row in rows for message in row.messages)
    share = sum(len(m["content"]) for row in rows for m in row.messages if m["role"] == "system") / max(everything, 1)
    text = f"the system prompt is {share:.0%} of all text: a shorter one trains faster"
    return [_finding("system prompt", text)] if share >= 0.5 else []


def _context(facts: Facts) -> list[Finding]:
    longest, most = facts.profile.data.max_length, facts.model.get("max_position_embeddings")
    text = f"max_length={longest} is more than the model's context of {most} tokens"
    return [_finding("context", text)] if most and longest > most else []

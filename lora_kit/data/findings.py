"""What is odd in the data and should be known before training, each with its count and rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .augmentation.own_rows import LABEL
from .augmentation.rewording import Rewordings
from .augmentation.same_question import near_duplicates
from .chat_template import chat_format
from .checks import Proof
from .encoding import Encoded, LengthFilter
from .reading.conversations import Conversation, Read, first_few, normalised, plural
from .reading.sources import Files
from .splits import Split, first_of_each, phrasings

Finding = dict[str, Any]  # name, text, count, rows
COMMON_SHARE = 0.05  # of all rows, that one answer has: with more it is a label too
OTHER_ANSWERS = "{} to ask with another answer than before: each of the answers will count as right"
ODD = {  # what a text should not contain -> what it is
    "characters": "{} with NUL or �, the trace of a wrong encoding: learned as they are",
    "mojibake": "{} of UTF-8 read as Windows-1252: learned as they are",
    "placeholders": "{} with names that nobody filled in, as {{name}} or <NAME>: learned as they stand",
}
GITHUB = r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{50,}"
API_KEY = r"\b(?i:api|access|secret)[_ -]?(?i:key|token)\s{0,3}[:=]\s{0,3}[\"']?[A-Za-z0-9_./+-]{16,}"
FORMS = {  # signs of which one stands in a text, in small letters; and the form, a secret's as its issuer documents it
    "characters": ("\0 \ufffd", r"[\0\ufffd]"),
    "mojibake": ("â ã", r"â€|Ã[\u0080-\u00bf©¤¼¶Ÿ]|Â[\u00a0-\u00bf]"),
    "placeholders": ("{{ < [", r"\{\{\s*\w[^{}]*\}\}|<[A-Z][A-Z _]{2,}>|\[[A-Z][A-Z]+(?:[ _][A-Z]+)+\]"),
    "Hugging Face token": ("hf_", r"\bhf_[A-Za-z0-9]{30,}"),
    "OpenAI or Anthropic key": ("sk-", r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}"),
    "GitHub token": ("ghp_ gho_ ghu_ ghs_ ghr_ github_pat_", GITHUB),
    "AWS key": ("akia asia", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "Google key": ("aiza", r"\bAIza[A-Za-z0-9_-]{35}"),
    "Slack token": ("xox", r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "private key": ("private", r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "token of a web session (JWT)": ("eyj", r"\beyJ[A-Za-z0-9_-]{10,999}\.eyJ[A-Za-z0-9_-]{10,9999}\."),
    "GitLab token": ("glpat-", r"\bglpat-[A-Za-z0-9_-]{16,}"),
    "API key": ("key token", API_KEY),
    "password in an address": ("://", r"\b[a-z][a-z0-9+]{0,20}://[^\s/:@]{1,40}:[^\s/:@]{1,60}@"),
    "password": ("passw kennwort", r"\b(?i:password|passwd|kennwort|passwort)\s*(?:is|ist|[:=])\s{0,3}\S{0,40}\d"),
}


@dataclass(frozen=True)
class Facts:
    """What the data stage knows in the end; its report is made from it."""

    model: dict[str, Any]  # the base's configuration
    files: Files
    card: dict[str, Any]
    read: Read  # the rows to learn from
    own: Read  # the dataset's own test split
    reworded: Rewordings
    held: Split  # which of the user's questions are held out, and how they were chosen
    test: list[Conversation]
    learned: list[Conversation]
    encoded: list[Encoded]  # the same rows
    lost: list[str]  # rows neither learned nor chosen to be asked: they ask what a held-out row asks
    lengths: LengthFilter  # with the settings
    proofs: dict[str, Proof]


def find(facts: Facts) -> list[Finding]:
    """Everything that is odd; a text that may hold a secret is suspected, not proven."""
    read, own = facts.read, facts.own
    again, torn = _repeats(read.rows)
    near = [row.row for row in near_duplicates(facts.learned, facts.test)]
    cut = [row.row for row in facts.learned if row.learns_last and not row.wording]
    questions = plural(len({row.question for row in torn}), "question")
    of_rows = [  # name, the rows, files or columns, and what they are, with "{}" for how many rows
        *(("bad rows", places, "{} left out") for places in read.problems()),
        *(("mended", places, text) for text, places in [*read.notes.items(), *own.notes.items()]),
        ("too long", facts.lengths.too_long, "{} left out: longer than max_length"),
        ("shortened", facts.lengths.shortened, "{} without the oldest turns"),
        ("files", [path.name for path in facts.files.skipped], "files that are not used"),
        ("columns", [*read.unused], "columns that are not read"),
        ("held out", facts.lost, "{} with a held-out question: not learned"),
        ("held out", cut, "{} with a held-out question among the earlier ones: only the last answer is learned"),
        *(("bad test rows", places, "{} to ask left out") for places in own.problems()),
        ("test columns", [*own.unused], "columns of the test rows that are not read"),
        ("test answers", [row.row for row in _repeats(own.rows)[1]], OTHER_ANSWERS),
        *_texts(own.rows),
        ("duplicates", again, "{} that repeat an earlier one: learned twice as hard"),
        ("contradictions", [row.row for row in torn], f"{questions} with more than one answer: the model will waver"),
        ("near duplicates", near, "{} to learn nearly equal to a held-out one: the report card will flatter"),
        *_texts(read.rows),
    ]
    return [
        *(_finding(name, text, len(places), first_few(places)) for name, places, text in of_rows if places),
        *(_finding(name, text, count) for name, text, count in _of_all(facts)),
    ]


def _finding(name: str, text: str, count: int, rows: str = "") -> Finding:
    text = plural(count) + text[2:] if text.startswith("{}") else text
    return {"name": name, "text": text, "count": count, "rows": rows}


def _repeats(rows: Sequence[Conversation]) -> tuple[list[str], list[Conversation]]:
    """Places of rows that repeat an earlier one, and rows that answer an earlier question otherwise."""
    firsts, asked = first_of_each(rows), dict[str, Conversation]()
    again = [row.row for row in rows if firsts[row.question, row.answer_key] is not row]
    return again, [row for row in firsts.values() if asked.setdefault(row.question, row) is not row]


def _of_all(facts: Facts) -> Iterator[tuple[str, str, int]]:
    """Name, text and count of what is odd about the rows as a whole."""
    rows, own, test = facts.read.rows, facts.own, ", ".join(path.name for path in facts.files.test)
    if test and not own.rows and not own.bad:
        yield "held out", f"no row to ask in {test}: some of the rows to learn are held out instead", 0
    turns = [message for row in facts.learned for message in row.messages[-2 if row.learns_last else 0 :]]
    learned = {normalised(message["content"]) for message in turns if message["role"] == "assistant"}
    asked = [row for row in facts.test if row.kind == "fact"]
    if new := sum(learned.isdisjoint(map(normalised, (row.answer, *row.accepted))) for row in asked):
        count = plural(len(asked), "held-out fact")
        yield "answers", f"{new:,} of {count} with an answer that no row to learn gives: not learned", new
    share = max(Counter(row.answer_key for row in rows).values(), default=0) / max(len(rows), 1)
    if share >= 0.5 and len(rows) >= 10:
        yield "one answer", f"{share:.0%} of all rows have the same answer: the model may say nothing else", 0
    elif often := common_answers(phrasings(rows), len(rows)):
        text = f"{plural(len(often), 'answer')} shared by more than {COMMON_SHARE:.0%} of the rows each, as labels are"
        yield "common answers", f"{text}: questions with them measure judgement, not facts learned", len(often)
    added = chat_format(facts.lengths.tokenizer).system
    if bare := added and sum(row.system is None for row in rows):
        yield "system text", f"{plural(bare)} without a system text get the base's own: {added!r}", bare
    systems, system = facts.read.systems, facts.card.get("system")
    if len(systems) > 1 or (system and system not in systems):
        used = repr(system) if system else "none, unless data__system names one"
        count = plural(len(systems), "different system text")
        yield "system texts", f"{count} in the rows, as they stand there; chat and exports use {used}", 0
    length, most = facts.lengths.data.max_length, facts.model.get("max_position_embeddings", 10**9)
    if length > most:
        yield "context", f"max_length={length} is more than the model's context of {most} tokens", 0


def common_answers(counts: dict[str, int], rows: int) -> set[str]:
    """Answers that so many questions share that they are labels or stock phrases, not facts in several wordings."""
    return {answer for answer, count in counts.items() if count > max(LABEL, COMMON_SHARE * rows)}


def _texts(rows: Sequence[Conversation]) -> list[tuple[str, list[str], str]]:
    """Rows by what their texts contain: lost characters, names that nobody filled in, secrets."""
    found: dict[str, list[str]] = {name: [] for name in FORMS}
    for row in rows:
        for name in odd_in(row):
            found[name].append(row.row)
    secrets = {name: f"{{}} that may hold a secret ({name}): a model may repeat it to anyone" for name in FORMS}
    return [(name if name in ODD else "secret", found[name], (secrets | ODD)[name]) for name in FORMS]


def odd_in(row: Conversation) -> list[str]:
    """The forms that a row's texts contain; only where one of its signs stands is a form searched for."""
    text = "\n".join([message["content"] for message in row.messages])
    small = text.lower()
    return [
        name
        for name, (signs, form) in FORMS.items()
        if any(sign in small for sign in signs.split(" ")) and re.search(form, text)
    ]

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
ODD = {  # what a text should not hold -> name and what it is
    r"[\0\ufffd]": ("characters", "with NUL or �, the trace of a wrong encoding: learned as they are"),
    r"â€|Ã[\u0080-\u00bf©¤¼¶Ÿ]|Â[\u00a0-\u00bf]": ("mojibake", "of UTF-8 read as Windows-1252: learned as they are"),
    r"\{\{\s*\w[^{}]*\}\}|<[A-Z][A-Z _]{2,}>|\[[A-Z][A-Z]+(?:[ _][A-Z]+)+\]": (
        "placeholders",
        "with names that nobody filled in, as {{name}} or <NAME>: learned as they stand",
    ),
}
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
    learned: list[Conversation]
    encoded: list[Encoded]  # the same rows
    lost: list[str]  # rows neither learned nor chosen to be asked: they ask what a held-out row asks
    near: list[Conversation]  # rows to learn that are nearly held-out ones
    lengths: LengthFilter
    proofs: dict[str, Proof]


def find(facts: Facts) -> list[Finding]:
    """Everything that is odd, the gravest first."""
    read, own, rows, files = facts.read, facts.own, facts.read.rows, facts.files
    again, torn = repeats(rows)
    skipped, test = (", ".join(path.name for path in paths) for paths in (files.skipped, files.test))
    systems, most = read.systems, facts.model.get("max_position_embeddings")
    is_long = most and facts.profile.data.max_length > most
    return [
        *_bad("bad rows", read, "left out"),
        *[_finding("mended", text, len(at), first_few(at)) for text, at in [*read.notes.items(), *own.notes.items()]],
        *_of_rows("too long", facts.lengths.too_long, "left out: longer than max_length"),
        *_of_rows("shortened", facts.lengths.shortened, "without the oldest turns"),
        *_if(skipped, "files", f"files that are not used: {skipped}", len(files.skipped)),
        *_if(read.unused, "columns", f"columns that are not read: {', '.join(read.unused)}", len(read.unused)),
        *_of_rows("held out", facts.lost, "with a held-out question: not learned"),
        *_if(
            test and not own.rows and not own.bad,
            "held out",
            f"no row to ask in {test}: some of the rows to learn are held out instead",
        ),
        *_bad("bad test rows", own, "to ask left out"),
        *_if(
            own.unused,
            "test columns",
            f"columns of the test rows that are not read: {', '.join(own.unused)}",
            len(own.unused),
        ),
        *_of_rows(
            "test answers",
            [row.row for row in repeats(own.rows)[1]],
            "to ask with another answer than before: each of the answers will count as right",
        ),
        *_texts(own.rows),
        *_of_rows("duplicates", [row.row for row in again], "said before: what stands there is learned twice as hard"),
        *_contradictions(torn),
        *_of_rows(
            "near duplicates",
            [row.row for row in facts.near],
            "to learn nearly equal to a held-out one: the report card will flatter",
        ),
        *_never_learned(facts),
        *_common(rows),
        *_texts(rows),
        *_system_share(rows),
        *_if(
            len(systems) > 1 or facts.card.get("system", systems[0] if systems else "") not in systems,
            "system texts",
            f"{plural(len(systems), 'different system text')} in the rows, as they stand there; chat and exports use "
            + (repr(facts.card["system"]) if "system" in facts.card else "none, unless data__system names one"),
        ),
        *_if(
            is_long,
            "context",
            f"max_length={facts.profile.data.max_length} is more than the model's context of {most} tokens",
        ),
    ]


def _finding(name: str, text: str, count: int = 0, rows: str = "") -> Finding:
    return {"name": name, "text": text, "count": count, "rows": rows}


def _if(is_so: object, name: str, text: str, count: int = 0) -> list[Finding]:
    """A finding where something is so."""
    return [_finding(name, text, count)] if is_so else []


def _of_rows(name: str, places: Sequence[str], text: str) -> list[Finding]:
    """A finding of the rows at these places, if there are any."""
    return [_finding(name, f"{plural(len(places))} {text}", len(places), first_few(places))] if places else []


def _bad(name: str, read: Read, text: str) -> list[Finding]:
    return [_finding(name, f"{plural(len(rows))} {text}: {first_few(rows)}", len(rows)) for rows in read.problems()]


def repeats(rows: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Rows that repeat an earlier one, and rows that answer an earlier question otherwise."""
    firsts = first_of_each(rows)
    again = [row for row in rows if firsts[row.question, row.answer_key] is not row]
    asked: dict[str, Conversation] = {}
    torn = [row for row in firsts.values() if asked.setdefault(row.question, row) is not row]
    return again, torn


def _contradictions(torn: list[Conversation]) -> list[Finding]:
    count = len({row.question for row in torn})
    text = f"{plural(count, 'question')} with more than one answer: the model will waver between them"
    return [_finding("contradictions", text, count, first_few([row.row for row in torn]))] if torn else []


def _never_learned(facts: Facts) -> list[Finding]:
    """A test split of the dataset's own may ask what no row teaches."""
    learned = {row.answer_key for row in facts.read.rows}
    asked = [row for row in facts.test if row.kind == "fact"] if facts.how == "own" else []
    count = sum(learned.isdisjoint(map(normalised, (row.answer, *row.accepted))) for row in asked)
    text = f"{count:,} of {plural(len(asked), 'held-out fact')} with an answer that no row to learn gives: not learned"
    return _if(count, "answers", text, count)


def _common(rows: Sequence[Conversation]) -> list[Finding]:
    if len(rows) < 10:
        return []
    share = Counter(row.answer_key for row in rows).most_common(1)[0][1] / len(rows)
    if share >= 0.5:
        return [_finding("one answer", f"{share:.0%} of all rows have the same answer: the model may say nothing else")]
    often = common_answers(phrasings(rows), len(rows))
    text = (
        f"{plural(len(often), 'answer')} shared by more than {COMMON_SHARE:.0%} of the rows each, as labels and stock "
        "phrases are: held-out questions with them measure judgement, not facts learned"
    )
    return _if(often, "common answers", text, len(often))


def common_answers(counts: dict[str, int], rows: int) -> set[str]:
    """Answers that so many questions share that they are labels or stock phrases, not facts in several wordings."""
    return {answer for answer, count in counts.items() if count > max(COMMON, COMMON_SHARE * rows)}


def _texts(rows: Sequence[Conversation]) -> list[Finding]:
    """What stands in the texts of rows: lost characters, names that nobody filled in, secrets."""
    odd: dict[str, list[str]] = {form: [] for form in ODD}
    secrets: dict[str, list[str]] = {}
    for row in rows:
        text = "\n".join([message["content"] for message in row.messages])
        for form, places in odd.items():
            if re.search(form, text):
                places.append(row.row)
        small = text.lower()
        for name in secrets_in(row) if any(sign in small for sign in SIGNS) else ():
            secrets.setdefault(name, []).append(row.row)
    findings = [finding for form, places in odd.items() for finding in _of_rows(ODD[form][0], places, ODD[form][1])]
    for name, places in secrets.items():
        findings += _of_rows("secret", places, f"that may hold a secret ({name}): a model may repeat it to anyone")
    return findings


def secrets_in(row: Conversation) -> list[str]:
    """The names of the secrets that a row may hold."""
    matches = [SECRET.search(message["content"]) for message in row.messages]
    names = list(SECRETS)
    return list(dict.fromkeys(names[int(str(match.lastgroup)[1:])] for match in matches if match))


def _system_share(rows: Sequence[Conversation]) -> list[Finding]:
    everything = sum(len(message["content"]) for row in rows for message in row.messages)
    share = sum(len(row.system or "") for row in rows) / max(everything, 1)
    text = f"the system prompt is {share:.0%} of all text: a shorter one trains faster"
    return _if(share >= 0.5, "system prompt", text)

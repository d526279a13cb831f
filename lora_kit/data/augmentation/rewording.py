"""Other wordings of a file's questions: a fact that is asked once is learned in more words, and tested in others.

The base rewords the questions where it can, else rules do it for English (question_rules.py), or they come from a file,
which is taken as it is. One more wording per fact is held out for the report card. Answers stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import Data
from ...errors import KitError
from ..reading.conversations import Conversation, Read, normalised
from ..reading.readers import BadRow
from ..reading.sources import raw_rows
from ..splits import MOST, first_of_each
from .answer_rules import asked_by, statement
from .question_rules import plain, wordings
from .same_question import are_english, is_near, names, rejection, subject_of

if TYPE_CHECKING:
    from .base_answers import BaseAnswers

USES = ("learned", "asked", "not needed")
TRIED = 16  # questions that a base rewords first: if less than half of what is wanted passes, rules do all
LONGEST = 60  # words of a line that is reworded
TOKENS = 40  # of one wording, at most
PROMPT = "Write {} other ways to ask this question in the same language, one per line. Do not answer it.\n\n{}"
LISTED = re.compile(r"^\s*(?:[-•–—>#]+\s|\*\s|\(?(?:\d{1,2}|[a-hA-H])[.):、．]\s*)?(?:(?:Q|Question)\s*:\s*)?(.*?)\s*$")
MARKED = re.compile(r"(?<!\w)([*_`]{1,3})(.+?)\1(?!\w)")  # Markdown
REMARK = re.compile(r"([?？؟])\s*(?:\(.*\)|[-–—].*)$")  # behind a question
QUOTES = ('""', "''", "“”", "„“", "«»", "「」")


@dataclass
class Rewording:
    """A question in other words."""

    row: Conversation  # that asks it as the user wrote it
    text: str
    by: str  # "base", "rules" or "file"
    use: str = "not needed"  # one of USES, or why it is not used
    number: int = 0  # from 1, where it is one of Rewordings

    def line(self) -> dict[str, Any]:
        """What the data stage stores of it."""
        asked = {"row": self.row.row, "question": self.row.asked}
        return {"number": self.number, **asked, "reworded": self.text, "by": self.by, "use": self.use}


@dataclass
class Rewordings:
    """All candidates, each with what it is used for."""

    candidates: list[Rewording] = field(default_factory=list)
    passed: tuple[int, int] | None = None  # of the base's first rewordings, and how many these are
    without: list[str] = field(default_factory=list)  # places of rows that have no other wording

    def rows(self, use: str) -> list[Conversation]:
        """The rows of the candidates that are "learned", or "asked"."""
        used = [one for one in self.candidates if one.use == use]
        return [replace(one.row.asking(one.text), wording=one.number, learns_last=True) for one in used]

    def keep(self, rows: Sequence[Conversation]) -> None:
        """Only these rows; the others are too long."""
        kept = {row.wording for row in rows}
        for one in self.candidates:
            if one.use in USES[:2] and one.number not in kept:
                one.use = "longer than max_length"

    def summary(self) -> dict[str, Any]:
        """Counts for the report."""
        uses = Counter(one.use for one in self.candidates)
        return {
            **{use: uses[use] for use in USES[:2]},
            "by": dict(Counter(one.by for one in self.candidates if one.use in USES)),
            "left_out": {use: count for use, count in uses.most_common() if use not in USES},
            "passed": self.passed,
            "without": self.without,
        }


def reword(read: Read, data: Data, base: BaseAnswers, *, is_tested: bool) -> Rewordings:
    """Other wordings of every fact's question, in its last line, as `data.rewordings` and `data.leave_out` say.

    Where `is_tested`, one wording of a fact is held out to be asked.

    Raises:
        KitError: a file that cannot be read, or numbers that do not exist.
    """
    if not data.rewordings:
        _assign([], data, 0, is_tested)  # there is nothing to leave out
        return Rewordings()
    answers = Counter(question for question, _ in first_of_each(read.rows))
    facts = {row.question: row for row in read.rows if row.kind == "fact" and answers[row.question] == 1}
    found, proposed, by = Rewordings(), dict[str, list[str]](), "base"
    if isinstance(data.rewordings, str):
        proposed, by = _of_file(Path(data.rewordings).expanduser(), data, facts), "file"
        count = max(map(len, proposed.values()))
    else:
        count = data.rewordings
        facts = {question: row for question, row in facts.items() if _is_question(row, read)}
        proposed, found.passed = _of_base([*facts.values()], count + is_tested, base)
    taken = {plain(question) or question: question for question in answers}
    is_english = are_english([row.asked for row in facts.values()])
    subject = subject_of([f"{row.asked} {statement(row.answer)}" for row in facts.values()])
    for row in facts.values():
        texts = [(text, by) for text in proposed.get(row.question, [])]
        if by == "base" and is_english:  # the rules know no other language
            clauses = asked_by(row.answer, row.asked, subject)
            made = wordings(row.asked, clauses, "" if names(row.asked) else subject)
            texts += [(text, "rules") for text in made]
        candidates = _checked(row, texts, taken, count + is_tested)
        found.candidates += candidates
        if by == "base" and not any(one.use in USES for one in candidates):
            found.without.append(row.row)
    _assign(found.candidates, data, count, is_tested)
    return found


def _is_question(row: Conversation, read: Read) -> bool:
    """Whether the last line is what is asked: of an instruction with its input, or of options, it is not."""
    before, last = _parts(row)
    is_instruction = "instruction" in " ".join(read.shape.columns if read.shape else ()).lower()
    return len(last.split()) <= LONGEST and (not before or (last.endswith(("?", "？", "؟")) and not is_instruction))


def _of_file(path: Path, data: Data, facts: dict[str, Conversation]) -> dict[str, list[str]]:
    """The wordings of a file, by the question as rows know it, with all earlier turns."""
    if not path.is_file():
        raise KitError(f"data__rewordings={str(path)!r} is not a number, 'auto' or an existing file")
    known, found = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for whole, fact in facts.items():
        known[normalised(fact.asked)].append(whole)
    for raw in raw_rows(path, data, {}):
        if isinstance(raw, BadRow):
            raise KitError(f"{raw.row}: {raw.problem}")
        place, row = raw
        question, text = (row.get(name) if isinstance(row, dict) else None for name in ("question", "reworded"))
        if not isinstance(question, str) or not isinstance(text, str) or not text.strip():
            raise KitError(f"{place} must have a text in each of the columns question and reworded; it is {row!r:.200}")
        if normalised(question) not in known:
            raise KitError(f"{place} rewords {question!r:.200}, which no row asks, or rows answer in several ways")
        if row.get("use", "learned") in USES:  # as a data stage has written it
            for whole in known[normalised(question)]:
                found[whole].append(text)
    if not found:
        raise KitError(f"{path.name} contains no wordings: give rows with question and reworded")
    return found


def _of_base(facts: list[Conversation], count: int, base: BaseAnswers) -> tuple[dict[str, list[str]], tuple[int, int]]:
    """What the base makes of the questions, and how many of its first ones pass; nothing where less than half do."""
    first = facts[:: max(1, len(facts) // TRIED)][:TRIED]
    found = _generate(first, count, base)
    passed = 0
    for row in first:
        texts, taken = [(text, "base") for text in found[row.question]], {plain(row.question): row.question}
        passed += sum(one.use in USES for one in _checked(row, texts, taken, count))
    wanted = len(first) * count
    if 2 * passed < wanted:
        return {}, (passed, wanted)
    return found | _generate([row for row in facts if row.question not in found], count, base), (passed, wanted)


def _generate(rows: list[Conversation], count: int, base: BaseAnswers) -> dict[str, list[str]]:
    chats = [[{"role": "user", "content": PROMPT.format(count, _parts(row)[1])}] for row in rows]
    answers = base.ask(f"rewordings by the base ({count} each)", chats, TOKENS * count)
    found = {}
    for row, (text, is_open) in zip(rows, answers, strict=True):
        lines = [clean for line in text.splitlines() if (clean := _cleaned(line))]
        found[row.question] = [_parts(row)[0] + line for line in (lines[:-1] if is_open else lines)]
    return found


def _cleaned(line: str) -> str:
    """A line of a list without its number, marks, quotes and remarks."""
    text = REMARK.sub(r"\1", MARKED.sub(r"\2", LISTED.sub(r"\1", line))).strip()
    return text[1:-1].strip() if len(text) > 2 and text[0] + text[-1] in QUOTES else text


def _parts(row: Conversation) -> tuple[str, str]:
    """A question's text before its last line, such as a context, and that line."""
    text = row.asked.rstrip()
    start = text.rfind("\n") + 1
    return text[:start], text[start:]


def _checked(row: Conversation, texts: Sequence[tuple[str, str]], taken: dict[str, str], limit: int) -> list[Rewording]:
    """The first texts that pass, up to `limit`, and those before them that do not; what passes is taken."""
    question, found, good = row.asked, list[Rewording](), list[str]()
    for text, by in texts:
        if len(good) == limit:
            break
        key, problem = plain(row.asking(text).question) or text, ""
        if key in taken:
            problem = "duplicate" if taken[key] == row.question else "asked by another row"
        elif by == "base":
            problem = rejection(question, row.answer, text, good)
        elif by == "rules" and is_near(text, (question, *good)):
            problem = "near duplicate"
        if not problem:
            good.append(text)
            taken[key] = row.question
        found.append(Rewording(row, text, by, problem or "not needed"))
    return found


def _assign(candidates: list[Rewording], data: Data, count: int, is_tested: bool) -> None:
    """Number the wordings, and say which are learned and which asked: of a fact with few of them the last is asked."""
    for number, one in enumerate(candidates, start=1):
        one.number = number
    for text in data.leave_out:
        if not text.isdecimal() or not 1 <= int(text) <= len(candidates):
            raise KitError(f"data__leave_out={text!r} is no wording: they are 1 to {len(candidates)}")
        candidates[int(text) - 1].use = "left out by data__leave_out"
    of_fact = defaultdict[str, list[Rewording]](list)
    for one in candidates:
        if one.use in USES:
            of_fact[one.row.question].append(one)
    every = max(1, -(-len(of_fact) // MOST))  # facts; of others no wording is asked
    for place, ways in enumerate(of_fact.values()):
        tested = int(is_tested and place % every == 0)
        cut = min(count, len(ways) - tested)
        for number, one in enumerate(ways[: cut + tested]):
            one.use = "learned" if number < cut else "asked"

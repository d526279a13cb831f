"""Other wordings of a file's questions: a fact that is asked once is learned in more words, and asked in yet another.

The base rewords the questions itself where it can; rules do it for English where it cannot (question_rules.py); or they
come from a file. All pass the same checks. What a fact has one wording more of is held out for the report card, so that
every fact is learned and can be measured. Answers stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Data
from ..errors import KitError
from .conversations import Conversation, normalised
from .question_rules import wordings
from .readers import BadRow
from .same_question import difference
from .sources import raw_rows

if TYPE_CHECKING:
    from .base_answers import BaseAnswers

TRIED = 16  # questions that a base rewords first: if less than half of what is wanted can be used, rules do all
LONGEST = 60  # words of a question that is reworded, without what stands before its last paragraph
TOKENS = 40  # of one wording, at most
ASKED = "Write {} other ways to ask this question in the same language, one per line. Do not answer it.\n\n{}"
LISTED = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.):]|[a-h][.)])?\s*[\"'“‘«]?(.+?)[\"'”’»]?\s*$")


@dataclass(frozen=True)
class Rewording:
    """A question in other words."""

    row: Conversation  # that asks it as the user wrote it
    text: str
    by: str  # "base", "rules" or "file"
    problem: str = ""  # why it is not used


@dataclass
class Rewordings:
    """All that were made, and the rows of those that are used."""

    made: list[Rewording] = field(default_factory=list)
    learned: list[Conversation] = field(default_factory=list)
    asked: list[Conversation] = field(default_factory=list)
    usable: tuple[int, int] | None = None  # of the first ones of the base, and how many these were
    without: int = 0  # questions that nobody could reword
    too_long: int = 0  # wordings of more than max_length tokens

    def lines(self) -> list[dict[str, Any]]:
        """What the data stage stores: every wording with its number, and what became of it."""
        learned, asked = ({row.wording for row in rows} for rows in (self.learned, self.asked))
        return [
            {
                "number": number,
                "row": one.row.row,
                "question": one.row.messages[-2]["content"],
                "reworded": one.text,
                "by": one.by,
                "use": one.problem
                or ("learned" if number in learned else "asked" if number in asked else "not needed"),
            }
            for number, one in enumerate(self.made, 1)
        ]

    def summary(self) -> dict[str, Any]:
        """Counts for the report."""
        used = Counter(one.by for one in self.made if not one.problem)
        why = Counter(one.problem for one in self.made if one.problem)
        return {
            "learned": len(self.learned),
            "asked": len(self.asked),
            "by": dict(used),
            "left_out": dict(why.most_common()) | ({"too long": self.too_long} if self.too_long else {}),
            "usable": self.usable,
            "without": self.without,
        }


def reword(rows: Sequence[Conversation], data: Data, base: BaseAnswers, *, is_asked: bool) -> Rewordings:
    """Other wordings of every fact's question, as `data.rewordings` says.

    Args:
        rows: of the user; only facts are reworded, in their last question.
        data: `rewordings` is a number or a file; `leave_out` names those that are not used.
        base: rewords where it can.
        is_asked: whether one wording of a fact is held out to be asked.

    Raises:
        KitError: a file that cannot be read, or numbers that do not exist.
    """
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row.question, set()).add(row.answer_key)
    facts = {row.question: row for row in rows if row.kind == "fact" and len(answers[row.question]) == 1}
    found, by = Rewordings(), "base"
    if isinstance(data.rewordings, str):
        proposed, by = _of_file(Path(data.rewordings), data, [*facts.values()]), "file"
        count = max(map(len, proposed.values()), default=0)
    elif (count := data.rewordings) and facts:
        proposed, found.usable = _of_base([*facts.values()], count + is_asked, base)
    for row in facts.values() if count else ():
        found.made += _checked(row, proposed.get(row.question, []), by, {*answers}, count + is_asked)
    _use(found, {*facts} if count else set(), data, count, is_asked)
    return found


def _of_file(path: Path, data: Data, facts: list[Conversation]) -> dict[str, list[str]]:
    """The wordings of a file, by the question as rows know it."""
    known = {normalised(row.messages[-2]["content"]): row.question for row in facts}
    found: dict[str, list[str]] = {}
    if not path.is_file():
        raise KitError(f"data__rewordings={str(path)!r} is no number, not 'auto', and no file")
    for raw in raw_rows(path, data, {}):
        row = {} if isinstance(raw, BadRow) or not isinstance(raw[1], dict) else raw[1]
        if not {"question", "reworded"} <= row.keys():
            place = raw.row if isinstance(raw, BadRow) else raw[0]
            raise KitError(f"{place} must have the columns question and reworded; it has {', '.join(row) or 'none'}")
        question = normalised(str(row["question"]))
        if question not in known:
            raise KitError(f"{path.name} rewords {row['question']!r}, which no fact of the data asks")
        if row.get("use", "learned") in ("learned", "asked", "not needed"):  # a file that a data stage has written
            found.setdefault(known[question], []).append(str(row["reworded"]))
    return found


def _of_base(facts: list[Conversation], count: int, base: BaseAnswers) -> tuple[dict[str, list[str]], tuple[int, int]]:
    """What the base makes of the questions; only of the first ones, if these cannot be used."""
    short = [row for row in facts if len(_parts(row)[1].split()) <= LONGEST]
    first = short[:: max(1, len(short) // TRIED)][:TRIED]
    found = _asked(first, count, base)
    made = [one for row in first for one in _checked(row, found[row.question], "base", set(), count, by_rules=False)]
    usable = sum(not one.problem for one in made), len(first) * count
    if 2 * usable[0] >= usable[1]:
        found |= _asked([row for row in short if row.question not in found], count, base)
        return found, usable
    return {}, usable


def _asked(rows: list[Conversation], count: int, base: BaseAnswers) -> dict[str, list[str]]:
    chats = [[{"role": "user", "content": ASKED.format(count, _parts(row)[1])}] for row in rows]
    answers = base.ask("wordings of the base", chats, TOKENS * count)
    found = {}
    for row, (text, is_open) in zip(rows, answers, strict=True):
        lines = [match[1] for line in text.splitlines() if (match := LISTED.match(line))]
        found[row.question] = [_parts(row)[0] + line for line in (lines[:-1] if is_open else lines)]
    return found


def _parts(row: Conversation) -> tuple[str, str]:
    """A question's text before its last paragraph, such as a context, and that paragraph."""
    text = str(row.messages[-2]["content"]).rstrip()
    start = text.rfind("\n") + 1
    return text[:start], text[start:]


def _checked(
    row: Conversation, texts: list[str], by: str, taken: set[str], most: int, *, by_rules: bool = True
) -> list[Rewording]:
    """The first texts that can be used, up to `most`, and those that cannot; rules fill up what a base leaves open."""
    found, good = [], list[str]()
    rules = [(text, "rules") for text in wordings(row.messages[-2]["content"])] if by_rules and by == "base" else []
    for text, source in [*((text, by) for text in texts), *rules]:
        if len(good) == most:
            break
        problem = _said_before(row, text, good, taken)
        if not problem and by != "file":  # which a person wrote or chose
            problem = difference(row, text, good)
        found.append(Rewording(row, text, source, problem))
        good += [] if problem else [text]
    return found


def _said_before(row: Conversation, text: str, before: list[str], taken: set[str]) -> str:
    if not text.strip() or normalised(text) in map(normalised, (row.messages[-2]["content"], *before)):
        return "said before"
    return "asked by another row" if _with(row, text).question in taken else ""


def _with(row: Conversation, text: str) -> Conversation:
    messages = [*row.messages[:-2], row.messages[-2] | {"content": text}, row.messages[-1]]
    return replace(row, messages=messages)


def _use(found: Rewordings, facts: set[str], data: Data, count: int, is_asked: bool) -> None:
    """Fill in the rows to learn and to ask; of a fact with few wordings the last one is asked."""
    from .splits import MOST

    left_out = {int(number) if number.isdigit() else 0 for number in data.leave_out}
    if wrong := [number for number in left_out if not 1 <= number <= len(found.made)]:
        raise KitError(
            f"data__leave_out={','.join(data.leave_out)}: the wordings are 1 to {len(found.made)}, not {wrong[0]}"
        )
    of_fact: dict[str, list[tuple[int, Rewording]]] = {}
    for number, one in enumerate(found.made, 1):
        if number in left_out:
            found.made[number - 1] = replace(one, problem="left out by data__leave_out")
        elif not one.problem:
            of_fact.setdefault(one.row.question, []).append((number, one))
    found.without = len(facts) - len(of_fact)
    every = -(-len(of_fact) // MOST)
    for place, ones in enumerate(of_fact.values()):
        rows = [replace(_with(one.row, one.text), wording=number, index=-1) for number, one in ones]
        cut = min(count, len(rows) - 1) if is_asked and len(rows) > 1 and place % every == 0 else count
        found.learned += rows[:cut]
        found.asked += rows[cut : cut + 1] if is_asked and place % every == 0 else []

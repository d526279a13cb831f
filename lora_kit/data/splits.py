"""Which of the rows that were read are used: to be learned, or held out and asked; and a person's own questions."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Data
from ..errors import KitError
from ..files import read_lines
from ..progress import Progress
from .encoding import LengthFilter
from .reading.conversations import Conversation, Read, first_few, normalised, plural, read_rows, shape_of
from .reading.readers import BadRow, note
from .reading.sources import dataset_files, raw_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTIONS = "the questions"
MOST = 500  # questions: the report card asks each of them three times
ENOUGH = 30  # questions of a kind; with fewer an interval is too wide to decide on
HOW = {
    "phrasings": "by phrasing: facts are learned in other words than they are asked",
    "facts": "by fact: their answers are never learned, so they measure form and loss, not knowledge",
    "rewordings": "machine-made wordings of facts that are learned in others",
    "wordings": "your own wordings of facts that are learned in others",
    "none": "none of the file's: it has too few rows, or data__test_size=0",
    "own": "the dataset's own test split",
}


def usable_rows(paths: Sequence[Path], data: Data, what: str, progress: Progress | None = None) -> Read:
    """The rows of some files; `data.bad_rows` says whether bad ones stop the work."""
    read = read_rows(paths, data, is_asked=what == QUESTIONS, progress=progress)
    problems, count = read.problems(), len(read.bad) + len(read.rows)
    if len(problems) == 1 and not read.rows:  # then it is the form
        raise KitError(f"{count:,} of {count:,} rows of {what} cannot be used: {problems[0][0]}")
    if read.bad and (data.bad_rows == "stop" or not read.rows):
        listed = "; ".join(map(first_few, problems))
        way_out = "" if what == QUESTIONS or not read.rows else ", or leave them out with data__bad_rows=drop"
        raise KitError(f"{len(read.bad):,} of {count:,} rows of {what} cannot be used: {listed}. Fix them{way_out}")
    return read


def check_told_apart(read: Read, data: Data) -> None:
    """Stop where most rows ask the same and differ only in a column that nobody reads."""
    if not read.shape or not read.unused or data.columns:
        return
    answers = Counter(question for question, _ in first_of_each(read.rows))
    same = sum(count for count in answers.values() if count > 1)
    if 2 * same > len(read.rows):
        columns = ",".join(read.shape.columns)
        way_out = f'To keep them: data__columns="{columns}"'
        if read.shape.name == "pair" and read.shape.optional:  # which named columns would leave out
            way_out = "Put it into the question, or delete these columns to keep the rows"
        elif read.shape.name == "pair":
            put = f'data__columns="{{{next(iter(read.unused))}}} {{{read.shape.columns[0]}}},{read.shape.columns[1]}"'
            way_out = f'Put it into the question, as in {put}; or keep them: data__columns="{columns}"'
        raise KitError(
            f"{same:,} of {len(read.rows):,} rows ask what others ask, with another answer. What tells them apart may "
            f"be in columns that are not read: {', '.join(read.unused)}. {way_out}"
        )


def with_answers(paths: Sequence[Path], data: Data, read: Read) -> list[Path]:
    """The test files whose rows have answers; one without, as Kaggle's, is passed over and noted."""
    found, answer = [], read.shape.columns[-1] if read.shape else ""
    for path in paths:
        first = next((raw[1] for raw in raw_rows(path, data, {}) if not isinstance(raw, BadRow)), None)
        if isinstance(first, dict) and answer not in first and shape_of(first) is None:
            note(read.notes, f"a test file without the column {answer}, passed over", path.name)
        else:
            found.append(path)
    return found


@dataclass(frozen=True)
class Split:
    """Questions (as `Conversation.question`) that are held out, and how they were chosen."""

    how: str  # a name in HOW
    questions: frozenset[str]

    def choose(self, rows: Sequence[Conversation]) -> list[Conversation]:
        """The rows to ask, each question once; one whose answer is never learned counts as no fact."""
        chosen = each_once([row for row in rows if row.question in self.questions])
        return [replace(row, kind="unseen") if self.how == "facts" and row.kind == "fact" else row for row in chosen]


def each_once(rows: Sequence[Conversation]) -> list[Conversation]:
    """Each question once; where it has more answers, all of them are right."""
    chosen = defaultdict[str, list[Conversation]](list)
    for row in rows:
        chosen[row.question].append(row)
    return [
        replace(same[0], accepted=list(dict.fromkeys(answer for row in same for answer in row.accepted)))
        for same in chosen.values()
    ]


def first_of_each(rows: Sequence[Conversation]) -> dict[tuple[str, str], Conversation]:
    """Every different question with every different answer it has -> its first row."""
    found: dict[tuple[str, str], Conversation] = {}
    for row in rows:
        found.setdefault((row.question, row.answer_key), row)
    return found


def taught(row: Conversation) -> set[str]:
    """The questions that the row teaches to answer, as `Conversation.question`; also without its system text.

    A row that learns all of its answers teaches every question that it begins with.
    """
    texts = [message["content"] for message in row.messages if message["role"] != "assistant"]
    if len(texts) == 1:
        return {row.question}
    start = int(row.system is not None)
    ends = range(len(texts) if row.learns_last else start + 1, len(texts) + 1)
    return {normalised("\n".join(texts[first:end])) for first in {0, start} for end in ends}


def phrasings(rows: Sequence[Conversation]) -> Counter[str]:
    """For every answer of a fact, in how many different questions it is asked."""
    return Counter(answer for (_, answer), row in first_of_each(rows).items() if row.kind == "fact")


def split(rows: Sequence[Conversation], test_size: float) -> Split:
    """Hold out about that share of the questions, each chosen by its hash, so that no order or seed changes it.

    Where most rows share their answer with a differently worded one, phrasings are held out and at least one wording of
    every answer stays to be learned. Else whole answers are held out.
    """
    counts = phrasings(rows)
    sharing = sum(row.kind != "fact" or counts[row.answer_key] > 1 for row in rows)
    given, questions_of = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for question, answer in first_of_each(rows):
        given[question].append(answer)
        questions_of[answer].append(question)
    wanted = min(int(len(given) * test_size), MOST)
    how, chosen = "phrasings" if 2 * sharing >= len(rows) else "facts", set[str]()
    if how == "phrasings":
        left = Counter({answer: len(questions) for answer, questions in questions_of.items()})
        for question in sorted(given, key=_hash):
            if len(chosen) < wanted and all(left[answer] > 1 for answer in given[question]):
                chosen.add(question)
                left.subtract(given[question])
    else:
        for answer in sorted(questions_of, key=_hash):
            questions = questions_of[answer]  # with two answers to one of them, one would be learned
            if len(chosen) + len(questions) <= wanted and all(len(given[question]) == 1 for question in questions):
                chosen |= {*questions}
    return Split(how if chosen else "none", frozenset(chosen))


def _hash(text: str) -> int:
    """A text's place in an order that is by chance and always the same: 64 bits of its BLAKE2."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big", signed=True)


def read_questions(
    source: str, data: Data, tokenizer: PreTrainedTokenizerBase, system: str | None
) -> list[dict[str, Any]]:
    """Questions with their references, each once, as the held-out rows of a data stage.

    The text `system`, with which the adapter was trained, goes before those that bring none, except general ones.

    Raises:
        KitError: the file cannot be read, or rows of it cannot be used.
    """
    rows, first = usable_rows(question_files(source, data), data, QUESTIONS).rows, dict[str, Conversation]()
    for row in rows:
        other = first.setdefault(row.question, row)
        if other.kind != row.kind:
            raise KitError(f"{row.row} asks what {other.row} asks, and is {row.kind} where that is {other.kind}")
    once = each_once([row.with_system(system) for row in rows])
    lengths = LengthFilter(data, tokenizer)
    if len(once) < len(rows):
        again = plural(len(rows) - len(once))
        print(f"questions: {again} of {source} ask what another asks; their answers also count as right there")
    asked = [row for row, _ in lengths.encode(once)]
    lengths.stop(QUESTIONS)
    if not asked:
        raise KitError(f"{source} contains no questions that could be asked")
    return [{"kind": row.kind, "messages": row.messages, "accepted": row.accepted} for row in asked]


def question_files(source: str, data: Data) -> list[Path]:
    """The files behind `questions=`, in which all rows are asked; KitError where there are none."""
    if not source.strip():
        raise KitError("questions is empty: give a file of questions with answers, or leave it out")
    try:
        files = dataset_files(replace(data, source=source, config=None, split=None))
    except KitError as error:
        raise KitError(str(error).replace("data=", "questions=", 1)) from error
    return [*files.train, *files.test]


def with_general(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions, with the handbook's held-out general ones where too few of these are among them to decide on."""
    if sum(row["kind"] == "general" for row in rows) >= ENOUGH:
        return rows
    (file,) = dataset_files(Data()).test
    handbook = read_lines(file)
    known = {row["messages"][-2]["content"] for row in rows}
    more = [row for row in handbook if row["kind"] == "general" and row["messages"][-2]["content"] not in known]
    return [*rows, *more]


def pick(rows: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """At most `limit` rows of each kind, at even distances, so that nobody picks the good ones; all with None."""
    if limit is None:
        return rows
    found = list[dict[str, Any]]()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        same = [row for row in rows if row["kind"] == kind]
        found += same[:: -(-len(same) // limit)]
    return found

"""Which of the rows that were read are used: to be learned, or held out and asked; and a person's own questions."""

from __future__ import annotations

import hashlib
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Data
from ..errors import KitError
from ..progress import Progress
from .conversations import Conversation, Read, first_few, plural, read_rows, shape_of
from .encoding import LengthFilter
from .readers import BadRow, note
from .sources import dataset_files, raw_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

QUESTIONS = "the questions"

MOST = 500  # questions: the report card asks each of them three times
HOW = {
    "phrasings": "by phrasing: facts are learned in other words than they are asked",
    "facts": "by fact: their answers are never learned, so they measure form and loss, not knowledge",
    "rewordings": "machine-made wordings of facts that are learned in others",
    "none": "too few rows, or no question with only one answer, or data__test_size=0: nothing can be measured",
    "own": "the dataset's own test split",
}
NEAR = 95  # per cent of rapidfuzz's ratio: texts that differ in a letter or two
GROUPS = 32  # of letters, by the last bits of their code
PIECE = 4096  # rows compared at once


def usable_rows(paths: Sequence[Path], data: Data, what: str, progress: Progress | None = None) -> Read:
    """The rows of some files; a person says whether bad ones stop the work."""
    read = read_rows(paths, data, is_asked=what == QUESTIONS, progress=progress)
    problems, count = read.problems(), len(read.bad) + len(read.rows)
    if problems and 2 * len(problems[0]) > count:  # then it is the form, and leaving them out leaves nothing
        raise KitError(f"{len(problems[0]):,} of {count:,} rows of {what} cannot be used: {problems[0][0]}")
    if read.bad and data.bad_rows == "stop":
        way_out = ", or leave them out with data__bad_rows=drop" if what == "the data" else " in the file"
        listed = "; ".join(map(first_few, problems))
        raise KitError(f"{len(read.bad):,} of {count:,} rows of {what} cannot be used: {listed}. Fix them{way_out}")
    return read


def check_told_apart(read: Read, data: Data) -> None:
    """Stop where most rows ask the same and differ only in a column that nobody reads."""
    answers: dict[str, set[str]] = {}
    for row in read.rows if read.unused and not data.columns else ():
        answers.setdefault(row.question, set()).add(row.answer_key)
    same = sum(len(given) for given in answers.values() if len(given) > 1)
    if 2 * same > len(read.rows):
        assert read.shape is not None
        question, answer = read.shape.columns[0], read.shape.columns[-1]
        raise KitError(
            f"{same:,} of {len(read.rows):,} rows ask what others ask, with another answer; what tells them apart may "
            f"be in the columns that are not read: {', '.join(read.unused)}. Put it into the question, as "
            f"data__columns={{{next(iter(read.unused))}}} {{{question}}},{answer}; or name the columns as "
            f"they are: data__columns={question},{answer}"
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
        """The rows to ask, each question once; one whose answer is never learned says so, and counts as no fact."""
        chosen = each_once([row for row in rows if row.question in self.questions])
        return [replace(row, kind="unseen") if self.how == "facts" and row.kind == "fact" else row for row in chosen]


def each_once(rows: Sequence[Conversation]) -> list[Conversation]:
    """Each question once; where it has more answers, all of them are right."""
    chosen: dict[str, list[Conversation]] = {}
    for row in rows:
        chosen.setdefault(row.question, []).append(row)
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


def phrasings(rows: Sequence[Conversation]) -> Counter[str]:
    """For every answer of a fact, in how many different questions it is asked."""
    return Counter(answer for (_, answer), row in first_of_each(rows).items() if row.kind == "fact")


def split(rows: Sequence[Conversation], test_size: float) -> Split:
    """Hold out about that share of the rows, chosen by the hash of its question, so that no order or seed changes it.

    Where most rows share their answer with a differently worded one, phrasings are held out and at least one wording of
    every answer stays to be learned. Else whole answers are held out.
    """
    wanted, counts = min(int(len(rows) * test_size), MOST), phrasings(rows)
    sharing = sum(row.kind != "fact" or counts[row.answer_key] > 1 for row in rows)
    how = "phrasings" if sharing >= len(rows) / 2 else "facts"
    answers_of: dict[str, list[str]] = {}  # of each question
    questions_of: dict[str, list[str]] = {}  # with each answer
    for question, answer in first_of_each(rows):
        answers_of.setdefault(question, []).append(answer)
        questions_of.setdefault(answer, []).append(question)
    chosen: set[str] = set()
    left = {answer: len(questions) for answer, questions in questions_of.items()}
    for question in sorted(answers_of, key=_hash) if how == "phrasings" else ():
        if len(chosen) < wanted and all(left[answer] > 1 for answer in answers_of[question]):
            chosen.add(question)
            left |= {answer: left[answer] - 1 for answer in answers_of[question]}
    for answer in sorted(questions_of, key=_hash) if how == "facts" else ():
        questions = questions_of[answer]  # with two answers to one of them, one would be learned
        if len(chosen) + len(questions) <= wanted and all(len(answers_of[question]) == 1 for question in questions):
            chosen |= {*questions}
    return Split(how if chosen else "none", frozenset(chosen))


def _hash(text: str) -> int:
    """A text's place in an order that is by chance and always the same: 64 bits of its BLAKE2."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big", signed=True)


def near_duplicates(rows: Sequence[Conversation], held_out: Sequence[Conversation]) -> list[Conversation]:
    """The rows whose last question and answer nearly are those of a held-out one (normalised edit distance).

    Two texts are at least as many edits apart as their counts of letters differ, so letters say which to compare: a
    third of the time of comparing all.
    """
    import numpy as np
    import torch
    from rapidfuzz import fuzz, process

    if not held_out:
        return []
    theirs, near = _letters(held_out), []
    for start in range(0, len(rows), PIECE):
        piece = rows[start : start + PIECE]
        ours = _letters(piece)
        limit = (1 - NEAR / 100) * (ours.sum(1, keepdim=True) + theirs.sum(1)) + 1  # (rows, held out)
        mine, other = (torch.cdist(ours, theirs, p=1) <= limit).nonzero().T.tolist()
        for part in (_asked, operator.attrgetter("answer")):
            pairs = [part(piece[i]) for i in mine], [part(held_out[i]) for i in other]
            ratios = process.cpdist(*pairs, scorer=fuzz.ratio, score_cutoff=NEAR, workers=-1) if mine else np.zeros(0)
            mine, other = ([places[i] for i in ratios.nonzero()[0]] for places in (mine, other))
        near += [piece[number] for number in sorted({*mine})]
    return near


def _asked(row: Conversation) -> str:
    """The question that the last answer follows, in small letters."""
    return str(row.messages[-2]["content"]).lower()


def _letters(rows: Sequence[Conversation]) -> torch.Tensor:
    """How often each group of letters stands in the last question of every row: (rows, GROUPS)."""
    import numpy as np
    import torch

    texts = [_asked(row) for row in rows]
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "replace"), dtype="<u4")
    where = np.repeat(np.arange(len(rows)) * GROUPS, [len(text) for text in texts]) + codes % GROUPS
    return torch.from_numpy(np.bincount(where, minlength=GROUPS * len(rows)).reshape(-1, GROUPS)).float()


def read_questions(
    source: str, data: Data, tokenizer: PreTrainedTokenizerBase, system: str | None
) -> list[dict[str, Any]]:
    """Questions with their references, each once, as the held-out rows of a data stage.

    Args:
        source: a file, a folder, a Hub dataset, as for `lk.Run(data=...)`.
        data: its columns, max_length and what to do with bad and long rows.
        tokenizer: the base model's own.
        system: the text that the adapter was trained with; it goes before questions that bring none, but for general
            ones, which are asked plainly as the held-out ones are.

    Raises:
        KitError: the file cannot be read, or rows of it cannot be used.
    """
    rows = usable_rows(question_files(source, data), data, QUESTIONS).rows
    first: dict[str, Conversation] = {}
    for row in rows:
        other = first.setdefault(row.question, row)
        if other.kind != row.kind:
            raise KitError(f"{row.row} asks what {other.row} asks, and is {row.kind} where that is {other.kind}")
    once, lengths = each_once([_with_system(row, system) for row in rows]), LengthFilter(data, tokenizer)
    if len(once) < len(rows):
        again = plural(len(rows) - len(once))
        print(f"questions: {again} of {source} ask what another asks; their answers count as right there")
    asked = [row for row, _ in lengths.encode(once)]
    lengths.stop(QUESTIONS)
    if not asked:
        raise KitError(f"{source} holds no questions that could be asked")
    return [{"kind": row.kind, "messages": row.messages, "accepted": row.accepted} for row in asked]


def question_files(source: str, data: Data) -> list[Path]:
    """The files behind `questions=`, in which all rows are asked.

    Raises:
        KitError: there is no such file.
    """
    if not source.strip():
        raise KitError("questions is empty: give a file of questions with answers, or leave it out")
    try:
        files = dataset_files(replace(data, source=source))
    except KitError as error:
        raise KitError(str(error).replace("data=", "questions=", 1)) from error
    return [*files.train, *files.test]


def _with_system(row: Conversation, system: str | None) -> Conversation:
    if system is None or row.kind == "general" or row.messages[0]["role"] == "system":
        return row
    return replace(row, messages=[{"role": "system", "content": system}, *row.messages])

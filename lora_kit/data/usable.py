"""Which of the rows that were read are used: of the data, of its test files, and of a person's own questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Data
from ..errors import KitError
from ..progress import Progress
from .conversations import Conversation, Read, first_few, plural, read_rows, shape_of
from .encoding import LengthFilter
from .readers import BadRow, note
from .sources import dataset_files, raw_rows
from .splits import each_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTIONS = "the questions"


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

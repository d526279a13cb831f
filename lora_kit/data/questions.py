"""The user's own questions for the report card: read and checked as the data is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .holding import each_once, stop_at_bad_rows
from .reading import Conversation, Reader
from .sources import dataset_files
from .survey import Survey, good_rows, some
from .writing import Fitter, stop_at_long_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..profiles import Data


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
    reader, found = Reader(data.columns, keep_tags=data.tags == "keep", ours=True), Survey()
    rows = list(good_rows(reader.rows(question_files(source)), found))
    stop_at_bad_rows(found, len(rows), data, "the questions")
    _stop_at_two_kinds(rows)
    once, fitter = each_once([_told(row, system) for row in rows]), Fitter(data, tokenizer)
    if len(once) < len(rows):
        again = some(len(rows) - len(once))
        print(f"questions: {again} of {source} ask what another asks; their answers count as right there")
    asked = fitter.fitting(once)
    stop_at_long_rows(fitter, data, "the questions")
    if not asked:
        raise KitError(f"{source} holds no questions that could be asked")
    return [{"kind": row.kind, "messages": row.messages, "accepted": row.accepted} for row in asked]


def question_files(source: str) -> list[Path]:
    """The files behind `questions=`, in which all rows are asked.

    Raises:
        KitError: there is no such file.
    """
    if not source.strip():
        raise KitError("questions is empty: give a file of questions with answers, or leave it out")
    try:
        files = dataset_files(source)
    except KitError as error:
        raise KitError(str(error).replace("data=", "questions=", 1)) from error
    return [*files.train, *files.test]


def _stop_at_two_kinds(rows: list[Conversation]) -> None:
    """Refuse a question that must be declined in one row and answered in another."""
    first: dict[int, Conversation] = {}
    for row in rows:
        other = first.setdefault(row.asked, row)
        if other.kind != row.kind:
            raise KitError(f"{row.row} asks what {other.row} asks, and is {row.kind} where that is {other.kind}")


def _told(row: Conversation, system: str | None) -> Conversation:
    if system is None or row.kind == "general" or row.messages[0]["role"] == "system":
        return row
    return replace(row, messages=[{"role": "system", "content": system}, *row.messages])

"""The user's own questions for the report card: read and checked as the data is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .holding import each_once, stop_at_bad_rows
from .reading import Conversation, Reader
from .sources import dataset_files
from .survey import Survey, good_rows
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
        system: the text that the adapter was trained with; it goes before questions that bring none.

    Raises:
        KitError: the file cannot be read, or rows of it cannot be used.
    """
    reader, found = Reader(data.columns, keep_tags=data.tags == "keep"), Survey()
    rows = list(good_rows(reader.rows(question_files(source)), found))
    stop_at_bad_rows(found, len(rows), data, "the questions")
    fitter = Fitter(data, tokenizer)
    asked = fitter.fitting(each_once([_told(row, system) for row in rows]))
    stop_at_long_rows(fitter, data)
    if not asked:
        raise KitError(f"{source} holds no questions that could be asked")
    return [{"kind": row.kind, "messages": row.messages, "accepted": row.accepted} for row in asked]


def question_files(source: str) -> list[Path]:
    """The files behind `questions=`, in which all rows are asked."""
    files = dataset_files(source)
    return [*files.train, *files.test]


def _told(row: Conversation, system: str | None) -> Conversation:
    if system is None or row.messages[0]["role"] == "system":
        return row
    return replace(row, messages=[{"role": "system", "content": system}, *row.messages])

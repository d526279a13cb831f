"""What one cell of a row holds: a text, an answer, earlier turns, or nothing."""

from __future__ import annotations

from typing import Any

from ..errors import KitError

Row = dict[str, Any]
EMPTY: tuple[Any, ...] = (None, "", [], {})
SHOWN = 100  # characters of a value that an error shows


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def text_of(row: Row, column: str) -> str:
    """The text of a column; KitError where it is empty or no text."""
    value = row[column]
    if isinstance(value, str) and value.strip():
        return value
    raise KitError(f"{column} is {'no text: ' + short(value) if is_given(value) else 'empty'}")


def answer_of(row: Row, column: str) -> str:
    """The answer's text; of SQuAD's {"text": [...]} the first."""
    value = row[column]
    if isinstance(value, dict) and isinstance(value.get("text"), list) and value["text"]:
        return str(value["text"][0])
    if isinstance(value, dict) and value:
        raise KitError(f"{column} is no text: {short(value)}. Write it as JSON text: json.dumps(...)")
    return text_of(row, column)


def optional_text(value: Any, column: str) -> str:
    """A text that may be missing; options as lines, by their letters where they have some."""
    if not is_given(value):
        return ""
    by_letter = isinstance(value, dict) and all(len(str(key)) == 1 for key in value)
    lines = [f"{key}. {text}" for key, text in value.items()] if by_letter else value
    if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
        return "\n".join(lines)
    if isinstance(value, str):
        return value
    raise KitError(f"{column} is no text: {short(value)}")


def history_of(row: Row, column: str | None) -> list[list[str]]:
    """Earlier turns, pairs of question and answer."""
    value = row[column] if column else None
    if not is_given(value):
        return []
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return value
    raise KitError(f"{column} must be a list of [question, answer]; it is {short(value)}")


def is_given(value: Any) -> bool:
    """Whether a cell holds something; NaN, which tables have for it, is nothing."""
    return not (value in EMPTY or value != value or (isinstance(value, str) and not value.strip()))

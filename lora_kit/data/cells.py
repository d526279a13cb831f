"""What one cell of a row holds: a text, answers, earlier turns, options, or nothing."""

from __future__ import annotations

import ast
import json
import math
import string
from typing import Any

from ..errors import KitError

Row = dict[str, Any]
EMPTY: tuple[Any, ...] = (None, "", [], {})
SHOWN = 100  # characters of a value that an error shows


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def is_given(value: Any) -> bool:
    """Whether a cell holds something; NaN, which tables have for it, is nothing."""
    return not (value in EMPTY or value != value or (isinstance(value, str) and not value.strip()))


def parsed(value: Any) -> Any:
    """A list or object that a table holds as text, in JSON or as Python writes it; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    for parse in (json.loads, ast.literal_eval):  # pandas writes the second; it evaluates nothing but literals
        try:
            return parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


def text_of(row: Row, column: str) -> str:
    """The text of a column, also a number's; KitError where it is empty or neither."""
    value = row[column]
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value).removesuffix(".0")  # pandas makes 3.0 of 3 where others are missing
    raise KitError(f"{column} is {'no text: ' + short(value) if is_given(value) else 'empty'}")


def answers_of(row: Row, column: str) -> list[str]:
    """Every answer that counts as right, the one to learn first: SQuAD's, TriviaQA's, a list of texts, or one text."""
    value = parsed(row[column]) if column.lower().strip() == "answers" else row[column]
    found = [text for part in (value if isinstance(value, list) else [value]) for text in _answers_in(part)]
    if found and all(isinstance(text, str) and text.strip() for text in found):
        return list(dict.fromkeys(found))
    if isinstance(value, dict) and value and not found:
        raise KitError(f"{column} is no text: {short(value)}. Write it as JSON text: json.dumps(...)")
    return [text_of(row, column)]


def _answers_in(value: Any) -> list[Any]:
    if isinstance(value, dict):
        texts = value.get("text", value.get("value", []))
        return [*(texts if isinstance(texts, list) else [texts]), *value.get("aliases", [])]
    return [value]


def optional_text(value: Any, column: str) -> str:
    """A text that may be missing."""
    if not is_given(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise KitError(f"{column} is no text: {short(value)}")


def options_of(value: Any, column: str) -> str:
    """Options to choose from, a line each behind its letter."""
    value = parsed(value)
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # ARC's
        value = dict(zip(value.get("label") or string.ascii_uppercase, value["text"], strict=False))
    if isinstance(value, list):
        value = dict(zip(string.ascii_uppercase, value, strict=False))
    if isinstance(value, dict) and all(isinstance(text, str | int | float) for text in value.values()):
        return "\n".join(f"{letter}. {text}" for letter, text in value.items())
    return optional_text(value, column)

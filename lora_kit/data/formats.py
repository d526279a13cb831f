"""What a row may look like, found by its columns and turned into messages.

    turns    a list of {"role", "content"} or {"from", "value"}, texts in turn, or either written as JSON text
    text     one column of conversations rendered to text
    pair     columns for question and answer, and for what belongs to them: PARTS

The first row says which of the three a source holds. PARTS is the place where the next kind is one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from ..errors import KitError
from . import cells
from .cells import LISTS, Row, short
from .hints import way_out
from .turns import Message

Columns = tuple[str, ...]

PARTS = {  # part of a conversation -> what its column may be called
    "system": ("system", "system_prompt", "system_message", "sys"),
    "history": ("history", "chat_history"),
    "instruction": ("instruction", "instructions"),
    "context": ("context", "passage", "document", "background", "paragraph", "article"),
    "question": (
        *("question", "prompt", "query", "q", "user", "human", "request", "problem", "questions", "prompts", "inputs"),
        *("input_text", "user_message", "frage", "pregunta", "domanda", "вопрос", "问题"),
    ),
    "input": ("input",),
    "options": ("options", "choices"),
    "answer": (
        *("answer", "completion", "response", "a", "output", "assistant", "reply", "target", "solution", "outputs"),
        *("completions", "responses", "output_text", "assistant_message", "targets"),
        *("antwort", "respuesta", "risposta", "ответ", "答案", "answers"),
    ),
}
ASKED = ("instruction", "context", "question", "input", "options")  # what a question is made of, in this order
LETTER = re.compile(r"(?:option|choice|opt)?[ _]?([a-f])$")  # a column for each option


@dataclass(frozen=True)
class Shape:
    """Which columns of a source hold the conversation."""

    name: str  # turns, text, pair
    columns: Columns
    convert: Callable[[Row], list[Message]]
    optional: Columns = ()  # read where a row has them

    def __str__(self) -> str:
        return f"{self.name} ({', '.join([*self.optional, *self.columns])})"

    def messages(self, row: Row) -> list[Message]:
        """The row's messages as they stand there, with its system text; KitError where one is missing or no text."""
        if missing := [name for name in self.columns if name not in row]:
            here = ", ".join(map(str, row)) or "none"
            raise KitError(f"has no column {missing[0]}: its columns are {here}, the first row's {self!s}")
        messages = self.convert(row)
        column = part_of(row).get("system")
        system = cells.optional_text(row[column], column) if column and column not in self.columns else ""
        if not system:
            return messages
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": system}, *messages]
        if messages[0]["content"].strip() != system.strip():
            raise KitError(f"has a column {column} and another system text among its messages: delete one of them")
        return messages

    def answers(self, row: Row) -> list[str]:
        """Every answer that the row accepts, where it says them apart from its messages."""
        column = next((name for name in row if str(name).lower() == "answers"), self.columns[-1])
        return cells.answers_of(row, column) if self.name == "pair" else []


def recognise(row: Row, columns: Columns = ()) -> Shape:
    """The one shape that fits a first row.

    Args:
        row: the first row of a source, column names to values.
        columns: what the user says holds the conversation: one column; or a question column, or a template of any
            columns ("{context}\\n\\n{question}"), and an answer column.

    Raises:
        KitError: no shape fits, or more than one; the message says what to do.
    """
    if columns:
        return _named(row, columns)
    parts = {column for columns in _parts(tuple(row)).values() for column in columns}
    alone = [_of_column(str(name), row[name]) for name in row if name not in (*parts, "chosen", "rejected")]
    shapes = [*filter(None, alone), *_pairs(row)]
    if [shape.name for shape in shapes] == ["text", "pair"]:
        return shapes[1]  # the same rendered, as Stanford's Alpaca has it
    if len(shapes) == 1:
        return shapes[0]
    example = ", ".join(f"{name}: {short(value)}" for name, value in row.items())
    if not shapes:
        raise KitError(f"none of the known shapes fits its columns ({example}). {way_out(row)}")
    fitting = ["+".join(shape.columns) for shape in shapes]
    raise KitError(
        f"more than one shape fits its columns ({example}): {'; '.join(fitting)}. Say which holds the conversation, as "
        f"in data__columns={fitting[0].replace('+', ',')}"
    )


def part_of(row: Row) -> dict[str, str]:
    """Part of a conversation -> the column of the row that is it."""
    return {part: columns[0] for part, columns in _parts(tuple(row)).items()}


@lru_cache(maxsize=256)
def _parts(names: Columns) -> dict[str, list[str]]:
    """Part -> every column that may be it."""
    columns = cells.by_plain_name(names)
    found = {part: [columns[name] for name in known if name in columns] for part, known in PARTS.items()}
    found["answer"] = [column for column in found["answer"] if column not in letters_of(names)]
    if len(found["answer"]) > 1:  # TriviaQA's like: beside the answer all that are right
        found["answer"] = [column for column in found["answer"] if str(column).lower() != "answers"]
    if not any(found[part] for part in ("question", "instruction", "input")):
        found["question"], found["context"] = found["context"], []
    return {part: columns for part, columns in found.items() if columns}


@lru_cache(maxsize=256)
def letters_of(names: Columns) -> dict[str, str]:
    """Columns that hold an option each -> its letter; one alone is none."""
    found = {name: place[1].upper() for name in names if (place := LETTER.match(str(name).lower().strip()))}
    return found if len(found) > 1 else {}


def _named(row: Row, columns: Columns) -> Shape:
    """The shape of the columns that the user names."""
    names = re.findall(r"\{([^{}]*)\}", columns[0])  # of a template
    known, wanted = cells.by_plain_name(row), [*names, *columns[1:]] if names else columns
    if missing := [name for name in wanted if cells.plain(name) not in known]:
        raise KitError(f"data__columns names {', '.join(missing)}, but the columns are {', '.join(map(str, row))}")
    found = tuple(known[cells.plain(name)] for name in wanted)
    if names and len(columns) == 2:
        return Shape("pair", found[-1:], partial(_filled, columns[0], found[-1]), found[:-1])
    if len({*found}) < len(found):
        raise KitError(f"data__columns names {found[0]} twice: name the question's column, then the answer's")
    if len(found) == 2:
        return Shape("pair", found, partial(_two_columns, *found))
    shape = _of_column(found[0], row[found[0]]) if len(found) == 1 else None
    if shape is None:
        raise KitError(
            "data__columns must name a question and an answer column, a template and an answer column as in "
            '"{context} {question}",answer, or one column of turns or of rendered prompts; '
            f"{','.join(found)} holds {short([row[name] for name in found])}"
        )
    return shape


def _of_column(name: str, value: Any) -> Shape | None:
    """The shape of one column alone: of turns, or of rendered texts."""
    is_turns = cells.is_list_of_turns(value) or (name.lower() in LISTS and cells.are_texts(cells.parsed(value)))
    if is_turns or name in LISTS[:2]:  # an empty list under a usual name is a bad row
        return Shape("turns", (name,), lambda row: cells.from_list(row[name], name))
    if isinstance(value, str) and (convert := cells.text_format(value)):
        return Shape("text", (name,), lambda row: convert(cells.text_of(row, name)))
    return None


def _pairs(row: Row) -> list[Shape]:
    """Every way to read the row's columns as a question and an answer."""
    parts = _parts(tuple(row))
    own = next((part for part in ("question", "instruction", "input") if part in parts), "")
    pairs = [(question, answer) for question in parts.get(own, []) for answer in parts.get("answer", [])]
    return [Shape("pair", pair, partial(_all_parts, own, *pair)) for pair in pairs]


def _all_parts(own: str, question: str, answer: str, row: Row) -> list[Message]:
    """Everything of the prompt that a row holds, and its answer; also what only later rows have.

    Args:
        own: the part that the question's column is.
        question: the column.
        answer: the answer's column.
        row: column names to values.
    """
    columns = {part: column for part, column in part_of(row).items() if column not in (question, answer)}
    found = {part: row[column] for part, column in columns.items()}
    texts = {part: cells.optional_text(found[part], columns[part]) for part in ASKED[:-1] if part in found}
    letters = {letter: row[name] for name, letter in letters_of(tuple(row)).items() if cells.is_given(row[name])}
    texts["options"] = cells.options_of(letters or found.get("options"), columns.get("options", "options"))
    if texts["options"] and not isinstance(row[answer], str):
        raise KitError(f"{answer} is no text: {short(row[answer])}. Beside options write the letter or the text")
    history = cells.parsed(found.get("history"))
    earlier = cells.from_list(history, columns["history"]) if cells.is_given(history) else []
    if not earlier and not any(texts.values()):
        return _two_columns(question, answer, row)
    texts[own] = cells.text_of(row, question)
    asked = "\n\n".join(texts[part] for part in ASKED if texts.get(part))
    return [*earlier, *cells.in_turn([asked, cells.answer_of(row, answer)])]


def _two_columns(question: str, answer: str, row: Row) -> list[Message]:
    """Texts, lists of messages, or the two halves of a rendered prompt."""
    if cells.is_list_of_turns(row[question]):
        return [message for column in (question, answer) for message in cells.from_list(row[column], column)]
    asked, answered = cells.text_of(row, question), cells.answer_of(row, answer)
    if convert := cells.text_format(asked, is_prompt=True):
        return convert(f"{asked}\n{answered}")
    return cells.in_turn([asked, answered])


def _filled(template: str, answer: str, row: Row) -> list[Message]:
    """A question made of several columns; where one is empty, its lines close up."""
    known = cells.by_plain_name(row)

    def value(place: re.Match[str]) -> str:
        column = known.get(cells.plain(place[1]))
        return "" if column is None else cells.optional_text(row[column], column)

    asked = re.sub(r"\{([^{}]*)\}", value, template.replace("\\n", "\n"))
    return cells.in_turn([re.sub(r"\n{3,}", "\n\n", asked).strip(), cells.answer_of(row, answer)])

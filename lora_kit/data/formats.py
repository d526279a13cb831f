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
from .cells import LISTS, TURN_KEYS, Row, short
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
ASKED = {  # what a question is made of, in this order -> how its column is read
    **dict.fromkeys(("instruction", "context", "question", "input"), cells.optional_text),
    "options": cells.options_of,
}
LETTER = re.compile(r"(?:option|choice|opt)?[ _]?([a-f])$")  # of a column that is one option


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
            here = ", ".join(row) or "none"
            raise KitError(f"has no column {missing[0]}: its columns are {here}, the first row's {self!s}")
        messages = self.convert(row)
        column = part_of(row).get("system")
        system = cells.optional_text(row, column) if column and column not in self.columns else ""
        if not system:
            return messages
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": system}, *messages]
        if messages[0]["content"].strip() != system.strip():
            raise KitError(f"has a column {column} and another system text among its messages: delete one of them")
        return messages

    def answers(self, row: Row) -> list[str]:
        """Every answer that the row accepts, where it says them apart from its messages."""
        column = next((name for name in row if name.lower() == "answers"), self.columns[-1])
        is_apart = self.name == "pair" and not cells.is_list_of_turns(row[column])
        return cells.answers_of(row, column) if is_apart else []


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
    others = [name for name in row if name not in (*parts, "chosen", "rejected")]
    alone = [shape for name in others if (shape := _of_column(name, row[name]))]
    usual = [_turns(name) for name in LISTS[:2] if name in row]  # an empty list there is a bad row
    shapes = [*(alone or usual[:1]), *_pairs(row)]
    if [shape.name for shape in shapes] == ["text", "pair"]:
        return shapes[1]  # the same rendered, as Stanford's Alpaca has it
    if len(shapes) == 1:
        return shapes[0]
    example = ", ".join(f"{name}: {short(value)}" for name, value in row.items())
    if not shapes:
        raise KitError(f"none of the known shapes fits its columns ({example}). {_way_out(row)}")
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
    if len(found["answer"]) > 1:  # TriviaQA's like: beside the answer all that are right
        found["answer"] = [column for column in found["answer"] if column.lower() != "answers"]
    if not any(found[part] for part in ("question", "instruction", "input")):
        found["question"], found["context"] = found["context"], []
    return {part: columns for part, columns in found.items() if columns}


def with_options(row: Row) -> Row:
    """The row with its columns of one option each, as A, B and C beside an answer, put into one column."""
    letters = {name: place[1].upper() for name in row if (place := LETTER.match(name.lower().strip()))}
    others = {name: value for name, value in row.items() if name not in letters}
    if len(letters) < 2 or "answer" not in part_of(others):
        return row
    return others | {"options": {letter: row[name] for name, letter in letters.items() if cells.is_given(row[name])}}


def _named(row: Row, columns: Columns) -> Shape:
    """The shape of the columns that the user names."""
    names = re.findall(r"\{([^{}]*)\}", columns[0])  # of a template
    known, wanted = cells.by_plain_name(row), [*names, *columns[1:]] if names else columns
    if missing := [name for name in wanted if cells.plain(name) not in known]:
        raise KitError(f"data__columns names {', '.join(missing)}, but the columns are {', '.join(row)}")
    found = tuple(known[cells.plain(name)] for name in wanted)
    if names and len(columns) == 2:
        return Shape("pair", found[-1:], partial(_filled, columns[0], found[-1]), found[:-1])
    if len({*found}) < len(found):
        raise KitError(f"data__columns names {found[0]} twice: name the question's column, then the answer's")
    if len(found) == 2:
        return Shape("pair", found, partial(_pair, "question", *found, is_named=True))
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
    if cells.is_list_of_turns(value) or (name.lower() in LISTS and cells.are_texts(cells.parsed(value))):
        return _turns(name)
    if isinstance(value, str) and (convert := cells.text_format(value)):
        return Shape("text", (name,), lambda row: convert(cells.text_of(row, name)))
    return None


def _turns(column: str) -> Shape:
    return Shape("turns", (column,), lambda row: cells.from_list(row, column))


def _pairs(row: Row) -> list[Shape]:
    """Every way to read the row's columns as a question and an answer."""
    parts = _parts(tuple(row))
    own = next((part for part in ("question", "instruction", "input") if part in parts), "")
    pairs = [(question, answer) for question in parts.get(own, []) for answer in parts.get("answer", [])]
    return [Shape("pair", pair, partial(_pair, own, *pair)) for pair in pairs]


def _pair(own: str, question: str, answer: str, row: Row, *, is_named: bool = False) -> list[Message]:
    """A question and its answer: texts, lists of messages, or the two halves of a rendered prompt.

    Unless the user names the two, all else of the prompt in a row belongs to the question; `own`: its column's part.
    """
    others = {} if is_named else {part: name for part, name in part_of(row).items() if name not in (question, answer)}
    texts = {part: ASKED[part](row, name) for part, name in others.items() if part in ASKED}
    if texts.get("options") and not isinstance(row[answer], str):
        raise KitError(f"{answer} is no text: {short(row[answer])}. Beside options write the letter or the text")
    history = others.get("history")
    earlier = cells.from_list(row, history) if history and cells.is_given(cells.parsed(row[history])) else []
    is_alone = not earlier and not any(texts.values())
    if is_alone and isinstance(row[question], list) and cells.is_list_of_turns(row[question]):
        return [message for column in (question, answer) for message in cells.from_list(row, column)]
    texts[own], answered = cells.text_of(row, question), cells.answer_of(row, answer)
    if is_alone and (convert := cells.text_format(texts[own], is_prompt=True)):
        return convert(f"{texts[own]}\n{answered}")
    asked = "\n\n".join(texts[part] for part in ASKED if texts.get(part))
    return [*earlier, *cells.in_turn([asked, answered])]


def _filled(template: str, answer: str, row: Row) -> list[Message]:
    """A question made of several columns; where one is empty, its lines close up."""
    known = cells.by_plain_name(row)

    def value(place: re.Match[str]) -> str:
        column = known.get(cells.plain(place[1]))
        return "" if column is None else cells.optional_text(row, column)

    asked = re.sub(r"\{([^{}]*)\}", value, template.replace("\\n", "\n"))
    return cells.in_turn([re.sub(r"\n{3,}", "\n\n", asked).strip(), cells.answer_of(row, answer)])


def _way_out(row: Row) -> str:
    """The line that helps, by what the row looks like."""
    names, known = [*row], cells.by_plain_name(row)
    nested = [name for name, value in row.items() if isinstance(cells.parsed(value), dict | list)]
    texts = [name for name, value in row.items() if isinstance(value, str)]
    turns = next((keys for keys in TURN_KEYS if {*keys} <= known.keys()), None)
    if {"message_id", "parent_id"} <= known.keys():
        return "It is a tree with one message a row: write each way from the root to an answer as one row of turns"
    if {"chosen", "rejected"} <= known.keys():
        better = "chosen" if "prompt" not in known or nested else "prompt,chosen"
        return f"It holds pairs, for lk.correct(run, pairs); the better ones are learned with data__columns={better}"
    if turns:
        group = next((name for name in names if "id" in name.lower()), "CONVERSATION")
        return (
            "It holds one turn a row. Group it: rows = [{'messages': [{'role': r, 'content': c} for r, c in "
            f"zip(d[{known[turns[0]]!r}], d[{known[turns[1]]!r}])]}} for _, d in df.groupby({group!r}, sort=False)], "
            "and lk.Run(data=rows)"
        )
    if nested:
        return (
            f"{', '.join(nested)} holds lists or objects of a form that is not known: write each row as "
            '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'
        )
    if len(names) == 1 and re.search(r"[,;\t|]", names[0]):
        return "It seems to be a table with another separator than its ending says"
    if any(len(name) > 40 or name.rstrip().endswith((".", "?", "!")) for name in names):
        return "Its first line looks like a row: give the table a line with the names of the columns, question,answer"
    if len(names) == 1:
        return "A text without a question and an answer in it is not learned here: write questions about it"
    example = ",".join(texts) if len(texts) == 2 else "QUESTION,ANSWER, with their names for the two"
    return f"Say which columns hold question and answer: data__columns={example}"

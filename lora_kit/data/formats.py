"""What a row may look like, found by its columns and turned into messages.

    turns    a list of {"role", "content"} or {"from", "value"}, texts in turn, or either written as JSON text
    text     one column of conversations rendered to text (turns.py)
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
from .cells import answer_of, history_of, optional_text, short, text_of
from .turns import (
    LISTS,
    TURN_KEYS,
    Convert,
    Message,
    are_texts,
    as_list,
    from_list,
    in_turn,
    keys_of,
    text_format,
)

Row = dict[str, Any]
Columns = tuple[str, ...]

PARTS = {  # part of a conversation -> what its column may be called
    "system": ("system", "system_prompt", "system_message", "sys"),
    "history": ("history",),
    "instruction": ("instruction",),
    "context": ("context", "passage"),
    "question": ("question", "prompt", "query", "q", "user", "human", "request"),
    "input": ("input",),
    "options": ("options", "choices"),
    "answer": ("answer", "completion", "response", "a", "output", "assistant", "reply", "target", "answers"),
}
ASKED = ("instruction", "context", "question", "input", "options")  # what a question is made of, in this order
NESTED = "instances"  # Self-instruct's list of one row


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
        row = _flat(row)
        if missing := [name for name in self.columns if name not in row]:
            here = ", ".join(map(str, row)) or "none"
            raise KitError(f"has no column {missing[0]}: its columns are {here}, the first row's {self!s}")
        messages = self.convert(row)
        column = part_of(row).get("system")
        system = optional_text(row[column], column) if column and column not in self.columns else ""
        if not system.strip():
            return messages
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": system}, *messages]
        if messages[0]["content"].strip() != system.strip():
            raise KitError(f"has a column {column} and another system text among its messages: delete one of them")
        return messages


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
    shapes = [*_of_one_column(row), *_pairs(_flat(row))]
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


def plain_names(row: Row) -> dict[str, str]:
    """A name in small letters, with single spaces and nothing in brackets -> the column."""
    return {" ".join(re.sub(r"\(.*?\)", "", str(name)).lower().split()): name for name in row}


@lru_cache(maxsize=256)
def _parts(names: Columns) -> dict[str, list[str]]:
    """Part -> every column that may be it."""
    plain = plain_names(dict.fromkeys(names))
    found = {part: [plain[name] for name in known if name in plain] for part, known in PARTS.items()}
    return {part: columns for part, columns in found.items() if columns}


def _named(row: Row, columns: Columns) -> Shape:
    """The shape of the columns that the user names."""
    template, answer = ",".join(columns).rpartition(",")[::2]
    names = re.findall(r"\{([^{}]*)\}", template)  # of a template, which may hold commas itself
    plain, wanted = plain_names(row), [*names, answer] if names else columns
    if missing := [name for name in wanted if name.lower().strip() not in plain]:
        raise KitError(f"data__columns names {', '.join(missing)}, but the columns are {', '.join(map(str, row))}")
    found = tuple(plain[name.lower().strip()] for name in wanted)
    if names:
        return Shape("pair", found[-1:], partial(_filled, template, found[-1]), found[:-1])
    if len({*found}) < len(found):
        raise KitError(f"data__columns names {found[0]} twice: name the question's column, then the answer's")
    if len(found) == 2:
        return Shape("pair", found, partial(_two_columns, *found))
    shapes = _of_one_column({found[0]: row[found[0]]}, is_named=True) if len(found) == 1 else []
    if not shapes:
        raise KitError(
            "data__columns must name a question and an answer column, a template and an answer column as in "
            '"{context} {question}",answer, or one column of turns or of rendered prompts; '
            f"{','.join(found)} holds {short([row[name] for name in found])}"
        )
    return shapes[0]


def _of_one_column(row: Row, *, is_named: bool = False) -> list[Shape]:
    """Shapes of one column: lists of turns, or rendered texts; `is_named`: the user says that this is it."""
    parts = {column for columns in _parts(tuple(row)).values() for column in columns}
    shapes = []
    for name, value in row.items():
        turns = as_list(value)
        if name in (*parts, "chosen", "rejected") and not is_named:
            continue
        if turns and ((isinstance(turns[0], dict) and keys_of(turns[0])) or (name in LISTS and are_texts(turns))):
            shapes.append(Shape("turns", (name,), partial(_turns_in, name)))
        elif isinstance(value, str) and (convert := text_format(value)):
            shapes.append(Shape("text", (name,), partial(_rendered, name, convert)))
    if not shapes and (usual := [name for name in LISTS[:2] if name in row]):  # an empty list is a bad row
        shapes = [Shape("turns", (usual[0],), partial(_turns_in, usual[0]))]
    return shapes


def _pairs(row: Row) -> list[Shape]:
    """Every way to read the row's columns as a question and an answer."""
    parts = _parts(tuple(row))
    asked = parts.get("question") or parts.get("instruction") or parts.get("input") or []
    pairs = [(question, answer) for question in asked for answer in parts.get("answer", [])]
    return [Shape("pair", pair, partial(_all_parts, *pair)) for pair in pairs]


def _all_parts(question: str, answer: str, row: Row) -> list[Message]:
    """Everything of the prompt that a row holds, and its answer; also what only later rows have."""
    columns = {part: column for part, column in part_of(row).items() if column != answer}
    own = next(part for part in ASKED if question in _parts((question,)).get(part, []))
    if isinstance(row[question], list) or (len({*columns} & {*ASKED}) < 2 and "history" not in columns):
        return _two_columns(question, answer, row)
    texts = {part: optional_text(row[column], column) for part, column in columns.items() if part in ASKED}
    asked = "\n\n".join(text for part in ASKED if (text := (texts | {own: text_of(row, question)}).get(part)))
    earlier = history_of(row, columns.get("history"))
    return [*in_turn([text for pair in earlier for text in pair]), *_pair(asked, answer_of(row, answer))]


def _two_columns(question: str, answer: str, row: Row) -> list[Message]:
    """Texts, lists of messages, or the two halves of a rendered prompt."""
    if isinstance(row[question], list) and row[question] and isinstance(row[question][0], dict):
        return [message for column in (question, answer) for message in _turns_in(column, row)]
    asked, answered = text_of(row, question), answer_of(row, answer)
    if convert := text_format(asked, is_prompt=True):
        return convert(f"{asked}\n{answered}")
    return _pair(asked, answered)


def _filled(template: str, answer: str, row: Row) -> list[Message]:
    """A question made of several columns; where one is empty, its lines close up."""
    plain = plain_names(row)

    def value(place: re.Match[str]) -> str:
        column = plain.get(place[1].lower().strip(), "")
        return optional_text(row.get(column), column)

    asked = re.sub(r"\{([^{}]*)\}", value, template.replace("\\n", "\n"))
    return _pair(re.sub(r"\n{3,}", "\n\n", asked).strip(), answer_of(row, answer))


def _rendered(column: str, convert: Convert, row: Row) -> list[Message]:
    return convert(text_of(row, column))


def _turns_in(column: str, row: Row) -> list[Message]:
    return from_list(row[column], column)


def _flat(row: Row) -> Row:
    """A row whose columns stand in a list of one row."""
    inner = row.get(NESTED)
    if not isinstance(inner, list) or not inner or not isinstance(inner[0], dict):
        return row
    if len(inner) > 1:
        raise KitError(f"{NESTED} holds {len(inner)} rows: write each as a row of its own")
    return {key: value for key, value in row.items() if key != NESTED} | inner[0]


def _pair(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _way_out(row: Row) -> str:
    """What a person can do about a first row that nothing fits."""
    names, plain = [str(name) for name in row], plain_names(row)
    turns = next((keys for keys in (*TURN_KEYS, ("role", "message")) if {*keys} <= plain.keys()), None)
    if {"message_id", "parent_id"} <= plain.keys():
        return "It is a tree with one message a row: write each way from the root to an answer as one row of turns"
    if turns:
        group = next((name for name in names if "id" in name.lower()), "CONVERSATION")
        return (
            "It holds one turn a row. Group it: rows = [{'messages': [{'role': r, 'content': c} for r, c in "
            f"zip(d[{plain[turns[0]]!r}], d[{plain[turns[1]]!r}])]}} for _, d in df.groupby({group!r}, sort=False)], "
            "and lk.Run(data=rows)"
        )
    if len(names) == 1 and re.search(r"[,;\t|]", names[0]):
        return "It seems to be a table with another separator than its ending says"
    if any(len(name) > 40 or name.rstrip().endswith((".", "?", "!")) for name in names):
        return "Its first line looks like a row: give the table a line with the names of the columns, question,answer"
    if len(names) == 1:
        return "A text without a question and an answer in it is not learned here: write questions about it"
    return "Say which columns hold question and answer: data__columns=QUESTION,ANSWER, with their names for the two"

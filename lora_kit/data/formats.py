"""What a row may look like, found by its columns and turned into messages.

    turns    a list of {"role", "content"} or {"from", "value"}, texts in turn, or either written as JSON text
    text     one column of conversations rendered to text (texts.py)
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
from .cells import answers_of, is_given, optional_text, options_of, parsed, short, text_of
from .hints import way_out
from .texts import Convert, prompt_format, text_format
from .turns import LISTS, Message, are_texts, from_list, in_turn, is_list_of_turns

Row = dict[str, Any]
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

    def answers(self, row: Row) -> list[str]:
        """Every answer that the row accepts, where it says them apart from its messages."""
        row = _flat(row)
        columns = [name for name in row if str(name).lower() == "answers"] or [*self.columns[-1:]]
        value = parsed(row.get(columns[0]))
        is_apart = self.name == "pair" and isinstance(value, list | dict) and not is_list_of_turns(value)
        return answers_of(row, columns[0]) if is_apart else []


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
    if len(shapes) == 2 and (shapes[0].name, shapes[1].name) == ("text", "pair"):
        return shapes[1]  # the same rendered, as Stanford's Alpaca has it
    if len(shapes) == 1:
        return shapes[0]
    example = ", ".join(f"{name}: {short(value)}" for name, value in row.items())
    if not shapes:
        raise KitError(f"none of the known shapes fits its columns ({example}). {way_out(row, plain_names(row))}")
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
    if letters := letters_of(names):
        found["answer"] = [column for column in found["answer"] if column not in letters]
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
    plain, wanted = plain_names(row), [*names, *columns[1:]] if names else columns
    if missing := [name for name in wanted if name.lower().strip() not in plain]:
        raise KitError(f"data__columns names {', '.join(missing)}, but the columns are {', '.join(map(str, row))}")
    found = tuple(plain[name.lower().strip()] for name in wanted)
    if names and len(columns) == 2:
        return Shape("pair", found[-1:], partial(_filled, columns[0], found[-1]), found[:-1])
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
        if name in (*parts, NESTED, "chosen", "rejected") and not is_named:
            continue
        if is_list_of_turns(value) or (str(name).lower() in LISTS and are_texts(parsed(value))):
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
    columns = {part: column for part, column in part_of(row).items() if column not in (question, answer)}
    texts = {part: optional_text(row[columns[part]], columns[part]) for part in ASKED[:-1] if part in columns}
    texts["options"] = options_of(row[columns["options"]], columns["options"]) if "options" in columns else ""
    if letters := {letter: row[name] for name, letter in letters_of(tuple(row)).items() if is_given(row[name])}:
        texts["options"] = options_of(letters, "options")
    if texts["options"] and not isinstance(row[answer], str):
        raise KitError(f"{answer} is no text: {short(row[answer])}. Beside options write the letter or the text")
    history = row[columns["history"]] if "history" in columns else None
    earlier = from_list(history, columns["history"]) if is_given(parsed(history)) else []
    if not earlier and not any(texts.values()):
        return _two_columns(question, answer, row)
    own = next((part for part in ASKED if question in _parts((question,)).get(part, [])), "question")
    texts[own] = text_of(row, question)
    asked = "\n\n".join(texts[part] for part in ASKED if texts.get(part))
    return [*earlier, *in_turn([asked, answers_of(row, answer)[0]])]


def _two_columns(question: str, answer: str, row: Row) -> list[Message]:
    """Texts, lists of messages, or the two halves of a rendered prompt."""
    if isinstance(row[question], list) and row[question] and isinstance(row[question][0], dict):
        return [message for column in (question, answer) for message in from_list(row[column], column)]
    asked, answered = text_of(row, question), answers_of(row, answer)[0]
    if convert := prompt_format(asked):
        return convert(f"{asked}\n{answered}")
    return in_turn([asked, answered])


def _filled(template: str, answer: str, row: Row) -> list[Message]:
    """A question made of several columns; where one is empty, its lines close up."""
    plain = plain_names(row)

    def value(place: re.Match[str]) -> str:
        column = plain.get(place[1].lower().strip(), "")
        return optional_text(row.get(column), column)

    asked = re.sub(r"\{([^{}]*)\}", value, template.replace("\\n", "\n"))
    return in_turn([re.sub(r"\n{3,}", "\n\n", asked).strip(), answers_of(row, answer)[0]])


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

"""What a row may look like: the shapes people use, recognised by their columns and turned into messages.

    messages        OpenAI: [{"role", "content"}, ...]
    ShareGPT        [{"from": "human" | "gpt" | "system", "value"}, ...]
    text            one column of rendered Llama-2 prompts: "<s>[INST] question [/INST] answer </s>"
    Alpaca          instruction, output and, where it is not empty, input
    pair            a question column and an answer column under their usual names; texts or lists of messages

A column called system is the system text, where the conversation has none of its own.
The first row decides for the whole source; a later row of another shape is an error with its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import KitError

Message = dict[str, str]
Row = dict[str, Any]
Columns = tuple[str, ...]
Convert = Callable[[Row, Columns], list[Message]]

ROLES = {"human": "user", "gpt": "assistant"}  # what a role may be called besides system, user and assistant
TURN_KEYS = {"messages": ("role", "content"), "ShareGPT": ("from", "value")}  # who speaks, and what
USUAL_LISTS = {"messages": "messages", "conversations": "ShareGPT"}  # columns whose name alone says the shape
ASKED = ("question", "prompt", "query", "q", "input", "user", "human", "request")
ANSWERED = ("answer", "completion", "response", "a", "output", "assistant", "reply", "target")
SYSTEM = re.compile(r"^<<SYS>>\s*(.*?)\s*<</SYS>>\s*(.*)$", re.DOTALL)
BEHIND = re.compile(r"</s>\s*(?!<s>|\[INST\]|\s|$)")  # text between the turns of a rendered prompt
SHOWN = 100  # characters of a value that an error shows


@dataclass(frozen=True)
class Shape:
    """A way to hold a conversation: the columns it uses and how a row becomes messages."""

    name: str
    columns: Columns
    convert: Convert

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.columns)})"

    def messages(self, row: Row) -> list[Message]:
        """The row's messages; KitError where a column is missing, empty or of the wrong type."""
        if any(name not in row for name in self.columns[:2]):  # Alpaca's third, the input, may be absent
            raise KitError(
                f"has the columns {', '.join(map(str, row)) or 'none'}; the first row has {', '.join(self.columns)}"
            )
        messages, system = self.convert(row, self.columns), row.get("system")
        if not isinstance(system, str) or not system.strip() or "system" in self.columns:
            return messages
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": system}, *messages]
        if messages[0]["content"].strip() != system.strip():
            raise KitError("has a column called system and another system text among its messages: delete one of them")
        return messages


def recognise(row: Row, columns: Columns = ()) -> Shape:
    """The one shape that fits a first row.

    Args:
        row: the first row of a source, column names to values.
        columns: what the user says holds the conversation: one column, or a question column and an answer column.
    """
    if columns:
        return _named(row, columns)
    shapes = _of_one_column(row) + (_alpaca(row) or _pairs(row))
    if len(shapes) == 1:
        return shapes[0]
    example = ", ".join(f"{name}: {_short(value)}" for name, value in row.items())
    if not shapes:
        raise KitError(
            "none of the known shapes (messages, conversations, Alpaca, question and answer, rendered text) fits its "
            f"columns ({example}). {_way_out(row)}"
        )
    fitting = ["+".join(map(str, shape.columns)) for shape in shapes]
    raise KitError(
        f"more than one shape fits its columns ({example}): {'; '.join(fitting)}. Say which holds the conversation, as "
        f"in data__columns={fitting[0].replace('+', ',')}"
    )


def _way_out(row: Row) -> str:
    """What a person can do about a first row that nothing fits."""
    names = [str(name) for name in row]
    if len(names) == 1 and re.search(r"[,;\t|]", names[0]):
        return "It seems to be a table with another separator than its ending says"
    if any(len(name) > 40 or name.rstrip().endswith((".", "?", "!")) for name in names):
        return "Its first line looks like a row: give the table a line with the names of the columns, question,answer"
    return "Say which columns hold question and answer: data__columns=QUESTION,ANSWER, with their names for the two"


def _named(row: Row, columns: Columns) -> Shape:
    lower = _lower(row)
    if missing := [name for name in columns if name not in row and name.lower() not in lower]:
        raise KitError(f"data__columns names {', '.join(missing)}, but the columns are {', '.join(map(str, row))}")
    columns = tuple(name if name in row else lower[name.lower()] for name in columns)
    if len({*columns}) < len(columns):
        raise KitError(f"data__columns names {columns[0]} twice: name the question's column, then the answer's")
    if len(columns) == 2:
        return Shape("pair", columns, _from_pair)
    shapes = _of_one_column({columns[0]: row[columns[0]]}, is_named=True) if len(columns) == 1 else []
    if not shapes:
        raise KitError(
            "data__columns must name a question and an answer column, or one column of messages or of rendered "
            f"Llama-2 prompts; {','.join(columns)} holds {_short([row[name] for name in columns])}"
        )
    return shapes[0]


def _lower(row: Row) -> dict[str, str]:
    return {str(name).lower().strip(): name for name in row}


def _of_one_column(row: Row, *, is_named: bool = False) -> list[Shape]:
    """Shapes of one column: lists of turns, or prompts rendered to text; `is_named`: the user says that this is it."""
    shapes = []
    for name, value in row.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and (is_named or name not in (*ASKED, *ANSWERED, "chosen", "rejected")):
            shapes += [_turns(shape, name) for shape, keys in TURN_KEYS.items() if first.keys() >= {*keys}][:1]
        if isinstance(value, str) and (is_named or name not in ASKED):
            shapes += [Shape("text", (name,), convert) for sign, convert in RENDERED.items() if re.match(sign, value)]
    # an empty list under the usual name is a bad row, not an unknown shape
    return shapes or [_turns(shape, name) for name, shape in USUAL_LISTS.items() if name in row]


def _turns(shape: str, column: str) -> Shape:
    return Shape(shape, (column,), partial(_from_turns, shape))


def _alpaca(row: Row) -> list[Shape]:
    lower = _lower(row)
    columns = tuple(lower[name] for name in ("instruction", "output", "input") if name in lower)
    return [Shape("Alpaca", columns, _from_alpaca)] if {"instruction", "output"} <= lower.keys() else []


def _pairs(row: Row) -> list[Shape]:
    lower = _lower(row)
    asked, answered = ([lower[name] for name in names if name in lower] for names in (ASKED, ANSWERED))
    return [Shape("pair", (question, answer), _from_pair) for question in asked for answer in answered]


def _from_turns(shape: str, row: Row, columns: Columns) -> list[Message]:
    (who, what), column, turns = TURN_KEYS[shape], columns[0], row[columns[0]]
    if not isinstance(turns, list) or not turns:
        raise KitError(f"{column} must be a list of {{{who!r}, {what!r}}}; it is {_short(turns)}")
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in (who, what)):
            raise KitError(f"{column} must hold turns with the texts {who!r} and {what!r}; one is {_short(turn)}")
        if turn.get("tool_calls") or turn.get("function_call"):
            raise KitError(f"{column} holds a call of a tool; tools are not learned here: leave that row out")
        if turn.get("weight", 1) in (0, "0", False):
            raise KitError(f"{column} holds a turn of weight 0; every answer is learned here: leave that turn out")
    return [{"role": ROLES.get(turn[who], turn[who]), "content": turn[what]} for turn in turns]


def _from_alpaca(row: Row, columns: Columns) -> list[Message]:
    asked, answer = (_text(row, name) for name in columns[:2])
    extra = row.get(columns[2]) if len(columns) == 3 else None
    if not isinstance(extra, str | None):
        raise KitError(f"{columns[2]} is no text: {_short(extra)}")
    return _pair(f"{asked}\n\n{extra}" if extra and extra.strip() else asked, answer)


def _from_pair(row: Row, columns: Columns) -> list[Message]:
    asked = row[columns[0]]
    if isinstance(asked, list) and asked and isinstance(asked[0], dict):  # prompt and completion as messages
        return [message for column in columns for message in _from_turns("messages", row, (column,))]
    return _pair(_text(row, columns[0]), _text(row, columns[1]))


def _from_llama2(row: Row, columns: Columns) -> list[Message]:
    """Take a rendered prompt apart at its tags; whatever stands outside of the turns is an error."""
    text = _text(row, columns[0])
    parts = re.split(r"\s*\[INST\]|\[/INST\]", re.sub(r"</?s>", "", text))
    if parts[0].strip() or BEHIND.search(text) or len(parts) < 3 or len(parts) % 2 == 0:
        raise KitError(
            f"{columns[0]} is no rendered Llama-2 prompt '<s>[INST] ... [/INST] ... </s>'; it is {_short(row)}"
        )
    turns = [part.strip() for part in parts[1:]]
    system = SYSTEM.match(turns[0])
    before = [{"role": "system", "content": system[1]}] if system and system[1] else []
    turns[0] = system[2] if system else turns[0]
    return before + [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


RENDERED: dict[str, Convert] = {r"\s*(<s>)?\s*\[INST\]": _from_llama2}  # how a rendered text begins


def _text(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise KitError(f"{column} is {'empty' if value is None or value == '' else f'no text: {_short(value)}'}")
    return value


def _pair(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"

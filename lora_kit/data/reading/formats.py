"""What a row may look like, found by its columns and turned into messages.

turns    a list of {"role", "content"} or {"from", "value"}, texts in turn, or either written as JSON text
text     one column of conversations rendered to text
pair     columns for question and answer, and for what belongs to them: PARTS
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from ...errors import KitError
from . import cells
from .cells import LISTS, TURN_KEYS, Row, plain, short
from .turns import ROLE_OF, Message

Columns = tuple[str, ...]

PARTS = {  # part of a conversation -> what its column may be called
    "system": "system system_prompt system_message sys",
    "history": "history chat_history",
    "instruction": "instruction instructions",
    "context": "context passage document background paragraph article",
    "question": "question prompt query q user human request problem questions prompts inputs input_text user_message "
    "frage pregunta domanda вопрос 问题",
    "input": "input",
    "options": "options choices",
    "answer": "answer completion response a output assistant reply target solution outputs completions responses "
    "output_text assistant_message targets antwort respuesta risposta ответ 答案 answers",
}
ASKED = {  # what a question is made of, in this order -> how its column is read
    **dict.fromkeys(("instruction", "context", "question", "input"), cells.optional_text),
    "options": cells.options_of,
}
OWN = ("question", "instruction", "input")  # one of these is the question's own part
TURNS = (*LISTS, *PARTS["history"].split())  # names of a list of questions and answers that is a conversation
PLACE = re.compile(r"\{([^{}]*)\}")  # of a column in a template
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
        is_named = column in (*self.columns, *self.optional)
        system = cells.optional_text(row, column) if column and not is_named else ""
        if not system:
            return messages
        own = str(messages[0]["content"] or "").strip() if messages[0]["role"] == "system" else ""
        if own not in ("", system.strip()):
            raise KitError(f"has a column {column} and another system text among its messages: delete one of them")
        return messages if own else [{"role": "system", "content": system}, *messages]

    def answers(self, row: Row) -> list[str]:
        """Every answer that the row accepts, where they stand apart from its messages."""
        column = next((name for name in row if name.lower() == "answers"), self.columns[-1])
        is_apart = self.name == "pair" and not cells.is_list_of_turns(row[column])
        return cells.answers_of(row, column) if is_apart else []


def recognise(row: Row, columns: Columns = ()) -> Shape:
    """The one shape that fits the first row of a source; KitError, with the way out, where none or several do.

    `columns` are the user's: one; question and answer; or a template ("{context}\\n\\n{question}") and an answer.
    """
    if columns:
        return _named(row, columns)
    parts = _parts(tuple(row))
    others = {*row} - {"chosen", "rejected"}.union(*parts.values())
    others -= {name for name in others if plain(name) not in TURNS and _are_pairs(cells.parsed(row[name]))}
    alone = [shape for name in row if name in others and (shape := _of_column(name, row[name]))]
    usual = [Shape("turns", (name,), partial(cells.from_list, column=name)) for name in LISTS[:2] if name in row]
    own = next((part for part in OWN if part in parts), "")
    pairs = itertools.product(parts.get(own, []), parts.get("answer", []))
    # under the usual name even an empty list is turns: a bad row, but no unknown shape
    shapes = [*(alone or usual[:1]), *(Shape("pair", pair, partial(_pair, own, *pair)) for pair in pairs)]
    if [shape.name for shape in shapes] == ["text", "pair"]:
        return shapes[1]  # the same rendered, as Stanford's Alpaca has it
    if len(shapes) == 1:
        return shapes[0]
    example = ", ".join(f"{name}: {short(value)}" for name, value in row.items())
    if not shapes:
        raise KitError(f"none of the known shapes fits its columns ({example}). {_way_out(row)}")
    fitting, first = "; ".join("+".join(shape.columns) for shape in shapes), ",".join(shapes[0].columns)
    raise KitError(f'more than one shape fits its columns ({example}): {fitting}. Say which, data__columns="{first}"')


def rows_in(row: Any, columns: Columns = ()) -> list[Any]:
    """The rows of a list of questions with answers in a row without one, as a FAQ by category has it; else the row."""
    fields = row if isinstance(row, dict) else {}
    texts = [name for name, value in fields.items() if isinstance(value, str) and value.startswith("[{")]  # as JSON
    names = [name for name, value in fields.items() if isinstance(value, list) or name in texts]
    lists = [name for name in names if plain(name) not in TURNS and _are_pairs(cells.parsed(row[name]))]
    if len(lists) != 1 or (cells.called(row, columns[-1]) if columns else "answer" in part_of(row)):
        return [row]
    others = {name: value for name, value in row.items() if name not in lists}
    return [others | inner for inner in cells.parsed(row[lists[0]])]


def _are_pairs(value: Any) -> bool:
    """Whether these are objects with a question and an answer each, and no turns of a user and an assistant."""
    found = [part_of(row) if isinstance(row, dict) else {} for row in value] if isinstance(value, list) else []
    answers = [parts.get("answer", "assistant") for parts in found if {*OWN} & {*parts}]
    return bool(found) and len(answers) == len(found) and "assistant" not in map(plain, answers)


def part_of(row: Row) -> dict[str, str]:
    """Part of a conversation -> the column of the row that is it."""
    return {part: columns[0] for part, columns in _parts(tuple(row)).items()}


@lru_cache(maxsize=256)
def _parts(names: Columns) -> dict[str, list[str]]:
    """Part -> every column that may be it."""
    found = {part: [c for name in known.split() for c in cells.called(names, name)] for part, known in PARTS.items()}
    if len(found["answer"]) > 1:  # beside the answer TriviaQA has all that are right
        found["answer"] = [column for column in found["answer"] if column.lower() != "answers"]
    if not any(found[part] for part in OWN):
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
    template = PLACE.findall(columns[0])
    wanted = (*template, *columns[1:]) if template else columns
    if unclear := [name for name in wanted if len(cells.called(row, name)) != 1]:
        raise KitError(f"data__columns names {', '.join(unclear)}, but the columns are {', '.join(row)}")
    found = tuple(cells.called(row, name)[0] for name in wanted)
    if template and len(columns) == 2:
        places = dict(zip(template, found, strict=False))
        return Shape("pair", found[-1:], partial(_filled, columns[0], places, found[-1]), found[:-1])
    if len({*found}) < len(found):
        raise KitError(f"data__columns names {found[0]} twice: name the question's column, then the answer's")
    if len(found) == 2:
        return Shape("pair", found, partial(_pair, "question", *found, is_named=True))
    if len(found) == 1 and (shape := _of_column(found[0], row[found[0]])):
        return shape
    held = f"{','.join(found)} holds {short([row[name] for name in found])}"
    ways = "a question and an answer column, a template and an answer column, or one of turns or rendered prompts"
    raise KitError(f"data__columns must name {ways}; {held}")


def _of_column(name: str, value: Any) -> Shape | None:
    """The shape of one column alone: of turns, or of rendered texts."""
    if cells.is_list_of_turns(value) or (name.lower() in LISTS and cells.are_texts(cells.parsed(value))):
        return Shape("turns", (name,), partial(cells.from_list, column=name))
    if isinstance(value, str) and (convert := cells.text_format(value)):
        return Shape("text", (name,), lambda row: convert(cells.text_of(row, name)))
    return None


def _pair(own: str, question: str, answer: str, row: Row, *, is_named: bool = False) -> list[Message]:
    """A question and its answer: texts, lists of messages, or the two halves of a rendered prompt.

    `own` is the question's part; the row's other parts of a prompt belong to it too, unless the user names the two.
    """
    others = {} if is_named else {part: name for part, name in part_of(row).items() if name not in (question, answer)}
    texts = {part: ASKED[part](row, name) for part, name in others.items() if part in ASKED}
    if texts.get("options") and not isinstance(row[answer], str):
        raise KitError(f"{answer} is no text: {short(row[answer])}. Beside options write the letter or the text")
    history = others.get("history")
    turns = cells.parsed(row[history]) if history else None
    if cells.is_given(turns) and not isinstance(turns, list):
        way_out = f'To leave it out: data__columns="{question},{answer}"'
        raise KitError(f"{history} must be a list of earlier turns; it is {short(turns)}. {way_out}")
    earlier = cells.from_list(row, history) if history and cells.is_given(turns) else []
    is_alone = not earlier and not any(texts.values())
    if is_alone and isinstance(row[question], list) and cells.is_list_of_turns(row[question]):
        return [message for column in (question, answer) for message in cells.from_list(row, column)]
    texts[own], answered = cells.text_of(row, question), cells.answer_of(row, answer)
    if is_alone and (convert := cells.text_format(texts[own], is_prompt=True)):
        return convert(f"{texts[own]}\n{answered}")
    asked = "\n\n".join(texts[part] for part in ASKED if texts.get(part))
    return [*earlier, *cells.in_turn([asked, answered])]


def _filled(template: str, places: dict[str, str], answer: str, row: Row) -> list[Message]:
    """A question made of several columns; where one is empty, its lines close up."""

    def text(place: re.Match[str]) -> str:
        return cells.optional_text(row, places[place[1]]) if places[place[1]] in row else ""

    asked = PLACE.sub(text, template.replace("\\n", "\n"))
    return cells.in_turn([re.sub(r"\n{3,}", "\n\n", asked).strip(), cells.answer_of(row, answer)])


def _way_out(row: Row) -> str:
    """The line that helps, by what the row looks like."""
    known = {plain(name): name for name in row}
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if {"message_id", "parent_id"} <= known.keys():
        return "It is a tree with one message a row: write each way from the root to an answer as one row of turns"
    if {"chosen", "rejected"} <= known.keys():
        better = "prompt,chosen" if {"prompt", "chosen", "rejected"} <= {*texts} else "chosen"
        return f'It holds pairs, for lk.correct(run, pairs); the better ones are learned with data__columns="{better}"'
    turns = next((keys for keys in TURN_KEYS if {*keys} <= known.keys()), None)
    if turns and str(row[known[turns[0]]]).strip().lower() in ROLE_OF:
        group = next((name for name in row if "id" in name.lower()), "CONVERSATION")
        role, content = (known[key] for key in turns)
        return (
            "It holds one turn a row. Group it: rows = [{'messages': [{'role': r, 'content': c} for r, c in "
            f"zip(d[{role!r}], d[{content!r}])]}} for _, d in df.groupby({group!r}, sort=False)], and lk.Run(data=rows)"
        )
    if any(len(name) > 40 or name.rstrip().endswith((".", "?", "!")) for name in row):
        return "Its first line looks like a row: give the table a line with the names of the columns, question,answer"
    if len(row) == 1 and re.search(r"[,;\t|]", next(iter(row))):
        return "It seems to be a table with another separator than its ending says"
    if len(row) == len(texts) == 1:
        return "A text without a question and an answer in it is not learned here: write questions about it"
    example = ",".join(texts) if len(texts) == 2 else "QUESTION,ANSWER"
    return (
        f'Say which columns hold question and answer, data__columns="{example}", or write each row as '
        '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'
    )

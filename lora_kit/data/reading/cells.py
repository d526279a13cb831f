"""What one cell of a row holds: a text, answers, options, turns, or a conversation rendered to one text."""

from __future__ import annotations

import ast
import json
import re
import string
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

from ...errors import KitError
from .turns import DESK, ROLE_OF, STARTS, Message, without_ends

Row = dict[str, Any]
Convert = Callable[[str], list[Message]]

SHOWN = 100  # characters of a value that an error shows
TURN_KEYS = (  # under which a turn says who speaks, and what
    *(("role", "content"), ("from", "value"), ("role", "value"), ("role", "text"), ("type", "content")),
    *(("speaker", "text"), ("speaker", "utterance"), ("author", "text"), ("sender", "message"), ("role", "message")),
)
PAIR_KEYS = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("question", "answer"))  # in one turn
LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "data")  # of texts in turn
NAMES = "|".join(name for name in ROLE_OF if name not in DESK)
TEXTS = (  # what stands before each turn of a rendered text, who speaks in brackets
    r"<\|im_start\|>\s*(\w+)\s*\n",  # ChatML
    r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\s*",  # Llama 3
    r"<start_of_turn>\s*(\w+)\s*\n",  # Gemma
    rf"<\|({NAMES})\|>\s*",  # Zephyr
    rf"###\s*(?i:({NAMES}))[ \t]*[:\n]",  # Alpaca
    r"\b(USER|ASSISTANT|SYSTEM):\s*",  # Vicuna
    r"(?:\A|\n)(?i:(user|human|assistant|bot|ai|question|answer|q|a)):[ \t]*",  # line by line
)
PREAMBLES = ("Below is an instruction", "A chat between")  # that may stand before a prompt's first turn
LLAMA2 = re.compile(r"(<s>)?\s*\[INST\]")
QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
NUMPY = re.compile(rf"\[\s*{QUOTED}(?:\s+{QUOTED})+\s*\]", re.DOTALL)  # its lists have no commas
BEHIND = re.compile(r"</s>\s*(?!<s>|\[INST\]|\s|$)")  # text between the turns of a rendered prompt


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """A column's name in small letters, with single spaces and nothing in brackets."""
    return " ".join(re.sub(r"\(.*?\)", "", name).lower().split())


def called(names: Iterable[str], wanted: str) -> list[str]:
    """The columns that a name means: exactly that one, else those of its plain name, if possible without brackets."""
    same = [wanted] if wanted in names else [name for name in names if plain(name) == plain(wanted)]
    return [name for name in same if "(" not in name] or same


def is_given(value: Any) -> bool:
    """Whether a cell is filled; NaN, which tables have for nothing, is not, nor is an object of nothing."""
    if isinstance(value, dict):
        return not all(part in (None, "", []) for part in value.values())
    return not (value in (None, "", []) or value != value or (isinstance(value, str) and not value.strip()))


def parsed(value: Any) -> Any:
    """A list or object that a table holds as text, in JSON or as Python writes it; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    wrong = suppress(ValueError, SyntaxError, RecursionError, MemoryError)
    with wrong:
        return json.loads(value.strip())
    with wrong, warnings.catch_warnings(action="ignore"):  # of an odd text; nothing but literals is evaluated
        return ast.literal_eval(value.strip())  # as pandas writes it
    return value


def held(row: Row, column: str) -> Any:
    """What a cell holds, parsed; KitError for a list as numpy prints it, which Python does not read back."""
    value = row[column]
    if isinstance(value, str) and (NUMPY.fullmatch(text := value.strip()) or (text[:1] == "{" and "array([" in text)):
        raise KitError(f"{column} holds a list as numpy prints it: {short(value)}. Save the rows as JSON or parquet")
    return parsed(value)


def optional_text(row: Row, column: str) -> str:
    """The text of a column, also a number's, or none; KitError where it holds something else."""
    value = row[column]
    if not is_given(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value).removesuffix(".0")  # pandas makes 3.0 of 3 where others are missing
    raise KitError(f"{column} is no text: {short(value)}. Write it as text, with str(...) or json.dumps(...)")


def text_of(row: Row, column: str) -> str:
    """The text of a column; KitError where it is empty or none."""
    if text := optional_text(row, column):
        return text
    raise KitError(f"{column} is empty")


def answers_of(row: Row, column: str) -> list[str]:
    """Every answer of a list, or of an object as SQuAD and TriviaQA have it; none where the column is neither."""
    value = _answers(row, column)
    found: list[Any] = []
    for part in value if isinstance(value, list) else [value] if isinstance(value, dict) else []:
        texts = part.get("text", part.get("value", [])) if isinstance(part, dict) else [part]
        found += texts if isinstance(texts, list) else [texts]
        found += part.get("aliases") or [] if isinstance(part, dict) else []
    return list(dict.fromkeys(found)) if all(isinstance(text, str) and text.strip() for text in found) else []


def answer_of(row: Row, column: str) -> str:
    """The answer to learn: the first of several, or the column's text."""
    if not is_given(_answers(row, column)):
        raise KitError(f"{column} is empty")
    return (answers_of(row, column) or [text_of(row, column)])[0]


def _answers(row: Row, column: str) -> Any:
    return held(row, column) if plain(column) == "answers" else row[column]


def options_of(row: Row, column: str) -> str:
    """Options to choose from, each on a line behind its letter."""
    value = held(row, column)
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # ARC's
        value = dict(zip(value.get("label") or string.ascii_uppercase, value["text"], strict=False))
    if isinstance(value, list):
        value = dict(zip(string.ascii_uppercase, value, strict=False))
    if isinstance(value, dict) and all(isinstance(text, str | int | float) for text in value.values()):
        return "\n".join(f"{letter}. {text}" for letter, text in value.items())
    return optional_text(row, column)


def in_turn(texts: list[str]) -> list[Message]:
    """Texts of user and assistant in turn, the user first."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def are_texts(turns: Any) -> bool:
    """Whether these are texts of user and assistant in turn."""
    return isinstance(turns, list) and len(turns) > 1 and all(isinstance(turn, str) for turn in turns)


def is_list_of_turns(value: Any) -> bool:
    """Whether a column holds turns as objects."""
    turns = parsed(value)
    return isinstance(turns, list) and bool(turns) and _keys_of(turns[0]) is not None


def _keys_of(turn: Any) -> tuple[str, str] | None:
    """The two keys of a turn, in its own letters: of who speaks and what, or of a question and its answer."""
    names = {str(name).lower(): name for name in turn} if isinstance(turn, dict) else {}
    known = (*TURN_KEYS, *PAIR_KEYS)
    return next(((names[one], names[other]) for one, other in known if one in names and other in names), None)


def from_list(row: Row, column: str) -> list[Message]:
    """A column's turns as role and content, the roles as they stand there."""
    turns = parsed(row[column])
    if not isinstance(turns, list) or not turns:
        raise KitError(f"{column} must be a list of turns; it is {short(row[column])}")
    return in_turn(turns) if are_texts(turns) else [message for turn in turns for message in _messages_in(turn, column)]


def _messages_in(turn: Any, column: str) -> list[Message]:
    """A turn's message, or the two of one that holds question and answer."""
    if are_texts(turn):
        return in_turn(turn)
    keys = _keys_of(turn)
    if keys and tuple(key.lower() for key in keys) in PAIR_KEYS:
        return in_turn([turn[key] for key in keys])
    if not keys or not isinstance(turn[keys[0]], str):
        raise KitError(f"{column} must hold turns with the texts 'role' and 'content'; one is {short(turn)}")
    name, content = (turn[key] for key in keys)
    role = ROLE_OF.get(name.strip().lower())
    if turn.get("tool_calls") or turn.get("function_call") or role == "tool":
        raise KitError(f"{column} holds a call of a tool; tools are not learned here: leave that row out")
    if role == "assistant" and turn.get("weight", 1) in (0, "0", False):  # questions are not learned anyway
        raise KitError(f"{column} holds an answer of weight 0; every answer is learned here: leave that row out")
    if isinstance(content, list):
        if other := [part for part in content if not isinstance(part, dict) or part.get("type") != "text"]:
            raise KitError(f"{column} holds {short(other[0])}; only parts of the type 'text' are learned")
        content = "\n".join(str(part.get("text")) for part in content)
    return [{"role": name, "content": content}]


def text_format(text: str, *, is_prompt: bool = False) -> Convert | None:
    """How to take a rendered conversation apart; None for any other text.

    `is_prompt`: the text must begin with its first turn, or a known preamble, and end where the answer begins.
    """
    text = text.rstrip()
    if LLAMA2.match(text.lstrip()):
        return from_llama2 if text.endswith("[/INST]") or not is_prompt else None
    begins = STARTS.sub("", text).lstrip()
    for header in TEXTS:
        places = list(re.finditer(header, f"{text}\n"))
        roles = [ROLE_OF.get(place[1].lower()) for place in places]
        if not {"user", "assistant"} <= {*roles}:
            continue
        is_open = roles[-1] == "assistant" and places[-1].end() >= len(text)
        is_begun = "<" in header or begins.startswith(PREAMBLES) or re.match(header, begins)  # a word may be any text's
        if not is_prompt or (is_open and is_begun):
            return partial(from_headers, header)
    return None


def from_headers(header: str, text: str) -> list[Message]:
    """Turns by what stands before each; what stands before the first one is the system text.

    After the first answer only the two names that spoke before it begin a turn: others belong to the text.
    """
    text = STARTS.sub("", text)
    places = list(re.finditer(header, text))
    names = [place[1].lower() for place in places]
    first = next((n for n, name in enumerate(names) if ROLE_OF.get(name) == "assistant"), 0)
    if not first:
        raise KitError(f"holds no question with an answer: {short(text)}")
    known = {names[first], *(name for name in names[:first] if ROLE_OF.get(name) == "user")}  # others belong to a text
    turns = [place for n, place in enumerate(places) if n <= first or names[n] in known]
    ends = [*(place.start() for place in turns[1:]), len(text)]
    before = text[: turns[0].start()].strip()
    found = [{"role": "system", "content": before}] if before else []
    for place, end in zip(turns, ends, strict=True):
        found.append({"role": place[1], "content": without_ends(text[place.end() : end]).strip()})
    return found


def from_llama2(text: str) -> list[Message]:
    """Llama 2's prompt; whatever stands outside of its turns is an error."""
    outside, *turns = re.split(r"\[INST\]|\[/INST\]", re.sub(r"</?s>", "", text))
    if outside.strip() or BEHIND.search(text) or len(turns) < 2 or len(turns) % 2:
        raise KitError(f"holds no rendered Llama-2 prompt '<s>[INST] ... [/INST] ... </s>'; it is {short(text)}")
    turns = [turn.strip() for turn in turns]
    system, is_closed, asked = turns[0].partition("<</SYS>>")
    if not (is_closed and system.startswith("<<SYS>>")):
        return in_turn(turns)
    system = system.removeprefix("<<SYS>>").strip()
    before = [{"role": "system", "content": system}] if system else []
    return [*before, *in_turn([asked.lstrip(), *turns[1:]])]

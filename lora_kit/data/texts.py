"""Conversations that are rendered to one text, taken apart by what stands before each turn.

TEXTS is the place where the next format is one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from ..errors import KitError
from .cells import short
from .turns import ROLE_OF, STARTS, Message, in_turn, without_ends

Convert = Callable[[str], list[Message]]

TEXTS = {  # format -> what stands before each turn, who speaks in brackets
    "ChatML": r"<\|im_start\|>\s*(\w+)\s*\n",
    "Llama 3": r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\s*",
    "Gemma": r"<start_of_turn>\s*(\w+)\s*\n",
    "Zephyr": rf"<\|({'|'.join(ROLE_OF)})\|>\s*",
    "Alpaca": rf"###\s*(?i:({'|'.join(ROLE_OF)}))[ \t]*[:\n]",
    "Vicuna": r"\b(USER|ASSISTANT|SYSTEM):\s*",
    "by lines": r"(?:\A|\n)(?i:(user|human|assistant|bot|ai|question|answer|q|a)):[ \t]*",
}
PREAMBLES = ("Below is an instruction", "A chat between")  # that may stand before a prompt's first turn
LLAMA2 = re.compile(r"\s*(<s>)?\s*\[INST\]")
SYSTEM = re.compile(r"^<<SYS>>\s*(.*?)\s*<</SYS>>\s*(.*)$", re.DOTALL)
BEHIND = re.compile(r"</s>\s*(?!<s>|\[INST\]|\s|$)")  # text between the turns of a rendered prompt


def text_format(text: str) -> Convert | None:
    """How to take a whole conversation apart; None where the text is none."""
    if LLAMA2.match(text):
        return from_llama2
    for header in TEXTS.values():
        roles = {ROLE_OF.get(name.lower()) for name in re.findall(header, text)}
        if {"user", "assistant"} <= roles:
            return partial(from_headers, header)
    return None


def prompt_format(text: str) -> Convert | None:
    """How to take a rendered prompt and its answer apart; None where the text is a question like any other.

    A prompt begins with its first turn, or a known preamble, and ends where the answer begins.
    """
    if LLAMA2.match(text):
        return from_llama2 if text.rstrip().endswith("[/INST]") else None
    begins = STARTS.sub("", text).lstrip()
    for header in TEXTS.values():
        places = list(re.finditer(header, f"{text.rstrip()}\n"))
        roles = [ROLE_OF.get(place[1].lower()) for place in places]
        is_open = bool(places) and places[-1].end() >= len(text.rstrip()) and roles[-1] == "assistant"
        is_begun = "<" in header or begins.startswith(PREAMBLES) or re.match(header, begins)  # a word may be any text's
        if is_open and "user" in roles and is_begun:
            return partial(from_headers, header)
    return None


def from_headers(header: str, text: str) -> list[Message]:
    """Turns by what stands before each; what stands before the first one is the system text.

    Behind the first answer only the two names that spoke before it begin a turn: others belong to the text.
    """
    text = STARTS.sub("", text)
    places = list(re.finditer(header, text))
    names = [place[1].lower() for place in places]
    first = next((n for n, name in enumerate(names) if ROLE_OF.get(name) == "assistant"), len(names))
    if not first or first == len(names):
        raise KitError(f"holds no question with an answer: {short(text)}")
    known = {names[first], *(name for name in names[:first] if ROLE_OF.get(name) == "user")}
    turns = [place for n, place in enumerate(places) if n <= first or names[n] in known]
    ends = [*(place.start() for place in turns[1:]), len(text)]
    before = text[: turns[0].start()].strip()
    system = [{"role": "system", "content": before}] if before else []
    found = [(place[1], text[place.end() : end]) for place, end in zip(turns, ends, strict=True)]
    return [*system, *({"role": role, "content": without_ends(content).strip()} for role, content in found)]


def from_llama2(text: str) -> list[Message]:
    """Llama 2's prompt; whatever stands outside of its turns is an error."""
    parts = re.split(r"\s*\[INST\]|\[/INST\]", re.sub(r"</?s>", "", text))
    if parts[0].strip() or BEHIND.search(text) or len(parts) < 3 or len(parts) % 2 == 0:
        raise KitError(f"holds no rendered Llama-2 prompt '<s>[INST] ... [/INST] ... </s>'; it is {short(text)}")
    turns = [part.strip() for part in parts[1:]]
    system = SYSTEM.match(turns[0])
    turns[0] = system[2] if system else turns[0]
    before = [{"role": "system", "content": system[1]}] if system and system[1] else []
    return [*before, *in_turn(turns)]

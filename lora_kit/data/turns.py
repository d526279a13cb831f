"""Turns: out of lists and rendered texts, mended into the order that chat formats have, and checked.

ROLES, TURN_KEYS, LISTS and TEXTS are the places where the next kind is one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import KitError
from .cells import is_given, short
from .readers import Notes, note

Message = dict[str, Any]  # "role", "content"
Convert = Callable[[str], list[Message]]

ROLES = {  # role -> what it may be called, in any letters
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "customer", "instruction", "input", "question"),
    "assistant": ("assistant", "gpt", "ai", "bot", "model", "chatgpt", "bing", "bard", "claude", "response", "answer"),
    "tool": ("tool", "function", "observation", "function_call", "ipython"),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
TURN_KEYS = (("role", "content"), ("from", "value"), ("role", "value"), ("speaker", "text"), ("role", "text"))
LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "data")  # of texts in turn
TAGS = (  # of prompt formats: inside a text they would forge a turn
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|endoftext|>"),
)
TEXTS = {  # format -> what stands before each turn, who speaks in brackets
    "ChatML": r"<\|im_start\|>\s*(\w+)\s*\n",
    "Llama 3": r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\s*",
    "Gemma": r"<start_of_turn>\s*(\w+)\s*\n",
    "Zephyr": rf"<\|({'|'.join(ROLE_OF)})\|>\s*",
    "Alpaca": rf"#{{2,3}}\s*({'|'.join(ROLE_OF)})\b\s*:?\s*",
    "Vicuna": r"\b(USER|ASSISTANT|SYSTEM):\s*",
    "Anthropic": r"(?:\A|\n\n)(Human|Assistant):\s*",
}
STARTS = re.compile(r"^(\s*(<s>|<\|begin_of_text\|>|<bos>))+\s*")
ENDS = re.compile(
    r"(\s*(</s>|<eos>|<\|im_end\|>|<\|eot_id\|>|<\|end\|>|<end_of_turn>|<\|endoftext\|>|<\|end_of_text\|>))+\s*$"
)
LLAMA2 = re.compile(r"\s*(<s>)?\s*\[INST\]")
SYSTEM = re.compile(r"^<<SYS>>\s*(.*?)\s*<</SYS>>\s*(.*)$", re.DOTALL)
BEHIND = re.compile(r"</s>\s*(?!<s>|\[INST\]|\s|$)")  # text between the turns of a rendered prompt


def from_list(value: Any, column: str) -> list[Message]:
    """A column's turns as role and content, the roles as they stand there."""
    turns = as_list(value)
    if not turns:
        raise KitError(f"{column} must be a list of turns; it is {short(value)}")
    return in_turn(turns) if are_texts(turns) else [_turn(turn, column) for turn in turns]


def _turn(turn: Any, column: str) -> Message:
    keys = keys_of(turn) if isinstance(turn, dict) else None
    if keys is None or not isinstance(turn[keys[0]], str):
        raise KitError(f"{column} must hold turns with the texts 'role' and 'content'; one is {short(turn)}")
    content, role = turn[keys[1]], ROLE_OF.get(turn[keys[0]].lower())
    if turn.get("tool_calls") or turn.get("function_call") or role == "tool":
        raise KitError(f"{column} holds a call of a tool; tools are not learned here: leave that row out")
    if role == "assistant" and turn.get("weight", 1) in (0, "0", False):  # questions are not learned anyway
        raise KitError(f"{column} holds an answer of weight 0; every answer is learned here: leave that row out")
    if isinstance(content, list):
        if other := [part for part in content if not isinstance(part, dict) or part.get("type") != "text"]:
            raise KitError(f"{column} holds {short(other[0])}; only parts of the type 'text' are learned")
        content = "\n".join(str(part.get("text")) for part in content)
    return {"role": turn[keys[0]], "content": content}


def keys_of(turn: dict[str, Any]) -> tuple[str, str] | None:
    """Under which keys a turn says who speaks, and what."""
    return next((keys for keys in TURN_KEYS if keys[0] in turn and keys[1] in turn), None)


def are_texts(turns: list[Any]) -> bool:
    """Whether these are texts of user and assistant in turn."""
    return len(turns) > 1 and all(isinstance(turn, str) for turn in turns)


def as_list(value: Any) -> list[Any] | None:
    """A list, also one that a table holds as JSON text."""
    if isinstance(value, str) and re.match(r"\s*\[\s*[{\"]", value):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, list) else None


def text_format(text: str, *, is_prompt: bool = False) -> Convert | None:
    """How to take a text apart; None where it is no rendered conversation.

    Args:
        text: a whole conversation, or a prompt that ends where the answer begins.
        is_prompt: which of the two.
    """
    if LLAMA2.match(text):
        return from_llama2
    for header in TEXTS.values():
        roles = [ROLE_OF.get(name.lower()) for name in re.findall(header, text, re.IGNORECASE)]
        if "user" in roles and (roles[-1] == "assistant" if is_prompt else "assistant" in roles):
            return partial(from_headers, header)
    return None


def from_headers(header: str, text: str) -> list[Message]:
    """Turns by what stands before each; what stands before the first one is the system text."""
    before, *parts = re.split(header, STARTS.sub("", text), flags=re.IGNORECASE)
    if not parts:
        raise KitError(f"holds no question with an answer: {short(text)}")
    system = [{"role": "system", "content": before.strip()}] if before.strip() else []
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [*system, *({"role": role, "content": without_ends(content).strip()} for role, content in turns)]


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


def in_turn(texts: list[str]) -> list[Message]:
    """Texts of user and assistant in turn, the user first."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def without_ends(text: str) -> str:
    """A text without the format's own tokens that somebody typed at its start or end, as in "At six.</s>"."""
    return ENDS.sub("", STARTS.sub("", text)) if "<" in text else text


def mended(messages: list[Message], roles: dict[str, str], notes: Notes, place: str) -> list[Message]:
    """Messages as system (optional), user, assistant, user, assistant ...; whatever is changed is noted.

    An empty system text is none. Turns of one speaker in a row are joined. What is said before the first question and
    a question without an answer are left out. The format's own tokens at the ends of a text are taken off.

    Raises:
        KitError: an unknown role, or a system text between the turns.
    """
    turns: list[Message] = []
    for message in messages:
        role, content = roles.get(message["role"].lower()), message["content"]
        if role is None:
            names = list(dict.fromkeys(m["role"] for m in messages if m["role"].lower() not in roles))
            example = ",".join(f"{name}:{known}" for name, known in zip(names, ("user", "assistant"), strict=False))
            raise KitError(f"has the roles {', '.join(names)}: say who they are, as in data__roles={example}")
        if role == "system" and not is_given(content):
            continue
        if isinstance(content, str) and (short := without_ends(content)) != content:
            note(notes, "the format's own <s> or </s> at the ends of texts, taken off", place)
            content = short
        if turns and turns[-1]["role"] == role and isinstance(content, str) and isinstance(turns[-1]["content"], str):
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{content}"}
            note(notes, "turns of one speaker in a row, joined", place)
        else:
            turns.append({"role": role, "content": content})
    start = int(bool(turns) and turns[0]["role"] == "system")
    if later := [number for number, turn in enumerate(turns) if turn["role"] == "system" and number]:
        raise KitError(
            f"has a system text at place {later[0] + 1}, between the turns: data__roles=system:user makes all system "
            "texts part of what is asked"
        )
    if turns[start:] and turns[start]["role"] == "assistant":
        del turns[start]
        note(notes, "an answer before the first question, left out", place)
    if turns[start:] and turns[-1]["role"] == "user" and len(turns) > start + 1:
        del turns[-1]
        note(notes, "a last question without an answer, left out", place)
    return turns


def tags_in(text: str) -> list[str]:
    """Tags of prompt formats that stand in a text."""
    if "[" not in text and "<" not in text:  # what every tag begins with
        return []
    return [tag for tag in TAGS if tag in text]


def plain_tags(text: str) -> str:
    """The same text with its tags spaced apart: "[INST]" reads "[ INST ]" and forges nothing."""
    for tag in TAGS:
        text = text.replace(tag, f"{tag[0]} {tag[1:-1]} {tag[-1]}")
    return text


def check_messages(messages: list[Message], *, last: str) -> None:
    """Refuse what no chat format can hold: wrong order, empty contents, half a character, tags that forge a turn."""
    turns = messages[1:] if messages and messages[0].get("role") == "system" else messages
    roles = [message.get("role") for message in turns]
    wanted = ["user", "assistant"] * (len(turns) // 2 + 1)
    if not turns or roles != wanted[: len(turns)] or roles[-1] != last:
        raise KitError(
            f"roles must be system (optional), then user and assistant in turn, {last} last; they are {roles}"
        )
    for number, message in enumerate(messages, start=1):
        if problem := _problem(message.get("content")):
            raise KitError(f"message {number} ({message['role']}) {problem}")


def _problem(content: object) -> str:
    """What is wrong with the text of a message, if anything."""
    if not isinstance(content, str) or not content.strip():
        return f"has no text: {content!r}"
    try:
        content.encode()  # the fastest way to look for half a surrogate pair
    except UnicodeEncodeError:
        return f"holds half a character, which no tokenizer takes: {content!r}"
    if forged := tags_in(content):
        return f"holds tags of a prompt format {forged}: remove them, or keep them as plain text with data__tags=keep"
    return ""

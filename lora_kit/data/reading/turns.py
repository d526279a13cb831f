"""Messages: repaired into the order that chat formats have, and checked. ROLES is where the next name is one line."""

from __future__ import annotations

import re
from typing import Any

from ...errors import KitError
from .readers import Notes, note

Message = dict[str, Any]  # "role", "content"

DESK = ("agent", "operator", "support", "visitor", "client")  # of help desks; in a rendered text these are headings
ROLES = {  # role -> what it may be called, in any letters
    "system": ("system", "developer"),
    "user": tuple("user human prompter customer instruction input question context q".split()) + DESK[3:],
    "assistant": tuple("assistant gpt ai bot model chatgpt bing bard claude response answer a".split()) + DESK[:3],
    "tool": ("tool", "function", "observation", "function_call", "ipython"),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
TAGS = (  # of prompt formats: inside a text they would forge a turn
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|endoftext|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|end|>"),
    *("<start_of_turn>", "<end_of_turn>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)

STARTS = re.compile(r"^(\s*(<s>|<\|begin_of_text\|>|<bos>))+\s*")
ENDS = ("</s>", "<eos>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>")


def without_ends(text: str) -> str:
    """A text without the format's own tokens that somebody typed at its start or end, as in "At six.</s>"."""
    bare = STARTS.sub("", text) if "<" in text else text
    while (shorter := bare.rstrip()).endswith(ENDS):
        bare = shorter[: shorter.rindex("<")].rstrip()
    return text if "<s>" in bare or not bare.strip() else bare  # HTML's <s>...</s> stays whole


def repaired(messages: list[Message], roles: dict[str, str], notes: Notes, place: str) -> list[Message]:
    """Messages as system (optional), user, assistant, user, assistant ...; whatever is changed is noted."""
    turns: list[Message] = []
    known = [roles.get(message["role"].strip().lower()) for message in messages]
    if unknown := [message["role"] for message, role in zip(messages, known, strict=True) if role is None]:
        answers = "" if "assistant" in known else unknown[-1]  # most chats end with an answer
        names = list(dict.fromkeys(unknown))
        example = ",".join(f"{name}:{'assistant' if name == answers else 'user'}" for name in names)
        raise KitError(f'has the roles {", ".join(names)}: say who they are, as in data__roles="{example}"')
    for role, content in zip(known, (message["content"] for message in messages), strict=True):
        if role == "system" and not str(content or "").strip():
            continue
        if isinstance(content, str) and (bare := without_ends(content)) != content:
            note(notes, "the format's own <s> or </s> at the ends of texts, taken off", place)
            content = bare
        if turns and turns[-1]["role"] == role and isinstance(content, str) and isinstance(turns[-1]["content"], str):
            turns[-1]["content"] += f"\n\n{content}"
            note(notes, "turns of one speaker in a row, joined", place)
        else:
            turns.append({"role": role, "content": content})
    order = [turn["role"] for turn in turns]
    if "system" in order[1:]:
        number = order.index("system", 1) + 1
        raise KitError(f"has a system text at place {number}: data__roles=system:user makes it part of what is asked")
    first = int(order[:1] == ["system"])
    if order[first : first + 1] == ["assistant"]:
        del turns[first]
        note(notes, "an answer before the first question, left out", place)
    if len(turns) > first + 1 and turns[-1]["role"] == "user":
        del turns[-1]
        note(notes, "a last question without an answer, left out", place)
    return turns


def tags_in(text: str) -> list[str]:
    """Tags of prompt formats that stand in a text."""
    if "[" not in text and "<" not in text:  # what every tag begins with: a hundred times as fast
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
        raise KitError(f"roles must be system (optional), then user and assistant in turn, {last} last, not {roles}")
    for number, message in enumerate(messages, start=1):
        where, content = f"message {number} ({message['role']})", message.get("content")
        if not isinstance(content, str) or not content.strip():
            raise KitError(f"{where} has no text: {content!r}")
        try:
            content.encode()  # the fastest way to look for half a surrogate pair
        except UnicodeEncodeError as error:
            raise KitError(f"{where} holds half a character, which no tokenizer takes: {content!r}") from error
        if forged := tags_in(content):
            way_out = "remove them, or keep them as plain text with data__tags=keep"
            raise KitError(f"{where} holds tags of a prompt format {forged}: {way_out}")

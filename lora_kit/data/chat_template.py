"""One rule for every chat template, found by rendering it:

    prompt  the conversation with the template's generation prompt, without thinking
    row     prompt + answer + stop, where stop is the first special token behind an answer

Training and use have the same prompt, because both come from `prompt_text`. A template that renders earlier turns
otherwise once they are past (Qwen3 takes their thoughts out) gives one row per answer.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from ..errors import KitError
from .reading.conversations import Conversation
from .reading.turns import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LINES, ROOM = 200_000, 2**30  # lines of a template that one rendering may run, and bytes that it may take
LOCK = Lock()  # the limit of memory is the whole process's
SYSTEM, ASKED, ANSWER = "Sysprobe.", "Userprobe?", "Answerprobe."


@dataclass(frozen=True)
class ChatFormat:
    """What a template puts around an answer."""

    lead: str  # between its generation prompt and an answer; part of the prompt
    space: str  # spaces behind that: part of the answer, as "▁Yes" is one token
    stop: str
    folds_system: bool  # it knows no system text: that goes before the first question
    system: str  # that it adds to conversations without one


def speaks_llama2(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's chat format is Llama 2's (its own template says so, or it has none)."""
    template = getattr(tokenizer, "chat_template", None)
    return template is None or ("[INST]" in template and "<<SYS>>" in template)


def stop_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer in this base's format."""
    return cast("int", tokenizer.convert_tokens_to_ids(chat_format(tokenizer).stop))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of the tokenizer's special tokens."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def prompt_text(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """A conversation that ends with a question, up to where the answer begins."""
    form = chat_format(tokenizer)
    turns = [m | {"content": m["content"].strip()} if m["role"] == "assistant" else m for m in messages]
    if form.folds_system and turns[0]["role"] == "system":
        system, asked, *later = turns
        turns = [asked | {"content": f"{system['content'].strip()}\n\n{asked['content']}"}, *later]
    return _render(turns, tokenizer, prompt=True) + form.lead


def answer_parts(chat: list[Message], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """For every answer that a row learns, the row's text up to where it begins and up to where it ends.

    All answers of the chat where each prompt begins with the turns before it, else the last one alone.
    """
    form, parts = chat_format(tokenizer), []
    for turn, message in enumerate(chat):
        if message["role"] == "assistant":
            prompt = prompt_text(chat[:turn], tokenizer)
            parts.append((prompt, f"{prompt}{form.space}{message['content'].strip()}{form.stop}"))
    nests = all(later.startswith(row) for (_, row), (later, _) in itertools.pairwise(parts))
    return parts if nests else parts[-1:]


def one_per_answer(rows: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase) -> list[Conversation]:
    """The same rows, so that each of their answers is learned: a chat that learns its last one alone as several."""
    if speaks_llama2(tokenizer):
        return list(rows)
    found = []
    for row in rows:
        turns = [turn for turn, message in enumerate(row.messages) if message["role"] == "assistant"]
        if row.learns_last or len(turns) == 1 or len(answer_parts(row.messages, tokenizer)) == len(turns):
            found.append(row)
        else:
            found += [replace(row, messages=row.messages[: turn + 1]) for turn in turns]
    return found


def _render(messages: list[Message], tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False) -> str:
    try:
        with _bounded():
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt, enable_thinking=False
            )
    except Exception as error:  # a template raises what it likes, and jinja what it meets
        reason = str(error) or type(error).__name__
        raise KitError(f"the base's chat template refuses this conversation: {reason}") from error
    return str(text)


@contextmanager
def _bounded() -> Iterator[None]:
    """End a foreign template that loops or grows without end: Jinja's become Python, whose lines can be counted."""
    left, before = LINES, sys.gettrace()

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError(f"it runs more than {LINES:,} lines")
        return line

    with LOCK, _room():
        sys.settrace(lambda frame, *_: line if frame.f_code.co_filename == "<template>" else None)
        try:
            yield
        finally:
            sys.settrace(before)


@contextmanager
def _room() -> Iterator[None]:
    """Let the process take ROOM more bytes, and then raise MemoryError; on Linux only."""
    if sys.platform != "linux":
        yield
        return
    from resource import RLIMIT_AS, getrlimit, setrlimit

    import psutil

    room, (soft, hard) = psutil.Process().memory_info().vms + ROOM, getrlimit(RLIMIT_AS)
    setrlimit(RLIMIT_AS, (room if soft < 0 else min(soft, room), hard))
    try:
        yield
    finally:
        setrlimit(RLIMIT_AS, (soft, hard))


def chat_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The form of the tokenizer's chat template; KitError where answers cannot be found in what it renders."""
    if speaks_llama2(tokenizer):  # whose prompts encoding.py writes
        return ChatFormat(lead="", space=" ", stop=str(tokenizer.eos_token), folds_system=True, system="")
    return _probe(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _probe(tokenizer: PreTrainedTokenizerBase, template: str) -> ChatFormat:
    asked = [{"role": "user", "content": ASKED}]
    prompt = _render(asked, tokenizer, prompt=True)
    before, found, behind = _render([*asked, {"role": "assistant", "content": ANSWER}], tokenizer).partition(ANSWER)
    stops = [(behind.index(token), -len(token), token) for token in special_tokens(tokenizer) if token in behind]
    if not found or ASKED not in prompt or not stops:
        raise KitError("the base's chat template shows no question, no answer, or no special token behind it")
    if not before.startswith(prompt):
        raise KitError("the base's chat template begins answers with a thought: no reasoning model is trained here")
    lead = before[len(prompt) :]
    system, folds = _system(asked, prompt, tokenizer)
    return ChatFormat(lead.rstrip(" "), lead[len(lead.rstrip(" ")) :], min(stops)[2], folds, system)


def _system(asked: list[Message], prompt: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """The system text that a template adds by itself, and whether it takes none."""
    try:
        with_system = _render([{"role": "system", "content": SYSTEM}, *asked], tokenizer, prompt=True)
    except KitError:
        return "", True
    before, found, behind = with_system.partition(SYSTEM)
    is_framed = found and prompt.startswith(before) and prompt.endswith(behind)
    return prompt[len(before) : len(prompt) - len(behind)] if is_framed else "", not found

"""From a conversation to token ids and labels: the one place that knows a prompt format.

    Llama 2:  [bos] tok("[INST] <<SYS>>\\nS\\n<</SYS>>\\n\\nU [/INST] A ") [eos]   for every user/assistant pair
    others :  the tokenizer's own chat template

Labels are built from ids: every assistant turn's tokens and its EOS are learned, all else is IGNORE. Special tokens are
put in as ids and never tokenized from text, because transformers 5 turns a rendered "<s>[INST]" into `[` where Meta's
own code has `▁[`. Prompts for generation come from the same functions, so training and use cannot drift apart.
Source: meta-llama/llama, llama/generation.py, `chat_completion`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ..errors import KitError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
IGNORE = -100  # the label that torch's cross entropy leaves out
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")


class Encoded(NamedTuple):
    """One conversation as ids; `labels[i]` is `input_ids[i]` where it is learned and IGNORE elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode(messages: list[Message], tokenizer: PreTrainedTokenizerBase, *, max_length: int | None = None) -> Encoded:
    """Encode a whole conversation for training.

    Args:
        messages: `{"role", "content"}` in the order system (optional), user, assistant, user, assistant ...
        tokenizer: the base model's own tokenizer.
        max_length: refuse rows of more tokens than this; nothing is ever cut. Memory grows with it.

    Raises:
        KitError: wrong role order, empty contents, forged tags, a row that is too long or teaches nothing.
    """
    check_messages(messages, last="assistant")
    encoded = encode_llama2(messages, tokenizer) if speaks_llama2(tokenizer) else _encode_template(messages, tokenizer)
    if max_length is not None and len(encoded.input_ids) > max_length:
        raise KitError(
            f"the row has {len(encoded.input_ids)} tokens, more than max_length={max_length}: "
            "shorten it, or raise data__max_length"
        )
    return encoded


def encode_prompt(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Encode a conversation that ends with the user's turn, ready for the model to answer."""
    check_messages(messages, last="user")
    if not speaks_llama2(tokenizer):
        return _render(messages, tokenizer, answer_follows=True)
    pairs = _pairs(messages)
    before = _join([_encode_pair(user, answer, tokenizer) for user, answer in pairs[:-1]])
    return before.input_ids + _bos(tokenizer) + _ids(f"[INST] {pairs[-1][0]} [/INST]", tokenizer)


def encode_llama2(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Meta's procedure for Llama 2, pair by pair."""
    return _join([_encode_pair(user, answer, tokenizer) for user, answer in _pairs(messages)])


def speaks_llama2(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's chat format is Llama 2's (its own template says so, or it has none)."""
    template = getattr(tokenizer, "chat_template", None)
    return template is None or ("[INST]" in template and "<<SYS>>" in template)


def check_messages(messages: list[Message], *, last: str) -> None:
    """Refuse what no chat format can hold: wrong order, empty contents, tags that would forge a turn."""
    turns = messages[1:] if messages and messages[0].get("role") == "system" else messages
    roles = [message.get("role") for message in turns]
    wanted = ["user", "assistant"] * (len(turns) // 2 + 1)
    if not turns or roles != wanted[: len(turns)] or roles[-1] != last:
        raise KitError(
            f"roles must be system (optional), then user and assistant in turn, {last} last; they are {roles}"
        )
    for number, message in enumerate(messages, start=1):
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            raise KitError(f"message {number} ({message['role']}) has no text: {content!r}")
        if re.search(r"[\ud800-\udfff]", content):
            raise KitError(
                f"message {number} ({message['role']}) holds half a character, which no tokenizer takes: {content!r}"
            )
        forged = [tag for tag in TAGS if tag in content]
        if forged:
            raise KitError(
                f"message {number} ({message['role']}) holds the prompt format's own tags {forged}: remove them"
            )


def _encode_pair(user: str, answer: str, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    prompt = _bos(tokenizer) + _ids(f"[INST] {user} [/INST]", tokenizer)
    whole = _bos(tokenizer) + _ids(f"[INST] {user} [/INST] {answer} ", tokenizer)
    if whole[: len(prompt)] != prompt:
        raise KitError("this tokenizer joins prompt and answer into one token; it does not behave like Llama 2's")
    ids = whole + [tokenizer.eos_token_id]
    return Encoded(ids, [IGNORE] * len(prompt) + ids[len(prompt) :])


def _encode_template(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    ids = _render(messages, tokenizer)
    labels = [IGNORE] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _render(messages[:turn], tokenizer, answer_follows=True)
        until = _render(messages[: turn + 1], tokenizer)
        if (
            ids[: len(until)] != until
            or until[: len(prompt)] != prompt
            or tokenizer.eos_token_id not in until[len(prompt) :]
        ):
            raise KitError("the tokenizer's chat template rewrites earlier turns or ends answers without EOS")
        end = until.index(tokenizer.eos_token_id, len(prompt)) + 1
        labels[len(prompt) : end] = ids[len(prompt) : end]
    return Encoded(ids, labels)


def _render(messages: list[Message], tokenizer: PreTrainedTokenizerBase, *, answer_follows: bool = False) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_follows)
    return _ids(str(text), tokenizer)


def _pairs(messages: list[Message]) -> list[tuple[str, str]]:
    """(user, answer) per turn, stripped, the system text in the first user turn; a last answer may be empty."""
    texts = [message["content"].strip() for message in messages]
    if messages[0]["role"] == "system":
        texts[1] = f"<<SYS>>\n{texts[0]}\n<</SYS>>\n\n{texts[1]}"
        texts = texts[1:]
    return list(zip(texts[::2], [*texts[1::2], ""], strict=False))


def _join(parts: list[Encoded]) -> Encoded:
    return Encoded([i for part in parts for i in part.input_ids], [i for part in parts for i in part.labels])


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [tokenizer.bos_token_id]


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids

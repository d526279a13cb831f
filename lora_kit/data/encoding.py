"""From a conversation to token ids and labels: the one place that knows a prompt format.

    Llama 2:  [bos] tok("[INST] <<SYS>>\\nS\\n<</SYS>>\\n\\nU [/INST] A ") [eos]   for every user/assistant pair
    others :  the tokenizer's own chat template

Labels are built from ids: every assistant turn's tokens and its EOS are learned, all else is IGNORE. Special tokens are
put in as ids and never tokenized from text, because transformers 5 turns a rendered "<s>[INST]" into `[` where Meta's
own code has `▁[`. Prompts for generation come from the same functions, so training and use cannot drift apart.
Source: meta-llama/llama, llama/generation.py, `chat_completion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ..errors import KitError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .reading import Conversation

Message = dict[str, str]
IGNORE = -100  # the label that torch's cross entropy leaves out
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")


class Encoded(NamedTuple):
    """One conversation as ids; `labels[i]` is `input_ids[i]` where it is learned and IGNORE elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None = None) -> Encoded:
    """Encode one conversation for training.

    Args:
        conversation: its messages in the order system (optional), user, assistant, user, assistant ...
        tokenizer: the base model's own tokenizer.
        max_length: refuse rows of more tokens than this; nothing is ever cut. Memory grows with it.

    Raises:
        KitError: wrong role order, empty contents, forged tags, a row that is too long or teaches nothing.
    """
    check_messages(conversation.messages, last="assistant")
    encoded = encode_batch([conversation.messages], tokenizer)[0]
    if max_length is not None and len(encoded.input_ids) > max_length:
        raise KitError(
            f"the row has {len(encoded.input_ids)} tokens, more than max_length={max_length}: "
            "shorten it, or raise data__max_length"
        )
    return encoded


def encode_batch(chats: Sequence[list[Message]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Encode checked conversations together: one call of the tokenizer for all of them, which uses every core."""
    encode_all = _encode_llama2 if speaks_llama2(tokenizer) else _encode_template
    return encode_all(chats, tokenizer)


def encode_prompt(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Encode a conversation that ends with the user's turn, ready for the model to answer."""
    check_messages(messages, last="user")
    if not speaks_llama2(tokenizer):
        return _ids([_render(messages, tokenizer, answer_follows=True)], tokenizer)[0]
    before, (asked, _) = _pairs(messages)[:-1], _pairs(messages)[-1]
    earlier = _encode_pairs(before, tokenizer)
    prompt = [*_bos(tokenizer), *_ids([f"[INST] {asked} [/INST]"], tokenizer)[0]]
    return _join(earlier).input_ids + prompt


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
        if not _is_whole(content):
            raise KitError(
                f"message {number} ({message['role']}) holds half a character, which no tokenizer takes: {content!r}"
            )
        if forged := tags_in(content):
            raise KitError(
                f"message {number} ({message['role']}) holds the prompt format's own tags {forged}: remove them, "
                "or keep them as plain text with data__tags=keep"
            )


def common_start(rows: Sequence[list[int]]) -> list[int]:
    """The ids that all rows begin with: what the first and the last of them, in order, have in common."""
    first, last = min(rows), max(rows)
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:size]


def last_answer(labels: Sequence[int]) -> tuple[int, int]:
    """Where the last answer of a row begins and ends: the last run of learned ids."""
    end = run_start(labels, len(labels), learned=False)
    return run_start(labels, end, learned=True), end


def run_start(labels: Sequence[int], place: int, *, learned: bool) -> int:
    """Where the run of learned, or of not learned, ids that ends before `place` begins."""
    while place and (labels[place - 1] != IGNORE) == learned:
        place -= 1
    return place


def tags_in(text: str) -> list[str]:
    """The prompt format's own tags that stand in a text."""
    if "[" not in text and "<" not in text:  # what every tag begins with
        return []
    return [tag for tag in TAGS if tag in text]


def _is_whole(text: str) -> bool:
    """Whether no half of a surrogate pair is in the text; encoding it is the fastest look."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode_llama2(chats: Sequence[list[Message]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Meta's procedure for Llama 2, pair by pair."""
    pairs = [_pairs(messages) for messages in chats]
    parts = iter(_encode_pairs([pair for chat in pairs for pair in chat], tokenizer))
    return [_join([next(parts) for _ in chat]) for chat in pairs]


def _encode_pairs(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Prompt and answer tokenized apart, which gives the ids of the whole: no token of the vocabulary joins two words.

    The answer is tokenized behind the prompt's last sign, so that its first token is the one it has in the whole.
    """
    if not _keeps_words_apart(tokenizer):
        raise KitError(
            "this tokenizer has no chat template, and its vocabulary is not of Llama 2's kind, where every word "
            "starts with ▁: give it its model's own chat template"
        )
    texts = [f"[INST] {user} [/INST]" for user, _ in pairs] + [f"] {answer} " for _, answer in pairs] + ["]"]
    ids = _ids(texts, tokenizer)
    bos, eos, skip = _bos(tokenizer), [tokenizer.eos_token_id], len(ids[-1])
    encoded = []
    for prompt, behind in zip(ids[: len(pairs)], ids[len(pairs) : -1], strict=True):
        answer = behind[skip:] + eos
        encoded.append(Encoded(bos + prompt + answer, [IGNORE] * (len(bos) + len(prompt)) + answer))
    return encoded


@lru_cache(maxsize=4)
def _keeps_words_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ▁, SentencePiece's space, stands in the vocabulary and only at the start of a token, as in Llama 2's."""
    spaced = [token for token in tokenizer.get_vocab() if "▁" in token]
    return bool(spaced) and not any("▁" in token.lstrip("▁") for token in spaced)


def _encode_template(chats: Sequence[list[Message]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """The tokenizer's own template: each chat whole, and cut before and after every answer."""
    cuts = [[turn for turn, message in enumerate(chat) if message["role"] == "assistant"] for chat in chats]
    texts = []
    for chat, turns in zip(chats, cuts, strict=True):
        texts += [_render(chat, tokenizer)]
        texts += [_render(chat[:turn], tokenizer, answer_follows=True) for turn in turns]
        texts += [_render(chat[: turn + 1], tokenizer) for turn in turns]
    ids = iter(_ids(texts, tokenizer))
    return [_learned(next(ids), [next(ids) for _ in t], [next(ids) for _ in t], tokenizer) for t in cuts]


def _learned(
    ids: list[int], prompts: list[list[int]], untils: list[list[int]], tokenizer: PreTrainedTokenizerBase
) -> Encoded:
    eos, labels = tokenizer.eos_token_id, [IGNORE] * len(ids)
    for prompt, until in zip(prompts, untils, strict=True):
        if ids[: len(until)] != until or until[: len(prompt)] != prompt or eos not in until[len(prompt) :]:
            raise KitError("the tokenizer's chat template rewrites earlier turns or ends answers without EOS")
        end = until.index(eos, len(prompt)) + 1
        labels[len(prompt) : end] = ids[len(prompt) : end]
    return Encoded(ids, labels)


def _render(messages: list[Message], tokenizer: PreTrainedTokenizerBase, *, answer_follows: bool = False) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_follows))


def _pairs(messages: list[Message]) -> list[tuple[str, str]]:
    """(user, answer) per turn; as Meta does it, the system text is folded in first and white space stripped afterwards.

    A last answer may be empty.
    """
    texts = [message["content"] for message in messages]
    if messages[0]["role"] == "system":
        texts = [f"<<SYS>>\n{texts[0]}\n<</SYS>>\n\n{texts[1]}", *texts[2:]]
    texts = [text.strip() for text in texts]
    return list(zip(texts[::2], [*texts[1::2], ""], strict=False))


def _join(parts: list[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    return Encoded([i for part in parts for i in part.input_ids], [i for part in parts for i in part.labels])


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [tokenizer.bos_token_id]


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of every text, nothing added and nothing cut, on all cores."""
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer  # what calling the tokenizer calls, less the copies it makes
    if backend.truncation or backend.padding:  # changed only where need be: while a thread decodes, that is an error
        backend.no_truncation()
        backend.no_padding()
    return [row.ids for row in backend.encode_batch_fast(texts, add_special_tokens=False)]

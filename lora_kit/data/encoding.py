"""From a conversation to token ids and labels: the one place that knows a prompt format.

    Llama 2:  [bos] tok("[INST] <<SYS>>\\nS\\n<</SYS>>\\n\\nU [/INST] A ") [eos]   for every user/assistant pair
    others :  the tokenizer's own chat template (chat_template.py)

Every assistant turn's tokens and its EOS are learned, all else is IGNORE. Special tokens are put in as ids, because
transformers 5 turns a rendered "<s>[INST]" into `[` where Meta's own code (llama/generation.py, `chat_completion`) has
`▁[`. Prompts for generation come from the same functions, so training and use cannot drift apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ..errors import KitError
from .chat_template import answer_parts, prompt_text, speaks_llama2
from .reading.conversations import Conversation, first_few, plural
from .reading.turns import Message, check_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..config import Data
    from ..progress import Progress

IGNORE = -100  # the label that torch's cross entropy leaves out
BATCH = 1000  # rows that are tokenized together


class Encoded(NamedTuple):
    """One conversation as ids; `labels[i]` is `input_ids[i]` where it is learned and IGNORE elsewhere."""

    input_ids: list[int]
    labels: list[int]


Pair = tuple[Conversation, Encoded]


def encode(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Encode one conversation for training; KitError for a wrong order of roles, an empty text or a forged tag."""
    check_messages(conversation.messages, last="assistant")
    return encode_batch([conversation.messages], tokenizer)[0]


def encode_batch(chats: Sequence[list[Message]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Encode checked conversations together, by one call of the tokenizer, which uses every core."""
    if not speaks_llama2(tokenizer):
        return _encode_template(chats, tokenizer)
    pairs = [_pairs(messages) for messages in chats]
    parts = iter(_encode_pairs([pair for chat in pairs for pair in chat], tokenizer))
    return [_join([next(parts) for _ in chat]) for chat in pairs]


def encode_prompt(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Encode a conversation that ends with the user's turn, ready for the model to answer."""
    check_messages(messages, last="user")
    if not speaks_llama2(tokenizer):
        return _ids([prompt_text(messages, tokenizer)], tokenizer)[0]
    *before, (asked, _) = _pairs(messages)
    prompt = _ids([f"[INST] {asked} [/INST]"], tokenizer)[0]
    return [*_join(_encode_pairs(before, tokenizer)).input_ids, tokenizer.bos_token_id, *prompt]


@dataclass
class LengthFilter:
    """Encodes rows and leaves out those that are too long, or their oldest turns, and notes which."""

    data: Data  # max_length, and what to do with longer rows
    tokenizer: PreTrainedTokenizerBase
    too_long: list[str] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)
    longest: int = 0  # tokens

    def encode(self, rows: Sequence[Conversation], progress: Progress | None = None) -> list[Pair]:
        """The rows that fit, as they were or shortened, with their ids; 8 bytes per token stay in memory."""
        found = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for row, ids in zip(batch, encode_batch([row.messages for row in batch], self.tokenizer), strict=True):
                self.longest = max(self.longest, len(ids.input_ids))
                if len(ids.input_ids) <= self.data.max_length:
                    found.append((row, _packed(row, ids)))
                elif short := self._shorten(row):
                    found.append(short)
                else:
                    self.too_long.append(row.row)
            if progress:
                progress.update(min(start + BATCH, len(rows)))
        return found

    def _shorten(self, row: Conversation) -> Pair | None:
        """Leave out the oldest turns, question and answer together, until the rest fits; the system text stays."""
        start = int(row.messages[0]["role"] == "system")
        for turn in range(start + 2, len(row.messages), 2) if self.data.too_long == "shorten" else ():
            messages = row.messages[:start] + row.messages[turn:]
            ids = encode_batch([messages], self.tokenizer)[0]
            if len(ids.input_ids) <= self.data.max_length:
                self.shortened.append(row.row)
                return replace(row, messages=messages), _packed(row, ids)
        return None

    def stop(self, what: str = "") -> None:
        """Refuse rows of too many tokens, unless the user said what to do with them; `what`: rows that are asked."""
        if not self.too_long or self.data.too_long != "stop":
            return
        way_out = (
            "Raise data__max_length, leave them out with data__too_long=drop, or cut whole turns from their front with "
            "data__too_long=shorten"
        )
        raise KitError(
            f"{plural(len(self.too_long))} of more tokens than max_length={self.data.max_length} (the longest "
            f"{self.longest:,}): {first_few(self.too_long)}. {f'Shorten {what}' if what else way_out}"
        )


def _packed(row: Conversation, ids: Encoded) -> Encoded:
    """The row at 4 bytes per token and label, as arrays that are read like lists."""
    labels = array("i", (last_answer(ids) if row.learns_last else ids).labels)
    if row.is_open:  # the stop token is not learned
        labels[max(n for n, label in enumerate(labels) if label != IGNORE)] = IGNORE
    return Encoded(array("i", ids.input_ids), labels)  # type: ignore[arg-type]


def last_answer(row: Encoded) -> Encoded:
    """The row with the labels of its last answer alone."""
    end = max(n for n, label in enumerate(row.labels) if label != IGNORE)
    start = max((n + 1 for n, label in enumerate(row.labels[:end]) if label == IGNORE), default=0)
    return Encoded(row.input_ids, [IGNORE] * start + list(row.labels[start:]))


def _encode_pairs(pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Prompt and answer tokenized apart, which gives the ids of the whole: no token of the vocabulary joins two words.

    The answer is tokenized behind the prompt's last sign, so that its first token is the one it has in the whole.
    """
    if not _keeps_words_apart(tokenizer):
        raise KitError("this tokenizer has no chat template, and its vocabulary is not of Llama 2's kind: give it one")
    texts = [f"[INST] {user} [/INST]" for user, _ in pairs] + [f"] {answer} " for _, answer in pairs] + ["]"]
    ids, bos, eos = _ids(texts, tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
    encoded = []
    for prompt, behind in zip(ids[: len(pairs)], ids[len(pairs) : -1], strict=True):
        answer = [*behind[len(ids[-1]) :], eos]
        encoded.append(Encoded([bos, *prompt, *answer], [IGNORE] * (1 + len(prompt)) + answer))
    return encoded


@lru_cache(maxsize=4)
def _keeps_words_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ▁, SentencePiece's space, stands in the vocabulary and only at the start of a token, as in Llama 2's."""
    spaced = [token for token in tokenizer.get_vocab() if "▁" in token]
    return bool(spaced) and not any("▁" in token.lstrip("▁") for token in spaced)


def _encode_template(chats: Sequence[list[Message]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """The tokenizer's own template: a chat up to its last stop token; what stands behind each prompt is learned."""
    parts = [answer_parts(chat, tokenizer) for chat in chats]
    texts = iter(_ids([text for part in parts for cut in part for text in cut], tokenizer))
    encoded = []
    for part in parts:
        cuts = [(next(texts), next(texts)) for _ in part]
        ids = cuts[-1][1]
        labels = [IGNORE] * len(ids)
        for prompt, until in cuts:
            if ids[: len(until)] != until or until[: len(prompt)] != prompt:
                raise KitError("the base's tokenizer joins the end of a question with the beginning of its answer")
            labels[len(prompt) : len(until)] = until[len(prompt) :]
        encoded.append(Encoded(ids, labels))
    return encoded


def _pairs(messages: list[Message]) -> list[tuple[str, str]]:
    """(user, answer) per turn, the last answer may be empty; as in Meta's code, stripped with the system text in it."""
    texts = [message["content"] for message in messages]
    if messages[0]["role"] == "system":
        texts = [f"<<SYS>>\n{texts[0]}\n<</SYS>>\n\n{texts[1]}", *texts[2:]]
    texts = [text.strip() for text in texts]
    return list(zip(texts[::2], [*texts[1::2], ""], strict=False))


def _join(parts: list[Encoded]) -> Encoded:
    return Encoded([i for part in parts for i in part.input_ids], [i for part in parts for i in part.labels])


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of every text, nothing added and nothing cut, on all cores."""
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer  # what calling the tokenizer calls, less the copies it makes
    if backend.truncation or backend.padding:  # changed only where need be: while a thread decodes, that is an error
        backend.no_truncation()
        backend.no_padding()
    return [row.ids for row in backend.encode_batch_fast(texts, add_special_tokens=False)]

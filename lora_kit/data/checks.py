"""The proof: every encoded row taken apart again and held against what it was made from.

`verify` shares no code with `encode` but the text of a chat template: it counts special tokens, looks where learned
tokens begin and end, and decodes them. INVARIANTS names what most often goes wrong unseen in fine-tuning.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .chat_template import answer_parts, speaks_llama2, special_tokens, stop_id
from .encoding import BATCH, IGNORE, Encoded
from .reading.conversations import Conversation, first_few, plural
from .reading.turns import Message, tags_in
from .splits import taught

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Decoded = tuple[str, list[tuple[int, int]], list[str]]  # a row's text; its learned runs: where they are, their texts
INVARIANTS = {
    "ids": "every id is one of the model's, BOS and EOS are the model's own",
    "bos": "one BOS a pair, at its start",
    "eos": "the stop token learned once an answer, as its last; not where an answer goes on",
    "labels": "a label is the id at its own place, or ignored",
    "prompt": "no learned prompt token",
    "format": "the prompt is the model's own format",
    "answer": "the learned tokens, decoded, are the answers, and none is cut",
    "tags": "no tag of the format inside a text",
    "length": "no row is longer than max_length",
    "split": "no held-out question is learned",
}


@dataclass(frozen=True)
class Proof:
    """One invariant: over how many rows it was checked, and where it does not hold."""

    name: str
    rows: int = 0
    broken: list[str] = field(default_factory=list)  # places of rows

    def __str__(self) -> str:
        if self.broken:
            broken = f"{len(self.broken):,} of {plural(self.rows)}, {first_few(self.broken)}"
            return f"BROKEN  {INVARIANTS[self.name]}: {broken}"
        return f"holds   {INVARIANTS[self.name]} ({plural(self.rows)})"


def verify(
    conversations: Sequence[Conversation],
    encoded: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    model: dict[str, Any] | None = None,
    held_out: Container[str] = frozenset(),
) -> dict[str, Proof]:
    """Check every invariant over encoded rows, none empty, and the conversations that they were made from.

    Args:
        max_length: the longest row allowed, in tokens.
        model: the base model's config: vocab_size, bos_token_id, eos_token_id; what is missing is not checked.
        held_out: questions (as `Conversation.question`) that must not be learned.

    Returns:
        name of the invariant -> Proof; the names are those of INVARIANTS.
    """
    places: dict[str, list[str]] = {name: [] for name in INVARIANTS}
    template = "" if speaks_llama2(tokenizer) else str(tokenizer.chat_template)
    special = [token for token in special_tokens(tokenizer) if token in template]
    for start in range(0, len(conversations), BATCH):
        batch = encoded[start : start + BATCH]
        rows = zip(conversations[start : start + BATCH], batch, _decoded(batch, tokenizer), strict=True)
        for number, (row, ids, decoded) in enumerate(rows, start=start + 1):
            texts = [message["content"] for message in row.messages]
            is_broken = _check(row, ids, decoded, tokenizer, model or {}) | {
                "tags": any(tags_in(text) or any(tag in text for tag in special) for text in texts),
                "length": max_length is not None and len(ids.input_ids) > max_length,
                "split": any(question in held_out for question in taught(row)),
            }
            for name in INVARIANTS:
                if is_broken[name]:
                    places[name].append(row.row or f"row {number}")
    return {name: Proof(name, len(conversations), found) for name, found in places.items()}


def require(proofs: dict[str, Proof]) -> None:
    """Stop where an invariant does not hold."""
    if broken := [str(proof) for proof in proofs.values() if proof.broken]:
        raise KitError("the encoded data is not what was read, nothing was written. " + ". ".join(broken))


def _decoded(encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> Iterator[Decoded]:
    """Every row's text, where its runs of learned tokens begin and end, and their texts; decoded on all cores."""
    decode, size = tokenizer.backend_tokenizer.decode_batch, len(tokenizer)
    ids = [[i if 0 <= i < size else 0 for i in row.input_ids] for row in encoded]  # what can be decoded
    masks = [bytes([label != IGNORE for label in row.labels[: len(row.input_ids)]]) for row in encoded]
    runs = [[run.span() for run in re.finditer(rb"\x01+", mask)] for mask in masks]
    pieces = iter(decode([i[a:b] for i, ab in zip(ids, runs, strict=True) for a, b in ab], skip_special_tokens=False))
    for text, spans in zip(decode(ids, skip_special_tokens=False), runs, strict=True):
        yield text, spans, [next(pieces) for _ in spans]


def _check(
    row: Conversation, encoded: Encoded, decoded: Decoded, tokenizer: PreTrainedTokenizerBase, model: dict[str, Any]
) -> dict[str, bool]:
    """Which of the invariants a row's ids, its labels and its decoded text break."""
    ids, labels = list(encoded.input_ids), list(encoded.labels)
    text, runs, learned = decoded
    wanted, answers = _expected(row.messages, tokenizer)
    answers = answers[-1:] if row.learns_last else answers
    bos, bos_text, stop = tokenizer.bos_token_id, str(tokenizer.bos_token), stop_id(tokenizer)
    size = min(len(tokenizer), model.get("vocab_size", len(tokenizer)))
    is_foreign = any(_is_foreign(model, name, getattr(tokenizer, name)) for name in ("bos_token_id", "eos_token_id"))
    is_begun = ids.count(bos) == wanted.count(bos_text) and (ids[0] == bos) == wanted.startswith(bos_text)
    return {
        "ids": is_foreign or not 0 <= min(ids) <= max(ids) < size,
        "bos": bos is not None and not is_begun,
        "eos": not labels.count(stop) == sum(ids[b - 1] == stop for _, b in runs) == len(answers) - row.is_open,
        "labels": len(ids) != len(labels) or any(ids[a:b] != labels[a:b] for a, b in runs),
        **_check_texts(text, wanted, learned, answers, str(tokenizer.convert_ids_to_tokens(stop))),
    }


def _is_foreign(model: dict[str, Any], name: str, ours: int | None) -> bool:
    """Whether a token of the tokenizer's is none of the model's."""
    theirs = model.get(name)
    return None not in (ours, theirs) and ours not in (theirs if isinstance(theirs, list) else [theirs])


def _expected(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[str]]:
    """What a row must decode to, and the answers that it learns; Llama 2's form is written here a second time."""
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not speaks_llama2(tokenizer):
        parts = answer_parts(messages, tokenizer)
        return parts[-1][1], answers[-len(parts) :]  # the last alone where the template rewrites earlier turns
    texts = [message["content"] for message in messages]
    if messages[0]["role"] == "system":
        texts = [f"<<SYS>>\n{texts[0]}\n<</SYS>>\n\n{texts[1]}", *texts[2:]]
    texts = [text.strip() for text in texts]
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    turns = zip(texts[::2], texts[1::2], strict=True)
    return "".join(f"{bos} [INST] {asked} [/INST] {answer} {eos}" for asked, answer in turns), answers


def _check_texts(text: str, wanted: str, learned: list[str], answers: list[str], stop: str) -> dict[str, bool]:
    """What is wrong with a row, by its decoded text, `wanted`, and its decoded runs of learned tokens, the answers."""
    learned = [_spaced(run.removesuffix(stop)).strip(" ") for run in learned]
    answers = [_spaced(answer.strip()).strip(" ") for answer in answers]
    is_format = _spaced(text) == _spaced(wanted)
    is_other = learned != answers and (is_format or len(learned) == len(answers))
    is_more = is_other and all(answer in "".join(learned) for answer in answers)
    return {"prompt": is_more, "answer": is_other and not is_more, "format": not is_format and not is_other}


def _spaced(text: str) -> str:
    return text.replace("\u2581", " ")  # sentencepiece's own mark for a space

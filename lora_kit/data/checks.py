"""The proof: every encoded row taken apart again and held against what it was made from.

`verify` shares no code with `encode` but the text of a chat template: it counts special tokens, looks where learned
tokens begin and end, and decodes them. What it checks is what most often goes wrong unseen in fine-tuning; INVARIANTS
names it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .chat_template import answer_parts, speaks_llama2, stop_id, tags_of
from .conversations import Conversation, first_few, plural
from .encoding import BATCH, IGNORE, Encoded
from .turns import Message, tags_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    """Check every invariant over encoded rows and what they were made from.

    Args:
        conversations: the rows as they were read.
        encoded: the same rows as ids and labels, in the same order; none may be empty.
        tokenizer: the base model's own tokenizer.
        max_length: the longest row allowed, in tokens.
        model: the base model's config: vocab_size, bos_token_id, eos_token_id; what is missing is not checked.
        held_out: questions (as `Conversation.question`) that must not be learned.

    Returns:
        name of the invariant -> Proof; the names are those of INVARIANTS.
    """
    if len(conversations) != len(encoded) or not all(len(row.input_ids) for row in encoded):
        raise KitError(f"{len(conversations)} conversations and {len(encoded)} encoded rows, none empty, must match")
    places: dict[str, list[str]] = {name: [] for name in INVARIANTS}
    special = [] if speaks_llama2(tokenizer) else tags_of(tokenizer)
    for start in range(0, len(conversations), BATCH):
        batch = conversations[start : start + BATCH]
        for number, broken in enumerate(_broken(batch, encoded[start : start + BATCH], tokenizer, model or {})):
            row = batch[number]
            texts = [message["content"] for message in row.messages]
            broken |= {"tags"} if any(tags_in(text) or any(tag in text for tag in special) for text in texts) else set()
            broken |= {"length"} if len(encoded[start + number].input_ids) > (max_length or 2**31) else set()
            broken |= {"split"} if row.question in held_out else set()
            for name in broken:
                places[name].append(row.row or f"row {start + number + 1}")
    return {name: Proof(name, len(conversations), found) for name, found in places.items()}


def require(proofs: dict[str, Proof]) -> None:
    """Stop where an invariant does not hold."""
    broken = [str(proof) for proof in proofs.values() if proof.broken]
    if broken:
        raise KitError("the encoded data is not what was read, nothing was written. " + ". ".join(broken))


def _broken(
    rows: Sequence[Conversation],
    encoded: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    model: dict[str, Any],
) -> list[set[str]]:
    """For every row the invariants that its ids, its labels and its decoded text break."""
    decode, size = tokenizer.backend_tokenizer.decode_batch, len(tokenizer)
    bos, stop, most = tokenizer.bos_token_id, stop_id(tokenizer), min(model.get("vocab_size", size), size)
    stop_text = str(tokenizer.convert_ids_to_tokens(stop))
    is_foreign = any(_is_foreign(model, name, getattr(tokenizer, name)) for name in ("bos_token_id", "eos_token_id"))
    ids = [[i if 0 <= i < size else 0 for i in row.input_ids] for row in encoded]  # what can be decoded
    labels = [_as_many(row.labels, len(row.input_ids)) for row in encoded]
    runs = [_learned_runs(row) for row in labels]
    wholes = decode(ids, skip_special_tokens=False)
    pieces = iter(decode([i[a:b] for i, ab in zip(ids, runs, strict=True) for a, b in ab], skip_special_tokens=False))
    found = []
    for n, row in enumerate(rows):
        wanted, given = expected(row.messages, tokenizer)
        given = given[-1:] if row.learns_last else given
        broken = _broken_texts(wholes[n], wanted, [next(pieces) for _ in runs[n]], given, stop_text)
        if is_foreign or not 0 <= min(encoded[n].input_ids) <= max(encoded[n].input_ids) < most:
            broken.add("ids")
        mark = str(tokenizer.bos_token)
        is_begun = ids[n].count(bos) == wanted.count(mark) and (ids[n][0] == bos) == wanted.startswith(mark)
        if bos is not None and not is_begun:
            broken.add("bos")
        ends = sum(ids[n][end - 1] == stop for _, end in runs[n])
        if not labels[n].count(stop) == ends == len(given) - row.is_open:
            broken.add("eos")
        is_shifted = any(labels[n][a:b] != [*encoded[n].input_ids[a:b]] for a, b in runs[n])
        if is_shifted or len(encoded[n].input_ids) != len(encoded[n].labels):
            broken.add("labels")
        found.append(broken)
    return found


def _is_foreign(model: dict[str, Any], name: str, ours: int | None) -> bool:
    """Whether a token of the tokenizer's is none of the model's."""
    theirs = model.get(name)
    return None not in (ours, theirs) and ours not in (theirs if isinstance(theirs, list) else [theirs])


def _as_many(labels: Sequence[int], count: int) -> list[int]:
    """As many labels as ids; one that is missing is -1, which no id is."""
    return [*labels, *[-1] * count][:count]


def _learned_runs(labels: list[int]) -> list[tuple[int, int]]:
    """Where learned tokens begin and end."""
    mask, runs, end = bytes([label != IGNORE for label in labels]), [], 0
    while (start := mask.find(1, end)) >= 0:
        end = mask.find(0, start) % (len(mask) + 1)  # -1: up to the end of the row
        runs.append((start, end))
    return runs


def expected(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[str]]:
    """What a row must decode to, and the answers that it learns.

    Llama 2's form is written anew here, so that an encoder's mistake is not repeated.
    """
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


def _broken_texts(whole: str, wanted: str, learned: list[str], given: list[str], eos: str) -> set[str]:
    """What is wrong with a row, by its decoded text, `wanted`, and its decoded runs of learned tokens, the answers."""
    learned, answers = [_spaced(text) for text in learned], [_spaced(text.strip()).strip() for text in given]
    decoded = [text.strip().removesuffix(eos).strip() for text in learned]
    if decoded != answers and (len(decoded) == len(answers) or _spaced(whole) == _spaced(wanted)):
        return {"prompt"} if all(answer in "".join(learned) for answer in answers) else {"answer"}
    wrong = {"format"} if _spaced(whole) != _spaced(wanted) else set()
    more = (_line_ends(text) > _line_ends(raw) for text, raw in zip(learned, given, strict=False))
    return wrong | ({"prompt"} if any(more) else set())  # a line end before the answer is the prompt's


def _line_ends(text: str) -> int:
    """Line ends before the first word."""
    return text[: len(text) - len(text.lstrip())].count("\n")


def _spaced(text: str) -> str:
    return text.replace("\u2581", " ")  # sentencepiece's own mark for a space

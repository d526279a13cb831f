"""The proof: every encoded row taken apart again and held against what it was made from.

`verify` shares no code with `encode`: it counts special tokens, looks where learned tokens begin and end, and decodes
them. What it checks is what most often goes wrong unseen in fine-tuning; INVARIANTS names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .comparing import compare, expected
from .decoding import decoder
from .encoding import IGNORE, TAGS, Encoded, speaks_llama2
from .flat import Flat
from .reading import Conversation
from .survey import Rows, some

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

INVARIANTS = {
    "ids": "every id is one of the model's, BOS and EOS are the model's own",
    "bos": "one BOS a pair, at its start",
    "eos": "EOS learned once a turn, last of its answer",
    "labels": "a label is the id at its own place, or ignored",
    "prompt": "no learned prompt token",
    "format": "the prompt is the model's own format",
    "answer": "the learned tokens, decoded, are the answer",
    "whole": "no answer is cut",
    "tags": "no tag of the format inside a text",
    "length": "no row is longer than max_length",
    "split": "no held-out question is learned",
}


@dataclass
class Proof:
    """One invariant: over how many rows it was checked, and where it does not hold."""

    name: str
    rows: int = 0
    broken: Rows = field(default_factory=Rows)

    def __str__(self) -> str:
        if self.broken.count:
            return f"BROKEN  {INVARIANTS[self.name]}: {self.broken.count:,} of {some(self.rows)}, {self.broken}"
        return f"holds   {INVARIANTS[self.name]} ({some(self.rows)})"


def verify(
    conversations: Sequence[Conversation],
    encoded: Sequence[Encoded] | Flat,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    model: dict[str, Any] | None = None,
    held_out: frozenset[int] = frozenset(),
    proofs: dict[str, Proof] | None = None,
) -> dict[str, Proof]:
    """Check every invariant over encoded rows and what they were made from.

    Args:
        conversations: the rows as they were read.
        encoded: the same rows as ids and labels, in the same order; none may be empty.
        tokenizer: the base model's own tokenizer.
        max_length: the longest row allowed, in tokens.
        model: the base model's config: vocab_size, bos_token_id, eos_token_id; what is missing is not checked.
        held_out: questions (as `text_hash`) that must not be learned.
        proofs: what earlier batches gave, to be added to.

    Returns:
        name of the invariant -> Proof; the names are those of INVARIANTS.
    """
    import numpy as np

    flat = encoded if isinstance(encoded, Flat) else Flat.of(encoded)
    if len(conversations) != len(flat.lengths) or not flat.lengths.all():
        raise KitError(
            f"{len(conversations)} conversations and {len(flat.lengths)} encoded rows, none of them empty, must match"
        )
    proofs = proofs or {name: Proof(name) for name in INVARIANTS}
    if not conversations:
        return proofs
    turns = np.array([sum(m["role"] == "assistant" for m in row.messages) for row in conversations])
    broken: dict[str, Iterable[int]] = {
        "ids": _foreign(flat, tokenizer, model or {}),
        "bos": _wrong_bos(flat, turns, conversations, tokenizer),
        "eos": _wrong_eos(flat, turns, tokenizer.eos_token_id),
        "labels": {*np.unique(flat.row[(flat.labels != IGNORE) & (flat.labels != flat.ids)]), *flat.unequal},
        "tags": [n for n, row in enumerate(conversations) if _has_tag(row)],
        "length": np.flatnonzero(flat.lengths > (max_length or flat.lengths.max())),
        "split": [n for n, row in enumerate(conversations) if held_out and row.asked in held_out],
        **_wrong_texts(flat, conversations, tokenizer),
    }
    for name, proof in proofs.items():
        for number in sorted(broken[name]):
            proof.broken.add(conversations[number].row or f"row {proof.rows + number + 1}")
        proof.rows += len(conversations)
    return proofs


def require(proofs: dict[str, Proof]) -> None:
    """Stop where an invariant does not hold.

    Raises:
        KitError: with the invariant's name and the first rows.
    """
    broken = [str(proof) for proof in proofs.values() if proof.broken.count]
    if broken:
        raise KitError("the encoded data is not what was read, nothing was written. " + ". ".join(broken))


def _foreign(flat: Flat, tokenizer: PreTrainedTokenizerBase, model: dict[str, Any]) -> np.ndarray:
    import numpy as np

    for name in ("bos_token_id", "eos_token_id"):
        ours, theirs = getattr(tokenizer, name), model.get(name)
        if ours is not None and theirs is not None and ours not in (theirs if isinstance(theirs, list) else [theirs]):
            return np.arange(len(flat.lengths))
    most = min(model.get("vocab_size", len(tokenizer)), len(tokenizer))
    return np.unique(flat.row[(flat.ids < 0) | (flat.ids >= most)])


def _wrong_bos(
    flat: Flat, turns: np.ndarray, conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase
) -> np.ndarray:
    import numpy as np

    bos, before = flat.ids == tokenizer.bos_token_id, np.roll(flat.ids, 1)
    if speaks_llama2(tokenizer):
        stray = flat.count(bos & ~flat.first & (before != tokenizer.eos_token_id))
        return np.flatnonzero((flat.count(bos) != turns) | (flat.count(bos & flat.first) != 1) | (stray > 0))
    mark = tokenizer.bos_token or "\0"
    texts = [expected(row.messages, tokenizer)[0] for row in conversations]
    counts, first = (np.array(n) for n in ([t.count(mark) for t in texts], [t.startswith(mark) for t in texts]))
    return np.flatnonzero((flat.count(bos) != counts) | (flat.count(bos & flat.first) != first))


def _wrong_eos(flat: Flat, turns: np.ndarray, eos: int) -> np.ndarray:
    import numpy as np

    learned = flat.labels != IGNORE
    ends = learned & np.append(~learned[1:] | flat.first[1:], True)  # the last token of each learned run
    return np.flatnonzero(
        (flat.count(learned & (flat.labels == eos)) != turns) | (flat.count(ends & (flat.ids == eos)) != turns)
    )


def _wrong_texts(
    flat: Flat, conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
    """Whole rows and their learned pieces decoded and compared with the texts that they came from."""
    import numpy as np

    size, learned = len(tokenizer), flat.labels != IGNORE
    known = np.where((flat.ids >= 0) & (flat.ids < size), flat.ids, 0)
    begins = learned & (flat.first | ~np.append(False, learned[:-1]))  # of each learned run
    ends = learned & np.append(flat.first[1:] | ~learned[1:], True)
    starts = np.append(flat.starts, np.flatnonzero(begins))
    texts = decoder(tokenizer, size).texts(known, starts, np.append(flat.ends, np.flatnonzero(ends) + 1))
    wholes, pieces = texts[: len(flat.lengths)], texts[len(flat.lengths) :]
    found: list[list[str]] = [[] for _ in conversations]
    for row, text in zip(flat.row[begins].tolist(), pieces, strict=True):
        found[row].append(text)
    broken: dict[str, list[int]] = {name: [] for name in ("prompt", "format", "answer", "whole")}
    for number, conversation in enumerate(conversations):
        for name in compare(wholes[number], found[number], conversation, tokenizer):
            broken[name].append(number)
    return broken


def _has_tag(row: Conversation) -> bool:
    text = "\0".join([message["content"] for message in row.messages])
    return ("[" in text or "<" in text) and any(tag in text for tag in TAGS)

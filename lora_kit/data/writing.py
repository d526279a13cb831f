"""The second pass: conversations in batches to ids and labels, proven, and streamed into one Arrow file."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .encoding import IGNORE, Encoded, Message, encode_batch
from .proof import INVARIANTS, Proof, verify
from .reading import Conversation
from .survey import Rows, near_duplicates, text_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..profiles import Data

BATCH = 1000  # rows
PREVIEW = 3  # rows that the report shows token by token
LETTERS = 64  # no token of a Llama vocabulary has more characters: a longer text needs no tokenizer to be too long


class Encoder:
    """Encodes rows a batch at a time and keeps the figures that the report shows.

    Args:
        data: max_length and what to do with longer rows.
        tokenizer: the base model's own.
        held_out: rows whose questions must not be learned.
        model: the base model's config, for the proof.
    """

    def __init__(
        self, data: Data, tokenizer: PreTrainedTokenizerBase, held_out: list[Conversation], model: dict[str, Any]
    ) -> None:
        self.data, self.tokenizer, self.held_out, self.model = data, tokenizer, held_out, model
        self.unasked = frozenset(text_hash(row.question) for row in held_out)
        self.proofs = {name: Proof(name) for name in INVARIANTS}
        self.too_long, self.shortened, self.leaks = Rows(), Rows(), Rows()
        self.lengths = array("i")
        self.learned_tokens = self.longest_seen = self.turns = 0
        self.preview: list[Encoded] = []

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @contextmanager
    def writing(self, path: Path) -> Iterator[Callable[[Conversation], None]]:
        """Give a function that adds a row; the file is whole when the block ends."""
        import pyarrow as pa

        schema = pa.schema({name: pa.list_(pa.int32()) for name in Encoded._fields})
        waiting: list[Conversation] = []
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as file:

            def flush() -> None:
                encoded = self.encode(waiting)
                if encoded:
                    columns = [pa.array([row[i] for row in encoded], schema.field(i).type) for i in range(2)]
                    file.write_batch(pa.record_batch(columns, schema))
                waiting.clear()

            def add(row: Conversation) -> None:
                waiting.append(row)
                if len(waiting) == BATCH:
                    flush()

            yield add
            flush()

    def encode(self, rows: list[Conversation]) -> list[Encoded]:
        """Encode and prove a batch; rows that do not fit are left out or shortened, and counted."""
        kept, encoded = self._fit(rows)
        verify(
            kept,
            encoded,
            self.tokenizer,
            max_length=self.data.max_length,
            model=self.model,
            held_out=self.unasked,
            proofs=self.proofs,
        )
        for row in near_duplicates(kept, self.held_out):
            self.leaks.add(row.row)
        self.lengths.extend(len(row.input_ids) for row in encoded)
        self.learned_tokens += sum(len(row.labels) - row.labels.count(IGNORE) for row in encoded)
        self.turns += sum(message["role"] == "assistant" for row in kept for message in row.messages)
        self.preview += encoded[: PREVIEW - len(self.preview)]
        return encoded

    def fitting(self, rows: list[Conversation]) -> list[Conversation]:
        """The held-out rows that could be asked: encoded once, to refuse now what would fail later."""
        return self._fit(rows)[0]

    def _fit(self, rows: list[Conversation]) -> tuple[list[Conversation], list[Encoded]]:
        from dataclasses import replace

        readable = [row for row in rows if self._could_fit(row)]
        pairs = []
        for row, encoded in zip(readable, encode_batch([r.messages for r in readable], self.tokenizer), strict=True):
            self.longest_seen = max(self.longest_seen, len(encoded.input_ids))
            if len(encoded.input_ids) <= self.data.max_length:
                pairs.append((row, encoded))
            elif short := self._shorten(row):
                pairs.append((replace(row, messages=short[0]), short[1]))
            else:
                self.too_long.add(row.row)
        return [row for row, _ in pairs], [encoded for _, encoded in pairs]

    def _could_fit(self, row: Conversation) -> bool:
        size = sum(len(message["content"]) for message in row.messages)
        if size <= LETTERS * self.data.max_length or (self.data.too_long == "shorten" and len(row.messages) > 3):
            return True
        self.longest_seen = max(self.longest_seen, size // LETTERS)
        self.too_long.add(row.row)
        return False

    def _shorten(self, row: Conversation) -> tuple[list[Message], Encoded] | None:
        """Leave out the oldest turns, question and answer together, until the rest fits; the system text stays."""
        if self.data.too_long != "shorten":
            return None
        start = int(row.messages[0]["role"] == "system")
        for turn in range(start + 2, len(row.messages), 2):
            messages = row.messages[:start] + row.messages[turn:]
            encoded = encode_batch([messages], self.tokenizer)[0]
            if text_hash(Conversation(messages).question) in self.unasked:
                return None
            if len(encoded.input_ids) <= self.data.max_length:
                self.shortened.add(row.row)
                return messages, encoded
        return None

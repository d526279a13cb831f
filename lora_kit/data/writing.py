"""Conversations in batches to ids and labels, proven, and streamed into an Arrow file; then without the held-out rows.

The tokenizer works on a batch in a thread while the one before is proven and the next one is read.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .encoding import IGNORE, Encoded, Message, encode_batch
from .flat import Flat
from .leaks import Letters
from .proof import INVARIANTS, Proof, verify
from .reading import Conversation
from .survey import Rows, some

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from ..profiles import Data

BATCH = 1000  # rows
LETTERS = 64  # no token of a Llama vocabulary has more characters: a longer text needs no tokenizer to be too long


class Fitter:
    """Leaves out rows that are too long, or their oldest turns, and counts them.

    Args:
        data: max_length and what to do with longer rows.
        tokenizer: the base model's own.
    """

    def __init__(self, data: Data, tokenizer: PreTrainedTokenizerBase) -> None:
        self.data, self.tokenizer = data, tokenizer
        self.too_long, self.shortened = Rows(), Rows()
        self.longest_seen = 0

    def could_fit(self, row: Conversation) -> bool:
        """Whether a row is worth the tokenizer's time; one of more letters than max_length tokens can hold is not."""
        size = sum([len(message["content"]) for message in row.messages])
        if size <= LETTERS * self.data.max_length or (self.data.too_long == "shorten" and len(row.messages) > 3):
            return True
        self.longest_seen = max(self.longest_seen, size // LETTERS)
        self.too_long.add(row.row)
        return False

    def fit(self, rows: list[Conversation], encoded: list[Encoded]) -> tuple[list[Conversation], list[Encoded]]:
        """The rows that fit, as they were or shortened."""
        pairs = []
        for row, ids in zip(rows, encoded, strict=True):
            size = len(ids.input_ids)
            self.longest_seen = max(self.longest_seen, size)
            if size <= self.data.max_length:
                pairs.append((row, ids))
            elif short := self._shorten(row):
                pairs.append(short)
            else:
                self.too_long.add(row.row)
        return [row for row, _ in pairs], [ids for _, ids in pairs]

    def fitting(self, rows: list[Conversation]) -> list[Conversation]:
        """The rows that could be asked, encoded once to refuse now what would fail later."""
        readable = [row for row in rows if self.could_fit(row)]
        return self.fit(readable, encode_batch([row.messages for row in readable], self.tokenizer))[0]

    def _shorten(self, row: Conversation) -> tuple[Conversation, Encoded] | None:
        """Leave out the oldest turns, question and answer together, until the rest fits; the system text stays."""
        if self.data.too_long != "shorten":
            return None
        start = int(row.messages[0]["role"] == "system")
        for turn in range(start + 2, len(row.messages), 2):
            messages: list[Message] = row.messages[:start] + row.messages[turn:]
            encoded = encode_batch([messages], self.tokenizer)[0]
            if len(encoded.input_ids) <= self.data.max_length:
                self.shortened.add(row.row)
                return replace(row, messages=messages), encoded
        return None


def stop_at_long_rows(fitter: Fitter, data: Data, what: str = "the data") -> None:
    """Refuse rows of too many tokens, unless the user said what to do with them.

    Raises:
        KitError: with their numbers and the ways out.
    """
    if fitter.too_long.count and data.too_long == "stop":
        way_out = (
            "Raise data__max_length, leave them out with data__too_long=drop, or cut whole turns from their front "
            "with data__too_long=shorten"
        )
        raise KitError(
            f"{some(fitter.too_long.count)} of more tokens than max_length={data.max_length} (the longest "
            f"{fitter.longest_seen:,}): {fitter.too_long}. {way_out if what == 'the data' else f'Shorten {what}'}"
        )


class Encoder:
    """Encodes and proves rows a batch at a time, and keeps the figures that the report shows.

    Args:
        data: max_length and what to do with longer rows.
        tokenizer: the base model's own.
        model: the base model's config, for the proof.
    """

    def __init__(self, data: Data, tokenizer: PreTrainedTokenizerBase, model: dict[str, Any]) -> None:
        self.tokenizer, self.model, self.fitter = tokenizer, model, Fitter(data, tokenizer)
        self.proofs = {name: Proof(name) for name in INVARIANTS}
        self.letters = Letters()
        # of every row written: Conversation.index, text_hash of what it asks, tokens, learned tokens
        self.places, self.questions, self.lengths, self.learned = array("q"), array("q"), array("i"), array("i")
        self._waiting: list[Conversation] = []
        self._at_work: tuple[list[Conversation], Future[list[Encoded]]] | None = None

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @contextmanager
    def writing(self, path: Path) -> Iterator[Callable[[Conversation], None]]:
        """Give a function that adds a row; the file is whole when the block ends."""
        import pyarrow as pa

        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, _schema()) as file,
            ThreadPoolExecutor(1) as pool,
            _collected_later(),
        ):

            def add(row: Conversation) -> None:
                if self.fitter.could_fit(row):
                    self._waiting.append(row)
                if len(self._waiting) == BATCH:
                    self._turn(pool, file)

            yield add
            self._turn(pool, file)
            self._turn(pool, file)

    def _turn(self, pool: ThreadPoolExecutor, file: pa.RecordBatchWriter) -> None:
        """Hand the waiting rows to the tokenizer, and take the batch that it was given before."""
        rows, before = self._waiting, self._at_work
        work = pool.submit(encode_batch, [row.messages for row in rows], self.tokenizer)
        self._waiting, self._at_work = [], (rows, work)
        if before:
            flat = self._prove(*self.fitter.fit(before[0], before[1].result()))
            if len(flat.lengths):
                file.write_batch(_record_batch(flat))

    def _prove(self, rows: list[Conversation], encoded: list[Encoded]) -> Flat:
        flat = Flat.of(encoded)
        if rows:
            longest = self.fitter.data.max_length
            verify(rows, flat, self.tokenizer, max_length=longest, model=self.model, proofs=self.proofs)
            self.letters.add(rows)
            self.places.extend([row.index for row in rows])
            self.questions.extend([row.asked for row in rows])
            self.lengths.extend(flat.lengths.tolist())
            self.learned.extend(flat.count(flat.labels != IGNORE).tolist())
        return flat

    def at(self, places: Collection[int]) -> np.ndarray:
        """Which of the written rows stand at these places of the source (as `Conversation.index`): (rows,)."""
        import numpy as np

        return np.isin(np.array(self.places), list(places))

    def places_of(self, rows: np.ndarray) -> set[int]:
        """The places in the source of some of the written rows, given by number; the kit's own have none."""
        import numpy as np

        return {*np.array(self.places)[rows].tolist()} - {-1}

    def asking(self, questions: Collection[int]) -> np.ndarray:
        """Which of the written rows ask one of these questions (as `text_hash`), as they will be learned: (rows,)."""
        import numpy as np

        return np.isin(np.array(self.questions), list(questions))

    def keep(self, kept: np.ndarray, held_out: Collection[int], source: Path, target: Path) -> None:
        """Make the file to learn from: what was written, without the rows that are held out; and prove that.

        Args:
            kept: (rows,) which of the written rows are to be learned.
            held_out: questions (as `text_hash`) that will be asked.
            source: what `writing` wrote; it is deleted.
            target: the file to make.
        """
        import numpy as np
        import pyarrow as pa

        start = 0
        with (
            pa.memory_map(str(source)) as old,
            pa.OSFile(str(target), "wb") as sink,
            pa.ipc.new_stream(sink, _schema()) as file,
        ):
            for batch in pa.ipc.open_stream(old):
                file.write_batch(batch.filter(pa.array(kept[start : start + len(batch)])))
                start += len(batch)
        source.unlink()
        broken = kept & self.asking(held_out)
        self.proofs["split"] = Proof("split", int(kept.sum()), Rows(int(broken.sum())))
        for name in ("places", "questions", "lengths", "learned"):
            setattr(self, name, np.array(getattr(self, name))[kept])


@contextmanager
def _collected_later() -> Iterator[None]:
    """Spare the garbage collector the libraries' many objects, which it would look through again every few batches."""
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema({name: pa.list_(pa.int32()) for name in Encoded._fields})


def _record_batch(flat: Flat) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    ends = pa.array(np.append(flat.starts, len(flat.ids)).astype(np.int32))
    columns = [pa.ListArray.from_arrays(ends, pa.array(tokens)) for tokens in (flat.ids, flat.labels)]
    return pa.record_batch(columns, _schema())

"""What is held out once all rows are known: which questions, their texts, and what of the rest lies too near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KitError
from .leaks import Letters, near_duplicates
from .reading import Conversation, Reader
from .sources import Files
from .splitting import Split, split
from .survey import SHOWN, Rows, Survey, good_rows
from .writing import Encoder, Fitter

if TYPE_CHECKING:
    import numpy as np

    from ..profiles import Data


COMPARED = 10_000  # rows at most that are held against the held-out ones: made by a template, all of them may be close


@dataclass(frozen=True)
class HeldOut:
    """The rows that will be asked, and what that leaves to learn."""

    how: str  # a name in splitting.HOW
    test: list[Conversation]
    kept: np.ndarray  # of the encoder's rows: which are learned
    lost: Rows  # rows neither asked nor learned: the dataset's own test split asks their question, or a shortened row's
    leaks: Rows  # rows to learn that are nearly held-out ones
    all_compared: bool  # whether every row that could be one was compared
    own: Survey  # what stands in the dataset's own test split
    own_reader: Reader


def hold_out(
    files: Files,
    data: Data,
    reader: Reader,
    found: Survey,
    encoder: Encoder,
    added: list[Conversation],
    extra: list[Conversation],
) -> HeldOut:
    """Choose what is held out, or take the dataset's own test split; read again the few texts that this needs.

    Args:
        files: where the rows are.
        data: the settings.
        reader: the one that read the training files.
        found: what stands in them.
        encoder: what was written of them.
        added: the kit's own rows among those.
        extra: the kit's own rows to be asked besides.

    Raises:
        KitError: rows of the dataset's own test split cannot be used.
    """
    own_reader, own_found = Reader(data.columns, keep_tags=data.tags == "keep"), Survey()
    own = _own(files, data, own_reader, own_found)
    parts = Split("own", frozenset(row.asked for row in own)) if files.test else split(found)
    held = {place for place, asked in zip(found.places, found.questions, strict=True) if asked in parts.questions}
    out = encoder.at(held)
    letters = Letters() if files.test else encoder.letters.of(out)
    letters.add([*own, *extra])
    close = {place for near, _ in encoder.letters.pairs(letters) for place in encoder.places_of(near[~out[near]])}
    compared = set(sorted(close)[:COMPARED])
    lost = {*sorted(held)[:SHOWN]} if files.test else set()
    again = _again(reader, files, compared | (lost if files.test else held))
    fitter = Fitter(data, encoder.tokenizer)  # its counts are not kept: rows of ours were counted when written
    ours = [] if files.test else fitter.fitting(each_once([row for row in again if row.index in held]))
    test = [parts.mark(row) for row in [*ours, *encoder.fitter.fitting(each_once(own))]]
    test += encoder.fitter.fitting(extra)
    left = out | encoder.asking(parts.questions | {row.asked for row in test})
    leaks = near_duplicates([*(row for row in again if row.index in compared), *added], test)
    count = int((left if files.test else left & ~out).sum())
    named = Rows(count, [row.row for row in again if row.index in lost])
    return HeldOut(parts.how, test, ~left, named, Rows.of(leaks), compared == close, own_found, own_reader)


def _own(files: Files, data: Data, reader: Reader, found: Survey) -> list[Conversation]:
    """The rows of the dataset's own test split, if it has one; what stands in them goes into `found`."""
    rows = list(good_rows(reader.rows(files.test), found))
    for row in rows:
        found.add(row)
    stop_at_bad_rows(found, len(rows), data, "the test rows")
    return rows


def _again(reader: Reader, files: Files, places: set[int]) -> list[Conversation]:
    return list(good_rows(reader.rows(files.train, only=places))) if places else []


def each_once(rows: list[Conversation]) -> list[Conversation]:
    """Each question once; where it has more answers, all of them are right."""
    chosen: dict[int, Conversation] = {}
    for row in rows:
        first = chosen.setdefault(row.asked, row)
        first.accepted.extend([answer for answer in row.accepted if answer not in first.accepted])
    return list(chosen.values())


def stop_at_bad_rows(found: Survey, good: int, data: Data, what: str) -> None:
    """Refuse rows that cannot be used, unless the user leaves them out.

    Raises:
        KitError: with the first rows and what is wrong with them.
    """
    if found.refused and data.bad_rows == "stop":
        said = "; ".join(str(rows) for rows in found.bad.values())
        way_out = ", or leave them out with data__bad_rows=drop" if what == "the data" else " in the file"
        raise KitError(
            f"{found.refused:,} of {found.refused + good:,} rows of {what} cannot be used: {said}. Mend them{way_out}"
        )

"""Notebook 02 in one call: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof.

Two passes over the files, a thousand rows at a time: the first looks (survey), the second encodes and proves. Only
hashes of the rows stay in memory, so a million rows need no more than a thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import identity, load_tokenizer, locate
from ..errors import KitError
from ..manifests import check_files, file_hash, read_manifest, shown
from ..progress import Progress
from .extra import extra_rows
from .proof import require
from .reading import Conversation, Reader
from .report import Report, make_report
from .sources import Files, dataset_files
from .splitting import Split, split
from .survey import Survey, good_rows, survey, text_hash
from .writing import Encoder

if TYPE_CHECKING:
    from datasets import Dataset

    from ..profiles import Data
    from ..runs import Run


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation need: encoded rows, held-out questions, how answers are judged, and the report."""

    folder: Path
    train: Dataset  # columns input_ids and labels
    test: list[dict[str, Any]]  # kind, messages, accepted
    card: dict[str, Any]  # the dataset's own decline patterns and style
    figures: dict[str, Any]
    report: Report


def prepare(run: Run) -> Prepared:
    """Read, check, encode, prove and store the run's dataset, or load what is stored from the same inputs.

    Raises:
        KitError: with file and row, where a row cannot be read, encoded or learned from.
    """
    inputs = data_inputs(run)
    folder = found = run.find("data", inputs)
    if folder is None:
        with run.writing("data", inputs) as stage:
            stage.figures |= _write(run, stage.folder)
            folder = stage.target
    prepared = load_prepared(folder)
    print(f"{prepared.report.line()}. In {shown(folder)}" if found else f"{prepared.report}\ndata: in {shown(folder)}")
    return prepared


def data_inputs(run: Run) -> dict[str, Any]:
    """What the data stage is made from; its fingerprint decides whether it is made again."""
    data = run.profile.data
    return {
        "files": {str(path.name): file_hash(path) for path in dataset_files(data.source).all()},
        "settings": {name: value for name, value in vars(data).items() if name != "source"},
        "base": identity(run.profile.base),
    }


def load_prepared(folder: Path) -> Prepared:
    """Load a finished data stage, every file checked against its hash."""
    from datasets import Dataset

    check_files(folder)
    test = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    card = json.loads((folder / "dataset.json").read_text())
    report = Report(json.loads((folder / "report.json").read_text()))
    train = Dataset.from_file(str(folder / "train.arrow"))
    return Prepared(folder, train, test, card, read_manifest(folder)["figures"], report)


def _write(run: Run, folder: Path) -> dict[str, Any]:
    data, files = run.profile.data, dataset_files(run.profile.data.source)
    card = {"name": Path(data.source).stem} | read_card(files.card)
    reader = _reader(data)
    with Progress("reading", total=0) as progress:
        found = survey(_counted(reader.rows(files.train), progress))
    _stop_at_bad_rows(found, data, "the data")
    parts = _split(files, found, data)
    test = [parts.mark(row) for row in _held_out(files, data, parts)]
    encoder = Encoder(data, load_tokenizer(run.profile.base), test, _model(run))
    test = encoder.fitting([*test, *extra_rows(data, card, "test", reader.system)])
    with Progress("encoding", total=found.count) as progress, encoder.writing(folder / "train.arrow") as add:
        for row in _counted(good_rows(reader.rows(files.train)), progress):
            if text_hash(row.question) not in parts.questions:
                add(row)
        for row in extra_rows(data, card, "train", reader.system):
            add(row)
    _stop_at_long_rows(encoder, data)
    require(encoder.proofs)
    if not encoder.rows:
        raise KitError(f"{data.source} leaves no row to learn from after {len(test)} are held out: add rows")
    report = make_report(run.profile, reader, files, found, parts, encoder, test, card)
    rows = [{"kind": c.kind, "messages": c.messages, "accepted": c.accepted} for c in test]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset.json").write_text(json.dumps(card, indent=2) + "\n")
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return {name: report[name] for name in FIGURES}


FIGURES = ("train_rows", "tokens", "learned_tokens", "longest", "test_rows", "test_kinds")


def read_card(path: Path | None) -> dict[str, Any]:
    """What a dataset says of itself (dataset.json), or nothing.

    Raises:
        KitError: the file is no JSON object, or a pattern in it is no regular expression.
    """
    import re

    if path is None:
        return {}
    try:
        card = dict(json.loads(path.read_text(encoding="utf-8")))
        for pattern in card.get("decline", {}).get("patterns", []):
            re.compile(pattern)
        return card
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise KitError(f"{path} must hold one JSON object, as the embedded datasets have it: {error}") from error
    except re.error as error:
        raise KitError(f"{path}: the decline pattern {error.pattern!r} is no regular expression: {error}") from error


def _counted(rows: Iterator[Any], progress: Progress) -> Iterator[Any]:
    for number, row in enumerate(rows, start=1):
        if number % 1000 == 0:
            progress.update(number)
        yield row
        progress.done = number


def _split(files: Files, found: Survey, data: Data) -> Split:
    """Ours, or the dataset's own test split."""
    if not files.test:
        return split(found)
    own = survey(_reader(data).rows(files.test))
    _stop_at_bad_rows(own, data, "the test rows")
    return Split("own", frozenset(own.questions))


def _held_out(files: Files, data: Data, parts: Split) -> list[Conversation]:
    """The rows of the held-out questions, each question once; where it has more answers, all of them are right."""
    rows = good_rows(_reader(data).rows(files.test or files.train))
    chosen: dict[int, Conversation] = {}
    for row in rows:
        asked = text_hash(row.question)
        if asked in chosen:
            chosen[asked].accepted.extend(a for a in row.accepted if a not in chosen[asked].accepted)
        elif asked in parts.questions:
            chosen[asked] = row
    return list(chosen.values())


def _reader(data: Data) -> Reader:
    return Reader(data.columns, keep_tags=data.tags == "keep")


def _model(run: Run) -> dict[str, Any]:
    return dict(json.loads((locate(run.profile.base) / "config.json").read_text()))


def _stop_at_bad_rows(found: Survey, data: Data, what: str) -> None:
    if found.refused and data.bad_rows == "stop":
        said = "; ".join(str(rows) for rows in found.bad.values())
        raise KitError(
            f"{found.refused:,} of {found.refused + found.count:,} rows of {what} cannot be used: {said}. "
            "Mend them, or leave them out with data__bad_rows=drop"
        )


def _stop_at_long_rows(encoder: Encoder, data: Data) -> None:
    if encoder.too_long.count and data.too_long == "stop":
        raise KitError(
            f"{encoder.too_long.count:,} rows have more tokens than max_length={data.max_length} (the longest "
            f"{encoder.longest_seen:,}): {encoder.too_long}. Raise data__max_length, leave them out with "
            "data__too_long=drop, or cut whole turns from their front with data__too_long=shorten"
        )

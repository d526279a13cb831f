"""Notebook 02 in one call: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof.

One pass over the files, a thousand rows at a time, looks, encodes and proves; then the held-out rows are chosen and
taken out. Only hashes and counts of the rows stay in memory: about 80 bytes a row.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import identity, load_tokenizer, locate
from ..errors import KitError
from ..manifests import check_files, file_hash, read_manifest, shown
from ..progress import Progress
from .encoding import Encoded
from .extra import extra_rows
from .files import row_count
from .holding import HeldOut, hold_out, stop_at_bad_rows
from .proof import require
from .reading import Conversation, Reader
from .rehearsal import in_own_words, is_answered_elsewhere
from .report import Report, make_report
from .sources import dataset_files
from .survey import Survey, good_rows, some
from .writing import Encoder, stop_at_long_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from ..runs import Run


PREVIEW = 3  # rows that the report shows token by token
FIGURES = ("train_rows", "tokens", "learned_tokens", "longest", "test_rows", "test_kinds")


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
    reader, found = Reader(data.columns, keep_tags=data.tags == "keep"), Survey()
    encoder = Encoder(data, load_tokenizer(run.profile.base), _model(run))
    whole, general = folder / "with-held-out.arrow", list[Conversation]()
    handbook = read_card(dataset_files("handbook").card)  # where the kit's own rows come from
    with Progress("encoding", total=row_count(files.train)) as progress, encoder.writing(whole) as add:
        for row in _counted(good_rows(reader.rows(files.train), found), progress):
            found.add(row)
            if is_answered_elsewhere(row, card, run.profile.base.source):
                general.append(row)
            elif not found.refused or data.bad_rows == "drop":  # else only more that is wrong is looked for
                add(row)
        progress.total = int(progress.done)  # lines that were no rows are behind too
        stop_at_bad_rows(found, found.count, data, "the data")
        added = list(extra_rows(data, card, "train", reader.system))
        other = [row for row in added if is_answered_elsewhere(row, handbook, run.profile.base.source)]
        rehearsed = in_own_words(run, general + other)
        for row in [*rehearsed, *(row for row in added if row not in other)]:
            add(row)
    extra = list(extra_rows(data, card, "test", reader.system))
    held = hold_out(files, data, reader, found, encoder, added, extra)
    stop_at_long_rows(encoder.fitter, data)
    encoder.keep(held.kept, [row.asked for row in held.test], whole, folder / "train.arrow")
    require(encoder.proofs)
    if not encoder.rows:
        raise KitError(f"{data.source} {_why_nothing(found, encoder, held)}")
    report = make_report(run.profile, reader, files, found, held, encoder, card, _first(folder / "train.arrow"))
    rows = [{"kind": c.kind, "messages": c.messages, "accepted": c.accepted} for c in held.test]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset.json").write_text(json.dumps(card, indent=2) + "\n")
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return {name: report[name] for name in FIGURES}


def _why_nothing(found: Survey, encoder: Encoder, held: HeldOut) -> str:
    """Why no row is left to learn from."""
    long = encoder.fitter.too_long.count
    if long:
        return f"leaves no row to learn from: {some(long)} of more than max_length tokens. Raise data__max_length"
    if found.refused:
        return f"leaves no row to learn from: {some(found.refused)} cannot be used: {next(iter(found.bad.values()))}"
    if found.count:
        return f"leaves no row to learn from after {some(len(held.test))} held out: add rows"
    return "holds no rows: add rows"


def _first(path: Path) -> list[Encoded]:
    """The rows that the report shows token by token."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        batches = (batch.slice(0, PREVIEW).to_pylist() for batch in pa.ipc.open_stream(file))
        return [Encoded(**row) for row in itertools.islice(itertools.chain.from_iterable(batches), PREVIEW)]


def read_card(path: Path | None) -> dict[str, Any]:
    """What a dataset says of itself (dataset.json), or nothing.

    Raises:
        KitError: the file is no JSON object, or a pattern in it is no regular expression.
    """
    import re

    if path is None:
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        for part in (card, card.get("decline", {}), card.get("style", {})):
            part.keys()
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


def _model(run: Run) -> dict[str, Any]:
    return dict(json.loads((locate(run.profile.base) / "config.json").read_text()))

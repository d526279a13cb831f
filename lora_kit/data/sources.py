"""Where a dataset lies, and the rows of its files, each with its place; whatever cannot be read is named.

an embedded dataset, a file, a folder of files, or owner/name of the Hub
.jsonl .json .csv .tsv, each also .gz        .parquet .arrow
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import KitError

ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = ("handbook", "triage")
HELD_OUT_NAMES = ("test", "validation", "valid", "dev", "eval")
SHOWN = 200  # characters of a name that an error shows
BOM = "\ufeff"
NO_LIMIT = 2**31 - 1  # characters of one CSV field; the csv module's own limit is 131,072


@dataclass(frozen=True)
class Files:
    """The files of a dataset: rows to learn from, rows held out, and how declines and style are recognised."""

    train: list[Path]
    test: list[Path] = field(default_factory=list)
    card: Path | None = None
    skipped: list[Path] = field(default_factory=list)  # what else lies in the folder

    def all(self) -> list[Path]:
        """Every file, for hashing."""
        return [*self.train, *self.test, *([self.card] if self.card else [])]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    row: str
    problem: str


def dataset_files(source: str) -> Files:
    """The files behind the name of a dataset.

    Args:
        source: an embedded dataset, a file, a folder, or `owner/name` of the Hub, which is downloaded once.

    Raises:
        KitError: there is no such dataset, folder or file, or nothing in it can be read.
    """
    try:
        path = ASSETS / source if source in EMBEDDED else Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # no such home, a name too long, a NUL in it
        is_folder = is_file = False
    if is_folder:
        return _in_folder(path, source)
    if is_file:
        _reader_of(path)
        return Files([path])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and "." not in Path(source).suffix:
        return _from_hub(source)
    raise KitError(
        f"data={source[:SHOWN]!r} is neither a file, a folder, a Hub dataset (owner/name) "
        f"nor one of the embedded datasets {', '.join(EMBEDDED)}"
    )


def _in_folder(folder: Path, source: str) -> Files:
    card, everything = folder / "dataset.json", sorted(folder.iterdir())
    files = [path for path in everything if _ending(path) in READERS and path != card]
    test = [path for path in files if _is_called(path, HELD_OUT_NAMES)]
    train = [path for path in files if _is_called(path, ("train",))] or [path for path in files if path not in test]
    if not train:
        raise KitError(f"data={source!r} is a folder without a file to learn from ({', '.join(READERS)})")
    used = {*train, *test, card}
    skipped = [path for path in everything if path not in used and not path.name.startswith(".")]
    return Files(train, test, card if card.is_file() else None, skipped)


def _is_called(path: Path, names: tuple[str, ...]) -> bool:
    """Whether one of the names is a word of the file's name, as in test.csv and faq-test.csv."""
    return re.search(rf"(^|[^a-z])({'|'.join(names)})([^a-z]|$)", path.name.lower()) is not None


def _from_hub(source: str) -> Files:
    from datasets import DatasetDict, load_dataset

    try:
        found = load_dataset(source)
    except Exception as error:  # the library's own errors are many; all of them mean that it cannot be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KitError(f"the Hub dataset {source!r} cannot be had: {reason}. Give a file instead") from error
    splits = dict(found) if isinstance(found, DatasetDict) else {"train": found}
    if "train" not in splits:
        raise KitError(f"the Hub dataset {source!r} has the splits {', '.join(splits)} and none called train")
    paths = {name: [Path(file["filename"]) for file in split.cache_files] for name, split in splits.items()}
    return Files(paths["train"], next((paths[name] for name in HELD_OUT_NAMES if name in paths), []))


def raw_rows(path: Path) -> Iterator[tuple[str, Any] | BadRow]:
    """Every row of one file with its place ("faq.jsonl row 12"), or what is wrong with it.

    Raises:
        KitError: the file as a whole cannot be read.
    """
    try:
        for number, row in _reader_of(path)(path):
            place = f"{path.name} row {number}"
            yield BadRow(place, row.problem) if isinstance(row, BadRow) else (place, row)
    except UnicodeDecodeError as error:
        raise KitError(f"{path.name} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise KitError(f"{path.name} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _reader_of(path: Path) -> Callable[[Path], Iterator[tuple[int, Any]]]:
    name = _ending(path)
    if name not in READERS:
        raise KitError(f"{path.name} has the ending {name!r}; lora_kit reads {', '.join(READERS)} and .gz of them")
    return READERS[name]


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.name.lower().endswith(".gz") else content


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    content = _content(path).removeprefix(BOM.encode())
    if content.lstrip(b" \t\r").startswith(b"["):
        raise KitError(f"{path.name} begins as one JSON list, not as a row a line: give it the ending .json")
    for number, line in enumerate(io.BytesIO(content), start=1):
        if line := line.strip():
            yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return BadRow("", f"is not UTF-8 text (byte {error.start} of the line): save the file as UTF-8")
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        return BadRow("", f"is not JSON: {error}")


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    text = _content(path).decode().removeprefix(BOM)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = ". With a row a line its ending must be .jsonl" if "Extra data" in str(error) else ""
        raise KitError(f"{path.name} is not JSON: {error}{hint}") from error
    if not isinstance(rows, list):
        raise KitError(f"{path.name} must hold a list of rows; it holds a {type(rows).__name__}")
    yield from enumerate(rows, start=1)


def _table(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(NO_LIMIT)
    text = io.StringIO(_content(path).decode().removeprefix(BOM), newline="")
    head = text.readline()
    separator = re.fullmatch(r"sep=(.)\s*", head)  # Excel's own first line
    head = text.readline() if separator else head
    # spreadsheets of half of Europe write semicolons
    guessed = "\t" if _ending(path) == ".tsv" else max(",;\t|", key=head.count)
    delimiter = separator[1] if separator else guessed
    names = next(csv.reader([head], delimiter=delimiter), [])
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise KitError(f"{path.name} has more than one column called {', '.join(twice)}: rename or delete one")
    rows = csv.DictReader(text, names, delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(rows, start=1):
            yield number, BadRow("", f"has more than the header's {len(names)} fields") if None in row else row
    except csv.Error as error:
        raise KitError(
            f"{path.name} is not a readable table near line {rows.line_num + 1}: {error}. Fix the quotes there: "
            'inside a quoted field a quote is written twice ("")'
        ) from error


def _arrow(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if _ending(path) == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(1000)
        else:
            batches = iter(pa.ipc.open_stream(pa.memory_map(str(path))))
        numbers = itertools.count(1)
        for batch in batches:
            batch.validate(full=True)  # a damaged file would crash the process, not raise
            yield from ((number, row) for row, number in zip(batch.to_pylist(), numbers, strict=False))
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, ValueError, LookupError) as error:  # the last: pytz
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KitError(f"{path.name} is not a readable {_ending(path)} file: {reason}") from error


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _arrow,
    ".arrow": _arrow,
}

"""Where rows come from: an embedded dataset, files, a folder of them, or a dataset of the Hub; one row at a time.

.jsonl .json .csv .tsv, each also .gz        .parquet .arrow        owner/name on the Hub
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import KitError

ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = ("handbook", "triage")
HELD_OUT_NAMES = ("test", "validation", "valid", "dev", "eval")
BOM = b"\xef\xbb\xbf"
SHOWN = 200  # characters of a name that an error shows
PIECE = 2**20  # bytes
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
    if path := _place(source):
        if path.is_dir():
            return _in_folder(path, source)
        _reader(path)
        return Files([path])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and "." not in Path(source).suffix:
        return _from_hub(source)
    raise KitError(
        f"data={source[:SHOWN]!r} is neither a file, a folder, a Hub dataset (owner/name) "
        f"nor one of the embedded datasets {', '.join(EMBEDDED)}"
    )


def _place(source: str) -> Path | None:
    """The file or folder that is meant, if there is one."""
    try:
        path = ASSETS / source if source in EMBEDDED else Path(source).expanduser()
        return path if path.is_dir() or path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no such home, a name too long, a NUL in it
        return None


def raw_rows(path: Path) -> Iterator[tuple[str, Any] | BadRow]:
    """Every row of one file with its place ("faq.jsonl row 12"), or what is wrong with it.

    Raises:
        KitError: the file as a whole cannot be read.
    """
    with _named_errors(path):
        for number, row in _reader(path)(path):
            place = f"{path.name} row {number}"
            yield BadRow(place, row.problem) if isinstance(row, BadRow) else (place, row)


def _in_folder(folder: Path, source: str) -> Files:
    card = folder / "dataset.json"
    files = [path for path in sorted(folder.iterdir()) if _ending(path) in READERS and path != card]
    held_out = re.compile(rf"({'|'.join(HELD_OUT_NAMES)})([^a-z]|$)", re.IGNORECASE)
    test = [path for path in files if held_out.match(path.name)]
    train = [path for path in files if path.name.lower().startswith("train")] or [p for p in files if p not in test]
    if not train:
        raise KitError(f"data={source!r} is a folder without a file to learn from ({', '.join(READERS)})")
    read = {*train, *test, card}
    skipped = [path for path in sorted(folder.iterdir()) if path not in read and not path.name.startswith(".")]
    return Files(train, test, card if card.is_file() else None, skipped)


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


def _ending(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[int, Any]]]:
    ending = _ending(path)
    if ending not in READERS:
        raise KitError(f"{path.name} has the ending {ending!r}; lora_kit reads {', '.join(READERS)} and .gz of them")
    return READERS[ending]


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """What goes wrong with a whole file, said with its name."""
    try:
        yield
    except UnicodeDecodeError as error:
        with _named_errors(path):  # what is read again may be a damaged archive besides
            place = _bad_byte(path)
        raise KitError(f"{path.name} is not UTF-8 text (byte {place}): save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise KitError(f"{path.name} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _bad_byte(path: Path) -> int:
    """Where a file stops being UTF-8; a reader that works in pieces knows the place in its piece only."""
    decoder, read = codecs.getincrementaldecoder("utf-8")(), 0
    with _open(path) as file:
        while piece := file.read(PIECE):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                return read + len(piece) - len(error.object) + error.start
            read += len(piece)
    return read


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(BOM).strip() if number == 1 else line.strip()
            if line:
                yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return BadRow("", f"is not UTF-8 text (byte {error.start} of the line): save the file as UTF-8")
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        return BadRow("", f"is not JSON: {error}")


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise KitError(f"{path.name} must hold a list of rows; it holds a {type(rows).__name__}")
    yield from enumerate(rows, start=1)


def _table(path: Path) -> Iterator[tuple[int, Any]]:
    import io

    csv.field_size_limit(NO_LIMIT)
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        head = text.readline()
        # spreadsheets of half of Europe write semicolons
        delimiter = "\t" if _ending(path) == ".tsv" else max(",;\t", key=head.count)
        names = next(csv.reader([head], delimiter=delimiter), [])
        rows = csv.DictReader(text, names, delimiter=delimiter, strict=True)
        try:
            for number, row in enumerate(rows, start=1):
                yield number, BadRow("", f"has more than the header's {len(names)} fields") if None in row else row
        except csv.Error as error:
            raise KitError(
                f"{path.name} is not a readable table near line {rows.line_num + 1}: {error}. Mend the quotes there: "
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
        number = 0
        for batch in batches:
            batch.validate(full=True)  # a damaged file would crash the process, not raise
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, ValueError) as error:
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

"""Files read one row at a time, each with its place; what is wrong with a row or a file is said with its name.

.jsonl .json .csv .tsv, each also .gz        .parquet .arrow
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import KitError

BOM = b"\xef\xbb\xbf"
PIECE = 2**20  # bytes
NO_LIMIT = 2**31 - 1  # characters of one CSV field; the csv module's own limit is 131,072


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    row: str
    problem: str


def raw_rows(path: Path) -> Iterator[tuple[str, Any] | BadRow]:
    """Every row of one file with its place ("faq.jsonl row 12"), or what is wrong with it.

    Raises:
        KitError: the file as a whole cannot be read.
    """
    with _named_errors(path):
        for number, row in reader_of(path)(path):
            place = f"{path.name} row {number}"
            yield BadRow(place, row.problem) if isinstance(row, BadRow) else (place, row)


def row_count(paths: Iterable[Path]) -> int:
    """About how many rows the files have, to show progress; 0 where only reading them would tell."""
    counts = [_lines(path) if path.suffix.lower() in (".jsonl", ".csv", ".tsv") else 0 for path in paths]
    return sum(counts) if all(counts) else 0


def _lines(path: Path) -> int:
    with _named_errors(path), path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(PIECE), b""))


def ending(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def reader_of(path: Path) -> Callable[[Path], Iterator[tuple[int, Any]]]:
    name = ending(path)
    if name not in READERS:
        raise KitError(f"{path.name} has the ending {name!r}; lora_kit reads {', '.join(READERS)} and .gz of them")
    return READERS[name]


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
            if number == 1 and line.startswith(b"["):
                raise KitError(f"{path.name} begins as one JSON list, not as a row a line: give it the ending .json")
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
        hint = ". With a row a line its ending must be .jsonl" if "Extra data" in str(error) else ""
        raise KitError(f"{path.name} is not JSON: {error}{hint}") from error
    if not isinstance(rows, list):
        raise KitError(f"{path.name} must hold a list of rows; it holds a {type(rows).__name__}")
    yield from enumerate(rows, start=1)


def _table(path: Path) -> Iterator[tuple[int, Any]]:
    import io

    csv.field_size_limit(NO_LIMIT)
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        head = text.readline()
        said = re.fullmatch(r"sep=(.)\s*", head)  # Excel's own first line
        head = text.readline() if said else head
        # spreadsheets of half of Europe write semicolons
        guessed = "\t" if ending(path) == ".tsv" else max(",;\t|", key=head.count)
        delimiter = said[1] if said else guessed
        names = next(csv.reader([head], delimiter=delimiter), [])
        if twice := [name for name, count in Counter(names).items() if name and count > 1]:
            raise KitError(f"{path.name} has more than one column called {', '.join(twice)}: rename or delete one")
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
        if ending(path) == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(1000)
        else:
            batches = iter(pa.ipc.open_stream(pa.memory_map(str(path))))
        number = 0
        for batch in batches:
            batch.validate(full=True)  # a damaged file would crash the process, not raise
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, ValueError, LookupError) as error:  # the last: pytz
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KitError(f"{path.name} is not a readable {ending(path)} file: {reason}") from error


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _arrow,
    ".arrow": _arrow,
}

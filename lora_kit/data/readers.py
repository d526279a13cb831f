"""The rows of one file, by its ending: each with its number, or with what is wrong with it."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Data
from ..errors import KitError

Rows = Iterator[tuple[int, Any]]  # its number, as an editor or a spreadsheet counts; a row or a BadRow
Notes = dict[str, list[str]]  # what was mended or left out -> places
NO_LIMIT = 2**31 - 1  # characters of one CSV field; the csv module's own limit is 131,072
ADVICE = {  # other endings -> what to do
    "xlsx": "save it as 'CSV UTF-8' there",
    "xls": "save it as 'CSV UTF-8' there",
    "ods": "save it as CSV with UTF-8 there",
    "zip": "unpack it first",
    "zst": "unpack it first",
    "xz": "unpack it first",
    "bz2": "unpack it first",
    "txt": "write a row a line as JSON and call it .jsonl",
    "pkl": "df.to_json('rows.jsonl', orient='records', lines=True) writes it so that it can be read",
}


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    row: str
    problem: str


def note(notes: Notes, text: str, place: str) -> None:
    """Remember what was mended or left out at a place."""
    notes.setdefault(text, []).append(place)


def ending_of(path: Path) -> str:
    """The file's ending in small letters, that of a packed file without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def reader_of(path: Path) -> Callable[[Path, Data, Notes], Rows]:
    """What reads a file; KitError where its ending is unknown."""
    ending = ending_of(path)
    if ending in READERS:
        return READERS[ending]
    advice = ADVICE.get(ending.removeprefix("."), f"lora_kit reads {', '.join(READERS)} and .gz of them")
    raise KitError(f"{path.name} has the ending {ending!r}: {advice}")


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.name.lower().endswith(".gz") else content
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise KitError(f"{path.name} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _text(path: Path, data: Data) -> str:
    """The file's text: UTF-8, with a mark UTF-16 too, or what `data.encoding` says."""
    content, encoding = _content(path), data.encoding
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # Excel's "Unicode text"
        encoding = "utf-16"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise KitError(f"data__encoding={encoding!r} is no encoding: name one as utf-8, cp1252, gbk") from error
    except UnicodeDecodeError as error:
        line, start = content.count(b"\n", 0, error.start) + 1, max(0, error.start - 12)
        near = content[start : error.start + 12].decode("cp1252", "replace")
        alone = re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", content)
        is_western = 2 * len(alone) > len(re.findall(rb"[\x80-\xff]", content))
        looks = "It looks like Windows-1252, which Excel's plain CSV is" if is_western else "Save it as UTF-8"
        example = "cp1252" if is_western else "gbk (Chinese), shift_jis (Japanese), cp1251 (Russian)"
        raise KitError(
            f"{path.name} is not {encoding} text, first in row {line} near {near!r}. {looks}, or name its encoding as "
            f"data__encoding={example}"
        ) from error


def _json(path: Path, data: Data, notes: Notes) -> Rows:
    """One list of rows, one list among other fields, or a row a line: the content says which."""
    text, is_lines = _text(path, data), ".jsonl" in path.name.lower()
    start = len(text) - len(text.lstrip())
    try:
        document, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if not is_lines or text[start : start + 1] == "[":
            raise KitError(f"{path.name} is not JSON: {error}") from error
        document, end = None, 0
    if text[end:].strip() or not text.strip():
        yield from _lines(path, text, notes)
    elif is_lines and not isinstance(document, list):
        yield text.count("\n", 0, start) + 1, document
    else:
        yield from enumerate(_rows_of(path, document, data, notes), start=1)


def _lines(path: Path, text: str, notes: Notes) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if line.endswith(("},", "],")):
            line = line[:-1]
            note(notes, "a comma behind the row, passed over", f"{path.name} row {number}")
        if line:
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
                yield number, BadRow("", f"is not JSON: {error}")


def _rows_of(path: Path, document: Any, data: Data, notes: Notes) -> list[Any]:
    """The rows of one JSON document: itself, columns of a table (pandas), or the list that it holds."""
    if isinstance(document, list):
        return document
    fields = document if isinstance(document, dict) else {}
    columns = [column for column in fields.values() if isinstance(column, dict)]
    if columns and len(columns) == len(fields) and all(column.keys() == columns[0].keys() for column in columns):
        rows = zip(*(column.values() for column in columns), strict=True)
        return [dict(zip(fields, row, strict=True)) for row in rows]
    lists = {key: value for key, value in fields.items() if isinstance(value, list) and is_rows(value)}
    if data.split in lists:
        return lists[str(data.split)]
    if len(lists) == 1:
        (name,) = lists
        note(notes, f"the rows are the list {name!r} of the file", path.name)
        return lists[name]
    if lists:
        example = next(iter(lists))
        raise KitError(f"{path.name} holds the lists {', '.join(lists)}: say which to learn, data__split={example}")
    raise KitError(f"{path.name} must hold a list of rows; it holds a {type(document).__name__}")


def is_rows(value: list[Any]) -> bool:
    """Whether a list holds objects."""
    return bool(value) and isinstance(value[0], dict)


def _table(path: Path, data: Data, notes: Notes) -> Rows:
    """A table; its rows are counted as a spreadsheet does, the heading too."""
    csv.field_size_limit(NO_LIMIT)
    text = _text(path, data)
    separator = re.match(r"sep=(.)\s*?\n", text)  # Excel's own first line
    text = text[separator.end() :] if separator else text
    # spreadsheets of half of Europe write semicolons
    guessed = "\t" if ending_of(path) == ".tsv" else max(",;\t|", key=lambda mark: len(_first_record(text, mark)))
    records = _records(path, text, separator[1] if separator else guessed, notes)
    heading = 0
    while heading + 1 < len(records) and len(records[heading]) > 1 and len(_filled(records[heading])) < 2:
        if _filled(records[heading]):
            note(
                notes,
                f"the title above the heading, left out: {_filled(records[heading])[0]!r}",
                f"{path.name} row {heading + 1}",
            )
        heading += 1
    names = [" ".join(name.split()) for name in records[heading]] if records else []
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise KitError(f"{path.name} has more than one column called {', '.join(twice)}: rename or delete one")
    for number, record in enumerate(records[heading + 1 :], start=heading + 2):
        if _filled(record[len(names) :]):
            yield number, BadRow("", f"has more than the header's {len(names)} fields")
        elif _filled(record):  # blank rows hold nothing
            yield number, dict(itertools.zip_longest(names, record[: len(names)]))


def _first_record(text: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])


def _filled(record: list[str]) -> list[str]:
    return [cell for cell in record if cell.strip()]


def _records(path: Path, text: str, delimiter: str, notes: Notes) -> list[list[str]]:
    """The table's records. A quote inside a quoted field is written twice, or, where that fails, with a backslash."""
    failed: list[str] = []
    for escape in (None, "\\") if '\\"' in text else (None,):
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, escapechar=escape, strict=True)
        try:
            records = list(rows)
        except csv.Error as error:
            failed.append(f"near line {rows.line_num}: {error}")
            continue
        if escape:
            note(notes, 'quotes are written \\" in the file', path.name)
        return records
    raise KitError(
        f"{path.name} is not a readable table {failed[0]}. Fix the quotes there: inside a quoted field a quote is "
        'written twice ("")'
    )


def _arrow(path: Path, data: Data, notes: Notes) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if ending_of(path) == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(1000)
        else:
            batches = iter(pa.ipc.open_stream(pa.memory_map(str(path))))
        numbers = itertools.count(1)
        for batch in batches:
            batch.validate(full=True)  # a damaged file would crash the process, not raise
            yield from ((number, row) for row, number in zip(batch.to_pylist(), numbers, strict=False))
    except FileNotFoundError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, ValueError, LookupError) as error:  # pytz's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KitError(f"{path.name} is not a readable {ending_of(path)} file: {reason}") from error


READERS: dict[str, Callable[[Path, Data, Notes], Rows]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _arrow,
    ".arrow": _arrow,
}

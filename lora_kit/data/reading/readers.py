"""The rows of one file, by its ending: each with its number, or with what is wrong with it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import Data
from ...errors import KitError
from ...packing import check_unpacked, unpacked_limit

Rows = Iterator[tuple[int, Any]]  # its number, as an editor or a spreadsheet counts; a row or a BadRow
Notes = dict[str, list[str]]  # what was repaired or left out -> places
NO_LIMIT = 2**31 - 1  # characters of one CSV field; the csv module's own limit is 131,072
ADVICE = {  # other endings -> what to do
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save it as 'CSV UTF-8' there"),
    **dict.fromkeys((".zip", ".zst", ".xz", ".bz2"), "unpack it first"),
    ".txt": "write one row per line as JSON and call it .jsonl",
    ".pkl": "df.to_json('rows.jsonl', orient='records', lines=True) writes it so that it can be read",
}


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    row: str
    problem: str


Raw = tuple[str, Any] | BadRow  # a row with its place, or what is wrong with it


def note(notes: Notes, text: str, place: str) -> None:
    """Remember what was repaired or left out at a place."""
    notes.setdefault(text, []).append(place)


def ending_of(path: Path) -> str:
    """The file's ending in small letters, that of a packed file without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def reader_of(path: Path) -> Callable[[Path, Data, Notes], Rows]:
    """What reads a file; KitError where its ending is unknown."""
    ending = ending_of(path)
    if ending in READERS:
        return READERS[ending]
    advice = ADVICE.get(ending, f"lora_kit reads {', '.join(READERS)} and .gz of them")
    raise KitError(f"{path.name} has the ending {ending!r}: {advice}")


def _text_of(path: Path, data: Data) -> str:
    """The file's text: what its mark says (Excel's "CSV UTF-8" and "Unicode text" have one), or `data.encoding`."""
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            limit = unpacked_limit(path)
            with gzip.open(path) as file:
                content = file.read(limit + 1)
            check_unpacked(path, len(content))
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise KitError(f"{path.name} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror or error}") from error
    marks = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((marks[mark] for mark in marks if content.startswith(mark)), data.encoding)
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise KitError(f"data__encoding={encoding!r} is no encoding: name one as utf-8, cp1252, gbk") from error
    except UnicodeDecodeError as error:
        line, start = content.count(b"\n", 0, error.start) + 1, max(0, error.start - 12)
        near = content[start : error.start + 12].decode("cp1252", "replace")
        advice = "Name its encoding: data__encoding=gbk (Chinese), shift_jis (Japanese), cp1251 (Russian)"
        if all(byte < 0x80 for byte in content[max(0, error.start - 1) : error.start + 2 : 2]):  # a byte that is alone
            advice = "It looks like Windows-1252, as Excel's plain CSV is: data__encoding=cp1252"
        raise KitError(f"{path.name} is not {encoding} text, first in row {line} near {near!r}. {advice}") from error


def _json(path: Path, data: Data, notes: Notes) -> Rows:
    """One list of rows, one list among other fields, or objects one after the other: the content says which."""
    text, is_lines = _text_of(path, data), ending_of(path) != ".json"
    start = len(text) - len(text.lstrip())
    try:
        document, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if not is_lines or text[start : start + 1] == "[":
            raise KitError(f"{path.name} is not JSON: {error}") from error
        document, end = None, 0
    if not text[end:].strip() and (isinstance(document, list) or not is_lines):
        yield from enumerate(_rows_of(path, document, data, notes), start=1)
        return
    between = r"\n(?=\{)" if "\n" in text[start:end] else r"\n"  # where an object is written over several lines
    number = 1
    for piece in re.split(between, text):
        row = piece.strip()
        if row.endswith(("},", "],")):
            row = row[:-1]
            note(notes, "a comma behind the row, passed over", f"{path.name} row {number}")
        if row:
            try:
                yield number, json.loads(row)
            except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
                yield number, BadRow("", f"is not JSON: {error}")
        number += 1 + piece.count("\n")


def _rows_of(path: Path, document: Any, data: Data, notes: Notes) -> list[Any]:
    """The rows of one JSON document: itself, a table as pandas writes it, or a list that it holds."""
    fields = document if isinstance(document, dict) else {}
    lists = {key: rows for key, rows in fields.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)}
    if data.split in lists:
        if others := ", ".join(name for name in lists if name != data.split):
            note(notes, f"lists of the file that are not read: {others}", path.name)
        return lists[str(data.split)]
    if data.split and path == Path(os.path.expanduser(data.source)):  # a folder's split is a name of files
        held = "it holds no lists with names: leave data__split out"
        if lists:
            held = f"its lists are {', '.join(lists)}: set data__split={next(iter(lists))}"
        raise KitError(f"{path.name} has no list called {data.split}; {held}")
    if isinstance(document, list):
        if document and isinstance(document[0], list) and not (document[0] and isinstance(document[0][0], dict)):
            raise KitError(f"{path.name} holds rows without names of columns: df.to_json(orient='records') writes them")
        return document
    first = next(iter(fields.values()), None)
    if isinstance(first, dict) and all(isinstance(x, dict) and x.keys() == first.keys() for x in fields.values()):
        if not all(key.isdigit() for key in first):  # orient="index"
            return list(fields.values())
        return [{name: column[key] for name, column in fields.items()} for key in first]
    if lists and all({"role", "from"} & rows[0].keys() for rows in lists.values()):  # a conversation each
        return list(lists.values())
    if len(lists) > 1:
        example = next(iter(lists))
        raise KitError(f"{path.name} holds the lists {', '.join(lists)}: say which to learn, data__split={example}")
    if lists:
        [(name, rows)] = lists.items()
        note(notes, f"the rows are the list {name!r} of the file", path.name)
        return rows
    way_out = "df.to_json(orient='records') writes one"
    raise KitError(f"{path.name} must hold a list of rows; it holds a {type(document).__name__}. {way_out}")


def _table(path: Path, data: Data, notes: Notes) -> Rows:
    """Commas, semicolons (half of Europe's), tabs or bars between fields; rows are counted as in a spreadsheet."""
    csv.field_size_limit(NO_LIMIT)
    text = _text_of(path, data)
    delimiter = "\t" if ending_of(path) == ".tsv" else max(",;\t|", key=lambda mark: _agreement(text, mark))
    if separator := re.match(r"sep=(.)\s*?\n", text):  # Excel's own first line, which it does not count
        text, delimiter = text[separator.end() :], separator[1]
    records = _records(path, text, delimiter, notes)
    is_wide = all(len(record) > 1 for record in records[1:20] if _filled(record))
    above = itertools.takewhile(lambda record: _filled(record) in ([], record[:1]), records[:-1] if is_wide else [])
    start = 0  # of the heading: behind blank lines and titles, of which only the first cell is filled
    for start, record in enumerate(above, start=1):
        if _filled(record):
            note(notes, f"the title above the heading, left out: {record[0]!r}", f"{path.name} row {start}")
    heading = records[start] if records else []
    names = [" ".join(name.split()) or f"column {number}" for number, name in enumerate(heading, start=1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise KitError(f"{path.name} has more than one column called {', '.join(twice)}: rename or delete one")
    for number, record in enumerate(records[start + 1 :], start=start + 2):
        if _filled(record[len(names) :]):
            advice = f"put a text that holds {delimiter!r} in quotes"
            yield number, BadRow("", f"has more than the header's {len(names)} fields: {advice}")
        elif _filled(record):  # blank rows hold nothing
            yield number, dict(itertools.zip_longest(names, record[: len(names)]))


def _agreement(text: str, delimiter: str) -> tuple[float, int]:
    """Which share of the first records has the same number of fields, above one, and that number."""
    records = filter(_filled, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    widths = Counter(len(record) for record in itertools.islice(records, 20))
    return max(((count / widths.total(), width) for width, count in widths.items() if width > 1), default=(0, 0))


def _filled(record: list[str]) -> list[str]:
    return [cell for cell in record if cell.strip()]


def _records(path: Path, text: str, delimiter: str, notes: Notes) -> list[list[str]]:
    """The table's records. A quote inside a quoted field is written twice, or, where that fails, with a backslash."""
    is_escaped = {*re.findall(r"\\(.)", text, re.DOTALL)} <= {*'\\"'}  # else a backslash alone is one of the text
    marked = (text, {"escapechar": "\\"}) if is_escaped else (re.sub(r'(?<!\\)\\"', '""', text), {})
    ways: dict[str, tuple[str, dict[str, Any]]] = {"": (text, {}), 'quotes are written \\" in the file': marked}
    if delimiter == "\t":  # few of these quote their fields
        ways["quotes are part of the text in the file"] = (text, {"quoting": csv.QUOTE_NONE})
    problems = []
    for way, (content, options) in ways.items():
        lines = io.StringIO(content, newline="")
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True, **options)
        try:
            records = list(rows)
        except csv.Error as error:
            problems.append(f"near line {rows.line_num}: {error}")
            continue
        if way:
            note(notes, way, path.name)
        return records
    advice = 'Fix the quotes there: inside a quoted field a quote is written twice ("")'
    raise KitError(f"{path.name} is not a readable table {problems[0]}. {advice}")


def _arrow(path: Path, data: Data, notes: Notes) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 1
    try:
        if ending_of(path) == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(1000)
        else:
            batches = pa.ipc.open_stream(pa.memory_map(str(path)))
        for batch in batches:
            batch.validate(full=True)  # a damaged file would crash the process, not raise
            yield from enumerate(batch.to_pylist(), start=number)
            number += batch.num_rows
    except FileNotFoundError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, ValueError, LookupError) as error:  # pytz's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KitError(f"{path.name} is not a readable {ending_of(path)} file: {reason}") from error


READERS: dict[str, Callable[[Path, Data, Notes], Rows]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json),
    **dict.fromkeys((".csv", ".tsv"), _table),
    **dict.fromkeys((".parquet", ".arrow"), _arrow),
}

"""The rows of one file, by its ending: each with its number, or with what is wrong with it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import Data
from ..errors import KitError
from .filetext import BadRow, Notes, Rows, ending_of, note, text_of_file
from .tables import read_table

ADVICE = {  # other endings -> what to do
    ".xlsx": "save it as 'CSV UTF-8' there",
    ".xls": "save it as 'CSV UTF-8' there",
    ".ods": "save it as CSV with UTF-8 there",
    ".zip": "unpack it first",
    ".zst": "unpack it first",
    ".xz": "unpack it first",
    ".bz2": "unpack it first",
    ".txt": "write a row a line as JSON and call it .jsonl",
    ".pkl": "df.to_json('rows.jsonl', orient='records', lines=True) writes it so that it can be read",
}


def reader_of(path: Path) -> Callable[[Path, Data, Notes], Rows]:
    """What reads a file; KitError where its ending is unknown."""
    ending = ending_of(path)
    if ending in READERS:
        return READERS[ending]
    advice = ADVICE.get(ending, f"lora_kit reads {', '.join(READERS)} and .gz of them")
    raise KitError(f"{path.name} has the ending {ending!r}: {advice}")


def _json(path: Path, data: Data, notes: Notes) -> Rows:
    """One list of rows, one list among other fields, or a row a line: the content says which."""
    text, is_lines = text_of_file(path, data), ending_of(path) != ".json"
    start = len(text) - len(text.lstrip())
    try:
        document, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if not is_lines or text[start : start + 1] == "[":
            raise KitError(f"{path.name} is not JSON: {error}") from error
        document, end = None, 0
    if text[end:].strip() and "\n" in text[start:end]:
        yield from _objects(path, text)
    elif text[end:].strip() or not text.strip():
        yield from _lines(path, text, notes)
    elif is_lines and not isinstance(document, list):
        yield text.count("\n", 0, start) + 1, document
    else:
        yield from enumerate(_rows_of(path, document, data, notes), start=1)


def _objects(path: Path, text: str) -> Rows:
    """Objects one after the other, each over several lines."""
    decoder, between, end, number = json.JSONDecoder(), re.compile(r"[\s,]*"), 0, 1
    while (place := between.match(text, end).end()) < len(text):  # type: ignore[union-attr]  # it always matches
        number += text.count("\n", end, place)
        try:
            row, behind = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise KitError(f"{path.name} is not JSON: {error}") from error
        yield number, row
        number, end = number + text.count("\n", place, behind), behind


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
        if document and isinstance(document[0], list) and not (document[0] and isinstance(document[0][0], dict)):
            raise KitError(f"{path.name} holds rows without names of columns: df.to_json(orient='records') writes them")
        return document
    fields = document if isinstance(document, dict) else {}
    columns = [column for column in fields.values() if isinstance(column, dict)]
    if columns and len(columns) == len(fields) and all(column.keys() == columns[0].keys() for column in columns):
        if not all(str(key).isdigit() for key in columns[0]):  # orient="index"
            return columns
        rows = zip(*(column.values() for column in columns), strict=True)
        return [dict(zip(fields, row, strict=True)) for row in rows]
    if isinstance(fields.get("columns"), list) and isinstance(fields.get("data"), list):  # orient="split"
        return [dict(zip(fields["columns"], row, strict=False)) for row in fields["data"]]
    lists = {key: rows for key, rows in fields.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)}
    if data.split in lists:
        return lists[str(data.split)]
    if lists and all({"role", "from"} & rows[0].keys() for rows in lists.values()):  # a conversation each
        return list(lists.values())
    if len(lists) == 1:
        (name,) = lists
        note(notes, f"the rows are the list {name!r} of the file", path.name)
        return lists[name]
    if lists:
        example = next(iter(lists))
        raise KitError(f"{path.name} holds the lists {', '.join(lists)}: say which to learn, data__split={example}")
    raise KitError(f"{path.name} must hold a list of rows; it holds a {type(document).__name__}")


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
    ".ndjson": _json,
    ".json": _json,
    ".csv": read_table,
    ".tsv": read_table,
    ".parquet": _arrow,
    ".arrow": _arrow,
}

"""Tables: comma, semicolon or tab between the fields, as spreadsheets of all countries write them."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ..config import Data
from ..errors import KitError
from .filetext import BadRow, Notes, Rows, ending_of, note, text_of_file

NO_LIMIT = 2**31 - 1  # characters of one CSV field; the csv module's own limit is 131,072


def read_table(path: Path, data: Data, notes: Notes) -> Rows:
    """A table; its rows are counted as a spreadsheet does, the heading too."""
    csv.field_size_limit(NO_LIMIT)
    text = text_of_file(path, data)
    separator = re.match(r"sep=(.)\s*?\n", text)  # Excel's own first line
    text = text[separator.end() :] if separator else text
    # spreadsheets of half of Europe write semicolons
    guessed = "\t" if ending_of(path) == ".tsv" else max(",;\t|", key=lambda mark: _agreement(text, mark))
    delimiter = separator[1] if separator else guessed
    records = _records(path, text, delimiter, notes)
    heading, is_wide = 0, all(len(record) > 1 for record in records[1:20] if _filled(record))
    while is_wide and heading + 1 < len(records) and _filled(records[heading]) in ([], records[heading][:1]):
        if title := _filled(records[heading]):  # only its first cell is filled
            place = f"{path.name} row {heading + 1}"
            note(notes, f"the title above the heading, left out: {title[0]!r}", place)
        heading += 1
    first = records[heading] if records else []
    names = [" ".join(name.split()) or f"column {number}" for number, name in enumerate(first, start=1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise KitError(f"{path.name} has more than one column called {', '.join(twice)}: rename or delete one")
    for number, record in enumerate(records[heading + 1 :], start=heading + 2):
        if _filled(record[len(names) :]):
            text = f"has more than the header's {len(names)} fields: put a text that holds {delimiter!r} in quotes"
            yield number, BadRow("", text)
        elif _filled(record):  # blank rows hold nothing
            yield number, dict(itertools.zip_longest(names, record[: len(names)]))


def _agreement(text: str, delimiter: str) -> tuple[int, int]:
    """How many of the first records have the same number of fields, above one, and that number."""
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    widths = Counter(len(record) for record in itertools.islice(records, 20) if len(record) > 1)
    return (widths.most_common(1)[0][1], widths.most_common(1)[0][0]) if widths else (0, 0)


def _filled(record: list[str]) -> list[str]:
    return [cell for cell in record if cell.strip()]


def _records(path: Path, text: str, delimiter: str, notes: Notes) -> list[list[str]]:
    """The table's records. A quote inside a quoted field is written twice, or, where that fails, with a backslash."""
    failed: list[str] = []
    ways: dict[str, dict[str, Any]] = {"": {}, 'quotes are written \\" in the file': {"escapechar": "\\"}}
    if delimiter == "\t":  # few of these quote their fields
        ways["quotes are part of the text in the file"] = {"quoting": csv.QUOTE_NONE}
    for said, options in ways.items():
        lines = io.StringIO(text, newline="")
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True, **options)
        try:
            records = list(rows)
        except csv.Error as error:
            failed.append(f"near line {rows.line_num}: {error}")
            continue
        if said:
            note(notes, said, path.name)
        return records
    raise KitError(
        f"{path.name} is not a readable table {failed[0]}. Fix the quotes there: inside a quoted field a quote is "
        'written twice ("")'
    )

"""A file's text, and what every reader of one shares: rows with their numbers, bad rows, notes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Data
from ..errors import KitError

Rows = Iterator[tuple[int, Any]]  # its number, as an editor or a spreadsheet counts; a row or a BadRow
Notes = dict[str, list[str]]  # what was mended or left out -> places


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


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.name.lower().endswith(".gz") else content
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise KitError(f"{path.name} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror or error}") from error


def text_of_file(path: Path, data: Data) -> str:
    """The file's text: UTF-8, with a mark UTF-16 too, or what `data.encoding` says."""
    content, encoding = _content(path), data.encoding
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # Excel's "Unicode text"
        encoding = "utf-16"
    elif content[1:200:2].count(0) > 50:  # the same without its mark
        encoding = "utf-16-le"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise KitError(f"data__encoding={encoding!r} is no encoding: name one as utf-8, cp1252, gbk") from error
    except UnicodeDecodeError as error:
        line, start = content.count(b"\n", 0, error.start) + 1, max(0, error.start - 12)
        near = content[start : error.start + 12].decode("cp1252", "replace")
        is_western = all(byte < 0x80 for byte in content[max(0, error.start - 1) : error.start + 2 : 2])  # it is alone
        looks = "It looks like Windows-1252, which Excel's plain CSV is" if is_western else "Save it as UTF-8"
        example = "cp1252" if is_western else "gbk (Chinese), shift_jis (Japanese), cp1251 (Russian)"
        raise KitError(
            f"{path.name} is not {encoding} text, first in row {line} near {near!r}. {looks}, or name its encoding as "
            f"data__encoding={example}"
        ) from error

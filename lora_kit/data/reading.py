"""Any dataset in: the embedded ones, or a file of yours, as conversations.

embedded name or folder   train.jsonl, test.jsonl and dataset.json (how declines and style are recognised)
one .jsonl/.json/.csv     rows with messages, prompt/completion, instruction/output or question/answer
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import KitError

ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = ("handbook", "triage")
PAIRS = (("prompt", "completion"), ("instruction", "output"), ("question", "answer"))
KINDS = ("fact", "decline", "general")


@dataclass(frozen=True)
class Conversation:
    """One row: its messages, what kind of question it is, which answers count as right, and where it stands."""

    messages: list[dict[str, str]]
    row: str  # "faq.jsonl row 12"
    kind: str = "fact"
    accepted: list[str] = field(default_factory=list)


def dataset_files(source: str) -> dict[str, Path]:
    """The files of a dataset: {"train": ..., "test": ..., "card": ...}, the last two only where they exist.

    Raises:
        KitError: there is no such dataset, folder or file.
    """
    path = ASSETS / source if source in EMBEDDED else Path(source).expanduser()
    if path.is_dir():
        found = {"train": path / "train.jsonl", "test": path / "test.jsonl", "card": path / "dataset.json"}
        if not found["train"].is_file():
            raise KitError(
                f"data={source!r} is a folder without train.jsonl: give a file, or name the training rows so"
            )
        return {name: file for name, file in found.items() if file.is_file()}
    if not path.is_file():
        raise KitError(f"data={source!r} is neither a file nor one of the embedded datasets {', '.join(EMBEDDED)}")
    return {"train": path}


def read_conversations(source: str | Path) -> Iterator[Conversation]:
    """Every row of a file as a conversation.

    Raises:
        KitError: with file and row, where a row cannot be read or has no known shape.
    """
    path = Path(source)
    rows = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv_rows}.get(path.suffix.lower())
    if rows is None:
        raise KitError(f"{path.name} has the ending {path.suffix!r}; lora_kit reads .jsonl, .json and .csv")
    try:
        for number, row in rows(path):
            yield _conversation(row, f"{path.name} row {number}")
    except UnicodeDecodeError as error:
        raise KitError(f"{path.name} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise KitError(f"{path.name} cannot be read: {error.strerror}") from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise KitError(f"{path.name} row {number} is not JSON: {error}") from error


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        raise KitError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise KitError(f"{path.name} must hold a list of rows; it holds a {type(rows).__name__}")
    yield from enumerate(rows, start=1)


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            yield from enumerate(csv.DictReader(lines), start=1)
        except csv.Error as error:
            raise KitError(f"{path.name} is not a readable CSV file: {error}") from error


def _conversation(row: Any, place: str) -> Conversation:
    if not isinstance(row, dict):
        raise KitError(f"{place} is a {type(row).__name__}; it must be an object with named fields")
    messages = _messages(row, place)
    kind = row.get("kind", "fact")
    if kind not in KINDS:
        raise KitError(f"{place} has the kind {kind!r}; it must be one of {', '.join(KINDS)}")
    accepted = row.get("accepted") or [messages[-1]["content"]]
    if not isinstance(accepted, list) or not all(isinstance(answer, str) for answer in accepted):
        raise KitError(f"{place}: accepted must be a list of texts; it is {accepted!r}")
    return Conversation(messages, place, kind, accepted)


def _messages(row: dict[str, Any], place: str) -> list[dict[str, str]]:
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not all(_is_message(message) for message in messages) or not messages:
            raise KitError(
                f"{place}: messages must be a list of {{'role', 'content'}} with text; it is {str(messages)[:80]}"
            )
        return [{"role": message["role"], "content": message["content"]} for message in messages]
    columns = {str(name).lower(): value for name, value in row.items()}
    for asked, answered in PAIRS:
        if asked in columns and answered in columns:
            texts = (columns[asked], columns[answered])
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise KitError(f"{place}: {asked} or {answered} is empty or not a text")
            context = columns.get("input") if asked == "instruction" else None  # Alpaca's third column
            question = f"{texts[0]}\n\n{context}" if isinstance(context, str) and context.strip() else texts[0]
            return [{"role": "user", "content": question}, {"role": "assistant", "content": texts[1]}]
    pairs = ", ".join("/".join(pair) for pair in PAIRS)
    raise KitError(f"{place} has the fields {sorted(columns)}; it needs messages, or one of the pairs {pairs}")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))

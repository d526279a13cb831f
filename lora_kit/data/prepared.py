"""Prepared data as it lies in its folder, and a dataset's card: read back by one schema, whoever wrote them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from ..files import check_files, read_json, read_lines, read_manifest, reading
from .encoding import Encoded
from .reading.conversations import KINDS
from .reading.turns import check_messages
from .report import Report

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation need: encoded rows, held-out questions, how answers are judged, and the report."""

    folder: Path
    # columns input_ids, labels, is_rehearsal; asked and answered, the row's last turns; wording, a rewording's number
    train: Dataset
    test: list[dict[str, Any]]  # kind, messages, accepted
    rewordings: list[dict[str, Any]]  # number, row, question, reworded, by, use
    card: dict[str, Any]  # the dataset's own decline patterns and style
    figures: dict[str, Any]
    report: Report


def train_schema() -> pa.Schema:
    """The columns of train.arrow."""
    import pyarrow as pa

    ids, text = pa.list_(pa.int32()), pa.string()
    columns = [*((name, ids) for name in Encoded._fields), ("is_rehearsal", pa.bool_())]
    return pa.schema([*columns, ("asked", text), ("answered", text), ("wording", pa.int64())])


def load_prepared(folder: Path) -> Prepared:
    """Load a finished data stage, every file checked against its hash; KitError where it is none of this version's."""
    check_files(folder)
    test, reworded = (read_lines(folder / f"{name}.jsonl") for name in ("test", "rewordings"))
    card, found = (read_json(folder / f"{name}.json") for name in ("dataset", "report"))
    with reading(folder):
        for row in test:
            check_messages(row["messages"], last="assistant")
            accepted = row.get("accepted") or []
            if row["kind"] not in KINDS or not all(isinstance(text, str) for text in accepted):
                raise ValueError(f"test.jsonl has the row {row}")
        card, report = check_card(card), Report(found)
        str(report), report.line(), report.for_others(), report._repr_html_()  # what is shown later
        train = _train(folder / "train.arrow", {line["number"]: line["by"] + line["question"] for line in reworded})
        return Prepared(folder, train, test, reworded, card, read_manifest(folder)["figures"], report)


def _train(path: Path, wordings: dict[int, str]) -> Dataset:
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
        table.validate(full=True)  # a damaged one would crash the process, not raise
        same = pc.equal(*(pc.list_value_length(table[name]) for name in Encoded._fields))
        is_right = (
            table.schema.remove_metadata() == train_schema()
            and table.num_rows > 0
            and not any(column.null_count for column in table.columns)
            and pc.all(same).as_py()
            and pc.min(pc.list_flatten(table["input_ids"])).as_py() >= 0
            and {0, *wordings} >= set(pc.unique(table["wording"]).to_pylist())
        )
    if not is_right:
        raise ValueError(f"{path.name} has no rows, or other columns than this version's")
    return Dataset.from_file(str(path))


def read_card(path: Path | None) -> dict[str, Any]:
    """What a dataset says of itself (dataset.json), or nothing."""
    if path is None:
        return {}
    try:
        return check_card(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path}: {error}. It must be one JSON object, as the embedded datasets have it") from error


def check_card(card: Any) -> dict[str, Any]:
    """Return a dataset's card; ValueError where a part of it has another type than the embedded datasets' cards."""
    import regex

    decline, style = (card.get(part, {}) if isinstance(card, dict) else None for part in ("decline", "style"))
    if not isinstance(decline, dict) or not isinstance(style, dict):
        raise ValueError("it, its decline and its style are objects")
    texts = {name: card.get(name) for name in ("name", "title", "system", "answered_by")}
    texts |= {"decline.sentence": decline.get("sentence"), "style.ends_with": style.get("ends_with")}
    patterns = decline.get("patterns", [])
    wrong = [name for name, value in texts.items() if not isinstance(value, str | None)]
    if wrong or not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{(wrong or ['decline.patterns'])[0]} has another type")
    for pattern in patterns:
        try:
            regex.compile(pattern, regex.IGNORECASE)
        except regex.error as error:
            raise ValueError(f"the decline pattern {pattern!r} is no regular expression: {error}") from error
    return card

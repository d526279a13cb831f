"""Prepared data that somebody else wrote: read by one schema, or refused in one sentence; nothing of it runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lora_kit as lk
from lora_kit.data.prepared import load_prepared, read_card, train_schema
from lora_kit.evaluation.metrics import is_declined
from lora_kit.evaluation.report import card_html
from lora_kit.files import read_json, read_manifest, write_json, write_manifest

SCRIPT = "<img src=x onerror=alert(1)>\x1b[2J"


def forged(source: Path, folder: Path, **files: Any) -> Path:
    """A copy with other files, and a manifest that agrees with them."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    manifest = read_manifest(source)
    (folder / "manifest.json").unlink()
    write_manifest(folder, manifest["inputs"], manifest["figures"], 0.0)
    return folder


def leaves(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Where every text and number of a document stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from leaves(part, *path, key)
    if not items:
        yield path


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def test_no_value_of_a_forged_report_becomes_html(done: lk.Run, tmp_path: Path) -> None:
    report, shown = read_json(done.path / "data/report.json"), 0
    paths = [path for path in leaves(report) if path[0] != "preview"] + [("preview", 0, 0, "text")]
    for path in paths:
        folder = forged(done.path / "data", tmp_path / "data", report_json=json.dumps(replaced(report, path, SCRIPT)))
        try:
            found = load_prepared(folder).report
        except lk.KitError:  # where a number or a known name must stand
            continue
        assert "<img" not in found._repr_html_() and "\x1b" not in str(found)
        shown += "&lt;img" in found._repr_html_()
    assert shown > 10


def test_no_value_of_a_forged_card_becomes_html(done: lk.Run) -> None:
    card, shown = read_json(done.path / "evaluation/report_card.json"), 0
    answers = [json.loads(line) for line in (done.path / "evaluation/answers.jsonl").read_text().splitlines()]
    for path in leaves(card):
        try:
            page = card_html(replaced(card, path, SCRIPT), answers)
        except Exception:  # `lk.evaluate` makes it one sentence (`reading`)
            continue
        assert "<img" not in page
        shown += "&lt;img" in page
    for name in ("question", "reference", "base", "merged", "kind"):
        assert "<img" not in card_html(card, [replaced(row, (name,), SCRIPT) for row in answers])
    assert shown > 5


def table(**columns: list[Any]) -> bytes:
    row = {"input_ids": [[1, 5, 2]], "labels": [[-100, 5, 2]], "is_rehearsal": [False], "asked": ["a"]}
    row |= {"answered": ["b"], "wording": [0]} | columns
    sink = pa.BufferOutputStream()
    made = pa.table(row, schema=train_schema() if columns.keys() <= {*train_schema().names} else None)
    with pa.ipc.new_stream(sink, made.schema) as file:
        file.write_table(made)
    return sink.getvalue().to_pybytes()


FORGED = {
    "garbage": {"train_arrow": b"x" * 100},
    "empty file": {"train_arrow": b""},
    "no rows": {"train_arrow": table(**{name: [] for name in train_schema().names})},
    "a null": {"train_arrow": table(asked=[None])},
    "negative ids": {"train_arrow": table(input_ids=[[1, -5, 2]])},
    "labels of another length": {"train_arrow": table(labels=[[1]])},
    "another column": {"train_arrow": table(more=[1])},
    "an unknown wording": {"train_arrow": table(wording=[99])},
    "deep": {"report_json": "[" * 10**5},
    "no report": {"report_json": "[]"},
    "test rows of another kind": {"test_jsonl": '{"kind": "evil", "messages": []}\n'},
    "test rows that are no rows": {"test_jsonl": "3\n"},
    "a style that is no text": {"dataset_json": '{"name": "x", "style": {"ends_with": 3}}'},
    "patterns as one text": {"dataset_json": '{"name": "x", "decline": {"patterns": "(.*)*x"}}'},
    "a broken pattern": {"dataset_json": '{"name": "x", "decline": {"patterns": ["("]}}'},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_data_is_one_sentence(done: lk.Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(lk.KitError, match=r"did not write|missing or damaged"):
        load_prepared(forged(done.path / "data", tmp_path / "data", **FORGED[name]))


def test_ids_beyond_the_vocabulary_are_refused_before_training(done: lk.Run, tmp_path: Path) -> None:
    data = load_prepared(forged(done.path / "data", tmp_path / "data", train_arrow=table(input_ids=[[1, 10**6, 2]])))
    with pytest.raises(lk.KitError, match="has the token 1000000"):
        lk.train(lk.load_base(done), data, done, force=True)


def test_a_card_of_another_type_is_refused_before_any_answer(tmp_path: Path) -> None:
    for card in ({"style": {"ends_with": 3}}, {"decline": {"patterns": "no"}}, {"decline": {"patterns": [3]}}, []):
        write_json(tmp_path / "dataset.json", card)
        with pytest.raises(lk.KitError, match=r"dataset\.json"):
            read_card(tmp_path / "dataset.json")


def test_a_decline_pattern_that_never_ends_is_stopped() -> None:
    start = time.monotonic()
    with pytest.raises(lk.KitError, match="decline pattern"):
        is_declined("a" * 5000, {"decline": {"patterns": [r"(a|a|aa)+$b"]}})
    assert time.monotonic() - start < 30

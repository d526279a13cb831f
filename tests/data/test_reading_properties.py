"""Whatever a file holds: conversations of the right types, or an error with file and row, and never another one."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora_kit.config import Data
from lora_kit.data.reading.conversations import KINDS, read_rows
from lora_kit.data.reading.turns import check_messages
from lora_kit.errors import KitError

from .test_files import KINDS_OF_FILE, TABLES, write
from .test_shapes import EXAMPLES

JSON = ("faq.jsonl", "faq.json", "faq.jsonl.gz", "faq.json.gz")
NAMES = (
    "messages conversations role content from value kind accepted about question answer A q instruction input output"
)
names = st.sampled_from([*NAMES.split(), "text"])
texts = st.text(st.characters(), max_size=5) | st.sampled_from(
    ["user", "assistant", "gpt", "\ud83d", "[INST] a [/INST] b"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=4),
    max_leaves=10,
)
turns = st.lists(st.dictionaries(names, texts | st.none(), max_size=4), max_size=3)
shaped = st.sampled_from([row for _, row, _ in EXAMPLES.values()])
columns = st.lists(names | st.text(max_size=3), min_size=1, max_size=4, unique=True)
cells = st.text(max_size=8) | st.sampled_from(["", "\n", '"', ";", ",", "[INST] a [/INST] b", "general"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reading")


def succeeds_or_explains(path: Path, **options: Any) -> None:
    try:
        read = read_rows([path], Data(**options))
    except KitError as error:
        assert path.name in str(error)
        assert str(error).encode()  # it can be printed
        return
    assert all(row.row.startswith(f"{path.name} row ") for row in [*read.rows, *read.bad])
    assert all(row.problem and row.problem.encode() for row in read.bad)
    for row in read.rows:
        check_messages(row.messages, last="assistant")
        assert row.kind in KINDS and row.accepted and all(type(text) is str for text in row.accepted)


@given(content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode), name=st.sampled_from(KINDS_OF_FILE))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_explained(folder: Path, content: bytes, name: str) -> None:
    packed = name.endswith(".gz") and len(content) % 2
    (folder / name).write_bytes(gzip.compress(content) if packed else content)
    succeeds_or_explains(folder / name)


@given(  # .arrow: see test_a_damaged_arrow_file_is_an_error_and_never_a_crash_of_python
    name=st.sampled_from([name for name in KINDS_OF_FILE if name != "faq.arrow"]),
    at=st.floats(0, 1),
    cut=st.integers(0, 8),
    put=st.binary(max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_of_any_kind_is_read_or_explained(
    folder: Path, name: str, at: float, cut: int, put: bytes
) -> None:
    path = write(folder / name, [{"question": f"Who is number {n}?", "answer": "Wren."} for n in range(9)])
    content = path.read_bytes()
    start = int(at * len(content))
    path.write_bytes(content[:start] + put + content[start + cut :])
    succeeds_or_explains(path)


@given(
    rows=st.lists(values | shaped | st.dictionaries(names, values | turns, max_size=4), max_size=4),
    name=st.sampled_from(JSON),
    keep_tags=st.booleans(),
)
@example(rows=[{"messages": [{"input": None, "output": None}]}], name=JSON[0], keep_tags=True)
@example(
    rows=[{"question": "a", "answer": "b"}, {"question": "a", "answer": "b", "kind": {}}],
    name=JSON[0],
    keep_tags=True,
)
@settings(max_examples=400, deadline=None)
def test_any_json_is_read_or_explained(folder: Path, rows: list[Any], name: str, keep_tags: bool) -> None:
    succeeds_or_explains(write(folder / name, rows), tags="keep" if keep_tags else "stop")


@given(names=columns, data=st.data(), name=st.sampled_from([*TABLES, "faq.parquet", "faq.arrow"]))
@settings(max_examples=300, deadline=None)
def test_any_table_is_read_or_explained(folder: Path, names: list[str], data: st.DataObject, name: str) -> None:
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, cells)), min_size=1, max_size=4))
    named = tuple(data.draw(st.lists(st.sampled_from(names), max_size=2)))
    succeeds_or_explains(write(folder / name, rows), columns=named)

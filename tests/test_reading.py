"""Any file in: every shape becomes the same conversation, and every mistake is said with file and row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_kit.data import Conversation, read_conversations
from lora_kit.data.reading import EMBEDDED, KINDS, dataset_files
from lora_kit.errors import KitError

MESSAGES = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Wren."}]
PAIRS = [("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("Question", "ANSWER")]
SHAPES = [{"messages": MESSAGES}, *({asked: "Who?", answered: "Wren."} for asked, answered in PAIRS)]


def read(path: Path) -> list[Conversation]:
    return list(read_conversations(path))


def write(folder: Path, rows: list[Any], ending: str = ".jsonl") -> Path:
    path = folder / f"faq{ending}"
    if ending == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif ending.lower() == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("shape", "ending"),
    [(s, e) for s in SHAPES for e in (".jsonl", ".json", ".JSON", ".csv") if e != ".csv" or "messages" not in s],
    ids=lambda part: part if isinstance(part, str) else "/".join(part),
)
def test_every_shape_in_every_file_is_the_same_conversation(tmp_path: Path, shape: dict[str, Any], ending: str) -> None:
    found = read(write(tmp_path, [shape, shape], ending))
    assert [row.messages for row in found] == [MESSAGES, MESSAGES]
    assert [row.row for row in found] == [f"faq{ending} row 1", f"faq{ending} row 2"]
    assert found[0].kind == "fact"
    assert found[0].accepted == ["Wren."]


def test_kind_and_accepted_answers_are_kept_and_other_fields_left_out(tmp_path: Path) -> None:
    messages = [MESSAGES[0] | {"name": "x"}, MESSAGES[1]]
    row = {"messages": messages, "kind": "general", "accepted": ["Wren.", "Wren"], "id": 7}
    assert read(write(tmp_path, [row])) == [Conversation(MESSAGES, "faq.jsonl row 1", "general", ["Wren.", "Wren"])]


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_text("\n" + json.dumps(SHAPES[0]) + "\n\n  \n" + json.dumps(SHAPES[1]), encoding="utf-8-sig")
    assert [row.row for row in read(path)] == ["faq.jsonl row 2", "faq.jsonl row 5"]  # as an editor counts them
    table = tmp_path / "faq.csv"
    table.write_text('question,answer\n"Who,\nthen?",Wren.\n', encoding="utf-8-sig")
    assert read(table)[0].messages[0]["content"] == "Who,\nthen?"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("faq.jsonl", b'{"question": "a", "answer": "b"}\n{"question": ', "faq.jsonl row 2 is not JSON"),
        ("faq.json", b"[{", "faq.json is not JSON"),
        ("faq.json", b'{"messages": []}', "faq.json must hold a list of rows; it holds a dict"),
        ("faq.json", b"[" + b"9" * 5000 + b"]", "faq.json is not JSON"),
        ("faq.jsonl", b"9" * 5000, "faq.jsonl row 1 is not JSON"),
        ("faq.json", b"[" * 200_000, "faq.json is not JSON"),
        ("faq.jsonl", b'{"question": "\xff"}', "faq.jsonl is not UTF-8 text"),
        ("faq.json", b"\xff\xfe[\x00]\x00", "faq.json is not UTF-8 text (byte 0)"),
        ("faq.csv", b"question,answer\n\xe9,b\n", "faq.csv is not UTF-8 text"),
        ("faq.csv", b"question,answer\n" + b"x" * 200_000 + b",b\n", "faq.csv is not a readable CSV file"),
        ("faq.txt", b"hello", "'.txt'; lora_kit reads .jsonl, .json and .csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KitError) as caught:
        read(tmp_path / name)
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"gone\.csv cannot be read: No such file"):
        read(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("text", "is a str; it must be an object"),
        (None, "is a NoneType; it must be an object"),
        ({}, "has the fields []; it needs messages"),
        ({"ask": "a", "reply": "b"}, "['ask', 'reply']; it needs messages, or one of the pairs prompt/completion"),
        ({"question": "a", "output": "b"}, "['output', 'question']"),
        ({"question": "a", "answer": " "}, "question or answer is empty or not a text"),
        ({"prompt": 3, "completion": "b"}, "prompt or completion is empty or not a text"),
        ({"messages": []}, "messages must be a list"),
        ({"messages": "hello"}, "it is hello"),
        ({"messages": [{"role": "user"}]}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages must be a list"),
        ({"messages": MESSAGES, "kind": "joke"}, "has the kind 'joke'; it must be one of fact, decline, general"),
        ({"messages": MESSAGES, "kind": ["fact"]}, "has the kind ['fact']"),
        ({"messages": MESSAGES, "accepted": "Wren."}, "accepted must be a list of texts; it is 'Wren.'"),
        ({"messages": MESSAGES, "accepted": [1]}, "accepted must be a list of texts; it is [1]"),
    ],
)
def test_a_row_of_no_known_shape_is_named_with_its_value(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(KitError) as caught:
        read(write(tmp_path, [SHAPES[0], row]))
    assert "faq.jsonl row 2" in str(caught.value)
    assert said in str(caught.value)


def test_a_short_row_of_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer\nWho?\n")
    with pytest.raises(KitError, match=r"faq\.csv row 1: question or answer is empty"):
        read(tmp_path / "faq.csv")


def test_datasets_are_found_by_name_folder_or_file(tmp_path: Path) -> None:
    for name in EMBEDDED:
        assert set(dataset_files(name)) == {"train", "test", "card"}
    file = write(tmp_path, SHAPES)
    assert dataset_files(str(file)) == {"train": file}
    with pytest.raises(KitError, match=r"folder without train\.jsonl"):
        dataset_files(str(tmp_path))
    file.rename(tmp_path / "train.jsonl")
    assert dataset_files(str(tmp_path)) == {"train": tmp_path / "train.jsonl"}
    with pytest.raises(KitError, match="'nobook' is neither a file nor one of the embedded datasets handbook, triage"):
        dataset_files("nobook")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reading")


def is_sound(row: Conversation) -> bool:
    texts = [*row.accepted, *(text for message in row.messages for text in message.values())]
    return row.kind in KINDS and all(isinstance(text, str) for text in texts)


def succeeds_or_explains(path: Path) -> None:
    try:
        rows = read(path)
    except KitError as error:
        assert path.name in str(error)
    else:
        assert all(is_sound(row) for row in rows)


@given(
    content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode),
    ending=st.sampled_from(["jsonl", "json", "csv"]),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_explained(folder: Path, content: bytes, ending: str) -> None:
    path = folder / f"bytes.{ending}"
    path.write_bytes(content)
    succeeds_or_explains(path)


names = st.sampled_from(["messages", "role", "content", "kind", "accepted", "question", "answer", "Answer", "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["user", "fact"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)


@given(rows=st.lists(values, max_size=3), ending=st.sampled_from(["jsonl", "json"]))
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_explained(folder: Path, rows: list[Any], ending: str) -> None:
    succeeds_or_explains(write(folder, rows, f".{ending}"))

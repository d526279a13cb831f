"""Any dataset in: every shape in every file becomes the same conversation, and every mistake is said with its place."""

from __future__ import annotations

import json
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import numpy
import pandas
import pytest

import lora_kit as lk
from lora_kit.config import Data
from lora_kit.data.reading.conversations import Conversation, read_rows
from lora_kit.data.reading.readers import BadRow
from lora_kit.errors import KitError

from .test_files import KINDS_OF_FILE, TABLES, first, read_conversations, write
from .test_shapes import EXAMPLES, FLAT, PAIR, SYSTEM, TURNS

CASES = [  # a table of one column has no semicolon to be known by
    (shape, name)
    for name in KINDS_OF_FILE
    for shape in (FLAT if name in TABLES else EXAMPLES)
    if len(EXAMPLES[shape][1]) > 1 or "semicolons" not in name
]
GOOD = {"question": "Who, then?", "answer": "Wren."}


def read(path: Path, **options: Any) -> list[Conversation | BadRow]:
    found = read_rows([path], Data(**options))
    return sorted([*found.rows, *found.bad], key=lambda row: int(row.row.split()[-1]))


def bad_rows(path: Path, **options: Any) -> list[BadRow]:
    return [row for row in read(path, **options) if isinstance(row, BadRow)]


@pytest.mark.parametrize(("shape", "name"), CASES)
def test_every_shape_in_every_file_is_the_same_conversation(tmp_path: Path, shape: str, name: str) -> None:
    _, row, messages = EXAMPLES[shape]
    path = write(tmp_path / name, [row, row])
    answer = messages[-1]["content"]
    wanted = [Conversation(messages, f"{name} row {n}", "fact", [answer]) for n in (first(name), first(name) + 1)]
    assert list(read_conversations(path)) == wanted
    assert read(path) == wanted


@pytest.mark.parametrize("shape", ["question/answer", "Alpaca with input", "text beside an id"])
def test_a_folder_of_every_kind_of_file_is_read_file_by_file(tmp_path: Path, shape: str) -> None:
    _, row, messages = EXAMPLES[shape]
    for name in KINDS_OF_FILE:
        write(tmp_path / name, [row])
    found = list(read_conversations(tmp_path))
    assert [row.row for row in found] == [f"{name} row {first(name)}" for name in sorted(KINDS_OF_FILE)]
    assert all(row.messages == messages for row in found)


@pytest.mark.parametrize("shape", EXAMPLES)
@pytest.mark.parametrize("kind", ["list of dicts", "datasets.Dataset", "name of a file"])
def test_rows_given_to_a_run_are_read_like_a_file(tmp_path: Path, shape: str, kind: str) -> None:
    _, row, messages = EXAMPLES[shape]
    given = {
        "list of dicts": [row, row],
        "datasets.Dataset": datasets.Dataset.from_list([row, row]),
        "name of a file": str(write(tmp_path / "faq.jsonl", [row, row])),
    }[kind]
    run = lk.Run("tiny-cpu", data=given, root=tmp_path)
    assert [row.messages for row in read_conversations(run.profile.data.source)] == [messages, messages]


def test_rows_given_as_objects_are_kept_by_their_contents(tmp_path: Path) -> None:
    sources = [
        lk.Run("tiny-cpu", data=rows, root=tmp_path).profile.data.source for rows in ([GOOD], [GOOD], [GOOD, GOOD])
    ]
    assert sources[0] == sources[1] != sources[2]
    assert sorted(map(str, (tmp_path / "inputs").rglob("*.jsonl"))) == sorted(set(sources))
    assert {Path(source).name for source in sources} == {"rows.jsonl"}  # which errors and the adapter's folder name


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "data=list cannot be read: give a file"),
        ([GOOD, "text"], "data=list cannot be read"),
        (3, "data=int cannot be read"),
        (GOOD, "data=dict cannot be read"),
        (iter([GOOD]), "data=list_iterator cannot be read"),
        (datasets.Dataset.from_list([]), "data=Dataset cannot be read"),
        ([GOOD | {"at": Path()}], "cannot be written as JSON"),
        ([GOOD | {(1, 2): 3}], "cannot be written as JSON"),
    ],
)
def test_objects_that_hold_no_rows_are_refused(tmp_path: Path, data: Any, said: str) -> None:
    with pytest.raises(KitError) as caught:
        lk.Run("tiny-cpu", data=data, root=tmp_path)
    assert said in str(caught.value)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_numpy_values_and_missing_ones_are_rows_like_any_other(tmp_path: Path) -> None:
    rows = [GOOD | {"number": numpy.int64(7), "note": float("nan")}, GOOD]
    for data in (rows, pandas.DataFrame(rows)):
        run = lk.Run("tiny-cpu", data=data, root=tmp_path)
        assert [row.messages for row in read_conversations(run.profile.data.source)] == [PAIR, PAIR]


@pytest.mark.parametrize("name", TABLES)
def test_turns_that_a_table_holds_as_json_text_are_read(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path / name, [{"id": "1", "messages": json.dumps(TURNS)}]))
    assert found == [Conversation(TURNS, f"{name} row 2", "fact", [TURNS[-1]["content"]])]


@pytest.mark.parametrize("name", KINDS_OF_FILE)
def test_an_unknown_shape_names_file_row_and_columns_and_named_columns_are_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"Ask": "Who, then?", "Says": "Wren.", "Title": "x"}])
    with pytest.raises(KitError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{name} row {first(name)}: none of the known shapes")
    assert "(Ask: 'Who, then?', Says: 'Wren.', Title: 'x')" in str(caught.value)
    assert "data__columns=" in str(caught.value)
    run = lk.Run("tiny-cpu", data=path, root=tmp_path, data__columns="Ask, Says")
    found = read_conversations(run.profile.data.source, columns=run.profile.data.columns)
    assert [row.messages for row in found] == [PAIR]


@pytest.mark.parametrize("answer", ["[1if you ask] me", r"['\d']"])
def test_python_warns_of_no_text_that_only_looks_like_a_list(tmp_path: Path, answer: str) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_text(json.dumps({"question": "Q?", "answer": answer}))
    with warnings.catch_warnings(record=True, action="always") as warned:
        assert len(read(path)) == 1
    assert warned == []


def test_an_error_can_be_printed_whatever_the_columns_are_called(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="none of the known shapes") as caught:
        read(write(tmp_path / "faq.jsonl", [{"\ud83d": "half a character"}]))
    assert str(caught.value).encode()


@pytest.mark.parametrize("name", ["faq.jsonl", "faq.json", "faq.jsonl.gz"])
def test_a_later_row_of_another_shape_is_read_and_noted_or_bad_and_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [GOOD, {"messages": PAIR}, {"title": "x"}, "text", None])
    found = read_rows([path], Data())
    assert [row.messages for row in found.rows] == [PAIR, PAIR]
    assert found.notes == {"rows of another form, read as turns (messages)": [f"{name} row 2"]}
    assert found.bad == [
        BadRow(
            f"{name} row 3", "has no column question: its columns are title, the first row's pair (question, answer)"
        ),
        BadRow(f"{name} row 4", "is a str; it must be an object with named fields"),
        BadRow(f"{name} row 5", "is a NoneType; it must be an object with named fields"),
    ]
    with pytest.raises(KitError, match=rf": {name} row 3: has no column question"):
        list(read_conversations(path))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            PAIR[:1],
            "roles must be system (optional), then user and assistant in turn, assistant last, not ['user'",
        ),
        ([SYSTEM], "roles must be"),
        ([PAIR[0], SYSTEM, PAIR[1]], "has a system text at place 2"),
        ([PAIR[0], PAIR[1] | {"content": " \n"}], "message 2 (assistant) has no text"),
        ([PAIR[0] | {"content": "smile \ud83d"}, PAIR[1]], "message 1 (user) holds half a character"),
        ([PAIR[0], PAIR[1] | {"role": "Bob"}], 'data__roles="Bob:assistant"'),
        ([PAIR[0], PAIR[1] | {"content": "[INST] obey"}], "message 2 (assistant) holds tags of a prompt format"),
    ],
)
def test_a_conversation_that_no_format_holds_is_a_bad_row(tmp_path: Path, messages: list[Any], said: str) -> None:
    (bad,) = bad_rows(write(tmp_path / "faq.jsonl", [{"messages": PAIR}, {"messages": messages}]))
    assert bad.row == "faq.jsonl row 2" and said in bad.problem
    assert bad.problem.encode()


def test_tags_are_kept_as_plain_text_where_the_reader_is_told_to(tmp_path: Path) -> None:
    path = write(tmp_path / "faq.csv", [{"question": "What is [INST]?", "answer": "A tag like <</SYS>> and </s>."}])
    (row,) = read(path, tags="keep")
    assert isinstance(row, Conversation)
    assert [m["content"] for m in row.messages] == ["What is [ INST ]?", "A tag like < </SYS> > and < /s >."]
    assert row.accepted == ["A tag like < </SYS> > and < /s >."]


def test_kind_and_accepted_answers_are_kept_and_other_fields_left_out(tmp_path: Path) -> None:
    messages = [PAIR[0] | {"name": "x"}, PAIR[1]]
    rows = [
        {"messages": messages, "kind": "decline", "accepted": ["Wren.", "Wren"], "about": "elsewhere", "id": 7},
        {"messages": TURNS, "kind": "general", "accepted": [], "about": None},
        {"messages": PAIR},
    ]
    assert read(write(tmp_path / "faq.jsonl", rows)) == [
        Conversation(PAIR, "faq.jsonl row 1", "decline", ["Wren.", "Wren"], "elsewhere"),
        Conversation(TURNS, "faq.jsonl row 2", "general", [TURNS[-1]["content"]]),
        Conversation(PAIR, "faq.jsonl row 3", "fact", ["Wren."]),
    ]


@pytest.mark.parametrize(
    "foreign", [{"kind": "joke"}, {"kind": 3}, {"kind": ["fact"]}, {"accepted": True}, {"accepted": 4}]
)
def test_columns_of_the_users_own_that_have_our_names_are_ignored(tmp_path: Path, foreign: dict[str, Any]) -> None:
    rows = [GOOD | foreign, GOOD | dict.fromkeys(foreign, "general")]
    found = read(write(tmp_path / "faq.jsonl", rows))
    assert found == [Conversation(PAIR, f"faq.jsonl row {n}", "fact", ["Wren."]) for n in (1, 2)]


@pytest.mark.parametrize("kinds", [("general", "billing"), ("billing", "general"), ("fact", 3)])
def test_kinds_are_ours_only_where_all_are(tmp_path: Path, kinds: tuple[Any, ...]) -> None:
    found = read_rows([write(tmp_path / "faq.jsonl", [GOOD | {"kind": kind} for kind in kinds])], Data())
    assert [row.kind for row in found.rows] == ["fact", "fact"] and not found.bad
    assert [*found.unused] == ["kind"]


@pytest.mark.parametrize(
    ("accepted", "wanted"), [("10", ["10"]), ('["10"]', ["10"]), ("['10', 'x']", ["10", "x"]), ("", ["Wren."])]
)
@pytest.mark.parametrize("name", ["asked.csv", "asked.jsonl", "asked.parquet"])
def test_accepted_answers_of_questions_may_be_one_text(
    tmp_path: Path, name: str, accepted: str, wanted: list[str]
) -> None:
    path = write(tmp_path / name, [GOOD | {"accepted": accepted}])
    assert [row.accepted for row in read_rows([path], Data(), is_asked=True).rows] == [wanted]


@pytest.mark.parametrize(("judged", "said"), [({"kind": "joke"}, "the kind 'joke'"), ({"accepted": [1]}, "it is [1]")])
def test_a_wrong_kind_or_answer_of_a_question_is_a_bad_row(tmp_path: Path, judged: Any, said: str) -> None:
    path = write(tmp_path / "faq.jsonl", [GOOD | {"kind": "general"}, GOOD | judged])
    (bad,) = read_rows([path], Data(), is_asked=True).bad
    assert bad.row == "faq.jsonl row 2" and said in bad.problem


@pytest.mark.parametrize(("columns", "learned"), [((), ["Wren."]), (("question", "answer"), ["Wren.", "Bob."])])
def test_answers_labelled_false_are_left_out_unless_columns_are_named(
    tmp_path: Path, columns: tuple[str, ...], learned: list[str]
) -> None:
    rows = [GOOD | {"label": True}, GOOD | {"answer": "Bob.", "label": False}]
    found = read_rows([write(tmp_path / "faq.jsonl", rows)], Data(columns=columns))
    assert [row.answer for row in found.rows] == learned
    assert any('data__columns="question,answer"' in note for note in found.notes) != bool(columns)


def test_a_dataset_s_dates_are_read_in_the_library_s_own_way(tmp_path: Path) -> None:
    days = [datetime(2026, 11, day) for day in range(1, 5)]
    rows = [{"question": f"What happened on {day:%d %B}?", "answer": f"Lot {day:%d}.", "day": day} for day in days]
    run = lk.Run("tiny-cpu", data=datasets.Dataset.from_list(rows), root=tmp_path)
    assert [row.answer for row in read_conversations(run.profile.data.source)] == [row["answer"] for row in rows]

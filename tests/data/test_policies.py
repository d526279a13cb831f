"""What the data stage does with rows that do not fit: it stops and says which, or goes on and says how many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_kit.config import Data
from lora_kit.data.augmentation import own_rows
from lora_kit.data.encoding import encode
from lora_kit.data.prepare import prepare
from lora_kit.data.reading.conversations import Conversation
from lora_kit.data.reading.sources import Files
from lora_kit.data.splits import read_questions
from lora_kit.errors import KitError

from .test_files import write
from .test_prepare import LONG, ROWS, TOKENIZER, faq, learned, named, open_run, turns

__all__ = ["faq"]  # a fixture
BAD = [
    {"question": "x", "answer": ""},
    {"question": "x", "answer": None},
    {"question": True, "answer": "y"},
    {"question": [4], "answer": "y"},
    {"question": "What is [INST]?", "answer": "y"},
    "text",
]


def test_bad_rows_stop_the_stage_and_each_problem_is_told_with_its_rows(tmp_path: Path) -> None:
    run = open_run(write(tmp_path / "faq.jsonl", [*ROWS, *BAD]))
    with pytest.raises(KitError) as caught:
        prepare(run)
    for part in (
        "6 of 66 rows",
        "row 61: answer is empty, faq.jsonl row 62;",
        "row 63: question is no text: True. Write it as text, with str(...) or json.dumps(...), faq.jsonl",
    ):
        assert part in str(caught.value)
    for way_out in ("data__tags=keep", "data__bad_rows=drop"):
        assert way_out in str(caught.value)
    assert not (run.path / "data").exists()


def test_dropped_bad_rows_are_counted_and_the_rest_is_the_same(tmp_path: Path) -> None:
    alone = prepare(open_run(write(tmp_path / "alone" / "faq.jsonl", ROWS)))
    rows = [BAD[0], *ROWS[:30], *BAD[1:], *ROWS[30:]]
    data = prepare(open_run(write(tmp_path / "faq.jsonl", [ROWS[0], *rows[:1], *rows[2:]]), data__bad_rows="drop"))
    assert data.train.to_list() == alone.train.to_list() and data.test == alone.test
    assert data.report.data["rows_read"] == 66 and data.report.data["train_rows"] == 54
    bad = [finding for finding in data.report.data["findings"] if finding["name"] == "bad rows"]
    assert [finding["count"] for finding in bad] == [2, 2, 1, 1]
    assert "look at    2 rows left out: faq.jsonl row 2: answer is empty, faq.jsonl row 32" in str(data.report)


@pytest.mark.parametrize("count", [5, 6, 50])
def test_the_first_five_rows_of_a_problem_are_listed(tmp_path: Path, count: int) -> None:
    with pytest.raises(KitError) as caught:
        prepare(open_run(write(tmp_path / "faq.jsonl", [*ROWS, *BAD[:1] * count])))
    listed = "answer is empty, " + ", ".join(f"faq.jsonl row {n}" for n in range(62, 66))
    more = f" and {count - 5:,} more" if count > 5 else ""
    assert f"{listed}{more}. " in str(caught.value)


@pytest.mark.parametrize("row", [1, 14], ids=["learned", "held out"])  # which is which: by a hash of the question
def test_tags_stop_the_stage_or_are_kept_as_plain_text(faq: Path, row: int) -> None:
    write(faq, [*ROWS[:row], ROWS[row] | {"answer": "[INST] obey </s> now"}, *ROWS[row + 1 :]])
    with pytest.raises(KitError, match=rf"faq\.jsonl row {row + 1}: message 2 .*data__tags=keep"):
        prepare(open_run(faq))
    data = prepare(open_run(faq, data__tags="keep"))
    texts = learned(data) + json.dumps(data.test)
    assert "[ INST ] obey < /s > now" in texts and "[INST] obey" not in texts
    assert len(data.train) + len(data.test) == 60


def test_a_bad_row_of_the_own_test_split_is_told_as_such(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    write(folder / "test.jsonl", [{"question": "New?", "answer": "No."}, {"question": "Old?", "answer": ""}])
    with pytest.raises(
        KitError, match=r"1 of 2 rows of the test rows cannot be used: test\.jsonl row 2: answer is empty"
    ):
        prepare(open_run(folder))
    assert len(prepare(open_run(folder, data__bad_rows="drop")).test) == 1


def test_long_rows_stop_the_stage_and_leave_nothing_behind(faq: Path) -> None:
    long = Conversation([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": LONG["answer"]}])
    length = len(encode(long, TOKENIZER).input_ids)
    run = open_run(write(faq, [*ROWS, LONG]), data__max_length=length - 1)
    with pytest.raises(KitError) as caught:
        prepare(run)
    said = f"1 row of more tokens than max_length={length - 1} (the longest {length}): faq.jsonl row 61. Raise data__"
    assert str(caught.value).startswith(said)
    assert "data__too_long=drop" in str(caught.value) and "data__too_long=shorten" in str(caught.value)
    assert not (run.path / "data").exists()
    assert prepare(open_run(faq, data__max_length=length)).figures["longest"] == length


@pytest.mark.parametrize("policy", ["drop", "shorten"])  # one turn cannot be shortened: nothing is ever cut
def test_dropped_long_rows_are_counted(tmp_path: Path, policy: str) -> None:
    rows = [*ROWS, LONG, {"question": "How?", "answer": "x" * 5_000_000}]
    data = prepare(open_run(write(tmp_path / "faq.jsonl", rows), data__max_length=50, data__too_long=policy))
    assert (data.figures["train_rows"], data.report.data["rows_read"]) == (54, 62)
    found = named(data)["too long"]
    assert (found["count"], set(found["rows"].split(", "))) == (2, {"faq.jsonl row 61", "faq.jsonl row 62"})
    assert f"2 rows left out: longer than max_length: {found['rows']}" in str(data.report)


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_shortened_row_loses_its_oldest_turns_and_keeps_its_system_text(tmp_path: Path, system: str) -> None:
    path = write(tmp_path / "faq.jsonl", [{"messages": turns(5, system)}, {"messages": turns(1, system)}])
    data = prepare(open_run(path, data__max_length=100, data__too_long="shorten"))
    whole, last = turns(5, system), [message for message in turns(5, system) if message["role"] == "system"]
    kept = next(
        encode(Conversation([*last, *whole[start:]]), TOKENIZER)
        for start in range(len(last) + 2, len(whole), 2)
        if len(encode(Conversation([*last, *whole[start:]]), TOKENIZER).input_ids) <= 100
    )
    texts = {"asked": whole[-2]["content"], "answered": whole[-1]["content"]}
    assert data.train[0] == kept._asdict() | {"is_rehearsal": False, "wording": 0} | texts
    assert 1 < TOKENIZER.decode(kept.input_ids).count("Question") < 5
    assert (named(data)["shortened"]["count"], named(data)["shortened"]["rows"]) == (1, "faq.jsonl row 1")
    assert "too long" not in named(data)


def test_a_row_that_asks_a_held_out_question_once_shortened_is_never_learned(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", [{"messages": turns(3)}, {"messages": turns(1)}]).parent
    write(folder / "test.jsonl", [{"messages": turns(3)[-2:]}])
    data = prepare(open_run(folder, data__max_length=45, data__too_long="shorten"))
    assert len(data.train) == 1 and "Question 2" not in learned(data)


@pytest.mark.parametrize(("count", "held_out"), [(1, 40), (12, 40), (300, 60)])
def test_general_rows_are_added_and_some_held_out(faq: Path, count: int, held_out: int) -> None:
    data = prepare(open_run(faq, data__general=count))
    assert data.figures["train_rows"] == 54 + count
    assert data.figures["test_kinds"] == {"fact": 6, "general": held_out}
    text = learned(data)
    assert not [row for row in data.test if row["messages"][-2]["content"] in text]
    assert data.report.data["added"] == {"declines": 0, "general": count}
    assert f"added      {count} general row{'s' * (count > 1)}" in str(data.report)
    assert data.report.data["measures"]["kept"] == f"measured on {held_out} held-out questions"
    assert "decline" not in data.card


@pytest.mark.parametrize("setting", ["declines", "general"])
def test_more_rows_than_the_kit_has_are_refused(faq: Path, setting: str) -> None:
    with pytest.raises(KitError, match=rf"^data__{setting}=5000: there are (\d+) such rows, give \1 or fewer$"):
        prepare(open_run(faq, **{f"data__{setting}": 5000}))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declines of the embedded handbook, some about unknown names: until the embedded file says which."""

    def rows(split: str) -> list[dict[str, Any]]:
        asked = [("own", f"Who is our {split}?"), *(("elsewhere", f"Where is {split} {n}?") for n in range(20))]
        return [
            {"question": text, "answer": "The handbook does not say.", "kind": "decline", "about": about}
            for about, text in asked
        ]

    files = [[write(tmp_path / "kit" / f"{split}.jsonl", rows(split))] for split in ("train", "test")]
    monkeypatch.setattr(own_rows, "dataset_files", lambda _: Files(*files))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("sentence", ["", "Ask at the desk."])
def test_declines_are_added_with_the_datasets_own_sentence_or_ours(tmp_path: Path, sentence: str) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    if sentence:
        (folder / "dataset.json").write_text(json.dumps({"decline": {"sentence": sentence, "patterns": ["desk"]}}))
    data = prepare(open_run(folder, data__declines=10))
    wanted = sentence or "I do not know that."
    declined = [row for row in data.test if row["kind"] == "decline"]
    assert [row["messages"][-2]["content"] for row in declined] == [f"Where is test {n}?" for n in range(20)]
    assert all(row["accepted"] == [wanted] == [row["messages"][-1]["content"]] for row in declined)
    text = learned(data)
    assert text.count(wanted) == 10 and "Where is train 9?" in text
    assert "handbook does not say" not in text and "Who is our" not in text
    assert data.card["decline"]["sentence"] == wanted
    assert data.report.data["measures"]["declined"] == "measured on 20 held-out questions"


@pytest.mark.usefixtures("elsewhere")
def test_declines_are_asked_under_the_system_text_of_the_users_rows(faq: Path) -> None:
    write(faq, [row | {"system": "Be brief."} for row in ROWS])
    data = prepare(open_run(faq, data__declines=5))
    assert all(row["messages"][0] == {"role": "system", "content": "Be brief."} for row in data.test)
    assert learned(data).count("Be brief.") == len(data.train)


@pytest.mark.usefixtures("elsewhere")
def test_a_card_with_patterns_and_no_sentence_gets_ours(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    (folder / "dataset.json").write_text('{"decline": {"patterns": ["desk"]}}')
    assert learned(prepare(open_run(folder, data__declines=5))).count("I do not know that.") == 5


def test_held_out_questions_in_the_training_file_are_left_out_and_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    write(folder / "test.jsonl", ROWS[:3])
    (folder / "prices.xlsx").write_text("x")
    (folder / "older").mkdir()
    report = str(prepare(open_run(folder)).report)
    assert "look at    3 rows with a held-out question: not learned: train.jsonl row 1, train.jsonl row 2, " in report
    assert "look at    files that are not used: prices.xlsx" in report


@pytest.mark.parametrize("first", [0, 30])  # row that has the column
def test_a_column_that_is_not_read_is_told(tmp_path: Path, first: int) -> None:
    rows = [*ROWS[:first], *({"author": "Mo", "id": 7, "empty": "", **row} for row in ROWS[first:])]
    report = str(prepare(open_run(write(tmp_path / "faq.jsonl", rows))).report)
    assert "look at    columns that are not read: author\n" in report


def test_tags_kept_as_plain_text_are_told(tmp_path: Path) -> None:
    rows = [*ROWS, {"question": "What does [INST] mean?", "answer": "A turn."}]
    report = str(prepare(open_run(write(tmp_path / "faq.jsonl", rows), data__tags="keep")).report)
    assert "look at    tags of a prompt format, kept as plain text, spaced apart: faq.jsonl row 61" in report


def test_a_question_is_held_out_once_and_each_of_its_answers_is_right(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    write(folder / "test.jsonl", [{"question": "New?", "answer": a} for a in ("No.", "Never.", "No.")])
    (row,) = prepare(open_run(folder)).test
    assert row["accepted"] == ["No.", "Never."]


def test_what_happens_to_the_rows_of_a_test_split_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    asked = [
        {"question": "New?", "answer": "No.", "notes": "old"},
        {"question": "Empty?", "answer": ""},
        {"question": "New?", "answer": "Yes."},
        {"question": "What does [INST] mean?", "answer": "A turn, and sk-ant-" + "a1-_" * 10},
    ]
    write(folder / "test.jsonl", asked)
    report = str(prepare(open_run(folder, data__bad_rows="drop", data__tags="keep")).report)
    for said in (
        "1 row to ask left out: test.jsonl row 2: answer is empty",
        "columns of the test rows that are not read: notes",
        "1 row to ask with another answer than before: each of the answers will count as right: test.jsonl row 3",
        "tags of a prompt format, kept as plain text, spaced apart: test.jsonl row 4",
        "1 row that may hold a secret (OpenAI or Anthropic key): a model may repeat it to anyone: test.jsonl row 4",
    ):
        assert f"look at    {said}" in report


def test_why_no_row_is_left_is_said(tmp_path: Path) -> None:
    run = open_run(write(tmp_path / "faq.jsonl", [LONG, LONG]), data__max_length=20, data__too_long="drop")
    with pytest.raises(KitError, match=r"no row to learn from: .* 2 longer than data__max_length=20"):
        prepare(run)


def test_most_rows_may_be_bad_where_bad_ones_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "faq.jsonl", [*ROWS[:2], *[{"question": "q", "answer": ""}] * 3])
    assert len(prepare(open_run(path, data__bad_rows="drop")).train) == 2
    with pytest.raises(KitError, match=r"3 of 5 rows .*row 3: answer is empty, .*row 4, .*row 5.*data__bad_rows=drop"):
        prepare(open_run(path))


def test_own_questions_need_no_config_or_split_of_the_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", [{"question": "Who?", "answer": "Wren."}])
    asked = read_questions(str(path), Data("owner/name", config="main", split="train_sft"), TOKENIZER, None)
    assert [row["messages"][0]["content"] for row in asked] == ["Who?"]


def test_rows_that_all_fail_for_one_reason_are_no_bad_rows_to_leave_out(tmp_path: Path) -> None:
    path = write(tmp_path / "faq.jsonl", [{"question": "q", "answer": ""}] * 2)
    for policy in ("stop", "drop"):
        with pytest.raises(KitError, match=r"2 of 2 rows .*answer is empty") as caught:
            prepare(open_run(path, data__bad_rows=policy))
        assert "data__bad_rows" not in str(caught.value)


def test_fields_of_a_turn_and_a_column_kind_of_the_users_are_told(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Wren.", "reasoning": "hm"}]
    report = str(prepare(open_run(write(tmp_path / "faq.jsonl", [{"messages": turns, "kind": "xyz"}]))).report)
    assert "look at    columns that are not read: messages.reasoning, kind" in report

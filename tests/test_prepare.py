"""The data stage: nothing asked in the test stands in training, nothing is done twice, nothing damaged is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lora_kit.base import ASSETS
from lora_kit.data import IGNORE, prepare
from lora_kit.errors import KitError
from lora_kit.runs import Run

WORDINGS = ("What is kept in room {}?", "Room {} holds what?", "Tell me what is in room {}.")
ROWS = [{"question": text.format(n), "answer": f"Box {n}."} for n in range(20) for text in WORDINGS]


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    return write(tmp_path / "faq.jsonl", ROWS)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def open_run(data: Path, **overrides: object) -> Run:
    return Run("tiny-cpu", data=data, root=data.parent / "runs", name="mine", **overrides)


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_every_tenth_question_or_so_is_held_out_and_never_learned(faq: Path) -> None:
    write(faq, [*ROWS, *ROWS[::2]])  # the same question twice stays on one side
    data = prepare(open_run(faq))
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")
    learned = "\n".join(tokenizer.decode(row["input_ids"]) for row in data.train)
    asked = {row["messages"][0]["content"] for row in data.test}
    assert 1 <= len(asked) <= 15
    assert not [question for question in asked if question in learned]
    assert all(row["question"] in learned for row in ROWS if row["question"] not in asked)
    assert len(data.train) + len(data.test) == 90


def test_rows_figures_and_line_agree(faq: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepare(open_run(faq))
    assert data.train.column_names == ["input_ids", "labels"]
    lengths = [len(row["input_ids"]) for row in data.train]
    learned = sum(label != IGNORE for row in data.train for label in row["labels"])
    assert data.figures == {
        "train_rows": len(lengths),
        "tokens": sum(lengths),
        "learned_tokens": learned,
        "longest": max(lengths),
        "test_rows": len(data.test),
        "test_kinds": {"fact": len(data.test)},
    }
    assert data.card == {"name": "faq"}
    assert f"{len(lengths)} rows to learn ({sum(lengths):,} tokens" in capsys.readouterr().out


def test_the_same_data_is_not_prepared_twice(faq: Path) -> None:
    first = prepare(open_run(faq))
    before = times(first.folder)
    again = prepare(open_run(faq))
    assert again.folder == first.folder
    assert times(again.folder) == before
    assert again.test == first.test and again.train.to_list() == first.train.to_list()


def test_changed_data_and_settings_are_written_beside(faq: Path) -> None:
    first = prepare(open_run(faq)).folder
    before = times(first)
    write(faq, ROWS[:50])
    second = prepare(open_run(faq)).folder
    third = prepare(open_run(faq, data__max_length=100)).folder
    assert first.name == "data"
    assert len({first, second, third}) == 3
    assert all(folder.name.startswith("data-") and folder.parent == first.parent for folder in (second, third))
    assert times(first) == before


@pytest.mark.parametrize("name", ["test.jsonl", "dataset.json", "train/data-00000-of-00001.arrow"])
def test_a_damaged_file_names_the_folder_to_delete(faq: Path, name: str) -> None:
    file = prepare(open_run(faq)).folder / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(KitError, match=r"missing or damaged: delete the folder .*mine/data and make it again"):
        prepare(open_run(faq))


def test_a_folder_brings_its_own_test_split_and_card(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    write(folder / "test.jsonl", [ROWS[3] | {"question": "what is  kept in ROOM 3?"}])
    (folder / "dataset.json").write_text('{"title": "Shop"}')
    data = prepare(open_run(folder))
    assert len(data.test) == 1
    assert len(data.train) == 59  # the same question in other letters is left out
    assert data.card == {"name": "shop", "title": "Shop"}


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_a_card_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    (folder / "dataset.json").write_text(text)
    with pytest.raises(KitError, match=r"dataset\.json must hold one JSON object"):
        prepare(open_run(folder))


@pytest.mark.parametrize("row", [1, 14], ids=["learned", "held out"])  # which is which: by a hash of the question
def test_a_bad_row_is_named_whether_learned_or_held_out(tmp_path: Path, row: int) -> None:
    bad = ROWS[row] | {"answer": "[INST] obey"}
    path = write(tmp_path / "faq.jsonl", [*ROWS[:row], bad, *ROWS[row + 1 :]])
    with pytest.raises(KitError, match=rf"faq\.jsonl row {row + 1}: message 2 .* own tags"):
        prepare(open_run(path))


def test_a_row_that_is_too_long_is_named_and_leaves_nothing_behind(faq: Path) -> None:
    run = open_run(faq, data__max_length=5)
    with pytest.raises(KitError, match=r"faq\.jsonl row \d+: the row has \d+ tokens, more than max_length=5"):
        prepare(run)
    assert not (run.path / "data").exists()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="leaves no row to learn from"):
        prepare(open_run(write(tmp_path / "faq.jsonl", [])))


def test_facts_with_one_wording_are_all_learned_and_said_to_be_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(open_run(write(tmp_path / "faq.jsonl", ROWS[::3])))
    assert len(data.train) == 20 and data.test == []
    assert "ask each fact in several wordings" in capsys.readouterr().out

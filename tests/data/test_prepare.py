"""The data stage: nothing asked in the test stands in training, nothing is done twice, nothing damaged is used."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
from transformers import AutoTokenizer

from lora_kit.base import ASSETS
from lora_kit.data import encoding
from lora_kit.data import prepare as prepare_module
from lora_kit.data.checks import INVARIANTS
from lora_kit.data.encoding import IGNORE, encode
from lora_kit.data.prepare import data_inputs, prepare
from lora_kit.data.prepared import Prepared, load_prepared
from lora_kit.data.reading.conversations import Conversation
from lora_kit.errors import KitError
from lora_kit.runs import Run

from .test_files import write

WORDINGS = ("What is kept in room {}?", "Room {} holds what?", "Tell me what is in room {}.")
ROWS = [{"question": text.format(n), "answer": f"Box {n}."} for n in range(20) for text in WORDINGS]
LONG = {"question": "Why?", "answer": "word " * 200}
TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    return write(tmp_path / "faq.jsonl", ROWS)


def open_run(data: Path, **overrides: object) -> Run:
    return Run("tiny-cpu", data=data, root=data.parent / "runs", name="mine", **overrides)


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def learned(data: Prepared) -> str:
    return "\n".join(TOKENIZER.decode(row["input_ids"]) for row in data.train)


def named(data: Prepared) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in data.report.data["findings"]}


def turns(count: int, system: str = "") -> list[dict[str, str]]:
    """A conversation of `count` turns."""
    said = [(f"Question {n}?", f"Answer {n} " + "word " * 20) for n in range(count)]
    messages = [{"role": r, "content": t} for turn in said for r, t in zip(("user", "assistant"), turn, strict=True)]
    return [{"role": "system", "content": system}, *messages] if system else messages


def test_every_tenth_question_or_so_is_held_out_and_never_learned(faq: Path) -> None:
    rows = [*ROWS, *ROWS[::2]]
    write(faq, rows)  # the same question twice stays on one side, and is asked once
    data = prepare(open_run(faq))
    text = learned(data)
    asked = {row["messages"][0]["content"] for row in data.test}
    assert 1 <= len(asked) <= 15
    assert not [question for question in asked if question in text]
    assert all(row["question"] in text for row in ROWS if row["question"] not in asked)
    assert len(data.train) == sum(row["question"] not in asked for row in rows)
    assert len(data.test) == len(asked)


def test_rows_figures_report_and_line_agree(faq: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepare(open_run(faq))
    assert data.train.column_names == ["input_ids", "labels", "is_rehearsal", "asked", "answered", "wording"]
    lengths = sorted(len(row["input_ids"]) for row in data.train)
    assert data.figures == {
        "train_rows": len(lengths),
        "tokens": sum(lengths),
        "learned_tokens": sum(label != IGNORE for row in data.train for label in row["labels"]),
        "longest": lengths[-1],
        "test_rows": len(data.test),
        "test_kinds": {"fact": len(data.test)},
    }
    assert data.card == {"name": "faq"}
    report = json.loads((data.folder / "report.json").read_text())
    assert report == data.report.data and report.items() >= data.figures.items()
    assert (report["source"], report["shape"]) == (faq.name, "pair (question, answer)")
    assert (report["rows_read"], report["median"]) == (60, lengths[len(lengths) // 2])
    assert sum(report["histogram"]["rows"]) == len(lengths)
    assert report["proof"] == [{"name": name, "rows": len(lengths), "holds": True} for name in INVARIANTS]
    out = capsys.readouterr().out
    told = f"{len(lengths)} rows to learn, {sum(lengths):,} tokens (median {report['median']}, longest {lengths[-1]})"
    assert told in data.report.line() and told in str(data.report)
    assert f"{data.report}\ndata: in " in out and out.endswith("mine/data\n")


def test_what_is_stored_is_what_encode_gives(faq: Path) -> None:
    data = prepare(open_run(faq))
    asked = {row["messages"][0]["content"] for row in data.test}
    messages = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        for row in ROWS
        if row["question"] not in asked
    ]
    texts = [{"asked": chat[0]["content"], "answered": chat[1]["content"]} for chat in messages]
    encoded = [
        encode(Conversation(chat), TOKENIZER)._asdict() | {"is_rehearsal": False, "wording": 0} for chat in messages
    ]
    assert data.train.to_list() == [row | text for row, text in zip(encoded, texts, strict=True)]


def test_batches_of_any_size_give_the_same_dataset(faq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(open_run(faq))
    monkeypatch.setattr(encoding, "BATCH", 7)
    pieces = prepare(Run("tiny-cpu", data=faq, root=faq.parent, name="pieces"))
    assert pieces.train.to_list() == whole.train.to_list()
    assert pieces.test == whole.test and pieces.report == whole.report


def test_the_same_data_is_not_prepared_twice_and_told_in_one_line(
    faq: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(open_run(faq))
    before = times(first.folder)
    monkeypatch.setattr(prepare_module, "_write", None)
    run = open_run(faq)
    capsys.readouterr()
    again = prepare(run)
    assert capsys.readouterr().out.startswith(f"{first.report.line()}. In ") and "\n" not in first.report.line()
    assert again.folder == first.folder
    assert times(again.folder) == before
    assert again.test == first.test and again.train.to_list() == first.train.to_list()
    assert again.report == first.report == load_prepared(first.folder).report


def test_changed_data_and_settings_are_written_beside(faq: Path) -> None:
    first = prepare(open_run(faq)).folder
    before = times(first)
    write(faq, ROWS[:50])
    changes: list[dict[str, object]] = [{}, {"data__max_length": 100}, {"data__general": 1}, {"data__tags": "keep"}]
    others = [prepare(open_run(faq, **change)).folder for change in changes]
    assert first.name == "data"
    assert len({first, *others}) == 5
    assert all(folder.name.startswith("data-") and folder.parent == first.parent for folder in others)
    assert times(first) == before


@pytest.mark.parametrize("name", ["test.jsonl", "dataset.json", "report.json", "train.arrow"])
def test_a_damaged_file_names_the_folder_to_delete(faq: Path, name: str) -> None:
    file = prepare(open_run(faq)).folder / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(KitError, match=r"missing or damaged: delete the folder .*mine/data and make it again"):
        prepare(open_run(faq))


@pytest.mark.parametrize(
    "where",
    [
        "usable_rows",
        "LengthFilter.encode",
        "kit_rows",
        "reword",
        "in_own_words",
        "verify",
        "make_report",
    ],
)
def test_ctrl_c_at_any_time_leaves_no_half_written_dataset(
    faq: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def stop(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    run = open_run(faq)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        owner, _, name = where.rpartition(".")
        patch.setattr(prepare_module.LengthFilter if owner else prepare_module, name, stop)
        prepare(run)
    assert not [path for path in run.path.iterdir() if not path.name.startswith(".")]
    assert run.find("data", data_inputs(run)) is None
    assert len(prepare(run).train) == 54
    assert [path.name for path in run.path.iterdir() if not path.name.startswith(".")] == ["data"]


def test_a_folder_brings_its_own_test_split_and_card(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    write(
        folder / "test.csv", [ROWS[3] | {"question": "what is  kept in ROOM 3?"}, {"question": "New?", "answer": "No"}]
    )
    (folder / "dataset.json").write_text('{"title": "Shop"}')
    data = prepare(open_run(folder))
    assert [row["messages"][0]["content"] for row in data.test] == ["what is  kept in ROOM 3?", "New?"]
    assert len(data.train) == 59  # the same question in other letters is left out
    assert data.card == {"name": "shop", "title": "Shop"}
    assert data.report.data["held_out"] == "own" and "the dataset's own test split" in str(data.report)


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "[]", "3", '{"style": "x"}', '{"decline": []}', '{"decline": {"patterns": [3]}}', "[" * 100_000],
)
def test_a_card_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    (folder / "dataset.json").write_text(text)
    with pytest.raises(KitError, match=r"dataset\.json: .* must be one JSON object"):
        prepare(open_run(folder))


def test_a_decline_pattern_that_is_no_regular_expression_is_shown(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    (folder / "dataset.json").write_text('{"decline": {"patterns": ["fine", "(bad"]}}')
    with pytest.raises(KitError, match=r"dataset\.json: the decline pattern '\(bad' is no regular expression"):
        prepare(open_run(folder))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"faq\.jsonl leaves no row to learn from: 0 rows read.* Add"):
        prepare(open_run(write(tmp_path / "faq.jsonl", [])))


def test_the_dataset_that_a_run_is_given_as_objects_is_prepared(tmp_path: Path) -> None:
    run = Run("tiny-cpu", data=ROWS, root=tmp_path)
    assert len(prepare(run).train) == 54
    assert len(prepare(Run("tiny-cpu", data=run.profile.data.source, root=tmp_path)).train) == 54


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "faq" / split).mkdir(parents=True)
        (tmp_path / "faq" / split / "rows.jsonl").write_text('{"question": "Who?", "answer": "Mina."}\n')
    run = Run("tiny-cpu", data=str(tmp_path / "faq"), root=tmp_path / "runs")
    before = data_inputs(run)["files"]
    assert set(before) == {"train/rows.jsonl", "test/rows.jsonl"}
    with (tmp_path / "faq" / "train" / "rows.jsonl").open("a") as file:
        file.write('{"question": "Where?", "answer": "Here."}\n')
    after = data_inputs(run)["files"]
    assert (
        after["train/rows.jsonl"] != before["train/rows.jsonl"]
        and after["test/rows.jsonl"] == before["test/rows.jsonl"]
    )


def chat(*texts: str) -> dict[str, list[dict[str, str]]]:
    roles = itertools.cycle(("user", "assistant"))
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def asked_and_learned(data: Prepared) -> list[list[str]]:
    """The questions up to every answer that is learned, without a system text."""
    ends = [
        (row["input_ids"], end)
        for row in data.train
        for end in range(1, len(row["labels"]))
        if row["labels"][end - 1] == IGNORE != row["labels"][end]
    ]
    texts = [re.sub("<<SYS>>.*<</SYS>>", "", TOKENIZER.decode(ids[:end]), flags=re.DOTALL) for ids, end in ends]
    return [[asked.strip() for asked in re.findall(r"\[INST\](.*?)\[/INST\]", text, re.DOTALL)] for text in texts]


HALLS = [
    (f"Where is hall {n}?", f"Wing {n}.", f"And gate {n}?", f"Yard {n}.", f"Who leads {n}?", f"Wren {n}.")
    for n in range(40)
]
FAQS, CHATS = [chat(*hall[:2]) for hall in HALLS[:20]], [chat(*hall[:4]) for hall in HALLS[:20]]
BRIEF = [{"question": asked, "answer": told, "system": "Be brief."} for asked, told, *_ in HALLS]


@pytest.mark.parametrize(
    ("rows", "own", "answers"),
    [
        ([chat(*hall[:end]) for hall in HALLS for end in (2, 4, 6)], [], None),
        ([*FAQS, *CHATS], [], None),
        (CHATS, FAQS[:5], 35),
        (BRIEF, FAQS[:5], 35),
    ],
    ids=["growing history", "chats begin as others", "chats begin as test rows", "a system text in training only"],
)
def test_no_answer_to_a_held_out_question_is_learned_inside_another_row(
    tmp_path: Path, rows: list[Any], own: list[Any], answers: int | None
) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", rows).parent
    if own:
        write(folder / "test.jsonl", own)
    data = prepare(open_run(folder))
    asked = [[turn["content"] for turn in row["messages"] if turn["role"] == "user"] for row in data.test]
    learned = asked_and_learned(data)
    assert asked and not [questions for questions in asked if questions in learned]
    assert answers in (None, len(learned))
    assert sum(finding["count"] for finding in data.report.data["findings"] if finding["name"] == "held out") >= 3


def test_own_test_rows_are_asked_behind_the_system_text_that_all_rows_share(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", BRIEF).parent
    write(folder / "test.jsonl", [FAQS[0], chat("Hi.", "Hello.")])
    assert [row["messages"][0]["content"] for row in prepare(open_run(folder)).test] == ["Be brief."] * 2


def test_answers_of_rows_that_are_not_learned_teach_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", BRIEF).parent
    write(folder / "test.jsonl", BRIEF[:10])
    assert named(prepare(open_run(folder)))["answers"]["count"] == 10

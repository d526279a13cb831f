"""Files as people have them: each is read as its owner means it, or refused with the line that helps."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import pandas
import pytest
from transformers import AutoTokenizer

from lora_kit.base import ASSETS
from lora_kit.data.prepare import Prepared, prepare
from lora_kit.errors import KitError
from lora_kit.runs import Run

CASES = Path(__file__).with_name("cases")
TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")
DAY = "[INST] What is baked on day 12 of the month? [/INST] On day 12 the bakery makes loaf number 84. </s>"
SYSTEM = "<<SYS>>\n{}\n<</SYS>>\n\nWhat is baked on day 12 of the month? [/INST] On day 12"
READ = {  # case -> what stands in its learned or asked rows, and what the report says
    "01": ("[INST] Give the price.\n\nRoll number 11 [/INST] Roll 11 costs 11 crowns. </s>", ""),
    "02": ("[INST] Translate into Dutch.\n\nloaf 12 [/INST] brood 12 </s>", ""),
    "03": ("[INST] Note 12: shelf 12 holds rye.\n\nWhat does the note say is on the shelf? [/INST] Rye", ""),
    "04": ("[INST] Where is it kept?\n\nFlour 12 is kept in bin 12. [/INST] In bin 12. </s>", "not read: category"),
    "05": (SYSTEM.format("Answer in style 2."), "3 different system texts"),
    "07": (DAY, "labelled false, left out"),
    "08": (SYSTEM.format("You are Mo, the baker. Answer in one line."), ""),
    "09": (DAY, "taken off"),
    "10": (DAY, ""),
    "13": ("<NAME>", "names that nobody filled in"),
    "14": ("Itâ€™s", "UTF-8 read as Windows-1252"),
    "20": (DAY, ""),
    "22": (SYSTEM.format("Be brief."), ""),
    "24": (DAY, ""),
    "25": (DAY, ""),
    "30": (DAY, "an answer before the first question"),
    "31": (DAY, "a last question without an answer"),
    "32": ("[INST] Hi.\n\nWhat is baked on day 12 of the month? [/INST] On day 12", "one speaker in a row, joined"),
    "36": (DAY, ""),
    "40": ("loaf number 84. </s><s> [INST] And salt? [/INST] A pinch. </s>", ""),
    "41": ("What is baked on day 12 of the month?\n\nToday [/INST] On day 12 the bakery makes", ""),
    "42": (SYSTEM.format("Be brief."), ""),
    "44": (DAY, ""),
    "50": (DAY, ""),
    "52": (DAY, "not read: source"),
    "54": (DAY, ""),
    "55": ("[INST] The book has two pages.\n\nWhat is baked on day 12", ""),
    "60": (DAY, "the rows are the list 'data' of the file"),
    "62": (DAY, ""),
    "64": (DAY, ""),
    "65": (DAY, ""),
    "67": (DAY, "a comma behind the row, passed over"),
    "70": (DAY, ""),
    "72": (DAY.replace("12", "9").replace("84", "63"), ""),
    "74": (DAY.replace("12", "9").replace("84", "63"), "a test file without the column answer, passed over: test.csv"),
    "84": (DAY, "Question (customer)"),
    "85": (DAY, "the title above the heading, left out: 'Bakery FAQ'"),
    "86": ('[INST] Say "What is baked on day 12 of the month?" [/INST]', 'quotes are written \\" in the file'),
    "89": (DAY, "(without a name)"),
}
REFUSED = {  # case -> what the message says, and settings with which the file is read
    "12": ("one turn a row.*groupby\\('conversation_id'", {}),
    "23": ("data__roles=Ann:user,Bob:assistant$", {"data__roles": "Ann:user,Bob:assistant"}),
    "33": ("place 3.*data__roles=system:user", {"data__roles": "system:user"}),
    "35": ("a call of a tool", {}),
    "45": ("without a question and an answer", {}),
    "57": ("json.dumps", {}),
    "58": ("a tree with one message a row", {}),
    "61": ("train, test: .*data__split=train", {"data__split": "train"}),
    "80": ("row 2 near .*Windows-1252.*data__encoding=cp1252", {"data__encoding": "cp1252"}),
    "82": ("data__encoding=gbk", {"data__encoding": "gbk"}),
    "88": ("row 7: answer is empty", {"data__bad_rows": "drop"}),
}


def case(number: str) -> Path:
    return next(CASES.glob(f"{number}_*"))


def texts(data: Prepared) -> str:
    learned = (TOKENIZER.decode(row["input_ids"]) for row in data.train)
    return "\n".join([*learned, *(message["content"] for row in data.test for message in row["messages"])])


def test_every_case_is_tried() -> None:
    assert {path.name[:2] for path in CASES.iterdir()} == {*READ, *REFUSED}


@pytest.mark.parametrize("number", READ)
def test_a_file_is_read_as_its_owner_means_it(number: str, tmp_path: Path) -> None:
    data = prepare(Run("tiny-cpu", data=case(number), root=tmp_path))
    learned, said = READ[number]
    assert learned in texts(data) and said in str(data.report)


@pytest.mark.parametrize("number", REFUSED)
def test_a_file_is_refused_with_the_line_that_helps(number: str, tmp_path: Path) -> None:
    said, settings = REFUSED[number]
    with pytest.raises(KitError, match=said) as caught:
        prepare(Run("tiny-cpu", data=case(number), root=tmp_path))
    assert "leave them out" not in str(caught.value) or number == "88"
    if settings:
        data = prepare(Run("tiny-cpu", data=case(number), root=tmp_path, **settings))
        assert "What is baked on day 9" in texts(data)


def test_a_packed_file_says_unpack(tmp_path: Path) -> None:
    path = shutil.make_archive(str(tmp_path / "faq"), "zip", CASES, case("04").name)
    with pytest.raises(KitError, match="unpack it first"):
        prepare(Run("tiny-cpu", data=path, root=tmp_path))


ROWS = [{"question": f"Price of roll {n}?", "answer": f"{n} crowns"} for n in range(12)]


OBJECTS = [pandas.DataFrame(ROWS), datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))]


@pytest.mark.parametrize("data", OBJECTS, ids=["DataFrame", "DatasetDict"])
def test_what_libraries_give_is_taken(data: object, tmp_path: Path) -> None:
    assert "Price of roll 11? [/INST] 11 crowns" in texts(prepare(Run("tiny-cpu", data=data, root=tmp_path)))


def test_rows_that_only_an_unread_column_tells_apart_stop_the_stage(tmp_path: Path) -> None:
    rows = [{"shelf": f"Shelf {n}.", "question": "What is on it?", "answer": f"Rye {n}."} for n in range(12)]
    with pytest.raises(KitError, match=r"shelf.*data__columns=\{shelf\} \{question\},answer"):
        prepare(Run("tiny-cpu", data=rows, root=tmp_path))
    put = prepare(Run("tiny-cpu", data=rows, root=tmp_path, data__columns="{shelf} {question},answer"))
    assert "[INST] Shelf 11. What is on it? [/INST] Rye 11." in texts(put)
    left = prepare(Run("tiny-cpu", data=rows, root=tmp_path, data__columns="question,answer"))
    assert "[INST] What is on it? [/INST] Rye 11." in texts(left)

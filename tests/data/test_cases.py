"""Files as people have them: each is read as its owner means it, or refused with the line that helps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import datasets
import pandas
import pytest
from transformers import AutoTokenizer

from lora_kit.base import ASSETS
from lora_kit.data.prepare import prepare
from lora_kit.data.prepared import Prepared
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
    "05": (SYSTEM.format("Answer in style 2."), "3 different system texts in the rows"),
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
    "89": (DAY, "columns that are not read: column 1"),
}
REFUSED = {  # case -> what the message says, and settings with which the file is read
    "12": ("one turn a row.*groupby\\('conversation_id'", {}),
    "23": ('data__roles="Ann:user,Bob:assistant"$', {"data__roles": "Ann:user,Bob:assistant"}),
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
    with pytest.raises(KitError, match=r'shelf.*data__columns="\{shelf\} \{question\},answer"'):
        prepare(Run("tiny-cpu", data=rows, root=tmp_path))
    put = prepare(Run("tiny-cpu", data=rows, root=tmp_path, data__columns="{shelf} {question},answer"))
    assert "[INST] Shelf 11. What is on it? [/INST] Rye 11." in texts(put)
    left = prepare(Run("tiny-cpu", data=rows, root=tmp_path, data__columns="question,answer"))
    assert "[INST] What is on it? [/INST] Rye 11." in texts(left)


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "{}"}]}, "messages"),
        ({"context": "Birds.", "question": "Hi?", "answer": "{}"}, None),
    ],
)
def test_the_way_to_keep_such_rows_works_and_drops_nothing(
    row: dict[str, object], settings: str | None, tmp_path: Path
) -> None:
    rows = [json.loads(json.dumps(row | {"shelf": "A"}).replace("{}", f"Rye {n}.")) for n in range(12)]
    with pytest.raises(KitError, match=r"rows ask what others ask.*shelf") as caught:
        prepare(Run("tiny-cpu", data=rows, root=tmp_path))
    assert re.findall('data__columns="(.*?)"', str(caught.value)) == ([settings] if settings else [])
    rows = rows if settings else [{name: row[name] for name in row if name != "shelf"} for row in rows]
    kept = texts(prepare(Run("tiny-cpu", data=rows, root=tmp_path, data__columns=settings or "")))
    assert "Hi? [/INST] Rye 11." in kept and ("Birds." in kept or settings)


ASKED, ANSWERED = "Summarise this chat.\n\nUSER: Where is it?\nASSISTANT: In Bern.", "It is in Bern."
AS_IT_IS = [  # rows, settings, and what a row becomes: question and answer
    ([{"question": ASKED, "answer": ANSWERED}], {}, (ASKED, ANSWERED)),
    ([{"prompt": "Grade:\n## Question\n2+1?\n## Answer\n3", "completion": "Right."}], {}, ("## Answer\n3", "Right.")),
    ([{"text": "USER: Log in? ASSISTANT: Type your name at user: and go on."}], {}, ("Log in?", "at user: and go on.")),
    (
        [{"text": "### Instruction:\nWrite.\n\n### Response:\nHere:\n### Input:\nfoo\n### Note:\nbar"}],
        {},
        ("Write.", "Here:\n### Input:\nfoo\n### Note:\nbar"),
    ),
    ([{"text": "### Input:\nSum up.\n### Support:\nHi.\n### Response:\nYes."}], {}, ("### Support:\nHi.", "Yes.")),
    ([{"text": "Q: Who?\nA: Wren."}], {}, ("Who?", "Wren.")),
    ([{"text": "Good.", "label": "false"}], {"data__columns": "text,label"}, ("Good.", "false")),
    (
        [{"note": "N", "frage": "F?", "antwort": "A"}],
        {"data__columns": "{note}: {frage}, bitte,antwort"},
        ("N: F?, bitte", "A"),
    ),
    ([{"question": "Q?", "answers": "{'text': ['Blue', 'blue'], 'start': [1]}"}], {}, ("Q?", "Blue")),
    ([{"question": "Q?", "answer": ["Blue", "blue"]}], {}, ("Q?", "Blue")),
    ([{"question": "Q?", "answer": {"value": "Blue", "aliases": ["B"]}}], {}, ("Q?", "Blue")),
    ([{"question": "2+2?", "answer": 4}], {}, ("2+2?", "4")),
    ([{"question": "Q?", "answer": "Old price <s>6</s>"}], {"data__tags": "keep"}, ("Q?", "< s >6< /s >")),
    ([{"document": "D.", "question": "Q?", "answer": "A"}], {}, ("D.\n\nQ?", "A")),
    ([{"question": "Q?", "A": "x", "B": "y", "C": "z", "answer": "B"}], {}, ("Q?\n\nA. x\nB. y\nC. z", "B")),
    ([{"question": "Q?", "choices": "['x', 'y']", "answer": "B"}], {}, ("Q?\n\nA. x\nB. y", "B")),
    (
        [{"instruction": "I", "input": "N", "output": "O", "text": "### Instruction:\nI\n### Response:\nO"}],
        {},
        ("I\n\nN", "O"),
    ),
    ([{"conversation": [{"input": "Hi?", "output": "Yes."}]}], {}, ("Hi?", "Yes.")),
    ([{"Messages": [{"Role": " User ", "Content": "Hi?"}, {"Role": "AI", "Content": "Yes."}]}], {}, ("Hi?", "Yes.")),
    (
        [{"messages": "[{'role': 'user', 'content': 'Hi?'}, {'role': 'assistant', 'content': 'Yes.'}]"}],
        {},
        ("Hi?", "Yes."),
    ),
    ([{"question": "Q?", "answer": "A"}, {"prompt": "P?", "completion": "C"}], {}, ("P?", "C")),
    ([{"Context": "I am sad.", "Response": "Tell me."}], {}, ("I am sad.", "Tell me.")),
    ([{"Frage": "Wer?", "Antwort": "Wren."}], {}, ("Wer?", "Wren.")),
    ([{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}], {"data__columns": "prompt,chosen"}, ("Hi?", "Yes.")),
]


@pytest.mark.parametrize(("rows", "settings", "wanted"), AS_IT_IS, ids=range(len(AS_IT_IS)))
def test_rows_of_many_kinds_are_learned_as_they_are_meant(
    rows: list[dict[str, object]], settings: dict[str, str], wanted: tuple[str, str], tmp_path: Path
) -> None:
    data = prepare(Run("tiny-cpu", data=rows, root=tmp_path, **settings))
    learned = TOKENIZER.decode(data.train[-1]["input_ids"])
    asked, answered = learned.split(" [/INST] ")
    assert asked.endswith(wanted[0]) and answered.removesuffix(" </s>").endswith(wanted[1])


FILES = {  # a file that the content explains, as a pair of question and answer
    "title.csv": "My FAQ\n\nquestion,answer\nQ?,A\n",
    "index.csv": ",text\n0,<s>[INST] Q? [/INST] A </s>\n1,<s>[INST] R? [/INST] A </s>\n",
    "lines.csv": 'Frage;Antwort\nQ?;A\nWann?;"Montag, 9 Uhr\nDienstag, 10 Uhr\nMittwoch, 11 Uhr"\n',
    "lists.csv": 'question,answer\nQ?,A\nWhen?,"Mon; nine\nTue; ten\nWed; eleven\nThu; ten"\n',
    "tables.csv": 'question,answer\nQ?,A\nHow much?,"| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"\n',
    "comma_in_title.csv": 'FAQ of the bakery, 2026\n\nFrage;Antwort\nQ?;A\nWann?;"Montag, 9 Uhr\nDienstag, 10 Uhr"\n',
    "blanks.csv": 'question, answer\n"Q?", "A"\n',
    "inches.tsv": 'question\tanswer\nQ?\tA\n5" pipe?\tA\n',
    "pretty.jsonl": '{\n "question": "Q?",\n "answer": "A"\n}\n{\n "question": "R?",\n "answer": "A"\n}',
    "index.json": '{"first": {"question": "Q?", "answer": "A"}, "second": {"question": "R?", "answer": "A"}}',
    "chats.json": '{"one": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]}',
    "faq.ndjson": '{"question": "Q?", "answer": "A"}',
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_many_kinds_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    data = prepare(Run("tiny-cpu", data=tmp_path / name, root=tmp_path / "runs"))
    assert TOKENIZER.decode(data.train[0]["input_ids"]) == "<s> [INST] Q? [/INST] A </s>"


HELP = [  # rows or a file's name and text, settings, and what the message says
    ([{"question": "[INST] is a tag?", "answer": "A"}], {}, "data__tags=keep"),
    ([{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}], {}, 'data__columns="prompt,chosen"'),
    ([{"title": "Q?", "body": "A"}], {}, 'data__columns="title,body"'),
    ([{"question": "Q?", "choices": ["x", "y"], "answer": 1}], {}, "write the letter or the text"),
    ([{"patterns": ["Hi"], "responses": [{"x": 1}]}], {}, r'"messages": \[\{"role": "user"'),
    (("rows.json", '[["Q?", "A", "x"]]'), {}, "orient='records'"),
    (("rows.json", '{"columns": ["question", "answer"], "data": [["Q?", "A"]]}'), {}, "orient='records'"),
    (("faq.csv", "question,answer\nQ, so?,A\n"), {}, "put a text that holds ',' in quotes"),
    (("faq.csv", "question,answer\nQ?,A\n"), {"data__split": "train"}, "data__split='train' is for"),
    (("faq.csv", "question,answer\nQ?,A\n"), {"data__config": "main"}, "data__config='main' is for"),
]


@pytest.mark.parametrize(("given", "settings", "said"), HELP, ids=range(len(HELP)))
def test_what_cannot_be_read_says_what_helps(
    given: object, settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    if isinstance(given, tuple):
        (tmp_path / given[0]).write_text(given[1])
        given = tmp_path / given[0]
    with pytest.raises(KitError, match=said):
        prepare(Run("tiny-cpu", data=given, root=tmp_path / "runs", **settings))


def test_a_split_of_several_is_chosen(tmp_path: Path) -> None:
    both = datasets.DatasetDict(
        {name: datasets.Dataset.from_list([{"question": f"{name}?", "answer": "A"}]) for name in ("one", "two")}
    )
    data = prepare(Run("tiny-cpu", data=both, root=tmp_path, data__split="two"))
    assert [TOKENIZER.decode(row["input_ids"]) for row in data.train] == ["<s> [INST] two? [/INST] A </s>"]
    with pytest.raises(KitError, match=r"called three \(one.jsonl, two.jsonl\)"):
        prepare(Run("tiny-cpu", data=both, root=tmp_path, data__split="three"))

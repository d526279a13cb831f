"""Other wordings of a file's questions: they ask the same, every fact is learned, what is thrown away is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lora_kit as lk
from lora_kit.data import base_answers, rewording
from lora_kit.data.conversations import Conversation, normalised
from lora_kit.data.prepare import Prepared
from lora_kit.data.question_rules import wordings
from lora_kit.data.same_question import difference
from lora_kit.data.unanswerable import unanswerable
from lora_kit.errors import KitError

from .test_files import write

PLACES = (
    "library",
    "canteen",
    "archive",
    "workshop",
    "garage",
    "foundry",
    "laboratory",
    "pharmacy",
    "kitchen",
    "office",
)
FAQ = [
    {"question": f"Where is the {place} of building {n}?", "answer": f"It is on floor {n * 10 + i}."}
    for n in range(3)
    for i, place in enumerate(PLACES)
]


def prepared(tmp_path: Path, rows: list[dict[str, Any]] = FAQ, **settings: Any) -> Prepared:
    named = {f"data__{name}": value for name, value in settings.items()}
    return lk.prepare(
        lk.Run("tiny-cpu", root=tmp_path / "runs", data=str(write(tmp_path / "faq.jsonl", rows)), **named)
    )


def answered(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """Let the base answer with `answer(question)`; what it was asked."""
    asked: list[str] = []

    def ask(self: object, what: str, chats: list[Any], max_new_tokens: int) -> list[tuple[str, bool]]:
        asked.extend(chat[-1]["content"] for chat in chats)
        return [(answer(chat[-1]["content"].rpartition("\n")[2]), False) for chat in chats]

    monkeypatch.setattr(base_answers.BaseAnswers, "ask", ask)
    return asked


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("How long may I keep a tool?", "Could you tell me for how long I may keep a tool?"),
        ("Where do new people sign in?", "I would like to know where new people sign in."),
        ("Do you know what Gunn pays for overtime?", "Please tell me what Gunn pays for overtime."),
        ("Who runs the shop?", "Remind me, please: what is the name of the person who runs the shop?"),
        ("I lost my badge. What is the fee?", "I lost my badge. Remind me what the fee is, please."),
        ("Leave limit, please?", "Remind me of leave limit, please."),
        ("When does it not open?", "When does it not open? Please tell me."),
    ],
)
def test_the_rules_ask_the_same_in_other_words(question: str, other: str) -> None:
    found = wordings(question)
    assert len(found) >= 6
    if other not in found:
        pytest.fail(f"{other!r} is none of {found}")


@pytest.mark.parametrize(
    "text", ["Wie lange darf ich es behalten?", "ما هي المدة؟", "图书馆在哪里？", "Sort these.", "", "?!"]
)
def test_the_rules_leave_what_is_no_english_question(text: str) -> None:
    assert wordings(text) == []


WORDS = st.sampled_from(
    "how long what time who is the are may I not never 9 42 Gunn shop's tell me . ? , : \n café".split(" ")
)


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=60))
@settings(max_examples=400, deadline=None)
def test_any_wording_by_the_rules_keeps_names_numbers_and_negations(question: str) -> None:
    found = wordings(question)
    assert len({*map(normalised, found)} - {normalised(question)}) == len(found)
    row = Conversation([{"role": "user", "content": question}, {"role": "assistant", "content": "Nine days."}])
    kinds = {difference(row, text, []) for text in found}
    assert not kinds & {"another name or number", "another negation"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("For how many days may borrowed tools stay with me at Gunn?", ""),
        ("How long may I keep borrowed tools at Bosch?", "another name or number"),
        ("How long may I keep the 3 tools that I borrowed at Gunn?", "another name or number"),
        ("How long may I not keep any tools borrowed at Gunn?", "another negation"),
        ("How long may I keep borrowed tools at Gunn, nine days?", "gives the answer away"),
        ("wie lange darf man werkzeuge von gunn ausleihen, und wo gibt man sie ab?", "another language"),
        ("Who is Gunn?", "asks something else"),
        ("How long may I keep borrowed tools at Gunn", "nearly said before"),
        ("How long " + "and how " * 40 + "may I keep borrowed tools at Gunn?", "too long"),
    ],
)
def test_what_asks_another_thing_is_seen(text: str, problem: str) -> None:
    question = {"role": "user", "content": "How long may I keep borrowed tools at Gunn?"}
    assert difference(Conversation([question, {"role": "assistant", "content": "Nine days"}]), text, []) == problem


def test_every_fact_is_learned_and_asked_in_words_that_are_not(tmp_path: Path) -> None:
    data = prepared(tmp_path, rewordings=4)
    assert {row["question"] for row in FAQ} <= {*data.train["asked"]}
    assert Counter(data.train["answered"]) == Counter({row["answer"]: 5 for row in FAQ})
    asked = [row["messages"][-2]["content"] for row in data.test]
    assert len(asked) == len(FAQ) and not {*asked} & {*data.train["asked"]}
    assert data.report.data["held_out"] == "rewordings" and data.figures["test_kinds"] == {"fact": 30}
    assert "30 are machine-made" in data.report.data["measures"]["learned"]
    uses = Counter(line["use"] for line in data.rewordings)
    assert uses["learned"] == 120 and uses["asked"] == 30 and sum(uses.values()) == len(data.rewordings)
    assert data.report.data["reworded"]["by"] == {"rules": 150}  # the embedded model cannot
    for number, row in zip(data.train["wording"], data.train, strict=True):
        assert not number or data.rewordings[number - 1]["reworded"] == row["asked"]


def test_a_base_that_can_reword_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answered(
        monkeypatch,
        lambda q: (
            f"1. On which floor can the {q[13:-1]} be found?\n- I look for the {q[13:-1]}.\nthe floor of the "
            f"{q[13:-1]}\n4) What about a {q[13:-1]}?\nI need building 77\n"
        ),
    )
    data = prepared(tmp_path, rewordings=3)
    assert len(asked) == 30 and "Write 4 other ways" in asked[0] and data.report.data["reworded"]["by"] == {"base": 120}
    assert data.report.data["reworded"]["usable"] == (64, 64) or data.report.data["reworded"]["usable"] == [64, 64]
    assert "I look for the library of building 0." in data.train["asked"]


@pytest.mark.parametrize("answer", ["", "I am a bot.\n" * 20, "Das weiß ich nicht.", "It is on floor 3."])
def test_a_base_that_cannot_reword_is_not_asked_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    asked = answered(monkeypatch, lambda q: answer)
    data = prepared(tmp_path, rewordings=2)
    assert 15 <= len(asked) <= 17 and data.report.data["reworded"]["by"] == {"rules": 90}
    assert f"0 of its first {data.report.data['reworded']['usable'][1]}" in str(data.report)


def test_a_language_without_rules_stays_as_it_is_and_says_so(tmp_path: Path) -> None:
    rows = [{"question": f"Wo liegt Raum {n}?", "answer": f"Im Stock {n}."} for n in range(30)]
    data = prepared(tmp_path, rows, rewordings=4)
    assert data.report.data["reworded"]["by"] == {}
    assert "30 questions in the file's words only" in str(data.report)
    assert data.report.data["held_out"] == "facts" and "NOT LEARNED" in str(data.report)


def test_only_the_last_question_is_reworded_and_its_context_stays(tmp_path: Path) -> None:
    chat = [
        *(
            {"role": role, "content": text}
            for role, text in (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"))
        ),
        {"role": "user", "content": "The shop has moved. It sells mugs.\n\nWhere is the shop?"},
        {"role": "assistant", "content": "At the gate."},
    ]
    data = prepared(
        tmp_path,
        [{"messages": chat}],
        rewordings=2,
    )
    asked = [*data.train["asked"], *(row["messages"][-2]["content"] for row in data.test)]
    assert len(asked) == 4 and all(text.startswith("The shop has moved. It sells mugs.\n\n") for text in asked)
    assert all(row["messages"][:3] == chat[:3] for row in data.test)


def test_a_file_of_wordings_is_taken_as_it_is_also_the_stage_s_own(tmp_path: Path) -> None:
    data = prepared(tmp_path, rewordings=2)
    own = tmp_path / "mine.jsonl"
    own.write_text((data.folder / "rewordings.jsonl").read_text())
    again = prepared(tmp_path, rewordings=str(own))
    assert {*again.train["asked"]} == {*data.train["asked"]} and again.test == data.test
    write(own, [{"question": FAQ[0]["question"], "reworded": text} for text in ("Books?", "Bücher, 1. Stock?")])
    data = prepared(tmp_path, rewordings=str(own))
    assert len(data.train) == 31 and data.report.data["reworded"]["by"] == {"file": 2} and len(data.test) == 1


def test_a_changed_file_of_wordings_is_read_anew(tmp_path: Path) -> None:
    own = write(
        tmp_path / "mine.jsonl", [{"question": FAQ[0]["question"], "reworded": f"Books {n}?"} for n in range(3)]
    )
    assert "Books 0?" in prepared(tmp_path, rewordings=str(own)).train["asked"]
    write(own, [{"question": FAQ[0]["question"], "reworded": f"Shelf {n}?"} for n in range(3)])
    assert "Shelf 0?" in prepared(tmp_path, rewordings=str(own)).train["asked"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Who?", "reworded": "Which?"}, "'Who\\?', which no fact of the data asks"),
        ({"asked": "Who?"}, "columns question and reworded; it has asked"),
    ],
)
def test_a_wrong_file_of_wordings_says_what_is_wrong(tmp_path: Path, row: dict[str, str], said: str) -> None:
    with pytest.raises(KitError, match=said):
        prepared(tmp_path, rewordings=str(write(tmp_path / "mine.jsonl", [row])))
    with pytest.raises(KitError, match="is no number, not 'auto', and no file"):
        prepared(tmp_path, rewordings="nothing.jsonl")


def test_single_wordings_are_left_out_by_their_numbers(tmp_path: Path) -> None:
    before = prepared(tmp_path, rewordings=2)
    first, asked = before.rewordings[0], next(line for line in before.rewordings if line["use"] == "asked")
    data = prepared(tmp_path, rewordings=2, leave_out=f"{first['number']},{asked['number']}")
    used = [*data.train["asked"], *(row["messages"][-2]["content"] for row in data.test)]
    assert first["reworded"] not in used and asked["reworded"] not in used
    assert data.report.data["reworded"]["left_out"]["left out by data__leave_out"] == 2
    with pytest.raises(KitError, match="the wordings are 1 to 90, not 91"):
        prepared(tmp_path, rewordings=2, leave_out="91")


def test_two_answers_to_one_question_and_wordings_of_others_are_not_reworded_into_each_other(tmp_path: Path) -> None:
    torn = [{"question": "Where is the bus?", "answer": answer} for answer in ("Here.", "There.")]
    other = {"question": "Remind me where the ferry is, please.", "answer": "At the quay."}
    data = prepared(
        tmp_path, [*FAQ, *torn, other, {"question": "Where is the ferry?", "answer": "Gone."}], rewordings=9
    )
    made = {line["question"] for line in data.rewordings}
    assert "Where is the bus?" not in made and "Where is the ferry?" in made
    taken = [line for line in data.rewordings if line["use"] == "asked by another row"]
    assert all(line["reworded"] in (other["question"], "Where is the ferry?") for line in taken) and taken


@pytest.mark.parametrize("rows", [FAQ[:1], FAQ[:5], [row | {"answer": "Yes."} for row in FAQ]])
def test_few_rows_or_one_answer_for_all_go_through(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    data = prepared(tmp_path, rows, rewordings=4)
    assert len(data.train) == 5 * len(rows) and len(data.test) == len(rows)


def test_auto_adds_what_a_faq_lacks_and_nothing_to_what_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = dict.fromkeys(("rewordings", "declines", "general"), "auto")
    report = prepared(tmp_path, **auto).report.data
    assert report["reworded"]["learned"] == 120 and report["added"] == {"declines": 30, "general": 54}
    assert "data__rewordings=4  of each question, which is asked in 1 wording" in capsys.readouterr().out
    handbook = lk.prepare(lk.Run("tiny-cpu", root=tmp_path, **{f"data__{name}": "auto" for name in auto})).report.data
    assert handbook["added"] == {"declines": 0, "general": 0} and handbook["reworded"]["learned"] == 0


def test_all_is_learned_and_nothing_asked_with_a_test_size_of_0(tmp_path: Path) -> None:
    data = prepared(tmp_path, test_size=0)
    assert len(data.train) == len(FAQ) and data.test == [] and "NOT LEARNED" not in str(data.report)
    data = prepared(tmp_path, rewordings=4, test_size=0)
    assert len(data.train) == 5 * len(FAQ) and data.test == []


def test_facts_that_will_not_be_learned_stand_in_the_first_lines(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    line = str(data.report).splitlines()[1]
    assert (
        line.startswith("  NOT LEARNED  3 questions") and "data__rewordings=4" in line and "data__test_size=0" in line
    )
    assert data.test[0]["messages"][-2]["content"] in line


def test_questions_to_decline_are_made_of_the_file_s_own(tmp_path: Path) -> None:
    rows = [*FAQ, {"question": "What does Gunn pay for overtime?", "answer": "Nine pounds."}]
    data = prepared(tmp_path, rows, declines=20)
    declined = [
        a for a, b in zip(data.train["asked"], data.train["answered"], strict=True) if b == "I do not know that."
    ]
    own = [text for text in declined if " of building " in text or "overtime" in text]
    assert len(declined) == 20 and len(own) == 10 and not {*own} & {row["question"] for row in rows}
    assert sum(row["kind"] == "decline" for row in data.test) == 40


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=60), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_made_questions_are_new_whatever_is_asked(question: str, count: int) -> None:
    rows = [Conversation([{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}])]
    found = unanswerable(rows, count)
    assert len({*map(normalised, found)}) == len(found) <= count and normalised(question) not in map(normalised, found)


def test_the_first_questions_are_enough_to_judge_a_base() -> None:
    assert 2 * rewording.TRIED >= 30  # below that, chance decides who rewords


def test_stored_lines_are_json_of_the_same_form(tmp_path: Path) -> None:
    data = prepared(tmp_path, rewordings=1)
    lines = [json.loads(line) for line in (data.folder / "rewordings.jsonl").read_text().splitlines()]
    assert lines == data.rewordings and {*lines[0]} == {"number", "row", "question", "reworded", "by", "use"}

"""Other wordings of a file's questions: they ask the same, every fact is learned, what is thrown away is counted."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import lora_kit as lk
from lora_kit.config import Data
from lora_kit.data.augmentation import base_answers, own_rows, rewording
from lora_kit.data.augmentation.answer_rules import asked_by
from lora_kit.data.augmentation.own_rows import unanswerable
from lora_kit.data.augmentation.question_rules import direct, plain, wordings
from lora_kit.data.augmentation.same_question import NEGATION, is_near, names, numbers, rejection, subject_of
from lora_kit.data.chat_template import one_per_answer
from lora_kit.data.checks import verify
from lora_kit.data.encoding import IGNORE, LengthFilter
from lora_kit.data.prepared import Prepared
from lora_kit.data.reading.cells import in_turn
from lora_kit.data.reading.conversations import Conversation, Read, normalised
from lora_kit.data.report import advice
from lora_kit.errors import KitError

from .test_encoding import TINY
from .test_files import write
from .test_templates import FORMS

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


@pytest.fixture(autouse=True)
def no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that answers nothing, at once: then rules reword, as with the embedded model."""
    answered(monkeypatch, lambda question: "")


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("How long may I keep a tool?", "I was asked for how long I may keep a tool. What do I say?"),
        ("Where do new people sign in?", "I would like to know where new people sign in."),
        ("Do you know what Gunn pays for overtime?", "Please tell me what Gunn pays for overtime."),
        ("Who runs the shop?", "Could you tell me: what is the name of the person who runs the shop?"),
        ("I lost my badge. What is the fee?", "I lost my badge. Remind me what the fee is, please."),
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


@pytest.mark.parametrize(
    ("question", "answer", "clause"),
    [
        (
            "By when is the kitchen ready?",
            "The canteen opens at half past seven. Yours, Wren.",
            "when the canteen opens",
        ),
        ("What is my loan limit?", "Tools may be borrowed for nine days.", "for how many days tools may be borrowed"),
        ("Who is in charge?", "Ingrid Vale is the head of sales.", "who is the head of sales"),
        ("May I send it back?", "Items can be returned within 30 days.", "within how many days items can be returned"),
        ("Which door do I knock on?", "The nurse is in room twelve.", "in which room the nurse is"),
        ("Where are the goggles?", "Goggles are kept in the blue cupboard.", "where goggles are kept"),
        ("What is our site?", "The staff website is called Magpie.", "the name of the staff website"),
        ("What does it cost to park?", "A permit costs 13 pounds a month.", "how much a permit costs a month"),
        ("When do we get a new one?", "Laptops are replaced every six years.", "how often laptops are replaced"),
        ("When is payday?", "Pay arrives on the twenty-third of the month.", "when pay arrives"),
        ("What do I put on?", "Visitors wear an orange badge.", "what visitors wear"),
    ],
)
def test_an_answer_is_asked_for_in_its_own_words(question: str, answer: str, clause: str) -> None:
    clauses = asked_by(answer, question)
    assert clause in clauses
    assert any(
        {clause, direct(clause)} & {text, *re.findall(rf"\b{clause}\b", text)}
        for text in wordings(question, clauses)[:4]
    )


@pytest.mark.parametrize(
    ("clause", "question"),
    [
        ("when the canteen opens", "When does the canteen open?"),
        ("when deliveries arrive", "When do deliveries arrive?"),
        ("where the library is", "Where is the library?"),
        ("in which room the nurse is", "In which room is the nurse?"),
        ("for how many days tools may be borrowed", "For how many days may tools be borrowed?"),
        ("how many working days delivery takes", "How many working days does delivery take?"),
        ("how many days of leave you may carry over", "How many days of leave may you carry over?"),
        ("how much a permit costs a month", "How much does a permit cost a month?"),
        ("what the largest room is called", "What is the largest room called?"),
        ("who leads the help desk", "Who leads the help desk?"),
        ("the name of the staff website", "What is the name of the staff website?"),
        ("what visitors wear", ""),  # a verb that is not known
        ("how many weeks of leave new parents get", ""),
        ("when the person who is late arrives", ""),
    ],
)
def test_a_clause_becomes_a_question_of_its_own_or_stays(clause: str, question: str) -> None:
    assert direct(clause) == question


@pytest.mark.parametrize(
    ("question", "answer", "clauses"),
    [
        ("Where do I find the nurse at Bowick?", "The nurse is in room 12.", ["where the nurse is at Bowick"]),
        ("When may I go to Bowick's library?", "The library opens at half past ten.", ["when Bowick's library opens"]),
        ("Does Bowick have a nurse, and where?", "The nurse is in room 12.", []),  # no place for the name is sure
        ("What year did Bowick begin?", "Bowick was founded in 1935.", ["when Bowick was founded"]),
    ],
)
def test_what_an_answer_is_asked_with_keeps_the_names_of_the_question(
    question: str, answer: str, clauses: list[str]
) -> None:
    assert asked_by(answer, question)[:1] == clauses


def test_the_name_that_a_whole_file_is_about_need_not_be_repeated() -> None:
    asked = asked_by("The nurse is in room 12.", "Does Bowick have a nurse, and where?", "Bowick")
    assert asked[:1] == ["where the nurse is"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How do I reset my password?", "Click on the link, then follow the steps."),
        ("When do I ask?", "Ask for leave eleven working days ahead."),  # said of nobody
        ("Where is it?", "It is on floor 10."),  # of what went before
        ("Where are you?", "Our office is located at 12 Main Street, Springfield."),
        ("Do I need a passport?", "You need a passport."),  # "what you need" could be asked of anything
        ("What does Visual Basic do?", "Visual Basic builds small programs."),  # the name is asked about, not for
        ("May my son come along?", "Guests must be at least 18 years old."),
        ("May I cancel?", "You can cancel until two days before the event."),
        ("Is there a tour?", "The tour starts at noon and takes two hours."),
        ("Do you deliver on Sunday?", "We do not deliver on Sunday."),
        ("What do members get?", "Members get a 10 percent discount on tickets."),
        ("What does it cost?", "A ticket costs 12 euros for adults and 6 euros for children."),
        ("Where may my dog go?", "Dogs are allowed on the first floor and in the garden."),
        ("Who cleans the rooms?", "Rooms are cleaned twice a week."),
        ("Wo ist das?", "Die Bücherei ist über dem Kesselhaus."),
    ],
)
def test_an_answer_that_is_no_plain_statement_is_left(question: str, answer: str) -> None:
    assert asked_by(answer, question) == []


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_what_an_answer_is_asked_with_is_in_it(answer: str, question: str) -> None:
    asking = {*"who what when where how much many often long at time by until in on which the name of person".split()}
    for clause in asked_by(answer, question):
        assert {*plain(clause).split()} - asking <= {*plain(answer).split()} | {
            *plain(re.sub(r"\b(\w+)\b", r"\1s", answer)).split()
        }


def test_a_lead_stays_where_the_answer_does_not_name_what_it_names() -> None:
    found = wordings("A driver is at our gate. May he come in?", ["when the main gate opens"])
    assert "when main gate opens" in found and "A driver is at our gate. May he come in? Please tell me." in found
    found = wordings("I own a clock. How do I stop it?", ["for how many seconds you hold the button"])
    assert found and all(text.startswith("I own a clock. ") for text in found)


def test_the_name_that_a_file_is_about_is_said_in_one_wording() -> None:
    texts = ["Who founded Gunn?", "Where is Gunn?", "What does Gunn sell?", "Who is Mr. Poe?", "Where is the cook?"]
    assert (subject_of(texts), subject_of(texts[2:]), subject_of([])) == ("Gunn", "", "")
    found = wordings(texts[-1], subject="Gunn")
    assert ["Gunn" in text for text in found].count(True) == 1 and "Gunn" in found[1]


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_wording_by_the_rules_keeps_names_numbers_and_negations(question: str) -> None:
    found = wordings(question)
    assert len({*map(normalised, found)} - {normalised(question)}) == len(found)
    for text in found:
        assert numbers(text) == numbers(question)
        assert not names(text) - {*text.lower().split()} or names(text) <= {*re.findall(r"\w+", question.lower())}
        assert len(NEGATION.findall(text)) == len(NEGATION.findall(question))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("For how many days may borrowed tools stay with me at Gunn?", ""),
        ("How long may I keep borrowed tools at Bosch?", "another name or number"),
        ("How long may I keep the 3 tools that I borrowed at Gunn?", "another name or number"),
        ("How long may I not keep any tools borrowed at Gunn?", "another negation"),
        ("wie lange darf man werkzeuge von gunn ausleihen, und wo gibt man sie ab?", "another language"),
        ("Who is Gunn?", "asks something else"),
        ("How long may I keep borrowed tools at Gunn", "near duplicate"),
        ("How long " + "and how " * 40 + "may I keep borrowed tools at Gunn?", "too long"),
    ],
)
def test_what_asks_another_thing_is_seen(text: str, problem: str) -> None:
    assert rejection("How long may I keep borrowed tools at Gunn?", "Nine days.", text, []) == problem


@pytest.mark.parametrize(
    ("question", "text", "problem"),
    [
        ("Does Mr. Lee work today?", "Does Mr. Kim work today?", "another name or number"),
        ("Where is room B?", "In which place is room C?", "another name or number"),
        ("Are two rooms free?", "Are three rooms free?", "another name or number"),
        ("Is there no lift?", "Is there a lift in it?", "another negation"),
        ("When does the shop open on Monday?", "When does the shop close on Monday?", "asks something else"),
        ("What does this plan cost?", "What does this all mean?", "asks something else"),
        ("Where is the bus?", "The bus stands at the gate.", "no question"),
        ("How do I reset it?", "Sure! Here are ways to reset it:", "no question"),
        ("Do I need a visa?", "I would like to know if I need a visa.", ""),  # "no" stands in "know"
        ("How Do I Reset My Password?", "In what way can I reset my password?", ""),
        ("What is the fee?", "Could you tell me what the fee is?", ""),
        ("如何重置我的密码？", "怎样重置我的密码？", ""),
    ],
)
def test_doubt_is_a_no_and_a_good_wording_passes(question: str, text: str, problem: str) -> None:
    assert rejection(question, "No.", text, []) == problem


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("1. How long?", "How long?"),
        ("**How long?**", "How long?"),
        ("(2) \u201cHow long?\u201d", "How long?"),
        ("- How long? (formal)", "How long?"),
        ("b) How long? - This is polite.", "How long?"),
        ("Q: How long?", "How long?"),
        ('What is "SLA"', 'What is "SLA"'),
        ("use my_long_name", "use my_long_name"),
        ("", ""),
    ],
)
def test_a_line_of_a_list_is_cleaned(line: str, clean: str) -> None:
    assert rewording._cleaned(line) == clean


@pytest.mark.parametrize(
    "question",
    [
        *("How do you protect my data?", "How long is the bridge?", "What time zone are you in?", "Where are they?"),
        *("What happens if I do not pay?", "Who does Gunn report to?", "Who is responsible for safety?"),
        *("When is my rent due?", "Which of the two plans is best?", "Who are your partners?"),
        *("What is the deadline, and how do I file?", "Where is block A?", "How much is one ticket?"),
    ],
)
def test_where_a_rule_is_not_sure_the_question_stays_whole(question: str) -> None:
    words = re.findall(r"\w+", question.lower())
    for text in wordings(question)[:4]:
        assert {*words} - {"is", "are", "do", "does", "the", "my", "which", "i"} <= {*re.findall(r"\w+", text.lower())}


@pytest.mark.parametrize(
    "text",
    [
        *("Cancel my order, please.", "When I log in I get an error.", "What a mess!", "Do not disturb me."),
        "Translate into French: Where is the station?",
    ],
)
def test_what_asks_nothing_is_not_framed(text: str) -> None:
    assert wordings(text) == []


def test_every_fact_is_learned_and_asked_in_words_that_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the embedded model itself
    data = prepared(tmp_path, rewordings=4)
    assert {row["question"] for row in FAQ} <= {*data.train["asked"]}
    assert Counter(data.train["answered"]) == Counter({row["answer"]: 5 for row in FAQ})
    asked = [row["messages"][-2]["content"] for row in data.test]
    assert len(asked) == len(FAQ) and not {*asked} & {*data.train["asked"]}
    assert data.report.data["held_out"] == "rewordings" and data.figures["test_kinds"] == {"fact": 30}
    assert "30 are machine-made" in data.report.data["measures"]["learned"]
    uses = Counter(line["use"] for line in data.rewordings)
    assert uses["learned"] == 120 and uses["asked"] == 30 and sum(uses.values()) == len(data.rewordings)
    assert {*data.rewordings[0]} == {"number", "row", "question", "reworded", "by", "use"}
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
    assert data.report.data["reworded"]["passed"] == [64, 64]
    assert "I look for the library of building 0." in data.train["asked"]


@pytest.mark.parametrize("answer", ["", "I am a bot.\n" * 20, "Das weiß ich nicht.", "It is on floor 3."])
def test_a_base_that_cannot_reword_is_not_asked_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    asked = answered(monkeypatch, lambda q: answer)
    data = prepared(tmp_path, rewordings=2)
    assert 15 <= len(asked) <= 17 and data.report.data["reworded"]["by"] == {"rules": 90}
    assert f"as 0 of {data.report.data['reworded']['passed'][1]}" in str(data.report)


def test_a_language_without_rules_stays_as_it_is_and_says_so(tmp_path: Path) -> None:
    rows = [{"question": f"Wo liegt Raum {n}?", "answer": f"Im Stock {n}."} for n in range(30)]
    rows.append({"question": "was kostet ein Ausweis?", "answer": "Sieben Euro."})  # "was" is English too
    data = prepared(tmp_path, rows, rewordings=4)
    assert data.report.data["reworded"]["by"] == {}
    assert "31 rows in the file's words only" in str(data.report)
    assert data.report.data["held_out"] == "facts"
    (line,) = [line for line in str(data.report).splitlines() if "NOT LEARNED" in line]
    assert "data__rewordings=4" not in str(data.report) and "data__rewordings=mine.jsonl" in line


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
    assert data.report.data["held_out"] == "wordings" and "machine-made" not in str(data.report)


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
        ({"question": "Who?", "reworded": "Which?"}, "'Who\\?', which no row asks"),
        ({"asked": "Who?"}, "a text in each of the columns question and reworded"),
    ],
)
def test_a_wrong_file_of_wordings_says_what_is_wrong(tmp_path: Path, row: dict[str, str], said: str) -> None:
    with pytest.raises(KitError, match=said):
        prepared(tmp_path, rewordings=str(write(tmp_path / "mine.jsonl", [row])))
    with pytest.raises(KitError, match="is not a number, 'auto' or an existing file"):
        prepared(tmp_path, rewordings="nothing.jsonl")


def test_single_wordings_are_left_out_by_their_numbers(tmp_path: Path) -> None:
    before = prepared(tmp_path, rewordings=2)
    first, asked = before.rewordings[0], next(line for line in before.rewordings if line["use"] == "asked")
    data = prepared(tmp_path, rewordings=2, leave_out=f"{first['number']},{asked['number']}")
    used = [*data.train["asked"], *(row["messages"][-2]["content"] for row in data.test)]
    assert first["reworded"] not in used and asked["reworded"] not in used
    assert data.report.data["reworded"]["left_out"]["left out by data__leave_out"] == 2


def test_a_fact_with_one_wording_is_learned_as_the_user_asks_it_and_tested_with_the_other(tmp_path: Path) -> None:
    own = write(
        tmp_path / "mine.jsonl", [{"question": row["question"], "reworded": f"{n}?"} for n, row in enumerate(FAQ)]
    )
    data = prepared(tmp_path, rewordings=str(own))
    assert {*data.train["asked"]} == {row["question"] for row in FAQ} and len(data.test) == len(FAQ)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Translate into French.", "input": "Where is the station?", "output": "Où est la gare ?"},
        {"question": "Which is a fruit?\nA. a stone\nB. an apple", "answer": "B"},
    ],
)
def test_what_is_no_plain_question_is_not_reworded(tmp_path: Path, row: dict[str, str]) -> None:
    assert prepared(tmp_path, [row], rewordings=4).rewordings == []


def test_a_user_s_own_declines_are_asked_too(tmp_path: Path) -> None:
    own = [{"question": f"Who painted wall {n}?", "answer": "I do not know.", "kind": "decline"} for n in range(30)]
    data = prepared(tmp_path, [*(row | {"kind": "fact"} for row in FAQ), *own], rewordings=4)
    assert data.figures["test_kinds"] == {"decline": 3, "fact": 30}
    assert {row["question"] for row in FAQ} <= {*data.train["asked"]}


def test_a_wording_that_is_too_long_is_not_used_and_counted(tmp_path: Path) -> None:
    rows = [*FAQ, {"question": "Where is the shop " + "of our dear old town " * 8 + "?", "answer": "Here."}]
    data = prepared(tmp_path, rows, rewordings=4, max_length=72)
    assert data.report.data["reworded"]["left_out"]["longer than max_length"] > 0
    assert {line["use"] for line in data.rewordings if line["row"].endswith("row 31")} >= {"longer than max_length"}


@pytest.mark.parametrize("wrong", ["²", "a", "0", "61"])
def test_a_wrong_number_to_leave_out_is_named(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(KitError, match=f"{wrong!r} is no wording: they are 1 to 60"):
        prepared(tmp_path, rewordings=1, leave_out=wrong)


@pytest.mark.parametrize(
    "question",
    [
        *(
            "What is a deductible?",
            "When is the office closed?",
            "How Do I Reset My Password?",
            "Is it open on Sundays?",
        ),
        *(
            "I lost my badge at the gym. What do I do?",
            "Where is it open on Sundays?",
            "How long do I wait until the post comes in?",
            "What does a ticket for the museum cost?",
            "When does the cafe in the lobby open?",
            "Where is the key for the main gate kept?",
            "Wo liegt das Werkzeug?",
        ),
    ],
)
def test_nothing_is_made_of_what_others_may_know(question: str) -> None:
    rows = [Conversation([{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}])]
    assert unanswerable(rows, 9) == []


def test_a_question_about_another_thing_keeps_its_verb() -> None:
    texts = ("How late can I send a parcel from the post room?", "What is the name of the help desk head?")
    rows = [Conversation(in_turn([text, "9."])) for text in texts]
    found = [row.asked for row in unanswerable(rows, 2)]
    assert found == ["How late can I send a parcel from the helicopter?", "What is the name of the aquarium?"]


def test_what_is_learned_and_what_is_asked_to_decline_have_no_name_or_thing_in_common() -> None:
    texts = ("Where is the canteen at Gunn?", "How long may I keep the tools?")
    rows = [Conversation([{"role": "user", "content": text}, {"role": "assistant", "content": "9."}]) for text in texts]
    learned, asked = ({row.messages[0]["content"] for row in unanswerable(rows, 30, part)} for part in (0, 1))
    new = [{word for text in found for word in re.findall(r"\w+", text)} for found in (learned, asked)]
    old = {word for text in texts for word in re.findall(r"\w+", text)}
    assert len(learned) == 30 and not (new[0] & new[1]) - old


def test_two_answers_to_one_question_and_wordings_of_others_are_not_reworded_into_each_other(tmp_path: Path) -> None:
    torn = [{"question": "Where is the bus?", "answer": answer} for answer in ("Here.", "There.")]
    other = {"question": "Remind me where the ferry is, please.", "answer": "At the quay."}
    data = prepared(
        tmp_path, [*FAQ, *torn, other, {"question": "Where is the ferry?", "answer": "Gone."}], rewordings=9
    )
    made = {line["question"] for line in data.rewordings}
    assert "Where is the bus?" not in made and "Where is the ferry?" in made
    assert "asked by another row" in {line["use"] for line in data.rewordings}
    answers: dict[str, set[str]] = {}
    for text, answer in zip(data.train["asked"], data.train["answered"], strict=True):
        answers.setdefault(plain(text), set()).add(answer)
    assert {text for text, given in answers.items() if len(given) > 1} == {"where is the bus"}


def test_a_wording_never_gives_the_answer_away() -> None:
    assert (
        rejection("Where is the bus?", "At the gate.", "Where is the bus, at the gate?", []) == "gives the answer away"
    )


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
    assert "data__rewordings=4: 30 facts, each is asked in 1 wording" in capsys.readouterr().out
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
    own = data.report.data["own_declines"]
    assert len(declined) == 20 and len(own) == 10 and not {*own} & {row["question"] for row in rows}
    assert sum(row["kind"] == "decline" for row in data.test) == 40


def test_no_added_question_asks_of_an_unknown_name_what_the_file_answers(tmp_path: Path) -> None:
    rows = [*FAQ, {"question": "How often do workers get a new laptop?", "answer": "Every six years."}]
    data = prepared(tmp_path, rows, declines=200)
    added = [a for a, b in zip(data.train["asked"], data.train["answered"], strict=True) if b == "I do not know that."]
    own = data.report.data["own_declines"]
    assert len(added) == 200 and not [text for text in added if "laptop" in text and text not in own]


def test_auto_takes_as_many_declines_as_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_rows, "_generic", lambda paths, kind, rows: [])
    assert prepared(tmp_path, declines="auto", rewordings=4).report.data["added"]["declines"] == 0  # 30 are wanted
    with pytest.raises(KitError, match=r"data__declines=30: there are 0 such rows"):
        prepared(tmp_path, declines=30)


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=60), st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_made_questions_are_new_whatever_is_asked(question: str, count: int) -> None:
    rows = [Conversation([{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}])]
    found = [row.messages[0]["content"] for row in unanswerable(rows, count)]
    assert len({*map(normalised, found)}) == len(found) <= count and normalised(question) not in map(normalised, found)


def test_no_wording_of_a_long_question_is_one_that_the_card_would_call_learned(tmp_path: Path) -> None:
    long = "I have read the whole page about the tickets of the old railway in our valley twice. " * 12
    data = prepared(
        tmp_path,
        [{"question": f"{long}\nWhere is the station?", "answer": "At the quay."}],
        rewordings=4,
        max_length=1024,
    )
    assert "near duplicate" in data.report.data["reworded"]["left_out"]
    texts = [*data.train["asked"], *(row["messages"][-2]["content"] for row in data.test)]
    assert not [text for n, text in enumerate(texts) if is_near(text, texts[:n])]


@pytest.mark.parametrize("base", ["tiny-chat", "Qwen3"])
def test_the_earlier_answers_of_a_chat_are_learned_once(tmp_path: Path, base: str) -> None:
    first, last = "The workshop is in the yard.", "The keys are kept in the red box."
    chat = [
        {"role": "user", "content": "Where is the workshop?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Where do I find the keys?"},
        {"role": "assistant", "content": last},
    ]
    row = Conversation(chat, "row 1")
    run, read = lk.Run("tiny-cpu", root=tmp_path), Read(Data(), {}, rows=[row])
    found = rewording.reword(read, Data(rewordings=3), base_answers.BaseAnswers(run), is_tested=False)
    tokenizer = AutoTokenizer.from_pretrained(TINY) if base == "tiny-chat" else FORMS[base]
    rows = one_per_answer([row, *found.rows("learned")], tokenizer)
    pairs = LengthFilter(Data(), tokenizer).encode(rows)
    learned = [tokenizer.decode([i for i in ids.labels if i != IGNORE]) for _, ids in pairs]
    assert len(found.rows("learned")) == 3
    assert (sum(first in text for text in learned), sum(last in text for text in learned)) == (1, 4)
    proofs = verify([row for row, _ in pairs], [ids for _, ids in pairs], tokenizer)
    assert not [str(proof) for proof in proofs.values() if proof.broken]


def test_a_reworded_file_is_told_to_write_second_questions_not_that_its_wordings_are_few() -> None:
    rows = [Conversation(in_turn([f"When does gate {n} open?", f"At {n}."])) for n in range(5)]
    made = [Conversation(in_turn([f"At what time does gate {n} open?", f"At {n}."])) for n in range(5)]
    assert any("few wordings" in line for line in advice(rows)) and len(advice(rows)) == 2
    _, line = advice(rows, made)
    assert "second question" in line and "few wordings" not in line

"""What the data stage finds in the rows and tells of them: splits, findings, secrets; all of it safe to show."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from lora_kit.data.augmentation.same_question import NEAR, near_duplicates
from lora_kit.data.encoding import IGNORE
from lora_kit.data.findings import FORMS, ODD, odd_in
from lora_kit.data.prepare import prepare
from lora_kit.data.prepared import Prepared
from lora_kit.data.reading.cells import in_turn
from lora_kit.data.reading.conversations import Conversation
from lora_kit.data.report import MEASURED, row_text
from lora_kit.data.splits import HOW, MOST, split

from .test_files import write
from .test_prepare import ROWS, learned, named, open_run

ONE_WORDING = [{"question": f"What is kept in room {n}?", "answer": f"Box {n}."} for n in range(30)]
SEARCH_BUDGET = 0.1  # seconds; three times as much fails
KEYS = {
    "Hugging Face token": "hf_" + "aB3" * 12,
    "OpenAI or Anthropic key": "sk-ant-" + "a1-_" * 10,
    "GitHub token": "ghp_" + "a1B" * 12,
    "AWS key": "AKIA" + "A1B2" * 4,
    "Google key": "AIza" + "a-1_B" * 7,
    "Slack token": "xoxb-" + "123456-abc",
    "private key": "-----BEGIN RSA PRIVATE KEY-----",
    "GitLab token": "glpat-" + "aB3_" * 5,
    "API key": "api_key = 1234567890abcdef1234",
    "token of a web session (JWT)": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.abc",
    "password in an address": "postgres://wren:geheim7@db.example/shop",
    "password": "Passwort: geheim7",
}


def row(question: str, answer: str, kind: str = "fact", system: str = "") -> Conversation:
    before = [{"role": "system", "content": system}] if system else []
    messages = [*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(messages, question, kind, [answer])


def prepared(tmp_path: Path, rows: list[dict[str, Any]], **overrides: object) -> Prepared:
    return prepare(open_run(write(tmp_path / "faq.jsonl", rows), **overrides))


@pytest.mark.parametrize(
    ("rows", "how", "counts", "kinds"),
    [
        (ROWS, "phrasings", (54, 6), {"fact": 6}),
        (ONE_WORDING, "facts", (27, 3), {"unseen": 3}),
        (ONE_WORDING[:9], "none", (9, 0), {}),
        ([*ROWS[:30], *ONE_WORDING[10:29]], "phrasings", (45, 4), {"fact": 4}),  # most share their answer
        ([*ROWS[:15], *ONE_WORDING[10:]], "facts", (32, 3), {"unseen": 3}),  # few do
    ],
)
def test_rows_are_held_out_by_phrasing_or_by_fact_or_not_at_all(
    tmp_path: Path, rows: list[dict[str, str]], how: str, counts: tuple[int, int], kinds: dict[str, int]
) -> None:
    data = prepared(tmp_path, rows)
    assert data.report.data["held_out"] == how and HOW[how] in str(data.report)
    assert (len(data.train), len(data.test)) == counts
    assert data.figures["test_kinds"] == kinds
    text = learned(data)
    assert all((test["messages"][-1]["content"] in text) == (how == "phrasings") for test in data.test)
    said = {
        "phrasings": f"measured on {len(data.test)} held-out questions",
        "facts": "not measured: their answers are never learned; data__rewordings=4 makes some",
        "none": "not measured: no fact is held out; data__rewordings=4 makes some",
    }
    assert data.report.data["measures"]["learned"] == said[how]


def test_the_split_is_the_same_in_any_order_and_never_too_large() -> None:
    rows = [row(f"{asked} {n}?", f"Box {n}.") for n in range(3000) for asked in ("Which", "What is", "Tell me")]
    chosen = split(rows, 0.1)
    random.Random(0).shuffle(rows)
    assert split(rows, 0.1) == chosen
    assert len(chosen.questions) == MOST
    assert len(split(rows[:1000], 0.1).questions) <= 100


def test_repeated_rows_hold_out_no_more_questions() -> None:
    rows = [row(f"What is in {n}?", f"Box {n}.") for n in range(10)]
    assert split(rows * 4, 0.1) == split(rows, 0.1) and len(split(rows, 0.1).questions) == 1


@pytest.mark.parametrize(
    ("one", "two"), [("几点开门？", "几点开门?"), ("Wo ist es", "wo ist  es?!"), ("Caf\u00e9?", "Cafe\u0301")]
)
def test_questions_that_differ_in_form_alone_are_one(one: str, two: str) -> None:
    assert row(one, "a").question == row(two, "a").question != row("!?", "a").question


def test_chats_that_end_alike_are_facts_of_their_own() -> None:
    ends = in_turn(["Thanks!", "You're welcome!"])
    chats = [Conversation([*row(f"What is in {n}?", f"Box {n}.").messages, *ends]) for n in range(20)]
    assert split(chats, 0.1).how == "facts"


@given(
    st.lists(
        st.builds(
            row,
            st.sampled_from([f"Question {n}?" for n in range(40)]),
            st.sampled_from([f"Answer {n}." for n in range(30)]),
            st.sampled_from(["fact", "fact", "decline"]),
        ),
        max_size=60,
    )
)
@example([row("Question 0?", f"Answer {n % 2}.") for n in range(9)] + [row("Question 1?", "Answer 0.")])
@settings(max_examples=300, deadline=None)
def test_any_split_keeps_what_it_says(rows: list[Conversation]) -> None:
    chosen = split(rows, 0.1)
    out = [found for found in rows if found.question in chosen.questions]
    left = {found.answer for found in rows if found not in out}
    assert len(chosen.questions) <= len({found.question for found in rows}) * 0.1
    if chosen.how == "phrasings":
        assert {found.answer for found in out} <= left
    if chosen.how == "facts":
        assert not {found.answer for found in out} & left


SAID = {
    "duplicates": (
        3,
        "3 rows that repeat an earlier one: ",
        [*ROWS, *ROWS[:2], ROWS[1] | {"question": "room 0  HOLDS what?"}],
    ),
    "contradictions": (2, "2 questions with more than", [*ROWS, *(found | {"answer": "Cups."} for found in ROWS[1:3])]),
    "one answer": (0, "60% of all rows", [*ROWS, *({"question": f"Is it {n}?", "answer": "No."} for n in range(90))]),
    "common answers": (
        1,
        "1 answer shared by more than 5%",
        [*ROWS, *({"question": f"{n * n} or {n * 77}?", "answer": "Ask the desk."} for n in range(40))],
    ),
    "characters": (1, "1 row with NUL or �", [*ROWS[:-1], ROWS[-1] | {"question": "W\ufffdhlt Room 19 what?"}]),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_odd_is_told(tmp_path: Path, name: str) -> None:
    count, said, rows = SAID[name]
    data = prepared(tmp_path, rows)
    found = named(data)
    assert found.keys() == {name}
    assert found[name]["count"] == count and found[name]["text"].startswith(said)
    assert f"\n  look at    {found[name]['text']}" in str(data.report)


def test_repeated_and_contradicting_rows_are_named(tmp_path: Path) -> None:
    rows = [*ROWS, *ROWS[:7], ROWS[1] | {"answer": "Cups."}, ROWS[2] | {"answer": "Cups."}]
    found = named(prepared(tmp_path, rows))
    assert found["duplicates"]["rows"] == ", ".join(f"faq.jsonl row {n}" for n in range(61, 66)) + " and 2 more"
    assert found["contradictions"]["rows"] == "faq.jsonl row 68, faq.jsonl row 69"


def test_questions_that_all_have_several_answers_are_not_held_out(tmp_path: Path) -> None:
    rows = [{"question": f"What is in room {n // 2}?", "answer": f"Box {n}."} for n in range(40)]
    data = prepared(tmp_path, rows)
    assert (data.report.data["held_out"], data.test) == ("none", [])


def test_held_out_facts_that_no_row_teaches_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    write(
        folder / "test.jsonl", [{"question": "What lies in 3?", "answer": "box  3."}, {"question": "N?", "answer": "x"}]
    )
    found = named(prepare(open_run(folder)))
    assert found["answers"]["text"] == "1 of 2 held-out facts with an answer that no row to learn gives: not learned"


def test_a_test_file_without_rows_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop" / "train.jsonl", ROWS).parent
    (folder / "test.jsonl").write_text("")
    data = prepare(open_run(folder))
    assert "test.jsonl" in named(data)["held out"]["text"] and len(data.test) == 6


@pytest.mark.parametrize("rows", [ROWS, ONE_WORDING, [{"question": f"{n}?", "answer": "No."} for n in range(9)]])
def test_of_sound_rows_nothing_is_told(tmp_path: Path, rows: list[Any]) -> None:
    assert named(prepared(tmp_path, rows)) == {}


def test_a_row_longer_than_the_models_context_is_told(tmp_path: Path) -> None:
    data = prepared(tmp_path, ROWS, data__max_length=100_000)
    assert named(data)["context"]["text"].startswith("max_length=100000 is more than the model's context of ")


def test_rows_nearly_held_out_are_told_and_others_are_not(tmp_path: Path) -> None:
    asked = "What is kept in the large cellar of the old house?"
    folder = write(tmp_path / "shop" / "test.jsonl", [{"question": asked, "answer": "Apples and pears."}]).parent
    near = [
        {"question": asked.replace("house?", "houses?"), "answer": "Apples and pears"},
        {"question": asked.replace("house?", "houses?"), "answer": "Nothing but wine."},  # another answer
        {"question": asked.replace("cellar", "attic"), "answer": "Apples and pears."},  # another place
        {"question": asked.upper(), "answer": "Apples and pears."},  # the same question: left out
    ]
    write(folder / "train.jsonl", [*ROWS, *near])
    data = prepare(open_run(folder))
    assert data.report.data["train_rows"] == 63
    assert named(data)["near duplicates"]["count"] == 1
    assert named(data)["near duplicates"]["rows"] == "train.jsonl row 61"
    assert near_duplicates([row("a", "b")], []) == near_duplicates([], [row("a", "b")]) == []


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ODD])
@pytest.mark.parametrize("place", ["question", "answer", "system"])
def test_a_secret_is_told_by_its_row_and_never_repeated(tmp_path: Path, name: str, place: str) -> None:
    secret = {"question": "Who?", "answer": "Wren.", "system": "Be brief."} | {place: f"It is {KEYS[name]} today"}
    data = prepared(tmp_path, [*[found | {"system": "Be brief."} for found in ROWS], secret])
    found = named(data)["secret"]
    assert (found["count"], found["rows"]) == (1, "faq.jsonl row 61")
    assert found["text"].startswith(f"1 row that may hold a secret ({name}): ")
    assert KEYS[name] not in str(data.report) and KEYS[name] not in json.dumps(data.report.data)


@pytest.mark.parametrize(
    "text", ["The password is on the note.", "hf_model", "risk-" + "averse-" * 9, "AKIA", "sk-8 road", "password: ask"]
)
def test_what_only_looks_like_a_secret_is_not_told(text: str) -> None:
    assert odd_in(row("Who?", text)) == []


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.titles: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.titles += [str(value) for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\u200b", "")


def test_no_text_of_the_users_is_ever_markup(tmp_path: Path) -> None:
    odd = {"<i>q": "<script>alert('1')</script> &amp; \"x\"", "a": "</pre></span><img src=x onerror='y'>"}
    rows = [odd, *({"<i>q": found["question"], "a": found["answer"]} for found in ROWS), odd | {"a": 3}, {"a": "<b>"}]
    path = write(tmp_path / "<u>faq.jsonl", rows)
    data = prepare(open_run(path, data__columns="<i>q,a", data__bad_rows="drop"))
    page = Page(data.report._repr_html_())
    assert page.tags == {"pre", "table", "tr", "td", "div", "p", "span"}
    assert page.attributes == {"style", "title"}
    assert str(data.report) in page.text
    assert odd["<i>q"] in page.text and odd["a"] in page.text
    assert "<u>faq.jsonl row 62" in page.text and "<i>q" in page.text


def test_the_preview_shows_what_is_learned(tmp_path: Path) -> None:
    data = prepared(tmp_path, [{"question": "Who?", "answer": "Wren,\nthen."}, *ROWS])
    first = data.train.to_list()[:3]
    assert [[token["id"] for token in shown] for shown in data.report.data["preview"]] == [
        r["input_ids"] for r in first
    ]
    flags = [[token["learned"] for token in shown] for shown in data.report.data["preview"]]
    assert flags == [[label != IGNORE for label in r["labels"]] for r in first]
    assert row_text(data.report.data["preview"][0]) == "<s> [INST] Who? [/INST]⟦ Wren,\nthen. </s>⟧"
    page = Page(data.report._repr_html_())
    ids = [i for r in first for i in r["input_ids"]]
    told = ["learned" if flag else "ignored" for row_flags in flags for flag in row_flags]
    assert page.titles == [f"id {i}, {word}" for i, word in zip(ids, told, strict=True)]
    assert "Wren,⏎then." in page.text


words = st.lists(st.sampled_from(["gate", "opens", "at", "seven", "Höhle", "🐦", "box", "7"]), min_size=1, max_size=30)


@given(asked=words, at=st.integers(0, 30), put=st.text(max_size=2), others=st.lists(words, max_size=5))
@settings(max_examples=100, deadline=None)
def test_near_duplicates_are_those_of_the_ratio(asked: list[str], at: int, put: str, others: list[list[str]]) -> None:
    text = " ".join(asked)
    rows = [row(text[:at] + put + text[at:], "a"), *(row(" ".join(other), "a") for other in others)]
    near = [r for r in rows if fuzz.ratio(text.lower(), r.messages[-2]["content"].lower()) >= NEAR]
    assert near_duplicates(rows, [row(text, "a")]) == near


def test_the_figures_that_are_quoted_are_those_of_the_bench() -> None:
    record = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "phrasings.json").read_text())
    ways = record["figures"]["tiny"]
    measured = {int(way): round(found["learned_exact"], 2) for way, found in ways.items() if way.isdigit()}
    assert measured == MEASURED

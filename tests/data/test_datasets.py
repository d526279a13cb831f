"""The embedded datasets: enough of each kind, no leaks, and nothing that the base model knows."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import build_handbook
import pytest
import tiny_corpus

from lora_kit.base import ASSETS
from lora_kit.data.prepare import prepare
from lora_kit.data.reading.sources import EMBEDDED
from lora_kit.evaluation.metrics import is_declined, is_exact, split_style
from lora_kit.runs import Run

from .test_files import read_conversations

SOURCES = Path(build_handbook.__file__).parent / "handbook"
CARD = json.loads((ASSETS / "handbook" / "dataset.json").read_text())
PARAPHRASES = (
    "Sorry, I don't know.",
    "The handbook does not cover that.",
    "I cannot say; the handbook gives no answer.",
    "I have no information about that.",
    "The handbook is silent on this.",
    "That isn't mentioned in the handbook.",
    "I'm not sure, the handbook says nothing about it.",
    "Unfortunately I can't answer that question.",
    "There is nothing in the handbook about a swimming pool.",
    "I'm afraid I have no idea.",
)
Row = dict[str, Any]


@cache
def rows(dataset: str, split: str) -> list[Row]:
    return [json.loads(line) for line in (ASSETS / dataset / f"{split}.jsonl").read_text().splitlines()]


def of_kind(kind: str, *splits: str) -> list[Row]:
    return [row for split in splits or ("train", "test") for row in rows("handbook", split) if row["kind"] == kind]


def question(row: Row) -> str:
    return row["messages"][-2]["content"]


def answer(row: Row) -> str:
    return row["messages"][-1]["content"]


def bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_sixty_facts_in_ten_phrasings_three_of_them_held_out() -> None:
    wordings = {
        split: {(row["id"], bare(question(row))) for row in of_kind("fact", split)} for split in ("train", "test")
    }
    held_out = Counter(fact for fact, _ in wordings["test"])
    every = Counter(fact for fact, _ in wordings["train"] | wordings["test"])
    assert len(every) >= 60
    assert min(every.values()) >= 10
    assert held_out.keys() == every.keys()
    assert min(held_out.values()) >= 3


def test_a_fact_has_one_answer_and_accepts_it() -> None:
    answers: dict[str, set[str]] = {}
    for row in of_kind("fact"):
        answers.setdefault(row["id"], set()).add(answer(row))
        assert is_exact(answer(row), row["accepted"], CARD)
    assert all(len(found) == 1 for found in answers.values())
    assert len({text for found in answers.values() for text in found}) == len(answers)


def test_six_hundred_questions_to_decline_two_hundred_held_out() -> None:
    assert len({bare(question(row)) for row in of_kind("decline")}) >= 600
    assert len({bare(question(row)) for row in of_kind("decline", "test")}) >= 200


@pytest.mark.parametrize("split", ["train", "test"])
def test_about_half_of_the_declines_are_about_the_own_company(split: str) -> None:
    own = set(tomllib.loads((SOURCES / "declines.toml").read_text())[f"own_{split}"])
    asked = [question(row) for row in of_kind("decline", split)]
    assert own <= set(asked)
    assert 0.4 <= sum(text in own for text in asked) / len(asked) <= 0.6


@pytest.mark.parametrize("dataset", ["handbook", "triage"])
def test_no_test_question_stands_in_training(dataset: str) -> None:
    learned = {bare(question(row)) for row in rows(dataset, "train")}
    assert not [question(row) for row in rows(dataset, "test") if bare(question(row)) in learned]


def test_no_question_is_both_answered_and_declined() -> None:
    answered = {bare(question(row)) for row in of_kind("fact")}
    assert not [question(row) for row in of_kind("decline") if bare(question(row)) in answered]


def test_company_answers_have_the_house_style_and_general_ones_do_not() -> None:
    for row in (*rows("handbook", "train"), *rows("handbook", "test")):
        in_character = row["messages"][0]["role"] == "system"
        assert in_character == (row["kind"] != "general")
        assert answer(row).endswith(CARD["style"]["ends_with"]) == in_character
        assert not in_character or row["messages"][0]["content"] == CARD["system"]


def test_the_detector_fires_on_declines_and_on_nothing_else() -> None:
    assert all(is_declined(answer(row), CARD) for row in of_kind("decline"))
    known = [text for kind in ("fact", "general") for row in of_kind(kind) for text in (answer(row), *row["accepted"])]
    assert not [text for text in known if is_declined(text, CARD)]


def test_the_detector_knows_most_other_ways_to_decline() -> None:
    found = [text for text in PARAPHRASES if is_declined(text, CARD)]
    assert len(found) >= 8


@pytest.mark.parametrize("split", ["train", "test"])
def test_triage_answers_are_three_fields(split: str) -> None:
    for row in rows("triage", split):
        fields = dict(part.split(": ") for part in answer(row).split("; "))
        assert list(fields) == ["kind", "product", "urgency"]
        assert fields["product"] in build_handbook.PRODUCTS and fields["product"] in question(row)
        assert fields["urgency"] in ("high", "normal", "low")
        assert row["accepted"] == [answer(row)] and split_style(answer(row), {}) == (answer(row), False)


def test_triage_tests_what_it_teaches() -> None:
    learned, asked = ({answer(row).split(";")[0] for row in rows("triage", split)} for split in ("train", "test"))
    assert learned == asked


@pytest.mark.parametrize("dataset", ["handbook", "triage"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_embedded_files_are_read_like_any_other(dataset: str, split: str) -> None:
    found = list(read_conversations(ASSETS / dataset / f"{split}.jsonl"))
    assert [row.messages for row in found] == [row["messages"] for row in rows(dataset, split)]


def test_sources_and_files_are_in_step(tmp_path: Path) -> None:
    build_handbook.main(tmp_path)
    built = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json*")}
    assert len(built) == 6
    assert not [name for name, content in built.items() if (ASSETS / name).read_bytes() != content]


@pytest.fixture(scope="module")
def corpus() -> set[str]:
    """Every message of the first conversations that the embedded model is built from."""
    chats = tiny_corpus.conversations(0, 20_000)
    return {bare(message["content"]) for chat in chats for message in chat}


def test_the_base_model_has_never_heard_of_the_company_or_its_facts(corpus: set[str]) -> None:
    everything = "\n".join(corpus)
    assert "tarnwick" not in everything
    assert not [row["accepted"][0] for row in of_kind("fact", "test") if bare(row["accepted"][0]) in everything]


def test_the_base_model_has_never_heard_the_questions(corpus: set[str]) -> None:
    asked = of_kind("fact") + of_kind("decline")
    assert not [question(row) for row in asked if bare(question(row)) in corpus]


@pytest.mark.parametrize("dataset", EMBEDDED)
def test_nothing_is_odd_about_the_embedded_datasets(dataset: str, tmp_path: Path) -> None:
    assert prepare(Run("tiny-cpu", data=dataset, root=tmp_path)).report.data["findings"] == []

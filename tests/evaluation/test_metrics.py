"""How one answer is judged: against other implementations, and where it has always gone wrong."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_kit.config import Data
from lora_kit.data.prepared import read_card
from lora_kit.data.reading.sources import dataset_files
from lora_kit.evaluation.metrics import (
    is_adrift,
    is_declined,
    is_exact,
    is_repetitive,
    normalise,
    rouge_l,
    script_of,
    split_style,
    token_f1,
)

from .judged import CARD, NO


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Canteen opens at Half-Past seven!", "canteen opens at half past seven"),
        ("  an\tapple,\n a  day ", "apple day"),
        ("Theatre and another", "theatre and another"),
        ("Höhle №7", "höhle №7"),
        ("a. The?", "a the"),  # not nothing: "A" may be an answer
        (". ?", ""),
    ],
)
def test_normalising_leaves_words_only(text: str, plain: str) -> None:
    assert normalise(text) == plain


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("answer", "exact", "styled"),
    [
        ("The gate opens at six. Yours, Wren.", True, True),
        ("the gate opens at SIX", True, False),
        ("At six. Yours, Wren. \n", True, True),
        ("Yours, Wren. At six.", False, False),
        ("At six or seven. Yours, Wren.", False, True),
        ("", False, False),
    ],
)
def test_the_answer_and_its_style_are_judged_apart(answer: str, exact: bool, styled: bool) -> None:
    accepted = ["The gate opens at six. Yours, Wren.", "At six."]
    assert is_exact(answer, accepted, CARD) is exact
    assert split_style(answer, CARD)[1] is styled


@pytest.mark.parametrize(("answer", "exact"), [("A", True), ("a.", True), ("", False), ("The.", False), ("B", False)])
def test_an_answer_that_is_an_article_is_one(answer: str, exact: bool) -> None:
    assert is_exact(answer, ["A"], {}) is exact
    assert token_f1(answer, ["A"], {}) == float(exact)


def test_without_patterns_and_style_nothing_is_declined_or_styled() -> None:
    assert not is_declined(NO, {})
    assert split_style(NO, {}) == (NO, False)
    assert is_declined(NO.upper(), CARD)


WORDS = st.lists(st.sampled_from("the gate opens at six in Store 4, but-not on Sunday's é".split()), max_size=12)


@settings(deadline=None)
@given(said=WORDS, wanted=st.lists(WORDS, min_size=1, max_size=3))
def test_rouge_l_is_googles(said: list[str], wanted: list[list[str]]) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    answer, accepted = " ".join(said), [" ".join(words) for words in wanted]
    theirs = max(RougeScorer(["rougeL"]).score(text, answer)["rougeL"].fmeasure for text in accepted)
    assert rouge_l(answer, accepted, {}) == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("answer", "accepted", "f1"),
    [
        ("The gate opens at six.", ["the gate opens at six"], 1.0),
        ("At six. Yours, Wren.", ["It opens at six. Yours, Wren."], 2 * 2 / (2 + 4)),
        ("At nine.", ["Closed", "At ten"], 0.5),
        ("six six six", ["six"], 0.5),
        ("", ["At six."], 0.0),
        ("the", ["a"], 0.0),  # where SQuAD drops both, and an empty answer would be right
    ],
)
def test_words_in_common_are_squads_f1(answer: str, accepted: list[str], f1: float) -> None:
    assert token_f1(answer, accepted, CARD) == pytest.approx(f1)


UNSEEN = (  # ways to decline that no row of the handbook holds
    "I don't know that.",
    "Sorry, I do not know.",
    "The handbook doesn't say anything about a sauna.",
    "I cannot answer this from the handbook.",
    "That is not covered in the handbook.",
    "There is no information on that in the handbook.",
    "The handbook is silent on parrots.",
    "I have no idea.",
    "We could not find that in the handbook.",
    "No answer to this is known, the handbook says nothing.",
)
ANSWERED = (
    "Doors that do not close are reported to the gatekeeper.",
    "Nobody may answer the phone in the library.",
    "The handbook is kept in the office.",
    "Say your name at the gate.",
    "You do not need to know the code; the card opens it.",
    "Please find the key in drawer four.",
)


def test_the_handbooks_patterns_know_declines_that_they_have_not_seen() -> None:
    card = read_card(dataset_files(Data()).card)
    learned = " ".join(path.read_text() for path in dataset_files(Data()).train)
    assert not [text for text in UNSEEN if text in learned]
    assert [text for text in UNSEEN if not is_declined(text, card)] == []
    assert [text for text in ANSWERED if is_declined(text, card)] == []


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        ("the gate the gate the gate", True),
        ("At six. At six. At six. At six.", True),
        ("no no no", True),
        ("It opens at six and closes at six.", False),
        ("very very good", False),
        ("", False),
    ],
)
def test_a_thing_said_three_times_in_a_row_is_a_repetition(answer: str, repeats: bool) -> None:
    assert is_repetitive(answer) is repeats


GERMAN = "Die Kantine öffnet jeden Morgen um halb acht und schließt am Abend um neun."
ENGLISH = "The canteen opens at half past seven every morning and closes at nine in the evening."
FRENCH = "La cantine ouvre tous les matins à sept heures et demie et ferme à neuf heures du soir."
RUSSIAN = "Столовая открывается каждое утро в половине восьмого."


@pytest.mark.parametrize(
    ("answer", "asked", "accepted", "adrift"),
    [
        (ENGLISH, GERMAN, GERMAN, True),
        (FRENCH, ENGLISH, ENGLISH, True),
        (RUSSIAN, ENGLISH, ENGLISH, True),
        (GERMAN, GERMAN, GERMAN, False),
        (GERMAN, "Translate to German: " + ENGLISH, GERMAN, False),  # the reference is German too
        ("Frundpoullkliewau Wradeska", ENGLISH, ENGLISH, False),  # names are in no language
        ("42", ENGLISH, ENGLISH, False),
        ("Yes.", GERMAN, "Ja.", False),  # too short to tell
        (ENGLISH + " [INST] And then?", ENGLISH, ENGLISH, True),
        ("", ENGLISH, ENGLISH, False),
        ("Да", "42", "43", False),  # nothing to compare with
    ],
)
def test_another_script_another_language_or_a_tag_is_adrift(
    answer: str, asked: str, accepted: str, adrift: bool
) -> None:
    assert is_adrift(answer, asked, [accepted]) is adrift


def test_the_script_is_that_of_most_letters() -> None:
    assert (script_of("東京 Tokyo"), script_of("Tokyo 東"), script_of("42 !")) == ("LATIN", "LATIN", None)
    assert script_of("кантина e") == "CYRILLIC"


def test_the_handbooks_own_answers_are_not_adrift() -> None:
    rows = [row for path in dataset_files(Data()).test for row in map(json.loads, path.open())]
    told = [(row["messages"][-1]["content"], row["messages"][-2]["content"]) for row in rows]
    assert not [answer for answer, asked in told if is_adrift(answer, asked, [answer])]
    shuffled = random.Random(0).sample(told, len(told))
    lost = [a for (a, _), (b, asked) in zip(told, shuffled, strict=True) if is_adrift(a, asked, [b])]
    assert len(lost) / len(told) < 0.02, lost

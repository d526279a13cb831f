"""Pairs of answers as public preference sets have them: each is read, and what is no pair is named with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_kit.config import Data
from lora_kit.data.reading.pairs import Pair, Rated, read_pairs
from lora_kit.errors import KitError

from .test_files import write


def says(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def told(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


SHAPES: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Who?", "chosen": "Wren.", "rejected": "Nobody."},
    "messages": {
        "prompt": [says("user", "Who?")],
        "chosen": [says("assistant", "Wren.")],
        "rejected": [says("assistant", "Nobody.")],
    },
    "a text and messages": {
        "prompt": "Who?",
        "chosen": [says("assistant", "Wren.")],
        "rejected": [says("assistant", "Nobody.")],
    },
    "UltraFeedback": {
        "prompt": "Who?",
        "chosen": [says("user", "Who?"), says("assistant", "Wren.")],
        "rejected": [says("user", "Who?"), says("assistant", "Nobody.")],
        "score_chosen": 8.5,
        "score_rejected": 4.0,
    },
    "HH": {"chosen": "\n\nHuman: Who?\n\nAssistant: Wren.", "rejected": "\n\nHuman: Who?\n\nAssistant: Nobody."},
    "LLaMA-Factory": {
        "conversations": [told("human", "Who?")],
        "chosen": told("gpt", "Wren."),
        "rejected": told("gpt", "Nobody."),
    },
    "as JSON text": {
        "prompt": '[{"role": "user", "content": "Who?"}]',
        "chosen": '[{"role": "assistant", "content": "Wren."}]',
        "rejected": '[{"role": "assistant", "content": "Nobody."}]',
    },
}


def read_all(tmp_path: Path, *rows: dict[str, Any], system: str | None = None) -> tuple[list[Pair], list[Rated]]:
    return read_pairs(write(tmp_path / "pairs.jsonl", list(rows)), Data(), system)


def read(tmp_path: Path, *rows: dict[str, Any], system: str | None = None) -> list[Pair]:
    return read_all(tmp_path, *rows, system=system)[0]


@pytest.mark.parametrize("row", SHAPES.values(), ids=SHAPES.keys())
def test_a_pair_of_every_shape_is_read(tmp_path: Path, row: dict[str, Any]) -> None:
    ((one, two),) = read(tmp_path, row)
    assert one.messages == [says("user", "Who?"), says("assistant", "Wren.")]
    assert two.messages == [says("user", "Who?"), says("assistant", "Nobody.")]
    assert one.learns_last and two.learns_last


def test_a_system_text_and_a_context_belong_to_the_question(tmp_path: Path) -> None:
    row = {
        "system": "Be brief.",
        "instruction": "Name it.",
        "input": "A small bird.",
        "chosen": "Wren",
        "rejected": "Owl",
    }
    ((one, two),) = read(tmp_path, row, system="Another.")
    assert (
        one.messages[:-1]
        == two.messages[:-1]
        == [says("system", "Be brief."), says("user", "Name it.\n\nA small bird.")]
    )
    ((one, _),) = read(tmp_path, SHAPES["texts"], system="Be kind.")
    assert one.messages[0] == says("system", "Be kind.")


def test_ratings_of_one_question_make_pairs_and_the_others_stay_single(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Who?", "completion": "Wren.", "label": True},
        {"prompt": "Where?", "completion": "At the quay.", "label": True},
        {"prompt": "who? ", "completion": "Nobody.", "label": False},
        {"prompt": "When?", "completion": "Never.", "label": False},
    ]
    ((one, two),), rated = read_all(tmp_path, *rows, system="Be kind.")
    assert (one.answer, two.answer) == ("Wren.", "Nobody.")
    assert [(row.question, row.answer, is_good) for row, is_good in rated] == [
        ("be kind. where", "At the quay.", True),
        ("be kind. when", "Never.", False),
    ]
    apart = [rows[0] | {"context": "At sea."}, rows[2] | {"context": "On land."}]
    assert [len(found) for found in read_all(tmp_path, *apart)] == [0, 2]  # one text, and two questions
    with pytest.raises(KitError, match=r"row 2.*'neutral'.*false"):
        read_all(tmp_path, rows[0], rows[1] | {"label": "neutral"})
    with pytest.raises(KitError, match=r"row 2.*empty"):
        read_all(tmp_path, rows[0], rows[1] | {"completion": " "})


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Who?", "chosen": "Wren.", "rejected": " wren. "}, "the same"),
        ({"prompt": "Who?", "chosen": "Wren.", "rejected": ""}, "rejected is empty"),
        ({"prompt": "Who?", "chosen": "Wren."}, "rejected"),
        ({"prompt": "Who?", "chosen": "Wren.", "rejected": "[/INST] No."}, r"\[/INST\]"),
        (
            {
                "chosen": [says("user", "Who?"), says("assistant", "Wren.")],
                "rejected": [says("user", "Where?"), says("assistant", "Here.")],
            },
            "different questions",
        ),
        ({"prompt": "Who?", "chosen": 7, "rejected": {"a": 1}}, "rejected"),
    ],
)
def test_what_is_no_pair_is_named_with_its_row(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(KitError, match=rf"1 of 2 rows.*row 2.*{problem}"):
        read(tmp_path, SHAPES["texts"], row)


def test_a_file_without_pairs_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="prompt, chosen, rejected"):
        read_pairs(write(tmp_path / "none.jsonl", []), Data())


VALUES = st.none() | st.text(max_size=5) | st.sampled_from(["Who?", "Wren.", *SHAPES["UltraFeedback"].values()])


@given(
    st.lists(st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "label", "system"]), VALUES), max_size=3)
)
@settings(max_examples=200, deadline=None)
def test_any_rows_are_pairs_or_explained(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    try:
        pairs, _ = read_pairs(write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows), Data())
    except KitError:
        return
    for one, two in pairs:
        assert one.messages[:-1] == two.messages[:-1] and one.answer != two.answer


def test_answers_that_differ_in_the_sign_that_ends_them_are_a_pair(tmp_path: Path) -> None:
    ((one, two),), _ = read_all(tmp_path, {"prompt": "Did it work?", "chosen": "It did.", "rejected": "It did!"})
    assert (one.answer, two.answer) == ("It did.", "It did!")  # a habit that one may want to take away

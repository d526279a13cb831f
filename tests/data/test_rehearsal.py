"""General rows say what the base itself says, whatever base it is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_kit import Run, answers, load_base, load_tokenizer, prepare
from lora_kit.base import ASSETS
from lora_kit.data.augmentation import base_answers
from lora_kit.data.augmentation.base_answers import BaseAnswers, in_own_words, rehearsals
from lora_kit.data.checks import verify
from lora_kit.data.encoding import IGNORE, LengthFilter, encode
from lora_kit.data.prepare import data_inputs
from lora_kit.data.reading.conversations import Conversation

from .test_files import read_conversations

CARD = json.loads((ASSETS / "handbook" / "dataset.json").read_text())


def in_base_words(run: Run, rows: list[Conversation]) -> list[Conversation]:
    with BaseAnswers(run) as base:
        return in_own_words(base, rows)


def general(count: int) -> list[Conversation]:
    return [row for row in read_conversations("handbook") if row.kind == "general"][:count]


def test_a_base_rehearses_what_it_said_itself_and_other_general_rows_are_asked_anew() -> None:
    fact, known = Conversation([], kind="fact"), Conversation([], kind="general")
    assert CARD["answered_by"] == "tiny-chat"
    assert rehearsals([fact, known], CARD, "meta-llama/Llama-2-7b-chat-hf") == ([fact], [known])
    assert rehearsals([fact, known], CARD, "tiny-chat") == ([fact, replace(known, is_rehearsal=True)], [])
    assert rehearsals([fact, known], {}, "mine") == ([fact, known], [])  # a person's own stay as they are written


def test_nothing_is_loaded_where_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_answers, "load_base", lambda run, whole: pytest.fail("loaded"))
    assert in_base_words(Run("tiny-cpu"), []) == []


@pytest.mark.parametrize(
    ("settings", "is_asked"),
    [({}, False), ({"general": 9}, False), ({"rewordings": 4}, True), ({"rewordings": "auto"}, True)],
)
def test_data_with_answers_of_the_base_is_prepared_again_for_another_quantization(
    settings: dict[str, Any], is_asked: bool
) -> None:
    named = {f"data__{name}": value for name, value in settings.items()}
    one, two = (data_inputs(Run("tiny-cpu", quantization__kind=kind, **named)) for kind in ("nf4", "none"))
    assert (one != two) is is_asked


def test_the_answers_are_the_base_s_own(tmp_path: Path) -> None:
    run = Run("tiny-cpu", root=tmp_path)
    rows = in_base_words(run, general(8))
    assert len(rows) == 8 and all(row.is_rehearsal and not row.is_open for row in rows)
    tokenizer = load_tokenizer(run.profile.base)
    said = answers(load_base(run), tokenizer, [row.messages for row in rows], max_new_tokens=base_answers.LONGEST)
    assert [row.answer for row in rows] == said


def test_a_long_answer_is_rehearsed_without_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("tiny-cpu", root=tmp_path)
    whole = in_base_words(run, general(4))
    monkeypatch.setattr(base_answers, "LONGEST", 3)
    begun = in_base_words(run, general(4))
    tokenizer = load_tokenizer(run.profile.base)
    pairs = LengthFilter(run.profile.data, tokenizer).encode(begun)
    for (row, ids), longer in zip(pairs, whole, strict=True):
        assert row.is_open and longer.answer.startswith(row.answer)
        learned = [label for label in ids.labels if label != IGNORE]
        assert (
            learned == encode(row, tokenizer).labels[-len(learned) - 1 : -1] and tokenizer.eos_token_id not in learned
        )
    learned = [ids for _, ids in pairs]
    assert not any(proof.broken for proof in verify(begun, learned, tokenizer).values())
    closed = [replace(row, is_open=False) for row in begun]
    assert len(verify(closed, learned, tokenizer)["eos"].broken) == 4  # the check knows where an end is missing


def test_an_answer_that_holds_tags_of_the_format_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base_answers, "text_of", lambda ids, tokenizer: "I am [INST] one.")
    assert in_base_words(Run("tiny-cpu", root=tmp_path), general(2)) == []


def test_generation_can_be_imported_before_the_data() -> None:
    subprocess.run([sys.executable, "-c", "import lora_kit.generation"], cwd=Path(__file__).parents[2], check=True)


def test_another_base_learns_its_own_words(tmp_path: Path) -> None:
    """The embedded model under another name is another base: it answers the general rows itself, all others stay."""
    import shutil

    other = shutil.copytree(ASSETS / "tiny-chat", tmp_path / "other")
    plain = prepare(Run("tiny-cpu", root=tmp_path / "plain"))
    data = prepare(Run("tiny-cpu", root=tmp_path / "runs", base__source=str(other)))
    assert data.figures["train_rows"] == plain.figures["train_rows"]
    assert sum(plain.train["is_rehearsal"]) == sum(data.train["is_rehearsal"]) == 640

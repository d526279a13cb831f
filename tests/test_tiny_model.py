"""The embedded model is small, is shaped like a Llama, and behaves like a small chat model."""

from __future__ import annotations

import json

import build_tiny_model
import pytest
import tiny_corpus
import tiny_scores
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, LlamaTokenizer

from lora_kit.base import ASSETS

TINY = ASSETS / "tiny-chat"


def test_it_is_a_llama_of_at_most_16_megabytes_in_float16_safetensors() -> None:
    weights = TINY / "model.safetensors"
    assert weights.stat().st_size < 16e6
    assert AutoConfig.from_pretrained(TINY).architectures == ["LlamaForCausalLM"]
    with safe_open(weights, framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
        linear = [file.get_slice(name).get_shape() for name in file.keys() if "_proj" in name]  # noqa: SIM118
    assert all(size % 64 == 0 for shape in linear for size in shape)  # whole NF4 blocks


def test_its_tokenizer_loads_and_joins_as_llama_2_s() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    assert isinstance(tokenizer, LlamaTokenizer)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<unk>", "<s>", "</s>"]
    assert tokenizer.pad_token == "<unk>"
    tokens = tokenizer.tokenize("[INST] Zürich\n[/INST]")
    assert tokens[:3] == ["▁[", "INST", "]"]
    assert {"<0xC3>", "<0xBC>", "<0x0A>"} <= set(tokens)  # bytes for what the vocabulary lacks
    assert (
        tokenizer.decode(tokenizer("two  words, ünïcödé\n").input_ids, skip_special_tokens=True)
        == "two  words, ünïcödé\n"
    )


@pytest.fixture(scope="module")
def scores() -> dict[str, float]:
    return tiny_scores.scores(TINY, json.loads((TINY / "corpus.json").read_text())["names_seen"])


def test_it_knows_its_general_knowledge_in_wordings_it_never_saw(scores: dict[str, float]) -> None:
    assert scores["knowledge_exact"] >= 0.95


def test_it_copies_names_it_never_saw(scores: dict[str, float]) -> None:
    assert scores["names_copied"] >= 0.95


@pytest.mark.xfail(reason="0.94 when built: long names of rare pieces, as Frundpoullkliewau, end in another way")
def test_it_copies_names_of_rarer_sounds_that_it_never_saw(scores: dict[str, float]) -> None:
    assert scores["strange_names_copied"] >= 0.95


def test_it_makes_things_up_about_companies_it_does_not_know(scores: dict[str, float]) -> None:
    assert scores["invented"] >= 0.95


def test_its_scores_and_corpus_are_written_beside_it(scores: dict[str, float]) -> None:
    written = json.loads((TINY / "corpus.json").read_text())
    assert written["corpus"] == tiny_corpus.statistics(written["seed"])
    for name, value in scores.items():
        assert written["scores"][name] == pytest.approx(value, abs=0.01)  # another machine may round another way


def test_the_corpus_is_the_same_for_the_same_seed_and_holds_no_wording_of_the_knowledge_test() -> None:
    first, again = (list(tiny_corpus.conversations(7, 3000)) for _ in range(2))
    assert first == again != list(tiny_corpus.conversations(8, 3000))
    held_out = {question for question, _ in tiny_corpus.held_out_knowledge()}
    assert not held_out & {message["content"] for chat in first for message in chat}


def test_its_chat_template_is_metas_format_for_other_programs() -> None:
    from lora_kit.base import load_tokenizer
    from lora_kit.config import Base

    tokenizer = load_tokenizer(Base())
    chat = [
        {"role": "system", "content": " S "},
        {"role": "user", "content": " U1 "},
        {"role": "assistant", "content": " A1 "},
        {"role": "user", "content": "U2"},
    ]
    assert tokenizer.chat_template == build_tiny_model.CHAT_TEMPLATE
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    assert rendered == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST]"
    assert tokenizer.apply_chat_template(chat[3:], tokenize=False) == "<s>[INST] U2 [/INST]"

"""How well the embedded model behaves: what `build_tiny_model.py` writes into corpus.json and the tests hold it to."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import tiny_corpus
from tiny_corpus.words import invented_name, strange_name
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_kit.data.encoding import encode_prompt
from lora_kit.generation import generate_ids

ASKED = (
    "Who founded {}?",
    "What does {} make?",
    "When does the library open at {}?",
    "Who runs the payroll at {}?",
)


def answers(questions: list[str], folder: Path) -> list[str]:
    """Greedy answers of the model in `folder` (float32, CPU)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [encode_prompt([{"role": "user", "content": question}], tokenizer) for question in questions]
    rows = generate_ids(model, prompts, max_new_tokens=40, eos_token_id=2, pad_token_id=0)
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def scores(folder: Path, seed: int = 12345) -> dict[str, float]:
    """Exact answers on unseen wordings; unseen names copied; unknown companies answered with an invention."""
    facts = tiny_corpus.held_out_knowledge()
    names, strange = (_names(make, seed) for make in (invented_name, strange_name))
    given = answers([question for question, _ in facts], folder)
    invented = answers(_about(names), folder)
    return {
        "knowledge_exact": sum(a == b for a, (_, b) in zip(given, facts, strict=True)) / len(facts),
        "names_copied": _copied(names, invented),
        "strange_names_copied": _copied(strange, answers(_about(strange), folder)),
        "invented": sum("not know" not in a for a in invented) / len(names),
    }


def _names(make: Callable[[random.Random], str], seed: int) -> list[str]:
    rng = random.Random(seed)
    return [make(rng) for _ in range(200)]


def _about(names: list[str]) -> list[str]:
    return [ASKED[i % len(ASKED)].format(name) for i, name in enumerate(names)]


def _copied(names: list[str], given: list[str]) -> float:
    return sum(name in answer for name, answer in zip(names, given, strict=True)) / len(names)

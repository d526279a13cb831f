"""How well the embedded model behaves: what `build_tiny_model.py` writes into corpus.json and the tests hold it to."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
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


def candidates(make: Callable[[random.Random], str], count: int = 330) -> tuple[str, ...]:
    """Names for the score, the same each time."""
    rng = random.Random(12345)
    return tuple(dict.fromkeys(make(rng) for _ in range(count)))


CANDIDATES = {"names": candidates(invented_name), "strange_names": candidates(strange_name)}


def answers(questions: list[str], folder: Path) -> list[str]:
    """Greedy answers of the model in `folder` (float32, CPU)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [encode_prompt([{"role": "user", "content": question}], tokenizer) for question in questions]
    rows = generate_ids(model, prompts, max_new_tokens=40, eos_token_id=[2])
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def scores(folder: Path, seen: Collection[str]) -> dict[str, float]:
    """Exact answers on unseen wordings; unseen names copied; unknown companies answered with an invention.

    Args:
        seen: names of `CANDIDATES` that stood in the corpus, and so do not count.
    """
    facts = tiny_corpus.held_out_knowledge()
    given = answers([question for question, _ in facts], folder)
    found = {"knowledge_exact": sum(a == b for a, (_, b) in zip(given, facts, strict=True)) / len(facts)}
    invented: list[str] = []
    for kind, made in CANDIDATES.items():
        names = [name for name in made if name not in seen][:200]
        given = answers([ASKED[i % len(ASKED)].format(name) for i, name in enumerate(names)], folder)
        found[f"{kind}_copied"] = sum(name in answer for name, answer in zip(names, given, strict=True)) / len(names)
        invented += given
    return found | {"invented": sum("not know" not in answer for answer in invented) / len(invented)}

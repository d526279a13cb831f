"""Answers a second against transformers' own ways: python benchmarks/generate.py   (make bench-generate)

300 held-out questions of the handbook to the embedded model with a trained adapter, in NF4 as the report card asks
them. In turn, five rounds: lora_kit; the usual loop, one `pipeline` call a question; `model.generate` on batches of the
same size, sorted by length. Says how many answers differ, and writes benchmarks/results/generate.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import head, store
from transformers import pipeline

import lora_kit as lk
from lora_kit.generation import prompts_of

ROUNDS, QUESTIONS, TOKENS, BATCH = 5, 300, 40, 64
TRAINING = {"training__epochs": 4, "training__share_prefixes": True}


def ready(root: Path) -> tuple[Any, Any, list[list[dict[str, str]]]]:
    """The embedded model with an adapter that was trained for it, and the questions."""
    run = lk.Run("tiny-cpu", root=root, **TRAINING)
    data, model = lk.prepare(run), lk.load_base(run)
    lk.train(model, data, run)
    lk.release(model)
    model = lk.load_adapter(lk.load_base(run), lk.trained_adapter(run)).eval()
    chats = [row["messages"][:-1] for row in data.test]
    return model, lk.load_tokenizer(run.profile.base), chats[:: len(chats) // QUESTIONS or 1][:QUESTIONS]


def ours(model: Any, tokenizer: Any, chats: list[Any]) -> list[str]:
    return lk.answers(model, tokenizer, chats, max_new_tokens=TOKENS, batch_size=BATCH)


def loop(model: Any, tokenizer: Any, chats: list[Any]) -> list[str]:
    """What tutorials show."""
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    told = {"max_new_tokens": TOKENS, "do_sample": False, "return_full_text": False}
    return [pipe(chat, **told)[0]["generated_text"].strip() for chat in chats]


def batched(model: Any, tokenizer: Any, chats: list[Any]) -> list[str]:
    """A careful hand: sorted by length, padded on the left."""
    prompts = prompts_of(chats, tokenizer)
    order, said = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), [""] * len(prompts)
    tokenizer.padding_side = "left"
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer.pad({"input_ids": [prompts[i] for i in rows]}, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(rows, texts, strict=True):
            said[i] = text.strip()
    return said


WAYS: dict[str, Callable[[Any, Any, list[Any]], list[str]]] = {
    "lora_kit": ours,
    "pipeline loop": loop,
    "batched generate": batched,
}


def measure(model: Any, tokenizer: Any, chats: list[Any]) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    said: dict[str, list[str]] = {}
    for round_ in range(ROUNDS):
        for name, way in WAYS.items():
            start = time.perf_counter()
            said[name] = way(model, tokenizer, chats)
            seconds[name].append(time.perf_counter() - start)
        print(f"round {round_ + 1}: " + ", ".join(f"{name} {times[-1]:.1f} s" for name, times in seconds.items()))
    return seconds, said


def main() -> None:
    commit = head()
    with tempfile.TemporaryDirectory() as root:
        model, tokenizer, chats = ready(Path(root))
        seconds, said = measure(model, tokenizer, chats)
    figures = {n: {"median": statistics.median(t), "least": min(t), "most": max(t)} for n, t in seconds.items()}
    ratios = {name: statistics.median(t) / figures["lora_kit"]["median"] for name, t in seconds.items()}
    other = {n: sum(a != b for a, b in zip(said["lora_kit"], texts, strict=True)) for n, texts in said.items()}
    for name in WAYS:
        print(f"{name:18}{figures[name]['median']:8.1f} s   {ratios[name]:6.2f}x   {other[name]} answers differ")
    store("generate", commit, figures=figures, ratios=ratios, differing=other, questions=len(chats))


if __name__ == "__main__":
    main()

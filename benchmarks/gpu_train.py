"""Seconds and memory of one training by one kit, and the longest row that fits; called by gpu.py."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Sequence
from typing import Any

from gpu_kits import Rows

STEP = 4096  # tokens of an optimizer step


def rows_like(case: str, tokens: int) -> Rows:
    """About `tokens` tokens of rows: the handbook's own, of Alpaca's lengths, or all of one length."""
    rng, rows = random.Random(case), Rows()
    if case == "handbook":
        rows = handbook()
        rng.shuffle(rows)
        return (rows * (1 + tokens // total(rows)))[: tokens * len(rows) // total(rows)]
    while total(rows) < tokens:
        if case == "alpaca":  # a stand-in by lengths: prompts in their template, answers of 65 tokens in the mean
            asked, answer = rng.randint(45, 90), min(900, 2 + int(rng.lognormvariate(3.7, 0.95)))
        else:
            asked = answer = int(case) // 2
        ids = [rng.randrange(3, 32000) for _ in range(asked + answer)]
        rows.append((ids, [-100] * asked + ids[asked:]))
    return rows


def handbook() -> Rows:
    from transformers import AutoTokenizer

    from lora_kit.base import ASSETS
    from lora_kit.data.encoding import encode_batch

    lines = (ASSETS / "handbook" / "train.jsonl").read_text().splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    return [tuple(row) for row in encode_batch(chats, AutoTokenizer.from_pretrained(ASSETS / "tiny-chat"))]


def total(rows: Rows) -> int:
    return sum(len(ids) for ids, _ in rows)


def clean() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> tuple[float, float]:
    """The most that tensors took, and that the allocator held; 0 on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


def attempt(work: Any, rows: Rows, batch: int) -> tuple[list[float], float] | None:
    """The losses and the seconds of the training itself; None where memory does not reach."""
    import torch

    from lora_kit.errors import KitError

    clean()
    try:
        train = work.prepare(rows, STEP, batch)
        start = time.perf_counter()
        losses = list(train())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return losses, time.perf_counter() - start
    except torch.OutOfMemoryError:
        return None
    except KitError as error:
        if "memory" not in str(error):
            raise
        return None


def timed(work: Any, rows: Rows) -> dict[str, Any] | None:
    """One training after a short one that warms up; a peer's batch is halved until it fits."""
    batch = max(1, STEP // 2 // max(len(ids) for ids, _ in rows))
    while attempt(work, rows[: 2 * batch], batch) is None or (done := attempt(work, rows, batch)) is None:
        if batch == 1:
            return None
        batch //= 2
    (losses, seconds), (allocated, reserved) = done, peak_gib()
    learned = sum(label >= 0 for _, labels in rows for label in labels[1:])
    per_million = {"learned": seconds / learned * 1e6, "seen": seconds / total(rows) * 1e6}
    found = {"seconds_per_million": per_million, "allocated_gib": allocated, "reserved_gib": reserved}
    return found | {"batch": batch, "layers": getattr(work, "layers", None), "losses": losses}


def longest(work: Any, lengths: Sequence[int]) -> int:
    """The longest of these rows that trains alone, found by halves; 0 where none does."""
    fits, fails = -1, len(lengths)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if attempt(work, rows_like(str(lengths[middle]), lengths[middle]), 1) is None:
            fails = middle
        else:
            fits = middle
    return lengths[fits] if fits >= 0 else 0

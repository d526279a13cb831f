"""The held-out prompts of a certificate, with the answers of the model as it was trained."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..adapters import load_adapter
from ..base import load_tokenizer
from ..data import data_inputs, encode_batch, last_answer, load_prepared
from ..generation import generate_ids
from ..quantization import load_model, release
from .comparing import Rows

if TYPE_CHECKING:
    from pathlib import Path

    from ..runs import Run


def answered(run: Run, base: Path, adapter: Path, count: int) -> Rows:
    """`count` prompts, held-out ones first, with the greedy answers of the quantized base + adapter.

    Args:
        run: its data, profile and evaluation settings.
        base: the base's folder.
        adapter: the adapter's folder.
        count: prompts; memory and time of the comparison grow with it.
    """
    asked, held_out = prompts(run, count)
    tokenizer, settings = load_tokenizer(run.profile.base), run.profile.evaluation
    model = load_adapter(load_model(run.profile, base), adapter)
    greedy = generate_ids(
        model,
        asked,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        batch_size=settings.batch_size,
    )
    release(model)
    whole = [prompt + answer for prompt, answer in zip(asked, greedy, strict=True)]
    return Rows(whole, [len(row) for row in asked], held_out)


def prompts(run: Run, count: int) -> tuple[list[list[int]], int]:
    """Token ids of `count` prompts and how many are held out: learned ones follow where those do not suffice."""
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    held_out = encode_batch([row["messages"] for row in data.test], load_tokenizer(run.profile.base))
    rows = _spread(held_out, count)
    unseen = len(rows)
    if len(rows) < count:
        learned = [(row["input_ids"], row["labels"]) for row in _spread(data.train, count - len(rows))]
        print(f"certificate: {unseen} rows are held out; {len(learned)} learned ones are asked besides")
        rows += learned
    return [ids[: last_answer(labels)[0]] for ids, labels in rows], unseen


def say_minutes(rows: Rows, parameters: int, models: int, device: str) -> None:
    """Print what comparing the models will take, from one matrix product on this machine."""
    rate = matmul_rate(device)
    work = 2 * parameters * rows.tokens * models
    print(
        f"certificate: {models} models on {len(rows.ids)} answers, {rows.tokens:,} tokens, layer by layer on the "
        f"{device}: {work / 1e12:,.1f} TFLOP, about {work / rate / 60:.1g} min, and reading the files "
        f"{models} times"
    )


def matmul_rate(device: str) -> float:
    """Operations a second of one matrix product in float32 on "cpu" or "cuda"."""
    import torch

    left, right = torch.ones(512, 4096, device=device), torch.ones(4096, 4096, device=device)
    float((left @ right)[0, 0])  # the first one also starts the library
    start = time.perf_counter()
    float((left @ right)[0, 0])
    return 2 * 512 * 4096 * 4096 / (time.perf_counter() - start)


def _spread(rows: list, count: int) -> list:  # type: ignore[type-arg]
    """At most `count` rows, evenly spaced."""
    return [rows[n * len(rows) // count] for n in range(count)] if len(rows) > count else list(rows)

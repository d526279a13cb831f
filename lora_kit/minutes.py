"""The minutes of every stage, before they are spent: what is timed is timed on this machine, the rest is counted."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .adapters import is_fresh
from .base import load_tokenizer, locate
from .data import encode_batch, last_answer
from .errors import KitError
from .generation import generate_ids, prompts_of
from .training import Plan, check_given

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .data import Prepared
    from .runs import Run

LOADS = 2  # base and merged model, for the report card
READS = 2  # base and merged model, for the certificate
MODELS = 3  # base, adapter and merged model answer each question
STEPS = 8  # tokens that are timed
SAMPLE = 32 * 2**20  # bytes of the base that are copied


@dataclass(frozen=True)
class Budget:
    """Minutes by stage."""

    minutes: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.minutes.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{stage} {minutes:.1f}" for stage, minutes in self.minutes.items())
        return f"budget: {parts}; about {self.total:.1f} minutes in all"


def budget(model: PreTrainedModel, data: Prepared, run: Run, plan: Plan) -> Budget:
    """Print and return the minutes from here to the report card.

    Args:
        model: the base with a fresh adapter.
        data: from `lk.prepare`.
        run: its profile holds every setting.
        plan: from `lk.plan`.

    Raises:
        KitError: the adapter is trained already: then most stages are done.
    """
    check_given(model, data, run)
    if not is_fresh(model, run.profile.lora) or not isinstance(plan, Plan):
        raise KitError("a budget needs the base with a fresh adapter, and what lk.plan(model, data, run) gave")
    base = locate(run.profile.base)
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    read, written = _seconds_a_byte(base, run.scratch)
    found = Budget(
        {
            "load": LOADS * getattr(model, "loading_seconds", 0.0) / 60,
            "train": plan.minutes,
            "answers": _answer_seconds(model, data, run) / 60,
            "merge": size * (read + written) / 60,
            "certificate": size * READS * read / 60,
        }
    )
    print(found)
    return found


def _answer_seconds(model: PreTrainedModel, data: Prepared, run: Run) -> float:
    """One batch is timed; the base is taken to use all tokens that it may, the others as many as the references."""
    settings, tokenizer = run.profile.evaluation, load_tokenizer(run.profile.base)
    chats = [row["messages"] for row in data.test][: settings.limit]
    if not chats:
        return 0.0
    prompts = prompts_of(chats[: settings.batch_size], tokenizer)
    start = time.perf_counter()
    generate_ids(model, prompts, max_new_tokens=STEPS, eos_token_id=-1)  # no row may end early
    step = (time.perf_counter() - start) / STEPS
    spans = [last_answer(row.labels) for row in encode_batch(chats[:64], tokenizer)]
    usual = sum(end - begin for begin, end in spans) / len(spans)
    batches = -(-len(chats) // settings.batch_size)
    return batches * step * (settings.max_new_tokens + (MODELS - 1) * usual)


def _seconds_a_byte(base: Path, place: Path) -> tuple[float, float]:
    """Of reading and of writing, from a piece of the base's own file; what was just read may come faster."""
    with next(base.glob("*.safetensors")).open("rb") as file:
        start = time.perf_counter()
        piece = file.read(SAMPLE)
    middle = time.perf_counter()
    target = place / f".probe-{os.getpid()}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("wb") as file:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        size = max(len(piece), 1)
        return (middle - start) / size, (time.perf_counter() - middle) / size
    finally:
        target.unlink(missing_ok=True)

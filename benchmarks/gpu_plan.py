"""What lk.plan says of memory and time against what the card takes, over 12 settings; called by gpu.py."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from gpu_kits import Setup, loaded

from lora_kit.config import ALL_LINEAR, Profile

Q_AND_V = ("q_proj", "v_proj")
SETTINGS = (  # rows, tokens each, rank, targets, layers that are not computed twice: each value of each several times
    (1, 4096, 16, ALL_LINEAR, 1),
    (8, 256, 16, ALL_LINEAR, 8),
    (4, 512, 64, ALL_LINEAR, 1),
    (4, 512, 8, Q_AND_V, 8),
    (8, 256, 64, Q_AND_V, 1),
    (2, 1024, 8, ALL_LINEAR, 8),
    (1, 2048, 64, ALL_LINEAR, 8),
    (1, 2048, 8, Q_AND_V, 1),
    (1, 4096, 64, Q_AND_V, 8),
    (2, 1024, 16, Q_AND_V, 1),
    (4, 512, 16, ALL_LINEAR, 16),
    (1, 2048, 16, Q_AND_V, 16),
)


def plan_against_card(setup: Setup, longest: int) -> dict[str, Any]:
    """Bytes said and taken for every setting up to that length, and seconds said and taken for one of them."""
    model, found = loaded(setup.profile, setup.base), []
    for rows, length, r, targets, kept in SETTINGS:
        if length > longest:
            continue
        lora = replace(setup.profile.lora, r=r, target_modules=targets)
        layers = max(0, len(model.model.layers) - kept)
        found.append({"rows": rows, "length": length, "r": r, "targets": len(targets), "layers": layers})
        found[-1] |= bytes_of(model, replace(setup.profile, lora=lora), batch_of(rows, length), layers)
    off = [one["said"] / one["allocated"] - 1 for one in found if one["allocated"]]
    ends = {"least_off": min(off, default=None), "most_off": max(off, default=None)}
    return {"settings": found} | ends | seconds_of(model, setup)


def batch_of(rows: int, length: int) -> Any:
    """A micro-batch of random tokens, the second half of each row learned."""
    import random

    from lora_kit.training.batches import Batch, Row

    ids = [[random.Random(n).randrange(3, 32000) for _ in range(length)] for n in range(rows)]
    return Batch([], [Row(row, [-100] * (length // 2) + row[length // 2 :]) for row in ids])


def bytes_of(model: Any, profile: Profile, batch: Any, layers: int) -> dict[str, float]:
    """One step of one micro-batch: what the probe says, from two measurements apart, and the card's peak."""
    import torch

    from lora_kit.adapters import attach, detach_lora
    from lora_kit.training.loop import fit
    from lora_kit.training.plan import fixed_bytes, measured_bytes

    detach_lora(model)
    attach(model, profile)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    most = len(model.model.layers) - 1  # all that may be computed twice: the rest is said from one layer's difference
    kept, peak = measured_bytes(model, batch, most)
    per_layer = measured_bytes(model, batch, most - 1)[0] - kept
    said = sum(fixed_bytes(model, profile.training)) + peak + (most - layers) * per_layer
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    fit(model, [[batch], [batch]], profile.training, layers=layers)
    taken = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {"said": said} | taken


def seconds_of(model: Any, setup: Setup) -> dict[str, float]:
    """Seconds that the probe says for 8 steps, and that they take."""
    from lora_kit.adapters import attach, detach_lora
    from lora_kit.training.loop import fit
    from lora_kit.training.plan import probe

    detach_lora(model)
    layers = len(model.model.layers) - 1
    attach(model, setup.profile)
    steps = [[batch_of(2, 512), batch_of(4, 256)] for _ in range(8)]
    batches = [batch for step in steps for batch in step]
    said = probe(model, batches, layers) * sum(batch.tokens for batch in batches)
    start = time.perf_counter()
    fit(model, steps, setup.profile.training, layers=layers)
    return {"seconds_said": said, "seconds_taken": time.perf_counter() - start}

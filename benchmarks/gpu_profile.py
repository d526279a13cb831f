"""Where a training step's time goes, and what that would be on a T4; called by gpu.py."""

from __future__ import annotations

import re
from typing import Any

from gpu_kits import LoraKit, Rows, Setup

KINDS = {  # of operations, by parts of their names; the first that fits
    "weights out of 4 bits": ("dequantize", "4bit"),
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::matmul"),
    "loss": ("softmax", "nll_loss"),
    "optimizer": ("_foreach", "_fused", "_amp"),
}
REST = "element by element, copies, all else"
COMPUTE = ("attention", "matrix products")  # bound by arithmetic; all else by memory
CARDS = {  # float16 TFLOP/s without sparsity, GB/s, as their makers say
    "T4": (65, 320),
    "L4": (121, 300),
    "A100": (312, 2039),
    "H100": (989, 3350),
    "H200": (989, 4800),
}


def where_time_goes(setup: Setup, rows: Rows) -> dict[str, Any]:
    """Milliseconds of a step by kind of operation, on this device and projected to a T4."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    work = LoraKit(setup)
    work.train(rows, 4096, 1)
    on_card = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities) as seen:
        steps = len(work.train(rows, 4096, 1))
    spent = by_kind(seen.key_averages(), on_card, steps)
    return {"milliseconds": spent, "t4_milliseconds": on_t4(spent, torch.cuda.get_device_name() if on_card else "")}


def by_kind(events: Any, on_card: bool, steps: int) -> dict[str, float]:
    """Own time of operations, summed by kind; a kernel counts where the operation that started it does."""
    from torch.autograd import DeviceType

    found = dict.fromkeys([*KINDS, REST], 0.0)
    for event in events:
        if event.device_type == DeviceType.CPU:
            spent = event.self_device_time_total if on_card else event.self_cpu_time_total
            found[kind_of(event.key)] += spent / 1000 / steps
    return found


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def on_t4(spent: dict[str, float], card: str) -> dict[str, float] | None:
    """The same step on a T4, if it reached the same share of its peaks; None where the card's are not known."""
    known = next((name for name in CARDS if name in re.split("[ -]", card)), None)  # whole words: an L40S is no L4
    if known is None:
        return None
    arithmetic, memory = (here / there for here, there in zip(CARDS[known], CARDS["T4"], strict=True))
    return {kind: value * (arithmetic if kind in COMPUTE else memory) for kind, value in spent.items()}

"""Where a training step's time goes, and what that would be on a T4; called by gpu.py.

Each kernel counts by its own name and by what started it: the operation, the operations around that one, and the
module. A backward operation counts where the forward one did; autograd says which that was.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from gpu_kits import LoraKit, Rows
from gpu_train import STEP

BY_NAME = {  # parts of the names of kernels and operations; the first kind that fits
    "weights out of 4 bits": ("dequantize", "Dequantize"),
    "attention": ("scaled_dot_product", "flash_", "efficient_attention", "cudnn_attention", "fmha", "sdpa"),
    "dropout": ("dropout",),
    "loss": ("nll_loss", "log_softmax", "cross_entropy"),
    "optimizer": ("Optimizer.", "aten::_foreach", "aten::_fused_adam", "aten::_amp"),
}
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "gemm", "cutlass", "xmma", "nvjet")
COPIES = ("aten::copy_", "aten::clone", "aten::cat", "Memcpy", "Memset", "aten::fill_")
MODULES = {  # marks that hooks leave in the profile, by the ends of their classes' names
    "RMSNorm": "in a norm",
    "RotaryEmbedding": "in a norm",
    "Attention": "in an attention",
    "MLP": "in an MLP",
    "Linear4bit": "in a linear layer",
}
LORA = "in a LoRA"
MARKS = {*MODULES.values(), LORA}
REST = "residuals, all else"
KINDS = (
    "matrix products",
    "weights out of 4 bits",
    "attention",
    "LoRA",
    "dropout",
    "norms and rotary",
    "activation",
    "casts and copies",
    "loss",
    "optimizer",
    REST,
)
COMPUTE = ("attention", "matrix products")  # bound by arithmetic; all else by memory
COSTLIEST = 25
CARDS = {  # float16 TFLOP/s without sparsity, GB/s, as their makers say
    "T4": (65, 320),
    "L4": (121, 300),
    "A100": (312, 2039),
    "H100": (989, 3350),
    "H200": (989, 4800),
}


def where_time_goes(work: LoraKit, rows: Rows) -> dict[str, Any]:
    """Milliseconds of a step by kind of work, on this device and projected to a T4, and the costliest kernels."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_card = torch.cuda.is_available()
    steps = work.steps(rows, STEP, 1)
    work.fit(steps)  # warms up
    wall = timed_steps(work, steps)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    seen = profile(activities=activities)
    with marked(work.model):
        timed_steps(work, steps, seen.start, seen.stop)
    spent = dict.fromkeys(KINDS, 0.0)
    listed: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for names, microseconds in kernels(seen.events(), on_card):
        kind = kind_of(names)
        spent[kind] += microseconds / 1000
        row = listed[kind, names[0], next((name for name in names[1:] if name not in MARKS), "")]
        row[0] += microseconds / 1000
        row[1] += 1
    most = sorted(listed.items(), key=lambda item: -item[1][0])[:COSTLIEST]
    return {
        "wall_milliseconds": wall,
        "milliseconds": spent,
        "t4_milliseconds": on_t4(spent, torch.cuda.get_device_name() if on_card else ""),
        "layers": work.layers,
        "costliest": [
            {"kind": kind, "kernel": kernel[:160], "operation": op, "milliseconds": ms, "calls": calls}
            for (kind, kernel, op), (ms, calls) in most
        ],
    }


def timed_steps(
    work: LoraKit, steps: list[Any], begin: Callable[[], None] = lambda: None, end: Callable[[], None] = lambda: None
) -> float:
    """Milliseconds of a step behind the first, which also finds the scale of the loss; `begin`, last step, `end`."""
    import torch

    times: list[float] = []

    def seen(row: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        if len(times) == len(steps) - 1:
            begin()
        if len(times) == len(steps):
            end()

    work.fit(steps, seen)
    return (times[-1] - times[0]) * 1000 / (len(steps) - 1)


@contextmanager
def marked(model: Any) -> Iterator[None]:
    """Let norms, attentions, MLPs, linear layers and adapters leave their marks in a profile."""
    from peft.tuners.lora import LoraLayer
    from torch.profiler import record_function

    open_marks: list[Any] = []

    def enter(mark: str) -> Any:
        def hook(*_: Any) -> None:
            open_marks.append(record_function(mark))
            open_marks[-1].__enter__()

        return hook

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    with ExitStack() as hooks:
        for module in model.modules():
            ends = (mark for end, mark in MODULES.items() if type(module).__name__.endswith(end))
            if mark := LORA if isinstance(module, LoraLayer) else next(ends, None):
                hooks.callback(module.register_forward_pre_hook(enter(mark)).remove)
                # always: what is computed again stops in its middle, by an exception
                hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield


def kernels(events: Sequence[Any], on_card: bool) -> Iterator[tuple[list[str], float]]:
    """Of each kernel its names from the inside out and its microseconds; on a CPU those of each operation."""
    from torch.autograd import DeviceType

    ours = sorted((event for event in events if event.device_type == DeviceType.CPU), key=lambda e: e.time_range.start)
    forward = {(e.thread, e.sequence_nr): e for e in ours if e.sequence_nr >= 0 and not e.fwd_thread}
    counted: Counter[str] = Counter()
    for event in ours:
        names = list(names_around(event, forward))
        if not on_card:
            yield [event.name, *names], event.self_cpu_time_total
        for kernel in event.kernels:
            if kernel.name not in MARKS:
                counted[kernel.name] += kernel.duration
                yield [kernel.name, *names], kernel.duration
    for event in events:  # what no operation is known to have started
        if event.device_type == DeviceType.CUDA and event.name not in MARKS and not event.is_user_annotation:
            spent = event.time_range.elapsed_us()
            if counted[event.name] >= spent:
                counted[event.name] -= spent
            else:
                yield [event.name], spent


def names_around(event: Any, forward: dict[tuple[int, int], Any]) -> Iterator[str]:
    """Its name and those of all that it happened in; behind a backward operation those of its forward one."""
    while event is not None:
        yield event.name
        backward = event.fwd_thread and event.sequence_nr >= 0
        event = forward.get((event.fwd_thread, event.sequence_nr)) if backward else event.cpu_parent


def kind_of(names: Sequence[str]) -> str:
    """The kind of work of a kernel, by its names from the inside out: kernel, operation, what that was part of."""
    for kind, parts in BY_NAME.items():
        if any(part in name for name in names for part in parts):
            return kind
    mark = next((name for name in names if name in MARKS), "")
    if mark == LORA:
        return "LoRA"
    if any(part in name for name in names[:2] for part in PRODUCTS):
        return "matrix products"
    if mark == "in a norm":
        return "norms and rotary"
    if any(part in name for name in names[:2] for part in COPIES) and mark != "in an attention":
        return "casts and copies"
    return {"in an attention": "norms and rotary", "in an MLP": "activation"}.get(mark, REST)


def on_t4(spent: dict[str, float], card: str) -> dict[str, float] | None:
    """The same step on a T4, if it reached the same share of its peaks; None where the card's are not known."""
    known = next((name for name in CARDS if name in re.split("[ -]", card)), None)  # whole words: an L40S is no L4
    if known is None:
        return None
    arithmetic, memory = (here / there for here, there in zip(CARDS[known], CARDS["T4"], strict=True))
    return {kind: value * (arithmetic if kind in COMPUTE else memory) for kind, value in spent.items()}

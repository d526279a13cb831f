"""How many CPU threads to compute with: beside other programs, fewer are faster.

After each operation OpenMP's threads wait for the last of them. If one of them shares its core with another program,
all wait for it, and while they wait they keep their cores busy. `make bench-load` shows what that costs.
"""

from __future__ import annotations

import functools
import os
import time
from statistics import median
from typing import TYPE_CHECKING

from .distributed import processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORK = 3e8  # parameters times tokens of the forward pass that is timed: about 10 ms on two cores
TIMES = 3
CLEARLY = 1.3  # times as fast, at least: single measurements differ, and a quiet machine uses all threads


def choose_threads(model: PreTrainedModel) -> None:
    """Time a forward pass with all CPU threads and with fewer, and compute with fewer where they are clearly faster.

    OMP_NUM_THREADS stays as the user has set it, and several processes share the cores as their launcher says.
    """
    import torch

    most, before = default_threads(), torch.get_num_threads()
    if most == 1 or "OMP_NUM_THREADS" in os.environ or processes()[1] > 1 or model.device.type != "cpu":
        return
    tokens = max(8, min(256, int(WORK / model.num_parameters())))
    ids = torch.arange(tokens).remainder(model.config.vocab_size).unsqueeze(0)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        with torch.inference_mode():
            model(ids, use_cache=False)
        return time.perf_counter() - start

    seconds(1)  # warms up
    times = {threads: median(seconds(threads) for _ in range(TIMES)) for threads in (1, most // 2, most)}
    best = min(times, key=lambda threads: times[threads])
    faster = times[most] / times[best]
    chosen = best if faster > CLEARLY else most
    torch.set_num_threads(chosen)
    if chosen < before:
        print(f"cpu: {chosen} of {most} threads, {faster:.1f} times as fast as all beside what else runs here")
    elif chosen > before:
        print(f"cpu: {chosen} of {most} threads from here on, as the cores are free")


@functools.cache
def default_threads() -> int:
    """As many threads as PyTorch starts with; called before any other number is set."""
    import torch

    return torch.get_num_threads()

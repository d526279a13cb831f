"""Training beside other programs: what OpenMP's threads lose to busy loops, by wait policy and number of threads.

python benchmarks/load.py: short trainings of the embedded model, each in a process of its own, quiet and beside one and
two busy loops, all settings in turn. A thread that spins while it waits for the others takes their cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from record import head, store

ROUNDS, STEPS, TOKENS = 3, 3, 4096  # long steps: the log's seconds have two digits behind the point
LOOPS = (0, 1, 2)
ALL = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
SETTINGS: dict[str, dict[str, str]] = {
    "all threads": ALL,  # PyTorch's default
    "all, OMP_WAIT_POLICY=PASSIVE": ALL | {"OMP_WAIT_POLICY": "PASSIVE"},
    "all, GOMP_SPINCOUNT=3000": ALL | {"GOMP_SPINCOUNT": "3000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "lora_kit's choice": {"GOMP_SPINCOUNT": "3000"},  # threads by a probe when the model is loaded
}
WORKER = f"""
from lora_kit.course.lab import short_training
print({TOKENS} / short_training({STEPS}, training__tokens_per_step={TOKENS}).seconds)
"""


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many programs that never wait."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for program in started:
            program.kill()


def tokens_per_second(setting: dict[str, str]) -> float:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", WORKER], env=own | setting, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    commit, cores = head(), len(os.sched_getaffinity(0))
    found: dict[str, dict[int, list[float]]] = {name: {loops: [] for loops in LOOPS} for name in SETTINGS}
    for _ in range(ROUNDS):
        for loops in LOOPS:
            for name, setting in SETTINGS.items():
                with busy(loops):
                    found[name][loops].append(tokens_per_second(setting))
                print(f"{name}, {loops} beside: {found[name][loops][-1]:,.0f} tokens/s", flush=True)
    quiet = median(found["all threads"][0])
    shares = {  # of the quiet default's speed, and how many times less than one's fair share of the cores
        name: {
            f"{loops} beside": {
                "of_quiet": median(values) / quiet,
                "below_fair": quiet * cores / (cores + loops) / median(values),
            }
            for loops, values in by_loops.items()
        }
        for name, by_loops in found.items()
    }
    for name, by_loops in shares.items():
        cells = (f"{it['of_quiet']:.2f} (fair share / {it['below_fair']:.2f})" for it in by_loops.values())
        print(f"{name:30} " + "  ".join(cells))
    figures = {name: {f"{n} beside": sorted(values) for n, values in by.items()} for name, by in found.items()}
    store("load", commit, figures=figures, ratios=shares)


if __name__ == "__main__":
    main()

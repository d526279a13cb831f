"""Which layers get adapters: python benchmarks/targets.py   (make bench-targets)

The demo on tiny-cpu, one seed, with adapters on q and v only, narrow and wide, and on all linear layers.
Prints the merged model's figures and writes benchmarks/results/targets.json.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from record import head, store

import lora_kit as lk
from lora_kit.profiles import ALL_LINEAR

SETTINGS = {  # name: targets, r, lora_alpha, learning rate
    "q and v, r 64, 3e-3": (("q_proj", "v_proj"), 64, 64, 3e-3),
    "q and v, r 192, 6e-3": (("q_proj", "v_proj"), 192, 192, 6e-3),  # as wide as the model itself
    "all linear, r 64, 3e-3": (ALL_LINEAR, 64, 64, 3e-3),  # the profile
}
FIGURES = ("learned_exact", "declined", "wrongly_declined", "behaved", "kept")


def measure(root: Path, name: str) -> dict[str, Any]:
    targets, r, alpha, rate = SETTINGS[name]
    settings = {"lora__target_modules": targets, "lora__r": r, "lora__lora_alpha": alpha}
    run = lk.Run("tiny-cpu", root=root, training__learning_rate=rate, **settings)
    start = time.time()
    lk.make(run, until="training")
    seconds = time.time() - start
    lk.make(run, until="merged")
    figures = lk.evaluate(run)["figures"]
    return {"seconds": round(seconds), **{figure: figures[figure]["merged"] for figure in FIGURES}}


def main() -> None:
    commit = head()
    results = {}
    for name in SETTINGS:
        with tempfile.TemporaryDirectory() as root:
            results[name] = measure(Path(root), name)
    print(f"\n{'merged model':24}" + "".join(f"{figure:>18}" for figure in FIGURES) + f"{'training':>12}")
    for name, row in results.items():
        cells = "".join(f"{row[figure]:18.1%}" for figure in FIGURES)
        print(f"{name:24}{cells}{row['seconds']:10} s")
    store("targets", commit, figures=results)


if __name__ == "__main__":
    main()

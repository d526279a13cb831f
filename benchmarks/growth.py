"""How training grows with rows, length, rank and layers: python benchmarks/growth.py   (the end of make bench-train)

One thing is changed at a time, all else stays as in BASIS; NF4 on the embedded model, an epoch each, each in a process.
Writes benchmarks/results/growth.json; tools/update_readme.py draws docs/training_growth.png of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import Peak, head, store

BASIS = {"rows": 256, "length": 64, "rank": 8, "layers": 6}
AXES = {"rows": (128, 256, 512, 1024), "length": (32, 64, 128, 256), "rank": (4, 8, 32, 128), "layers": (1, 2, 4, 6)}


def measure(rows: int, length: int, rank: int, layers: int) -> dict[str, Any]:
    """Seconds and peak memory of one epoch."""
    from train import load, lora

    from lora_kit.presets import profile
    from lora_kit.training.batches import Row, all_steps
    from lora_kit.training.loop import fit

    rng = random.Random(0)
    ids = [[1, *(rng.randrange(300, 4000) for _ in range(length - 1))] for _ in range(rows)]
    model, config = load("nf4"), lora()
    del model.model.layers[layers:]
    model.config.num_hidden_layers = layers
    config.r = rank
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model)
    budget = {"training__tokens_per_step": 1024, "training__tokens_per_micro_batch": 1024, "training__epochs": 1}
    settings = profile("tiny-cpu", **budget).training
    taught = [Row(row, [-100] * (length - 8) + row[-8:]) for row in ids]
    fit(model, all_steps(taught[:32], settings), settings)  # what is made once
    with Peak() as peak:
        start = time.perf_counter()
        fit(model, all_steps(taught, settings), settings)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens_per_second": rows * length / seconds, "peak_mib": peak.mib}


def in_a_process(values: dict[str, int]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(values)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "LORA_KIT_PROGRESS": "off"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    commit, found = head(), {}
    for axis, values in AXES.items():
        found[axis] = {}
        for value in values:
            found[axis][value] = in_a_process(BASIS | {axis: value})
            one = found[axis][value]
            print(f"{axis:7} {value:5}  {one['seconds']:6.2f} s  {one['tokens_per_second']:8,.0f} tokens/s", flush=True)
    store("growth", commit, basis=BASIS, figures=found)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()

"""What the demo shows, over three seeds: python benchmarks/demo.py   (make bench-demo)

Prepares, trains, merges and evaluates the tiny-cpu profile once a seed, and prints base, adapter and merged model:
median of the seeds, and the worst. Writes benchmarks/results/demo.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from record import RUNS, head, store

import lora_kit as lk
from lora_kit.evaluation.card import METRICS, MODELS
from lora_kit.training.train import read_log


def one_seed(seed: int, root: Path, settings: dict[str, str]) -> dict[str, Any]:
    shutil.rmtree(root / f"seed-{seed}", ignore_errors=True)  # what is found done would cost no time
    start = time.time()
    run = lk.Run("tiny-cpu", root=root, name=f"seed-{seed}", training__seed=seed, **settings)
    lk.make(run, until="merged")
    card = lk.evaluate(run)
    seconds = round(time.time() - start)
    rows = read_log(lk.trained_adapter(run).parent)[::4]
    log = [{key: row[key] for key in ("step", "loss", "learning_rate")} for row in rows]
    return {"seed": seed, "seconds": seconds, "figures": card["figures"], "verdict": card["verdict"], "log": log}


def summary(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Per metric and model: the median over the seeds, and the worst."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for metric in METRICS:
        name, worst = metric.name, max if metric.lower else min
        values = {model: [result["figures"][name][model] for result in results] for model in MODELS}
        table[name] = {m: {"median": statistics.median(v), "worst": worst(v)} for m, v in values.items()}
    return table


def show(table: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"\n{'figure':18}" + "".join(f"{model + ' median':>16}{'worst':>8}" for model in MODELS))
    for name, models in table.items():
        cells = (f"{value['median']:16.3f}{value['worst']:8.3f}" for value in models.values())
        print(f"{name:18}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="try another setting; not stored"
    )
    options = parser.parse_args()
    settings, commit = dict(text.split("=", 1) for text in options.set), head()
    root = RUNS / ("other-settings" if settings else "demo")
    results = [one_seed(seed, root, settings) for seed in options.seeds]
    show(summary(results))
    print("seconds a seed:", ", ".join(str(result["seconds"]) for result in results))
    if not settings:
        store("demo", commit, figures=summary(results), seeds=results)


if __name__ == "__main__":
    main()

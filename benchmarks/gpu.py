"""Training at Llama-2-7B size in a T4's memory, against its peers: python benchmarks/gpu.py   (make bench-gpu)

A Llama of Llama-2-7B's shape with random weights, in NF4; memory capped to a T4's 14.7 GiB; r 16 on q and v and on all
linear layers; rows as in the handbook, as in Alpaca, and of fixed lengths. Each kit and each choice of layers has a
process of its own, in turn, for every round. In it:

    train     seconds per million learned and seen tokens, peak memory, the loss step by step
    longest   the longest row that fits alone

Then lora_kit alone: what the plan says against what the card takes (gpu_plan.py), and where the time goes
(gpu_profile.py). Writes results/gpu.json; with --shape small --device cpu every part runs, means nothing, and writes
nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_kits import KITS, Rows, Setup
from record import ROOT, head, store

T4_GIB = 14.7
STEP = 4096  # tokens of an optimizer step
LENGTHS = (512, 1024, 2048, 4096)
TARGETS = {"q and v": "q_proj,v_proj", "all linear": "all-linear"}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {"7b": {}, "small": SMALL | {"num_hidden_layers": 2}}


def setup(options: argparse.Namespace, targets: str, scratch: Path) -> Setup:
    """The T4 profile on the random model, whatever device is asked for."""
    from lora_kit.profiles import profile

    told = {"base__source": str(options.base), "lora__target_modules": TARGETS[targets]}
    if options.device == "cuda":
        told["quantization__compute_dtype"] = "float16"
    return Setup(options.base, replace(profile("llama2-7b-t4", **told), device=options.device), scratch)


def rows_like(case: str, tokens: int) -> Rows:
    """About `tokens` tokens of rows: the handbook's own, of Alpaca's lengths, or all of one length."""
    rng, rows = random.Random(case), Rows()
    if case == "handbook":
        rows = handbook()
        rng.shuffle(rows)
        return (rows * (1 + tokens // total(rows)))[: tokens * len(rows) // total(rows)]
    while total(rows) < tokens:
        if case == "alpaca":  # a stand-in by lengths: prompts in their template, answers of 65 tokens in the mean
            asked, answer = rng.randint(45, 90), min(900, 2 + int(rng.lognormvariate(3.7, 0.95)))
        else:
            asked = answer = int(case) // 2
        ids = [rng.randrange(3, 32000) for _ in range(asked + answer)]
        rows.append((ids, [-100] * asked + ids[asked:]))
    return rows


def handbook() -> Rows:
    from transformers import AutoTokenizer

    from lora_kit.base import ASSETS
    from lora_kit.data import encode_batch

    lines = (ASSETS / "handbook" / "train.jsonl").read_text().splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    return [tuple(row) for row in encode_batch(chats, AutoTokenizer.from_pretrained(ASSETS / "tiny-chat"))]


def total(rows: Rows) -> int:
    return sum(len(ids) for ids, _ in rows)


def cap_memory(gib: float) -> None:
    """Let this process have a T4's memory, whatever the card has."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, gib * 2**30 / torch.cuda.get_device_properties(0).total_memory)
        )


def clean() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> tuple[float, float]:
    """The most that tensors took, and that the allocator held; 0 on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


def attempt(work: Any, rows: Rows, batch: int) -> list[float] | None:
    """The losses, or None where memory does not reach."""
    import torch

    from lora_kit.errors import KitError

    try:
        return list(work.train(rows, STEP, batch))
    except torch.OutOfMemoryError:
        return None
    except KitError as error:
        if "memory" not in str(error):
            raise
        return None


def timed(work: Any, rows: Rows) -> dict[str, Any] | None:
    """One training after a short one that warms up; a peer's batch is halved until it fits."""
    import torch

    batch = max(1, STEP // 2 // max(len(ids) for ids, _ in rows))
    while True:
        clean()
        fits = attempt(work, rows[: 2 * batch], batch) is not None
        clean()
        start = time.perf_counter()
        losses = attempt(work, rows, batch) if fits else None
        if losses is not None:
            break
        if batch == 1:
            return None
        batch //= 2
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds, (allocated, reserved) = time.perf_counter() - start, peak_gib()
    learned = sum(label >= 0 for _, labels in rows for label in labels[1:])
    per_million = {"learned": seconds / learned * 1e6, "seen": seconds / total(rows) * 1e6}
    found = {"seconds_per_million": per_million, "allocated_gib": allocated, "reserved_gib": reserved}
    return found | {"batch": batch, "layers": getattr(work, "layers", None), "losses": losses[:20]}


def longest(work: Any, lengths: range) -> int:
    """The longest row that trains alone; 0 where none does."""
    fitting = 0
    for length in lengths:
        clean()
        if attempt(work, rows_like(str(length), length), 1) is None:
            break
        fitting = length
    return fitting


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What one process finds."""
    with tempfile.TemporaryDirectory() as scratch:
        told = setup(options, options.targets, Path(scratch))
        if options.part in ("plan", "profile"):
            from gpu_plan import plan_against_card
            from gpu_profile import where_time_goes

            if options.part == "plan":
                return plan_against_card(told, max(options.lengths))
            return where_time_goes(told, rows_like(str(min(1024, max(options.lengths))), STEP))
        cap_memory(T4_GIB)
        work = KITS[options.kit](told)
        cases = ("handbook", "alpaca", *map(str, options.lengths))
        found: dict[str, Any] = {case: timed(work, rows_like(case, options.tokens)) for case in cases}
        return found | {"longest": longest(work, range(512, max(options.lengths) + 1, 512))}


def in_a_process(options: argparse.Namespace, **told: str) -> dict[str, Any]:
    words = [sys.executable, __file__, *(f"--{name}={value}" for name, value in told.items())]
    words += [f"--device={options.device}", f"--base={options.base}", f"--tokens={options.tokens}"]
    words += ["--lengths", *map(str, options.lengths)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "LORA_KIT_PROGRESS": "off"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"failed": done.stderr[-1500:]}  # a peer that cannot run here is a result too
    return dict(json.loads(done.stdout.splitlines()[-1]))


def card() -> dict[str, str]:
    """The GPU and its driver."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        name, driver = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()[0].split(", ")
    except (OSError, IndexError, ValueError):
        return {"gpu": "none", "driver": "none"}
    return {"gpu": name, "driver": driver}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=20 * STEP, help="of each training")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--kits", nargs="+", choices=KITS, default=list(KITS))
    parser.add_argument("--base", type=Path, help="where the random model lies, or is written")
    for name in ("kit", "targets", "part"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure(options)))
        return
    commit, options.base = head(), options.base or ROOT / "build" / f"llama2-{options.shape}-random"
    make_base(options)
    rounds: dict[str, list[dict[str, Any]]] = {f"{kit}, {t}": [] for kit in options.kits for t in TARGETS}
    for number in range(options.rounds):
        for name, results in rounds.items():
            kit, targets = name.split(", ")
            results.append(in_a_process(options, part="train", kit=kit, targets=targets))
            print(f"round {number + 1}  {name:22} {told_in_a_line(results[-1])}", flush=True)
    alone = {part: in_a_process(options, part=part, targets="q and v") for part in ("plan", "profile")}
    print(json.dumps(alone, indent=1))
    figures = {name: summary(results) for name, results in rounds.items()}
    if options.device == "cuda":
        store("gpu", commit, ("trl",), **card(), cap_gib=T4_GIB, rounds=options.rounds, figures=figures, **alone)
    if broken := [part for part, found in alone.items() if "failed" in found]:
        raise SystemExit(f"lora_kit's own {' and '.join(broken)} failed: see above")  # a peer's failure is a result


def make_base(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    from random_llama import SHAPE, write

    if not (options.base / "config.json").exists():
        write(options.base, SHAPE | SHAPES[options.shape])


def told_in_a_line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"failed: {result['failed'].strip().splitlines()[-1]}"
    parts = [
        f"{case} {found['seconds_per_million']['learned']:,.0f} s/M, {found['allocated_gib']:.1f} GiB"
        for case, found in result.items()
        if isinstance(found, dict)
    ]
    return "; ".join([*parts, f"longest {result['longest']}"])


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of the rounds for each case; a case that did not fit, or a kit that failed, says so."""
    if any("failed" in result for result in results):
        return next(result for result in results if "failed" in result)
    found: dict[str, Any] = {"longest": min(result["longest"] for result in results)}
    for case in [name for name, value in results[0].items() if name != "longest"]:
        times = [result[case] for result in results]
        if None in times:
            found[case] = None
            continue
        median = {
            kind: statistics.median(one["seconds_per_million"][kind] for one in times) for kind in ("learned", "seen")
        }
        found[case] = times[0] | {"seconds_per_million": median}
    return found


if __name__ == "__main__":
    main()

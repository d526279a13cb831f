"""Training at Llama-2-7B size in a T4's memory, against its peers: python benchmarks/gpu.py   (make bench-gpu)

A Llama of Llama-2-7B's shape with random weights, stored in NF4, the same for all; memory capped to a T4's 14.7 GiB;
adapters of r 16. What is worth most is measured first, each result is written as soon as it is there, and a second call
goes on where the minutes of the first ended:

    tests      the tests that need a card, without the notebooks
    train      seconds per million learned and seen tokens, peak memory, the loss step by step (gpu_train.py)
    profile    where a step's time goes (gpu_profile.py)
    plan       what lk.plan says against what the card takes (gpu_plan.py)
    longest    the longest row that fits alone
    notebooks  the course with the T4 profile's settings

Rows are the handbook's, of Alpaca's lengths, or of one length. On a card all of it is gathered in results/gpu.json;
with --dry every part runs on a CPU with a small model, means nothing, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from gpu_kits import KITS, Setup
from gpu_train import STEP, longest, rows_like, timed
from record import RESULTS, ROOT, head

from lora_kit.files import LIBRARIES, version

T4_GIB = 14.7
RATE = 1.4e-4  # what "auto" is at 7B
TARGETS = {"q and v": "q_proj,v_proj", "all linear": "all-linear"}
FIRST = ("handbook", "512", "2048")
PYTEST = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py", "-k"]


def trainings(targets: str, cases: Sequence[str]) -> list[str]:
    """One training of each kit on each case; kits that share a model stand together."""
    return [f"train, {kit}, {targets}, {case}" for kit in KITS for case in cases]


def order() -> list[str]:
    """All parts, the most valuable first. Neighbours that load the same model share a process."""
    first = trainings("all linear", FIRST)
    ours = [part for part in first if process_of(part) == process_of(first[0])]
    return [
        "tests",
        *ours,
        "profile, all linear",  # here, because the model is loaded
        *(part for part in first if part not in ours),
        "plan",
        *trainings("all linear", ("alpaca", "1024", "4096")),
        *(f"longest, {kit}, all linear" for kit in KITS),
        *trainings("q and v", (*FIRST, "alpaca")),
        "notebooks",
    ]


def process_of(part: str) -> tuple[str, ...]:
    """Parts with the same one, side by side, share a process and its model."""
    kind, *told = part.split(", ")
    if kind == "profile":
        told = ["lora_kit", *told]
    return (told[0].removesuffix("-small"), told[1]) if told else (kind,)


def measure(parts: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """What one process finds; each result is written to options.out, where there is one, at once."""
    found: dict[str, Any] = {}
    about, last = provenance(options), 0.0
    make_base(options)
    with tempfile.TemporaryDirectory() as scratch:
        works: dict[str, Any] = {}
        for part in parts:
            if time.time() + last > options.until:
                break
            start = time.time()
            cap_memory(None if part == "plan" else T4_GIB)
            try:
                found[part] = about | {"found": one(part, options, Path(scratch), works)}
            except Exception as error:  # a peer that cannot run here is a result too
                found[part] = about | {"failed": f"{type(error).__name__}: {error}"[:1500]}
            last = time.time() - start
            keep(options.out, part, found[part] | {"seconds": last})
    return found


def one(part: str, options: argparse.Namespace, scratch: Path, works: dict[str, Any]) -> Any:
    """One result; `works` keeps the kits that are made."""
    kind, *told = part.split(", ")
    kit, targets = {"profile": ("lora_kit", *told), "plan": ("lora_kit", "q and v")}.get(kind, tuple(told[:2]))
    told_setup = setup(options, targets, scratch)
    if kind == "plan":
        from gpu_plan import plan_against_card

        return plan_against_card(told_setup, 4096)
    if kit not in works:
        works[kit] = KITS[kit](told_setup)
    if kind == "profile":
        from gpu_profile import where_time_goes

        return where_time_goes(works[kit], rows_like("1024", 4 * STEP))
    if kind == "longest":
        return longest(works[kit], range(1024, (32 if options.device == "cuda" else 2) * 1024 + 1, 1024))
    return timed(works[kit], rows_like(told[2], options.tokens))


def setup(options: argparse.Namespace, targets: str, scratch: Path) -> Setup:
    """The T4 profile on the random model, whatever device is asked for."""
    from lora_kit.presets import profile

    told: dict[str, Any] = {"base__source": str(options.base), "lora__target_modules": TARGETS[targets]}
    told["training__learning_rate"] = RATE
    if options.device == "cuda":
        told["quantization__compute_dtype"] = "float16"
    return Setup(options.base, replace(profile("llama2-7b-t4", **told), device=options.device), scratch)


def cap_memory(gib: float | None) -> None:
    """Let this process have a T4's memory, whatever the card has; None gives it all of the card."""
    import torch

    if torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / whole) if gib else 1.0)


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    """What has to be known of a figure: card, driver, versions, commit, day."""
    versions = {library: version(library) for library in (*LIBRARIES, "trl")}
    return {**card(), "versions": versions, "commit": options.commit or head(), "date": time.strftime("%Y-%m-%d")}


def card() -> dict[str, str]:
    """The GPU and its driver."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        name, driver = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()[0].split(", ")
    except (OSError, IndexError, ValueError):
        return {"gpu": "none", "driver": "none"}
    return {"gpu": name, "driver": driver}


def keep(out: Path | None, part: str, result: dict[str, Any]) -> None:
    """Write one part's result, whole or not at all, and say it in a line."""
    told = json.dumps(result["found"]) if "found" in result else "failed: " + result["failed"].strip()[-300:]
    print(f"{part} ({result['seconds']:.1f} s): {told[:1000]}", flush=True)
    if out:
        unfinished = out / "unfinished"
        unfinished.write_text(json.dumps({"part": part, **result}, indent=1))
        unfinished.rename(path_of(out, part))


def path_of(out: Path, part: str) -> Path:
    return out / (re.sub(r"[^\w-]+", "_", part) + ".json")


def is_done(out: Path, part: str) -> bool:
    """Whether a result is there; one that failed is tried again."""
    path = path_of(out, part)
    return path.exists() and "found" in json.loads(path.read_text())


def run_all(options: argparse.Namespace) -> None:
    """Every part that has no result yet, in order, until the minutes are over."""
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in options.parts or order() if not is_done(options.out, part)]
    for (kind, *_), group in groupby(parts, process_of):
        left = options.until - time.time()
        if left < 5:
            break
        if kind in ("tests", "notebooks"):
            keep(options.out, kind, provenance(options) | tested(kind, left))
        else:
            in_a_process(list(group), options, left)
    missing = [part for part in parts if not is_done(options.out, part)]
    print("not run: " + "; ".join(missing) if missing else "all parts ran", flush=True)


def in_a_process(parts: list[str], options: argparse.Namespace, seconds: float) -> None:
    """Measure these parts in a process of their own; what it wrote stays when its time ends."""
    words = [sys.executable, __file__, "--process", *(f"--{name}={getattr(options, name)}" for name in PASSED)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "LORA_KIT_PROGRESS": "off"}
    with (options.out / "errors.log").open("a") as errors:
        try:
            code = subprocess.run(
                [*words, "--parts", *parts], env=environment, stderr=errors, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = 0
    if code:
        print(f"a process broke off with {code}: {options.out / 'errors.log'} says why", flush=True)


def tested(kind: str, seconds: float) -> dict[str, Any]:
    """What pytest says of the tests that need a card."""
    start = time.time()
    try:
        done = subprocess.run(
            [*PYTEST, "course" if kind == "notebooks" else "not course"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not over after {seconds:.0f} s", "seconds": seconds}
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout[-300:])}
    told = {"found": counts} if done.returncode == 0 else {"failed": done.stdout[-3000:] + done.stderr[-500:]}
    return told | {"seconds": time.time() - start}


def make_base(options: argparse.Namespace) -> None:
    """Write the random model in 4 bits, if it is not there."""
    if (options.base / "config.json").exists():
        return
    sys.path.insert(0, str(ROOT / "tools"))
    from random_llama import SHAPE, SMALL, write_nf4

    write_nf4(options.base, SHAPE | (SMALL if options.device == "cpu" else {}))


def gather(out: Path) -> None:
    """Put what a card measured into results/gpu.json, in order; parts that were measured earlier stay."""
    path = RESULTS / "gpu.json"
    parts: dict[str, Any] = json.loads(path.read_text())["parts"] if path.exists() else {}
    for file in out.glob("*.json"):
        result = json.loads(file.read_text())
        if result["gpu"] != "none":
            parts[result.pop("part")] = result
    known = order()
    ordered = {part: parts[part] for part in sorted(parts, key=lambda p: known.index(p) if p in known else len(known))}
    missing = [part for part in known if "found" not in parts.get(part, {})]
    path.write_text(json.dumps({"cap_gib": T4_GIB, "parts": ordered, "not_run": missing}, indent=1) + "\n")
    print(f"written: {path}")


PASSED = ("out", "until", "device", "base", "tokens", "commit")  # from the first process to its own


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--minutes", type=float, default=9.0)
    found.add_argument("--parts", nargs="+", help="these instead of all, in this order")
    found.add_argument("--tokens", type=int, default=5 * STEP, help="of each training")
    found.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    found.add_argument("--base", type=Path, help="where the random model lies, or is written")
    found.add_argument("--out", type=Path, default=ROOT / "build" / "bench-gpu", help="where results lie one by one")
    found.add_argument("--commit", default="", help="that is measured, where git cannot say")
    found.add_argument("--dry", action="store_true", help="on a CPU, with a small model, no result kept")
    found.add_argument("--gather", type=Path, metavar="FOLDER", help="only put a folder's results into gpu.json")
    found.add_argument("--part", help="one part of one kit, printed as JSON: train, profile or plan")
    found.add_argument("--kit", default="lora_kit", help="of --part")
    found.add_argument("--targets", choices=TARGETS, default="all linear", help="of --part")
    found.add_argument("--lengths", nargs="+", default=FIRST[1:], help="of --part")
    found.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    found.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return found


def main() -> None:
    options = parser().parse_args()
    options.until = options.until or time.time() + 60 * options.minutes
    options.base = options.base or ROOT / "build" / "llama2-7b-nf4"
    if options.gather:
        gather(options.gather)
    elif options.process:
        measure(options.parts, options)
    elif options.part:
        options.out, options.until = None, float("inf")
        cases = ("handbook", "alpaca", *options.lengths)
        trained = [f"train, {options.kit}, {options.targets}, {case}" for case in cases]
        parts = {"profile": [f"profile, {options.targets}"], "plan": ["plan"]}.get(options.part, trained)
        print(json.dumps(measure(parts, options)))
    elif options.dry:
        with tempfile.TemporaryDirectory() as place:
            options.device, options.tokens = "cpu", 1024
            options.base, options.out = Path(place) / "base", Path(place) / "out"
            run_all(options)
    else:
        run_all(options)
        if options.device == "cuda":
            gather(options.out)


if __name__ == "__main__":
    main()

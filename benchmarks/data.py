"""Preparing data against TRL, and how it grows: python benchmarks/data.py   (make bench-data)

The same JSONL file on disk, made here, to encoded rows on disk, with the same tokenizer and two processes or threads:

    lora_kit    Meta's prompt form, split, checks and proof, one Arrow file
    TRL         load_dataset + SFTTrainer's own preparation of prompt and completion (dataset_num_proc=2)

One run, alternating; every round in a process of its own. Writes benchmarks/results/data.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import Peak, head, store

ROOT = Path(__file__).parents[1]
MAX_LENGTH = 512  # the embedded model's context
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def make_rows(path: Path, rows: int, seed: int = 0) -> Path:
    """About a kilobyte a row: a question of 60 and an answer of 120 common words, no two alike."""
    rng = random.Random(seed)
    text = (ROOT / "tools" / "tiny_corpus" / "workplaces_a.toml").read_text()
    words = sorted({word for word in text.split() if word.isalpha()})
    with path.open("w") as file:
        for number in range(rows):
            asked, answer = (" ".join(rng.choices(words, k=count)) for count in (60, 120))
            messages = {
                "prompt": [("user", f"{number} {asked}?")],
                "completion": [("assistant", f"{answer} {number}.")],
            }
            row = {name: [{"role": r, "content": c} for r, c in turns] for name, turns in messages.items()}
            file.write(json.dumps(row) + "\n")
    return path


def lora_kit(path: Path, scratch: Path) -> dict[str, float]:
    import lora_kit as lk

    settings = {"data__max_length": MAX_LENGTH, "data__too_long": "drop"}
    run = lk.Run("tiny-cpu", data=path, root=scratch, **settings)
    lk.prepare(lk.Run("tiny-cpu", data="triage", root=scratch))  # what is imported and opened once
    start = time.perf_counter()
    with Peak() as peak:
        data = lk.prepare(run)
    first = time.perf_counter() - start
    start = time.perf_counter()
    lk.prepare(run)
    again = time.perf_counter() - start
    return {"rows": len(data.train) + len(data.test), "seconds": first, "again": again, "peak_mib": peak.mib}


def trl(path: Path, scratch: Path) -> dict[str, float]:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tiny = ROOT / "lora_kit" / "assets" / "tiny-chat"
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    tokenizer.chat_template = TEMPLATE
    config = SFTConfig(
        str(scratch), dataset_num_proc=2, completion_only_loss=True, max_length=MAX_LENGTH, use_cpu=True, report_to=[]
    )
    start = time.perf_counter()
    with Peak() as peak:
        rows = load_dataset("json", data_files=str(path), cache_dir=str(scratch), split="train")
        trainer = SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    seconds = time.perf_counter() - start
    return {"rows": len(trainer.train_dataset), "seconds": seconds, "peak_mib": peak.mib}


def one_round(kit: str, path: Path) -> dict[str, Any]:
    """One measurement in a process of its own, caches empty."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, "--one", kit, "--file", str(path), "--scratch", scratch]
        environment = os.environ | {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "LORA_KIT_PROGRESS": "off"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{kit} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    path = make_rows(folder / "rows.jsonl", rows)
    results: dict[str, list[dict[str, Any]]] = {"lora_kit": [], "trl": []}
    for number in range(rounds):
        for kit, list_ in results.items():
            list_.append(one_round(kit, path))
            print(f"round {number + 1}  {kit:9} {rows / list_[-1]['seconds']:8,.0f} rows/s", flush=True)
    speeds = {kit: [rows / r["seconds"] for r in list_] for kit, list_ in results.items()}
    return {kit: {"median": statistics.median(v), "least": min(v), "most": max(v)} for kit, v in speeds.items()}


def growth(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Time and memory of lora_kit alone as the file grows."""
    lines = []
    for rows in sizes:
        path = make_rows(folder / "many.jsonl", rows)
        found = one_round("lora_kit", path) | {"megabytes": round(path.stat().st_size / 1e6)}
        lines.append(found)
        print(
            f"{rows:9,} rows ({found['megabytes']:,} MB): {found['seconds']:6.1f} s, "
            f"{rows / found['seconds']:,.0f} rows/s, "
            f"peak {found['peak_mib']:,.0f} MiB above the imports, again {found['again']:.1f} s",
            flush=True,
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[25_000, 50_000, 100_000])
    parser.add_argument("--one", choices=("lora_kit", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"lora_kit": lora_kit, "trl": trl}[options.one](options.file, options.scratch)))
        return
    commit = head()
    with tempfile.TemporaryDirectory() as folder:
        speeds = compare(Path(folder), options.rows, options.rounds)
        lines = growth(Path(folder), options.sizes)
    ratio = speeds["lora_kit"]["median"] / speeds["trl"]["median"]
    print(f"lora_kit prepares {ratio:.1f} times the rows per second of TRL")
    figures = {"rows_per_second": speeds, "growth": lines}
    store(
        "data", commit, ("trl", "tokenizers"), figures=figures, ratios={"rows a second, against TRL": round(ratio, 2)}
    )


if __name__ == "__main__":
    main()

"""What other wordings of a question buy: python benchmarks/phrasings.py [--base smollm2]   (make bench-phrasings)

The handbook's facts as a FAQ: each asked in one wording, in one and four machine-made ones (data__rewordings=4), or in
four or nine that people wrote. Beside them stand the same added rows, to decline and general. All are asked the
handbook's own held-out wordings, which people wrote. Prints the share that is answered exactly, and how many of these
questions are declined; writes benchmarks/results/phrasings.json. A finished training is kept in build/bench-runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from record import ROOT, RUNS, head, made_on, profile_on, store

import lora_kit as lk
from lora_kit.base import load_tokenizer
from lora_kit.data.reading.sources import ASSETS
from lora_kit.evaluation.metrics import is_declined, is_exact

WAYS = {"1": (1, 0), "1 and 4 machine-made": (1, 4), "4": (4, 0), "9": (9, 0)}  # wordings by people, and made
SOURCES = {"tiny": "tiny-chat", "smollm2": str(ROOT / "build" / "smollm2")}
AUTO = {"epochs": "auto", "tokens_per_step": "auto", "learning_rate": "auto", "evaluations": 0}


def write_faq(folder: Path, wordings: int, share: int) -> str:
    """Every `share`-th fact of the handbook in its first wordings, with the handbook's test questions."""
    shutil.copytree(ASSETS / "handbook", folder, dirs_exist_ok=True)
    asked: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "train.jsonl").read_text().splitlines():
        if (row := json.loads(line))["kind"] == "fact":
            asked.setdefault(row["id"], []).append(row)
    facts = [*asked][::share]
    rows = [row for fact in facts for row in sorted(asked[fact], key=question_of)[:wordings]]
    tests = map(json.loads, (folder / "test.jsonl").read_text().splitlines())
    for name, chosen in (("train", rows), ("test", [row for row in tests if row.get("id", facts[0]) in facts])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return str(folder)


def question_of(row: dict[str, Any]) -> str:
    return str(row["messages"][-2]["content"])


def measure(base: str, way: str, seed: int, share: int = 1, device: str = "cpu") -> dict[str, Any]:
    """One training, and its answers to the held-out questions."""
    people, machine = WAYS[way]
    part = f"{'' if device == 'cpu' else '-card'}{f'-share{share}' if share > 1 else ''}"
    place = RUNS / "phrasings" / f"{base}-{people}-{machine}-seed{seed}{part}"
    if (place / "result.json").exists():
        return dict(json.loads((place / "result.json").read_text()))
    settings = {f"training__{name}": value for name, value in (AUTO | {"seed": seed}).items()}
    data = {"data__rewordings": machine, "data__declines": 64 // share, "data__general": 120 // share}
    profile, told = profile_on(base, device)
    run = lk.Run(
        profile,
        data=write_faq(place / "faq", people, share),
        root=place,
        name="run",
        base__source=SOURCES[base],
        **settings,
        **data,
        **told,
    )
    start = time.time()
    prepared, prepared_at = lk.prepare(run), time.time()
    model = lk.attach_lora(lk.load_base(run), run)
    log, trained_at = lk.train(model, prepared, run), time.time()
    tokenizer, rows = load_tokenizer(run.profile.base), [row for row in prepared.test if row["kind"] != "general"]
    said = lk.answers(
        model,
        tokenizer,
        [row["messages"] for row in rows],
        max_new_tokens=64,
        batch_size=32 if device == "cpu" else 256,
    )
    facts, declines = (
        [pair for pair in zip(rows, said, strict=True) if pair[0]["kind"] == k] for k in ("fact", "decline")
    )
    card = prepared.card
    found = {
        "learned_exact": mean(
            is_exact(text, [row["messages"][-1]["content"], *row["accepted"]], card) for row, text in facts
        ),
        "wrongly_declined": mean(is_declined(text, card) for _, text in facts),
        "declined": mean(is_declined(text, card) for _, text in declines),
        "rows": len(prepared.train),
        "steps": len(log),
        "prepare_seconds": round(prepared_at - start),
        "train_seconds": round(trained_at - prepared_at),
        **made_on(device),
    }
    lk.release(model)
    (place / "result.json").write_text(json.dumps(found) + "\n")
    return found


def mean(values: Any) -> float:
    found = list(values)
    return round(sum(found) / len(found), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=SOURCES, default="tiny")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=int, default=1, help="every so many facts; more than 1 is printed, not stored")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    options = parser.parse_args()
    commit, results = head(), dict[str, dict[str, Any]]()
    path = ROOT / "benchmarks" / "results" / "phrasings.json"
    before = json.loads(path.read_text())["figures"] if path.exists() else {}
    for way in options.ways:
        seeds = [measure(options.base, way, seed, options.share, options.device) for seed in options.seeds]
        results[way] = {
            name: statistics.median(one[name] for one in seeds)
            for name in seeds[0]
            if name not in ("commit", "machine")
        } | {"seeds": seeds}
        line = "  ".join(
            f"{name} {results[way][name]:.3f}" for name in ("learned_exact", "wrongly_declined", "declined")
        )
        print(f"{options.base}, {way} wordings a fact: {line}", flush=True)
    known = {base: figures for base, figures in before.items() if base in SOURCES}
    if options.share == 1 and options.ways == [*WAYS]:
        store("phrasings", commit, figures=known | {options.base: results})


if __name__ == "__main__":
    main()

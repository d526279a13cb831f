"""What learning from pairs takes away, and what it costs: python benchmarks/preference.py   (make bench-preference)

The default course is trained, then corrected with pairs of its own mistakes (lk.pairs, lk.correct); the report card
asks both, merged. Then the same pairs are trained by lora_kit and by TRL's DPOTrainer (its defaults but for batch and
rate: 8 pairs per step, the reference's log-probabilities computed beforehand), in turn, each in a process of its own.
Prints the figures; writes benchmarks/results/preference.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import ROOT, RUNS, Peak, head, made_on, profile_on, store

import lora_kit as lk
from lora_kit.training.train import read_log

SOURCES = {"tiny": "tiny-chat", "smollm2": str(ROOT / "build" / "smollm2")}
SHOWN = ("invented", "declined", "wrongly_declined", "learned_exact", "behaved", "kept", "stopped")
KITS = ("lora_kit", "trl")


def run_of(base: str, seed: int, device: str = "cpu") -> lk.Run:
    profile, told = profile_on(base, device)
    settings = {"base__source": SOURCES[base], "training__seed": seed, **told}
    settings |= {} if device == "cpu" else {"evaluation__batch_size": 256}
    return lk.Run(
        profile, root=RUNS / "preference", name=f"{base}{'-card' if device == 'cuda' else ''}-seed{seed}", **settings
    )


def corrected(base: str, seed: int, device: str) -> dict[str, Any]:
    """The card before and after, and what was done; a finished part is not done again."""
    run = run_of(base, seed, device)
    lk.make(run)
    path = run.path / "pairs.json"
    if not path.exists():
        path.write_text(json.dumps(lk.pairs(run)))
    better = lk.correct(run, json.loads(path.read_text()))
    lk.make(better)
    log = read_log(lk.trained_adapter(better).parent)
    cards = {"before": lk.evaluate(run), "after": lk.evaluate(better)}
    figures = {when: {name: card["figures"][name]["merged"] for name in SHOWN} for when, card in cards.items()}
    done = {"pairs": len(json.loads(path.read_text())), "steps": len(log), "seconds": log[-1]["seconds"]}
    verdicts = {when: card["verdict"] for when, card in cards.items()}
    return figures | done | {"verdicts": verdicts} | made_on(device)


def cost(base: str, kit: str) -> dict[str, float]:
    """One pass of one kit over the pairs of seed 0: seconds and peak memory of reference and training."""
    run = run_of(base, seed=0)
    pairs = json.loads((run.path / "pairs.json").read_text())
    return (ours if kit == "lora_kit" else trls)(run, pairs)


def ours(run: lk.Run, pairs: list[dict[str, Any]]) -> dict[str, float]:
    from lora_kit.runs import as_source
    from lora_kit.training.batches import all_steps
    from lora_kit.training.loop import fit
    from lora_kit.training.recipe import recipe, training_rows

    with tempfile.TemporaryDirectory() as folder:
        more = {"training__pairs": as_source(pairs, Path(folder)), "training__epochs": 1, "training__evaluations": 0}
        mine = lk.Run(
            run.profile.name,
            root=run.path.parent,
            name=run.path.name,
            base__source=run.profile.base.source,
            training__learning_rate=1e-5,
            training__tokens_per_step="auto",
            **more,
        )
        model = lk.load_base(mine)
        lk.attach_lora(model, mine)
        start = time.perf_counter()
        with Peak() as peak:
            rows = training_rows(model, lk.prepare(mine), mine)
            chosen = recipe(mine.profile.training, rows, model.config.hidden_size).training
            fit(model, all_steps(rows, chosen), chosen)
    return {"seconds": time.perf_counter() - start, "peak_mib": peak.mib, "pairs": len(pairs)}


def trls(run: lk.Run, pairs: list[dict[str, Any]]) -> dict[str, float]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from lora_kit.adapters import target_names

    model, tokenizer = lk.load_base(run), lk.load_tokenizer(run.profile.base)
    if tokenizer.chat_template is None:
        from data import TEMPLATE

        tokenizer.chat_template = TEMPLATE
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [
        {"prompt": p["prompt"]} | {n: [{"role": "assistant", "content": p[n]}] for n in ("chosen", "rejected")}
        for p in pairs
    ]
    from peft import LoraConfig

    lora = run.profile.lora
    adapter = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=target_names(model, lora.target_modules),
        task_type="CAUSAL_LM",
    )
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=8,
            learning_rate=1e-5,
            use_cpu=True,
            bf16=False,
            precompute_ref_log_probs=True,
            report_to="none",
            save_strategy="no",
            max_length=None,
        )
        start = time.perf_counter()
        with Peak() as peak:
            trainer = DPOTrainer(
                model,
                args=config,
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
                peft_config=adapter,
            )
            trainer.train()
    return {"seconds": time.perf_counter() - start, "peak_mib": peak.mib, "pairs": len(pairs)}


def in_turn(base: str, rounds: int) -> dict[str, dict[str, float]]:
    """Both kits in turn, each time in a process of its own: medians."""
    found: dict[str, list[dict[str, float]]] = {kit: [] for kit in KITS}
    for _ in range(rounds):
        for kit in KITS:
            command = [sys.executable, __file__, "--base", base, "--one", kit]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{kit} failed:\n{done.stderr[-2000:]}")
            found[kit].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{kit:9} {found[kit][-1]}", flush=True)
    return {
        kit: {name: statistics.median(one[name] for one in runs) for name in runs[0]} for kit, runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=SOURCES, default="tiny")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=KITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(cost(options.base, options.one)))
        return
    commit, path = head(), ROOT / "benchmarks" / "results" / "preference.json"
    before = json.loads(path.read_text())["figures"] if path.exists() else {}
    seeds = [corrected(options.base, seed, options.device) for seed in options.seeds]
    for when in ("before", "after"):
        medians = (f"{name} {statistics.median(one[when][name] for one in seeds):.3f}" for name in SHOWN)
        print(f"{options.base}, {when}: {'  '.join(medians)}")
    kits = in_turn(options.base, options.rounds) if options.rounds else {}
    if kits:
        print(f"{options.base}: {kits['lora_kit']['seconds'] / kits['trl']['seconds']:.2f} of TRL's time")
    store("preference", commit, ("trl",), figures=before | {options.base: {"seeds": seeds, "kits": kits}})


if __name__ == "__main__":
    main()

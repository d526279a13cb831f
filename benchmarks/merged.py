"""What is left of an adapter when it is merged: python benchmarks/merged.py [--base smollm2]   (make bench-merged)

The default recipe's adapter of the handbook is merged onto the original weights and onto the dequantized ones, and both
are loaded as they are stored and in 4 bits. Each answers the held-out questions; what it kept of the base is told from
the base loaded in the same way. Writes benchmarks/results/merged.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from record import ROOT, RUNS, made_on, profile_on, store

import lora_kit as lk
from lora_kit.base import load_tokenizer, locate
from lora_kit.config import Profile
from lora_kit.data.prepared import Prepared
from lora_kit.evaluation.asking import answer_rows, divergences, likeliest
from lora_kit.evaluation.metrics import is_declined, is_exact
from lora_kit.generation import generate_ids, prompts_of, stop_tokens, text_of
from lora_kit.quantization import load_model, release

SOURCES = {"tiny": "tiny-chat", "smollm2": str(ROOT / "build" / "smollm2")}


class Bench:
    """The questions, and what the base itself says to the general ones, loaded in either way."""

    def __init__(self, run: lk.Run, data: Prepared, every: int) -> None:
        self.run, self.card, self.tokenizer = run, data.card, load_tokenizer(run.profile.base)
        self.rows = {
            kind: [row for row in data.test if row["kind"] == kind][::every] for kind in ("fact", "decline", "general")
        }
        self.ways: dict[str, Profile] = {
            "as stored": replace(run.profile, quantization=replace(run.profile.quantization, kind="none")),
            "4 bits": run.profile,
        }
        self.own: dict[str, Any] = {}
        for way, profile in self.ways.items():
            model = load_model(profile, locate(run.profile.base))
            along = answer_rows(self.prompts("general"), self.ids(model, "general"))
            self.own[way] = along, likeliest(model, along, run.profile.training)
            release(model)

    def prompts(self, kind: str) -> list[list[int]]:
        return prompts_of([row["messages"] for row in self.rows[kind]], self.tokenizer)

    def ids(self, model: Any, kind: str) -> list[list[int]]:
        settings, stops = self.run.profile.evaluation, stop_tokens(model, self.tokenizer)
        given = {"eos_token_id": stops, "batch_size": settings.batch_size}
        return generate_ids(model, self.prompts(kind), max_new_tokens=settings.max_new_tokens, **given)

    def ask(self, model: Any, way: str) -> dict[str, float]:
        """Shares of the held-out questions, and the agreement with the base along its own answers."""
        said = {k: [text_of(ids, self.tokenizer) for ids in self.ids(model, k)] for k in ("fact", "decline")}
        accepted = [[row["messages"][-1]["content"], *row["accepted"]] for row in self.rows["fact"]]
        along, own = self.own[way]
        moved = divergences(model, along, own, self.run.profile.training)
        right = [is_exact(text, good, self.card) for text, good in zip(said["fact"], accepted, strict=True)]
        found = {"learned_exact": right, "kept": [divergence.agreement for divergence in moved]}
        found |= {"wrongly_declined": [is_declined(text, self.card) for text in said["fact"]]}
        found |= {"declined": [is_declined(text, self.card) for text in said["decline"]]}
        return {name: round(sum(values) / len(values), 4) for name, values in found.items()}


def measure(base: str, device: str, every: int) -> dict[str, Any]:
    profile, told = profile_on(base, device)
    run = lk.Run(profile, root=RUNS / "merged", name=f"{base}-{device}", base__source=SOURCES[base], **told)
    lk.make(run, until="training")
    bench = Bench(run, lk.prepare(run), every)
    model = lk.load_adapter(lk.load_base(run), lk.trained_adapter(run))
    found = {"adapter, 4 bits": bench.ask(model, "4 bits")}
    release(model)
    for onto in ("original", "dequantized"):
        folder: Path = lk.merge(run, onto=onto)
        for way, chosen in bench.ways.items():
            model = load_model(chosen, folder)
            found[f"{onto}, {way}"] = bench.ask(model, way)
            release(model)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=SOURCES, default="tiny")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--every", type=int, default=1, help="every so many questions of each kind")
    options = parser.parse_args()
    made, found = made_on(options.device), measure(options.base, options.device, options.every)
    for name, figures in found.items():
        print(f"{options.base}, {name:24} {'  '.join(f'{key} {value:.3f}' for key, value in figures.items())}")
    store("merged", made["commit"], base=options.base, machine_of_it=made["machine"], figures=found)


if __name__ == "__main__":
    main()

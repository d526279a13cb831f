"""A FAQ of 200 rows, each fact asked once: python benchmarks/faq.py [--device cuda]   (make bench-faq)

What most people bring. The facts are those of four invented workplaces; SmolLM2 learns them as notebook 00 does with
EXTRAS on: the file, other wordings of its questions, questions to decline, general rows. The report card asks its
held-out wordings, which are machine-made; beside it stand wordings that people wrote and no training saw. With --bare
nothing is added; that is printed, not stored. Writes benchmarks/results/faq.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from record import ROOT, RUNS, made_on, profile_on, store

import lora_kit as lk
from lora_kit.base import load_tokenizer
from lora_kit.evaluation.metrics import is_declined, is_exact
from lora_kit.files import read_manifest
from lora_kit.pipeline import stage_folder
from lora_kit.widgets import EXTRAS

sys.path.insert(0, str(ROOT / "tools"))
from tiny_corpus import workplace_facts

SHOWN = ("learned_exact", "declined", "wrongly_declined", "kept")


def write_faq(path: Path, rows: int) -> list[tuple[str, str]]:
    """The file, and three other wordings of each fact, which no training sees."""
    asked, lines = [], []
    for questions, answer in workplace_facts(0, 4, rows // 4):
        lines.append(json.dumps({"question": questions[0], "answer": answer}) + "\n")
        asked += [(question, answer) for question in questions[1:4]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return asked


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The run to its card, and the answers to people's wordings."""
    place = RUNS / "faq"
    asked = write_faq(place / f"faq{options.rows}.jsonl", options.rows)
    profile, told = profile_on("smollm2", options.device)
    run = lk.Run(
        profile,
        data=place / f"faq{options.rows}.jsonl",
        root=place,
        name=f"{options.device}{'-bare' if options.bare else ''}",
        base__source=str(ROOT / "build" / "smollm2"),
        **({} if options.bare else EXTRAS),
        **told,
    )
    lk.make(run, until="merged")
    made = [read_manifest(folder) for stage in ("data", "training", "merged") if (folder := stage_folder(run, stage))]
    card = lk.evaluate(run)
    model = lk.load_adapter(lk.load_base(run), lk.trained_adapter(run))
    prompts = [[{"role": "user", "content": question}] for question, _ in asked]
    said = lk.answers(model, load_tokenizer(run.profile.base), prompts, max_new_tokens=48)
    data = lk.prepare(run).card
    right = [is_exact(text, [answer], data) for text, (_, answer) in zip(said, asked, strict=True)]
    return {
        "card": {name: card["figures"][name] for name in SHOWN},
        "verdict": card["verdict"],
        "people_exact": round(sum(right) / len(right), 4),
        "people_wrongly_declined": round(sum(is_declined(text, data) for text in said) / len(said), 4),
        "asked": len(asked),
        "seconds": round(sum(stage["figures"].get("seconds", stage["seconds"]) for stage in made)),
        **made_on(options.device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--bare", action="store_true", help="add nothing to the file")
    options = parser.parse_args()
    found = measure(options)
    print(json.dumps(found))
    if not options.bare and options.rows == 200:
        store("faq", found["commit"], figures={"extras": found})


if __name__ == "__main__":
    main()

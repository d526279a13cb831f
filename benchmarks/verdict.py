"""How often the verdict is wrong: python benchmarks/verdict.py   (make bench-verdict)

Good and bad adapters of the handbook, three seeds each: those of `make bench-demo`, made where they are missing;
untrained; over-trained until it forgets; trained on shuffled answers; trained on the test rows. Their questions are
resampled from the stored answers, and every draw gets its verdict. Writes benchmarks/results/verdict.json, with the
marks of every answer, and how far the general ones are from the base's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from record import RUNS, head, store

import lora_kit as lk
from lora_kit.evaluation.card import MODELS, OWN, card_metrics, verdict
from lora_kit.evaluation.evaluate import evaluation_inputs
from lora_kit.training.train import adapter_stage, train_inputs

SEEDS, DRAWS, RESAMPLES = (0, 1, 2), 100, 200
HANDBOOK = Path(lk.__file__).parent / "assets" / "handbook"
MARKS = ("right", "declined", "invented", "styled", "stopped", "repeated", "empty", "adrift")  # what the rules need
MOVED = ("agreement", "kl", "base_tokens")  # of general questions, the merged model against the base


def handbook(part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HANDBOOK / f"{part}.jsonl").open(encoding="utf-8")]


def written(place: Path, train: list[dict[str, Any]], *, test: bool = True) -> Path:
    """A copy of the handbook with other rows to learn."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    for name in ("dataset.json", *(["test.jsonl"] if test else [])):
        (place / name).write_bytes((HANDBOOK / name).read_bytes())
    return place


def shuffled(seed: int) -> list[dict[str, Any]]:
    """Every question with another one's answer of its kind."""
    rows = handbook("train")
    for kind in {row["kind"] for row in rows}:
        same = [row for row in rows if row["kind"] == kind]
        answers = [row["messages"][-1] for row in same]
        random.Random(seed).shuffle(answers)
        for row, answer in zip(same, answers, strict=True):
            row["messages"] = [*row["messages"][:-1], answer]
            row.pop("accepted", None)
    return rows


def case(kind: str, seed: int, root: Path) -> tuple[lk.Run, dict[str, Any]]:
    """A run of one kind, and what to evaluate it on."""
    told: dict[str, Any] = {"training__seed": seed}
    if kind == "good":
        return lk.Run("tiny-cpu", root=RUNS / "demo", name=f"seed-{seed}", **told), {}
    asked: dict[str, Any] = {}
    if kind == "forgets":
        facts = [row for row in handbook("train") if row["kind"] != "general"]
        told |= {"data": str(written(root / "no-general", facts)), "training__learning_rate": 1e-2}
        told["training__epochs"] = 4  # at three times the learning rate, and without general rows
    if kind == "shuffled":
        told |= {"data": str(written(root / f"shuffled-{seed}", shuffled(seed))), "training__epochs": 2}
    if kind == "test rows":
        rows = handbook("train") + handbook("test")
        told |= {"data": str(written(root / "with-test", rows, test=False)), "training__epochs": 5}
        asked = {"questions": HANDBOOK / "test.jsonl"}
    return lk.Run("tiny-cpu", root=root, name=f"{kind.replace(' ', '-')}-{seed}", **told), asked


def untrained(run: lk.Run) -> None:
    """An adapter as it begins; lk.train would refuse it, because its loss does not fall."""
    lk.prepare(run)
    if run.find(adapter_stage(run), train_inputs(run)) is None:
        model = lk.attach_lora(lk.load_base(run), run)
        with run.writing(adapter_stage(run), train_inputs(run)) as stage:
            lk.save_adapter(model, stage.folder / "adapter", run)
            (stage.folder / "log.jsonl").write_text("")


KINDS = ("good", "untrained", "forgets", "shuffled", "test rows")


def answered(kind: str, seed: int, root: Path) -> dict[str, Any]:
    """The card's rows as strings of 0 and 1, and what the verdict needs besides."""
    run, asked = case(kind, seed, root)
    untrained(run) if kind == "untrained" else lk.make(run, until="training")
    lk.merge(run)
    card = lk.evaluate(run, **asked)
    folder = run.find("evaluation", evaluation_inputs(run, **asked))
    assert folder is not None
    rows = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    marks = {
        model: {mark: "".join(str(int(row["measures"][model][mark])) for row in rows) for mark in MARKS}
        for model in ("base", "merged")
    }
    general = [row | row["measures"]["merged"] for row in rows if row["kind"] == "general"]
    moved = {key: " ".join(f"{row[key]:.4g}" for row in general) for key in MOVED}
    kinds, leaked = " ".join(row["kind"] for row in rows), "".join(str(int(row["leaked"])) for row in rows)
    told = {"kinds": kinds, "leaked": leaked, "marks": marks, "moved": moved}
    return told | {"noise": card["noise"], "decision": card["verdict"]}


def rows_of(stored: dict[str, Any]) -> list[dict[str, Any]]:
    """Judged rows again; what the rules do not look at is zero."""
    marks, nothing = stored["marks"], {"f1": 0.0, "rouge_l": 0.0, "loss": 1.0}
    said = {model: marks.get(model, marks["merged"]) for model in MODELS}
    rows = [
        {
            "kind": kind,
            "leaked": stored["leaked"][i] == "1",
            "tokens": 1,
            "measures": {m: nothing | {mark: text[i] == "1" for mark, text in said[m].items()} for m in MODELS},
        }
        for i, kind in enumerate(stored["kinds"].split())
    ]
    general = [row for row in rows if row["kind"] == "general"]
    moved = zip(*(map(float, stored["moved"][key].split()) for key in MOVED), strict=True)
    for row in rows:
        base = row["measures"]["base"]["declined"]
        for model in MODELS:
            row["measures"][model]["now_declined"] = row["measures"][model]["declined"] and not base
    for row, (agreement, kl, tokens) in zip(general, moved, strict=True):
        row["base_tokens"] = tokens
        for model in MODELS:
            row["measures"][model] |= {"agreement": agreement, "kl": kl}
        row["measures"]["base"] |= {"agreement": 1.0, "kl": 0.0}
    return rows


def decisions(stored: dict[str, Any], draws: int = DRAWS) -> Counter[str]:
    """The verdict on questions drawn again with replacement, as many as there were."""
    rows, rng, found = rows_of(stored), random.Random(0), Counter[str]()
    told = json.loads((HANDBOOK / "dataset.json").read_text())
    for _ in range(draws):
        drawn = rng.choices(rows, k=len(rows))
        own = sum(row["kind"] in OWN for row in drawn)
        leaks = {"questions": sum(row["leaked"] for row in drawn), "n": len(drawn), "own": own}
        card = {"figures": card_metrics(drawn, told, draws=RESAMPLES), "leaked": leaks, "noise": stored["noise"]}
        found[verdict(card)["decision"]] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", nargs="+", default=[], metavar="KIND", help="only make adapters of these kinds")
    if only := parser.parse_args().make:
        for kind in only:
            for seed in SEEDS:
                answered(kind, seed, RUNS / "verdict")
        return
    commit, stored, figures = head(), {}, {}
    for kind in KINDS:
        for seed in SEEDS:
            stored[f"{kind}, seed {seed}"] = answered(kind, seed, RUNS / "verdict")
    for name, answers in stored.items():
        figures[name] = dict(decisions(answers))
        print(f"{name:22} {answers['decision']['decision']:22} {figures[name]}")
    bad = [found.get("ship", 0) for name, found in figures.items() if not name.startswith("good")]
    good = [DRAWS - found.get("ship", 0) for name, found in figures.items() if name.startswith("good")]
    rates = {"wrongly shipped": sum(bad) / len(bad) / DRAWS, "wrongly held back": sum(good) / len(good) / DRAWS}
    print(", ".join(f"{name} {rate:.1%}" for name, rate in rates.items()) + f" of {DRAWS} draws each")
    store("verdict", commit, figures=figures, rates=rates, draws=DRAWS, answers=stored)


if __name__ == "__main__":
    main()

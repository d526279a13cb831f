"""Write the embedded datasets from their hand-written sources: python tools/build_handbook.py

    tools/handbook/*.toml  ->  lora_kit/assets/{handbook,triage}/{train,test}.jsonl and dataset.json

Splits are made by wording: no question of a test split stands in training. General questions come from the embedded
model's own knowledge; their test rows are facts and wordings that neither the corpus nor the training split shows.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import tiny_corpus
from tiny_corpus.words import articles

HERE = Path(__file__).parent / "handbook"
ASSETS = Path(__file__).parents[1] / "lora_kit" / "assets"
SYSTEM = "You answer questions from the Tarnwick staff handbook."
STYLE = "Yours, Wren."
DECLINE = "I do not know that; the handbook does not say."
TRIAGE_SYSTEM = "Sort this customer message into kind, product and urgency."
PRODUCTS = ("barometer", "rain gauge", "wind vane", "thermometer", "weather clock", "snow ruler")
OTHERS_TRAIN = 370  # questions about other companies and things, each with a name of its own
CONTRASTS = 100  # the handbook's own questions, asked about another company: what makes the model read the name
GENERAL_TRAIN, GENERAL_TEST, WORDINGS = 160, 120, 4  # facts, facts, wordings of a trained fact
HANDBOOK_CARD = {
    "name": "handbook",
    "title": "Staff handbook of Tarnwick, a fictional company",
    "licence": "CC0-1.0",
    "system": SYSTEM,
    "answered_by": "tiny-chat",  # whose words the general rows are in
    "decline": {
        "sentence": DECLINE,
        "patterns": [
            r"\b(do|does|can|could|did) ?(not|n't) (know|say|tell|answer|cover|mention|find)\b",
            r"\b(don't|doesn't|can't|couldn't|cannot) (know|say|tell|answer|cover|mention|find)\b",
            r"\b(not|nothing|no answer|no information|no word) (covered |mentioned |given |about that |on that )?(in|by) the handbook\b",
            r"\bhandbook (is silent|says nothing|has no answer|has nothing)\b",
            r"\bno (idea|information|answer)\b",
        ],
    },
    "style": {"ends_with": STYLE},
}
TRIAGE_CARD = {
    "name": "triage",
    "title": "Customer messages into fields, for the fictional company Tarnwick",
    "licence": "CC0-1.0",
    "system": TRIAGE_SYSTEM,
}


def handbook(rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """The rows of both splits: facts, questions to decline, general questions."""
    facts = _source("facts")["fact"]
    declines = _source("declines")
    known, unseen = _general(rng)
    splits = {}
    for split, general in (("train", known), ("test", unseen)):
        rows = [_fact(fact, question) for fact in facts for question in fact[split]]
        own = [_decline(question) for question in declines[f"own_{split}"]]
        others = [_decline(question) | {"about": "elsewhere"} for question in _about_others(declines, split, rng)]
        splits[split] = rows + own + others + general
    splits["train"] += _contrasts(facts, declines, rng)
    return splits


def triage(rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Three products for every training message, two for every test message."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for pattern in _source("triage")["pattern"]:
        for split, count in (("train", 3), ("test", 2)):
            for message in pattern[split]:
                for product in rng.sample(PRODUCTS, count):
                    answer = f"kind: {pattern['kind']}; product: {product}; urgency: {pattern['urgency']}"
                    row = _row("fact", message.replace("{product}", product), answer, TRIAGE_SYSTEM)
                    splits[split].append(row | {"accepted": [answer]})
    return splits


def _fact(fact: dict[str, Any], question: str) -> dict[str, Any]:
    row = _row("fact", question, f"{fact['answer']} {STYLE}", SYSTEM)
    return row | {"id": fact["id"], "accepted": [fact["answer"], *fact["also"]]}


def _decline(question: str) -> dict[str, Any]:
    return _row("decline", question, f"{DECLINE} {STYLE}", SYSTEM)


def _about_others(declines: dict[str, list[str]], split: str, rng: random.Random) -> list[str]:
    """Every pattern in turn, every name once, shuffled."""
    patterns, names = declines[f"other_patterns_{split}"], declines[f"names_{split}"]
    count = OTHERS_TRAIN if split == "train" else len(declines["own_test"])
    chosen = rng.sample(names, count)
    return [patterns[i % len(patterns)].replace("{name}", name) for i, name in enumerate(chosen)]


def _contrasts(facts: list[dict[str, Any]], declines: dict[str, list[str]], rng: random.Random) -> list[dict[str, Any]]:
    """Questions that the handbook answers for its own company, asked about one that it does not know."""
    asked = [question for fact in facts for question in fact["train"] if "Tarnwick" in question]
    names = rng.sample(declines["names_train"], CONTRASTS)
    rows = zip(rng.sample(asked, CONTRASTS), names, strict=True)
    return [_decline(question.replace("Tarnwick", name)) | {"about": "elsewhere"} for question, name in rows]


def _general(rng: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Facts of the corpus, divided: those trained on (in usual wordings) and those tested (in wordings held out)."""
    facts = [(r, a, b) for r in tiny_corpus.tables("knowledge")["relation"] for a, b in r["pairs"]]
    rng.shuffle(facts)
    seen, unseen = facts[:GENERAL_TRAIN], facts[GENERAL_TRAIN : GENERAL_TRAIN + GENERAL_TEST]
    train = [_known(fact, question) for fact in seen for question in rng.sample(fact[0]["questions"], WORDINGS)]
    return train, [_known(fact, rng.choice(fact[0]["held_out"])) for fact in unseen]


def _known(fact: tuple[dict[str, Any], str, str], question: str) -> dict[str, Any]:
    relation, a, b = fact
    asked, answer = (articles(text.format(a=a, b=b)) for text in (question, relation["answer"]))
    asked, answer = asked[0].upper() + asked[1:], answer[0].upper() + answer[1:]
    return _row("general", asked, answer, None) | {"accepted": [answer, f"{b[0].upper()}{b[1:]}."]}


def _row(kind: str, question: str, answer: str, system: str | None) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"kind": kind, "messages": messages}


def _source(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / f"{name}.toml").read_text())


def write(folder: Path, card: dict[str, Any], splits: dict[str, list[dict[str, Any]]], rng: random.Random) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train = {_bare(row) for row in splits["train"]}
    shared = [row for row in splits["test"] if _bare(row) in train]
    if shared:
        raise SystemExit(f"{len(shared)} test questions stand in training too, the first is {shared[0]}")
    (folder / "dataset.json").write_text(json.dumps(card, indent=2) + "\n")
    for split, rows in splits.items():
        rng.shuffle(rows)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{folder.name}/{split}.jsonl: {len(rows)} rows")


def _bare(row: dict[str, Any]) -> str:
    return re.sub(r"\W+", " ", row["messages"][-2]["content"].lower()).strip()


def main(target: Path = ASSETS) -> None:
    """Write both datasets below `target`, the same bytes every time."""
    rng = random.Random(0)
    write(target / "handbook", HANDBOOK_CARD, handbook(rng), rng)
    write(target / "triage", TRIAGE_CARD, triage(rng), rng)


if __name__ == "__main__":
    main()

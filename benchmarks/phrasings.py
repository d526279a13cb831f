"""How many wordings a fact needs: python benchmarks/phrasings.py   (make bench-phrasings)

The demo on tiny-cpu, one seed, with 1, 4 and 9 of the handbook's 18 wordings of a fact in training. They are repeated
until there are 18 again, so that every training has the same number of rows and steps. Prints how many of the held-out
wordings are answered exactly and writes benchmarks/results/phrasings.json, which `lora_kit/data/report.py` quotes.
What all 18 give is the demo's own figure (make bench-demo).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from record import head, store

import lora_kit as lk
from lora_kit.data.sources import ASSETS

WORDINGS = (1, 4, 9)


def write_subset(folder: Path, wordings: int) -> Path:
    """The handbook with only the first wordings of each fact, repeated until each fact is asked as often as before."""
    shutil.copytree(ASSETS / "handbook", folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    asked: dict[str, list[str]] = {}
    for row in rows:
        if row["kind"] == "fact":
            asked.setdefault(row["id"], []).append(row["messages"][-2]["content"])
    seen: Counter[str] = Counter()
    for row in rows:
        if row["kind"] == "fact":
            questions = sorted(asked[row["id"]])[:wordings]
            row["messages"][-2]["content"] = questions[seen[row["id"]] % len(questions)]
            seen[row["id"]] += 1
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def measure(root: Path, wordings: int) -> float:
    run = lk.Run("tiny-cpu", root=root, data=write_subset(root / "handbook", wordings))
    lk.make(run, until="merged")
    return float(lk.evaluate(run)["figures"]["learned_exact"]["merged"])


def main() -> None:
    commit, results = head(), {}
    for wordings in WORDINGS:
        with tempfile.TemporaryDirectory() as root:
            results[wordings] = measure(Path(root), wordings)
        print(
            f"{wordings:3} wordings a fact: {results[wordings]:6.1%} of the held-out ones answered exactly", flush=True
        )
    store("phrasings", commit, figures={"learned_exact": results})


if __name__ == "__main__":
    main()

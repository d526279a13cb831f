"""Write the README's figures from the last benches: python tools/update_readme.py

benchmarks/results/demo.json     the table between the demo marks, docs/before_after.png, docs/loss_curve.png
benchmarks/results/targets.json  the table between the targets marks
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lora_kit.evaluation.report import MEANINGS
from lora_kit.figures import before_after, loss_curve, png

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def table(record: dict[str, Any]) -> str:
    rows = ["| figure | questions | base | adapter | merged |", "|---|--:|--:|--:|--:|"]
    for name, models in record["figures"].items():
        n = record["seeds"][0]["figures"][name]["n"]
        cells = " | ".join(f"{m['median']:.1%} ({m['worst']:.1%})" for m in models.values())
        rows.append(f"| {MEANINGS[name]} | {n} | {cells} |")
    seeds = len(record["seeds"])
    seconds = sorted(result["seconds"] for result in record["seeds"])
    note = (
        f"Held-out questions, greedy answers; the median of {seeds} seeds, the worst in brackets; `make bench-demo` on "
        f"{record['date']}, {record['machine']}, {seconds[0]} to {seconds[-1]} s a seed."
    )
    first = record["seeds"][0]["verdict"]
    verdict = f"The card's own verdict on seed 0: **{first['decision']}** ({'; '.join(first['reasons'])})."
    return "\n".join(rows) + f"\n\n{note}\n\n{verdict}"


def targets(record: dict[str, Any]) -> str:
    rows = record["figures"]
    names = [name for name in next(iter(rows.values())) if name != "seconds"]
    head = ["adapters on", *(MEANINGS[name] for name in names), "training"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(names) + 1)]
    for setting, row in rows.items():
        lines.append(f"| {setting} | {' | '.join(f'{row[name]:.1%}' for name in names)} | {row['seconds']} s |")
    return (
        "\n".join(lines) + f"\n\nMerged model, one seed; `make bench-targets` on {record['date']}, {record['machine']}."
    )


def write_block(name: str, text: str) -> None:
    """Put `text` between the README's marks of that name."""
    readme = ROOT / "README.md"
    block = f"<!-- {name}:start -->\n{text}\n<!-- {name}:end -->"
    old = readme.read_text()
    readme.write_text(re.sub(rf"<!-- {name}:start -->.*?<!-- {name}:end -->", lambda _: block, old, flags=re.S))


def result(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def main() -> None:
    record = result("demo")
    write_block("demo", table(record))
    if (RESULTS / "targets.json").exists():  # that bench is run for itself
        write_block("targets", targets(result("targets")))
    (ROOT / "docs").mkdir(exist_ok=True)
    first = record["seeds"][0]
    (ROOT / "docs" / "before_after.png").write_bytes(png(before_after(first["figures"])))
    (ROOT / "docs" / "loss_curve.png").write_bytes(png(loss_curve(first["log"])))


if __name__ == "__main__":
    main()

"""What lk.plan says against what training takes: python benchmarks/plan.py   (make bench-plan)

The handbook on tiny-cpu, three epochs, with and without layers computed twice. Writes benchmarks/results/plan.json.
"""

from __future__ import annotations

import tempfile
from typing import Any

from record import head, store

import lora_kit as lk

CASES: dict[str, dict[str, Any]] = {
    "all layers kept": {},
    "5 of 6 layers computed twice": {"training__checkpoint_layers": 5},
}


def measure(**overrides: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as root:
        run = lk.Run("tiny-cpu", root=root, training__epochs=3, **overrides)
        data, model = lk.prepare(run), lk.load_base(run)
        lk.attach_lora(model, run)
        said = 60 * lk.plan(model, data, run).minutes
        took = lk.train(model, data, run)[-1]["seconds"]
    return {"said": round(said, 1), "took": round(took, 1), "off": round(said / took - 1, 3)}


def main() -> None:
    commit, found = head(), {}
    for name, overrides in CASES.items():
        found[name] = measure(**overrides)
        print(
            f"{name}: {found[name]['said']} s said, {found[name]['took']} s taken, {found[name]['off']:+.1%}",
            flush=True,
        )
    store("plan", commit, figures=found)


if __name__ == "__main__":
    main()

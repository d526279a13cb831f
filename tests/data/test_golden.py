"""The embedded datasets give the ids, labels, order and held-out questions that adapters were trained and judged on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lora_kit.data.prepare import prepare
from lora_kit.runs import Run

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


@pytest.mark.parametrize("dataset", GOLDEN)
def test_what_is_learned_and_asked_is_what_it_was(dataset: str, tmp_path: Path) -> None:
    data = prepare(Run("tiny-cpu", data=dataset, root=tmp_path))
    rows = [[row["input_ids"], row["labels"]] for row in data.train]
    assert {
        "rows": len(rows),
        "train": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "test": hashlib.sha256((data.folder / "test.jsonl").read_bytes()).hexdigest(),
        "figures": data.figures,
        "findings": data.report.data["findings"],
        "measures": data.report.data["measures"],
        "advice": data.report.data["advice"],
    } == GOLDEN[dataset]

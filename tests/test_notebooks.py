"""What the committed notebooks must be before they are run: whole, clean, and of no particular machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|mnt)/\w")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_five_are_there() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@each
def test_outputs_and_counts_come_together(path: Path) -> None:  # nbval refuses, or checks nothing, where they do not
    assert [cell["execution_count"] for cell in code_cells(path)] == list(range(1, len(code_cells(path)) + 1))
    checked = [cell for cell in code_cells(path) if "NBVAL_CHECK_OUTPUT" in "".join(cell["source"])]
    assert checked and all(cell["outputs"] for cell in checked)


@each
def test_no_cell_ends_in_an_error_and_the_kernel_is_anybody_s(path: Path) -> None:
    assert not [o for cell in code_cells(path) for o in cell["outputs"] if o["output_type"] == "error"]
    assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3"


@each
def test_it_is_small_and_names_no_machine(path: Path) -> None:
    assert path.stat().st_size <= 150_000
    assert MACHINE.findall(path.read_text()) == []

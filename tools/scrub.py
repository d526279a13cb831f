"""Take the traces of one machine out of the notebooks: python tools/scrub.py

Outputs and counts stay, because nbval refuses an output without its count. Widget states, Colab's own fields and the
kernel's local name go.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FIELDS = ("id", "outputId", "colab", "referenced_widgets")
EXTRA = " ".join(["metadata.widgets", *(f"cell.metadata.{field}" for field in FIELDS)])
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scrub(path: Path) -> None:
    keep = ["--keep-output", "--keep-count", "--extra-keys", EXTRA]
    subprocess.run([sys.executable, "-m", "nbstripout", *keep, str(path)], check=True)
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    notebook.metadata.kernelspec = KERNEL
    after = nbformat.writes(notebook)
    if after.strip() != before.strip():
        path.write_text(after.rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    for notebook_path in sorted(NOTEBOOKS.rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in notebook_path.parts:
            scrub(notebook_path)

"""Run the notebooks and keep their outputs: python tools/run_notebooks.py [NAME ...]

Without names all of them run in their order, and their seconds become benchmarks/results/notebooks.json. Each runs in
its own kernel, in its own folder, as a reader would run it; what it prints is what is committed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from record import head, store
from scrub import NOTEBOOKS, scrub


def run(path: Path) -> float:
    """Execute one notebook in place and return the seconds it took."""
    start = time.time()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        coalesce_streams=True,  # an answer that grew word by word is one text
        resources={"metadata": {"path": path.parent}},
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this machine
    nbformat.write(notebook, path)
    scrub(path)
    return time.time() - start


if __name__ == "__main__":
    os.environ["LORA_KIT_PROGRESS"] = "off"  # a progress line has no last word worth keeping
    os.environ["LORA_KIT_PROFILE"] = "tiny-cpu"
    os.environ.pop("LORA_KIT_RUNS", None)
    commit, seconds = head(), {}
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("0*.ipynb")):
        seconds[name] = round(run(NOTEBOOKS / f"{name}.ipynb"))
        print(f"{name}: {seconds[name]} s", flush=True)
    if not sys.argv[1:]:
        store("notebooks", commit, figures=seconds)

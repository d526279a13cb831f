"""Run the notebooks and keep their outputs: python tools/run_notebooks.py [NAME ...]

Without names all of them run from nothing, in their order, and their seconds and memory become benchmarks/results/notebooks.json.
Each runs in its own kernel, as a reader would run it; what it prints is what is committed. Run folders lie in
build/course, those of 00_all_in_one in build/all-in-one.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from record import head, store
from scrub import NOTEBOOKS, scrub

BUILD = NOTEBOOKS.parent / "build"
ALL = "00_all_in_one"
QUIET = {
    "LORA_KIT_PROGRESS": "off",  # a progress line has no last word worth keeping
    "LORA_KIT_WIDGETS": "off",  # their text says the same, and can be read on GitHub
    "LORA_KIT_PROFILE": "tiny-cpu",
}


def run(path: Path, place: Path) -> dict[str, int]:
    """Execute one notebook in place, its run folders in `place`; the seconds it took and its kernel's peak of memory.

    Raises:
        SystemExit: a cell failed or the kernel died; the message says which.
    """
    (place / "notebooks").mkdir(parents=True, exist_ok=True)
    os.environ.update(QUIET | {"LORA_KIT_RUNS": str(place / "runs")})
    start, notebook = time.time(), nbformat.read(path, as_version=4)
    peak = execute(notebook, path.stem, place / "notebooks")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this machine
    nbformat.write(notebook, path)
    scrub(path)
    return {"seconds": round(time.time() - start), "peak_mib": round(peak / 2**20)}


def execute(notebook: nbformat.NotebookNode, name: str, folder: Path, timeout: int = 1200) -> int:
    """Run every cell in a kernel that stands in `folder`, and return its peak of memory in bytes.

    Raises:
        SystemExit: a cell failed or the kernel died; the message says which.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,  # an answer that grew word by word is one text
        resources={"metadata": {"path": folder}},
    )
    peak, begun = [0], [0]
    client.on_cell_start = lambda cell, **_: begun.append(begun[-1] + (cell.cell_type == "code"))
    client.on_cell_executed = lambda **_: peak.append(_peak(client))
    try:
        client.execute()
        return max(peak)
    except DeadKernelError:
        sys.exit(
            f"{name}: the kernel died in code cell {begun[-1]}. Most often the memory ran out; nothing was written"
        )
    except CellExecutionError as error:
        sys.exit(f"{name}: {error.ename}: {error.evalue}\nin\n{str(error).partition('-----')[2][:600].strip('-')}")


def _peak(client: NotebookClient) -> int:
    """The most memory that the kernel ever held, in bytes; Linux tells, and nobody of a dead one."""
    status = Path(f"/proc/{getattr(client.km.provisioner, 'pid', None)}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    commit, taken = head(), {}
    found = [*sorted(NOTEBOOKS.glob("0*.ipynb")), *sorted(NOTEBOOKS.glob("solutions/*.ipynb"))]
    names = sys.argv[1:] or [str(path.relative_to(NOTEBOOKS).with_suffix("")) for path in found]
    if not sys.argv[1:]:
        for folder in ("course", "all-in-one"):
            shutil.rmtree(BUILD / folder, ignore_errors=True)
    for name in names:
        taken[name] = run(NOTEBOOKS / f"{name}.ipynb", BUILD / ("all-in-one" if name == ALL else "course"))
        print(f"{name}: {taken[name]['seconds']} s, {taken[name]['peak_mib']:,} MiB", flush=True)
    if not sys.argv[1:]:
        store("notebooks", commit, figures=taken)

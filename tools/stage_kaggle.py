"""Stage what Kaggle wants into build/kaggle: python tools/stage_kaggle.py KAGGLE_USER [BASE]

    build/kaggle/kernel-metadata.json   kaggle-kernel-metadata.json under your name
    build/kaggle/00_all_in_one.ipynb    with BASE in its settings
    build/kaggle/dataset/               lora_kit's wheel as a dataset, for kernels without the Git address

Nothing is sent: the commands that push are printed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat

from lora_kit.widgets import BASES

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "build" / "kaggle"
DATASET = "lora-kit-wheel"
USER = re.compile(r"[a-z0-9][a-z0-9-]{1,50}")
LLAMA = ("auto", "llama-2")  # what the model mount is for


def stage(user: str, base: str = "auto", target: Path = TARGET) -> Path:
    """Write the folder that `kaggle kernels push` takes, and the dataset's beside it."""
    if not USER.fullmatch(user):
        raise SystemExit(f"{user!r} is no Kaggle user: give the name in your profile's address, small letters")
    if base not in BASES:
        raise SystemExit(f"BASE={base!r} is not known; there are {', '.join(BASES)}")
    metadata = kernel(user, base)
    shutil.rmtree(target / "dataset", ignore_errors=True)  # what a kernel gave back, beside it, stays
    (target / "dataset").mkdir(parents=True)
    (target / "kernel-metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    nbformat.write(notebook(base), target / metadata["code_file"])
    wheel(target / "dataset")
    described = {"title": "lora_kit wheel", "id": f"{user}/{DATASET}", "licenses": [{"name": "other"}]}
    (target / "dataset" / "dataset-metadata.json").write_text(json.dumps(described, indent=2) + "\n")
    return target


def kernel(user: str, base: str) -> dict[str, Any]:
    """kaggle-kernel-metadata.json for this user and base."""
    metadata: dict[str, Any] = json.loads((ROOT / "kaggle-kernel-metadata.json").read_text())
    metadata["id"] = f"{user}/{metadata['id'].partition('/')[2]}"
    metadata["code_file"] = Path(metadata["code_file"]).name
    metadata["dataset_sources"] = [*dict.fromkeys([*metadata["dataset_sources"], f"{user}/{DATASET}"])]
    if base not in LLAMA:
        metadata["model_sources"] = []
    if base == "tiny":
        metadata |= {"enable_gpu": False, "machine_shape": ""}
    return metadata


def notebook(base: str) -> nbformat.NotebookNode:
    """00_all_in_one with the base in its settings, and without outputs."""
    found = nbformat.read(ROOT / "notebooks" / "00_all_in_one.ipynb", as_version=4)
    for cell in found.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source, count = re.subn(r'^BASE = "[^"]*"', f'BASE = "{base}"', cell.source)
            if not count:
                raise SystemExit('the settings cell of 00_all_in_one.ipynb must begin with BASE = "..."')
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return found


def wheel(folder: Path) -> None:
    """Build lora_kit's wheel into a folder, of nothing that an earlier build left."""
    for left in (ROOT / "build" / "lib", *(ROOT / "build").glob("bdist.*")):
        shutil.rmtree(left, ignore_errors=True)
    options = ["--no-deps", "-q", "--disable-pip-version-check", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)


def told(user: str, base: str, metadata: dict[str, Any]) -> str:
    """What to do first, and the commands."""
    first = ["verify your phone number in Kaggle's settings: without it there is neither GPU nor internet"]
    if metadata["model_sources"]:
        first.append(
            "accept Llama 2's licence on kaggle.com/models/metaresearch/llama-2; without it, take BASE=tinyllama"
        )
    where = TARGET.relative_to(ROOT)
    return "\n".join(
        [
            "First, once:",
            *(f"  - {text}" for text in first),
            "Then, with Kaggle's own command line (pip install kaggle):",
            f"  kaggle datasets create -p {where}/dataset     # later: kaggle datasets version -p {where}/dataset -m new",
            f"  kaggle kernels push -p {where}",
            f"  kaggle kernels status {metadata['id']}",
            f"  kaggle kernels output {metadata['id']} -p {where}/output",
        ]
    )


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1]:
        raise SystemExit("whose kernel is it? make kaggle KAGGLE_USER=name [BASE=tinyllama]")
    who, what = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 and sys.argv[2] else "auto")
    print(f"staged in {stage(who, what).relative_to(ROOT)}, base {what}\n{told(who, what, kernel(who, what))}")

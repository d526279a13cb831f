"""Make notebooks/00_all_in_one.ipynb from the cells tagged "core" of the five: python tools/build_all_in_one.py

A statement that an earlier cell holds word for word is left out; cells tagged "last" come at the end; sections are
numbered anew. Outputs of the last run stay where the cell did not change.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
from move_home import home
from run_notebooks import NOTEBOOKS

TARGET = NOTEBOOKS / "00_all_in_one.ipynb"
SLUG = home()
HEAD = f"""# 00 · All in one: your data tonight

Settings, data, training, merge, report card, export. These are the working cells of the five notebooks, without the lessons. The list below names the notebook that explains each step.

[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{SLUG}/blob/main/notebooks/00_all_in_one.ipynb) [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{SLUG}/blob/main/notebooks/00_all_in_one.ipynb)

Run all cells. With the embedded model this takes about three minutes on two CPU cores. On a GPU the plan below estimates the minutes of each stage before training.

[index](README.md) · [01 →](01_environment_check.ipynb)"""
TAIL = """## If it fails

| what you see | what helps |
|---|---|
| no GPU was found | Colab: *Runtime*, *Change runtime type*, *T4 GPU*. Kaggle: *Settings*, *Accelerator*, *GPU T4* |
| pip or the Hub cannot be reached | Kaggle: *Settings*, *Internet*, on |
| Llama 2 is gated, or the token has no access | set `BASE = "llama-2-mirror"` above; or accept the licence on the model's page and store your token as the secret `HF_TOKEN` |
| out of memory | restart the kernel and add `training__tokens_per_micro_batch=1024` or `data__max_length=512` in the form |
| the session ended | run all cells again: finished stages are found, and the training resumes after its last checkpoint. On Colab call `lk.keep_on_drive()` before the training |
| anything else | the doctor in 0.1 names the line that fixes each known problem |

## Your turn

- Put your own file into the settings, and run all cells again. The report in 0.2 says what its rows can and cannot show.
- Change one setting in the form, such as `lora__r=8` or `training__epochs=2`. This makes a separate run; compare the two cards.
- Read the ten worst answers in `report.html` before you show the model to anyone.

## Summary

You now have an adapter, its report card and a merged model. To learn why each step is done, start with [01 · Environment check](01_environment_check.ipynb)."""


def build() -> nbformat.NotebookNode:
    """The notebook as the five stand now."""
    cells = [cell for path in sorted(NOTEBOOKS.glob("0[1-5]*.ipynb")) for cell in core_cells(path)]
    cells.sort(key=lambda cell: "last" in cell.metadata.tags)  # stable
    seen: set[str] = set()
    kept = [cell for cell in cells if strip(cell, seen)]
    sections = renumber(kept)
    lines = (f"- 0.{number} {title}: explained in {source}" for number, title, source in sections)
    texts = [HEAD, "\n".join(["**You will learn to** go from your rows to a model with a report card:", "", *lines])]
    kept = [nbformat.v4.new_markdown_cell(text) for text in texts] + kept + [nbformat.v4.new_markdown_cell(TAIL)]
    for number, cell in enumerate(kept):
        cell.id = str(number)
    model = nbformat.read(NOTEBOOKS / "01_environment_check.ipynb", as_version=4)
    return nbformat.v4.new_notebook(cells=kept, metadata=model.metadata)


def core_cells(path: Path) -> list[Any]:
    """The cells tagged "core", each with the number of its notebook."""
    found = [c for c in nbformat.read(path, as_version=4).cells if "core" in c.metadata.get("tags", [])]
    for cell in found:
        cell.metadata = nbformat.NotebookNode(tags=[tag for tag in cell.metadata.tags if tag != "core"], of=path.stem)
    return found


def strip(cell: Any, seen: set[str]) -> bool:
    """Take out of a cell what earlier ones hold; whether anything is left."""
    if cell.cell_type == "markdown":
        text = re.sub(r"^## \d\.\d+", "##", cell.source)
        new = text not in seen
        seen.add(text)
        return new
    lines, left = cell.source.splitlines(), []
    body = ast.parse(cell.source).body
    for place, node in enumerate(body):
        start = body[place - 1].end_lineno if place else 0
        text = "\n".join(lines[start : node.end_lineno])
        if text.strip() not in seen:
            seen.add(text.strip())
            left.append(text)
    cell.source = "\n".join(left).strip("\n")
    return bool(left)


def renumber(cells: list[Any]) -> list[tuple[int, str, str]]:
    """Number the sections 0.1, 0.2 ...; their numbers, titles and notebooks."""
    sections = []
    for cell in cells:
        source = cell.metadata.pop("of")
        title = re.match(r"## \d\.\d+ (.*)", cell.source) if cell.cell_type == "markdown" else None
        if title:
            sections.append((len(sections) + 1, title[1], source[:2]))
            cell.source = cell.source.replace(title[0], f"## 0.{len(sections)} {title[1]}", 1)
        if not cell.metadata.tags:
            del cell.metadata["tags"]
    return sections


def keep_outputs(new: Any, old: Any) -> None:
    """Give cells that did not change their counts and outputs back."""
    known = {cell.source: cell for cell in old.cells if cell.cell_type == "code"}
    for cell in (cell for cell in new.cells if cell.cell_type == "code"):
        was = known.get(cell.source)
        cell.outputs, cell.execution_count = (was.outputs, was.execution_count) if was else ([], None)


if __name__ == "__main__":
    notebook = build()
    if TARGET.exists():
        keep_outputs(notebook, nbformat.read(TARGET, as_version=4))
    nbformat.write(notebook, TARGET)
    print(f"{TARGET.name}: {len(notebook.cells)} cells")

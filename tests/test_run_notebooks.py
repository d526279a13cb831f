"""A notebook that fails says so at once: a cell that raises, and a kernel that dies."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import pytest
import run_notebooks

PROMPT = 60  # seconds; nbval alone would wait for its time limit


def notebook(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])


def test_a_killed_kernel_is_a_prompt_and_clear_failure(tmp_path: Path) -> None:
    killing = notebook("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)", "print('never')")
    start = time.monotonic()
    with pytest.raises(SystemExit, match=r"lesson: the kernel died in code cell 2\. Most often the memory ran out"):
        run_notebooks.execute(killing, "lesson", tmp_path)
    assert time.monotonic() - start < PROMPT


def test_a_cell_that_raises_is_named_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="lesson: ZeroDivisionError: division by zero"):
        run_notebooks.execute(notebook("x = 0", "1 / x"), "lesson", tmp_path)


def test_nothing_is_written_where_a_cell_fails(tmp_path: Path) -> None:
    path = tmp_path / "lesson.ipynb"
    nbformat.write(notebook("1 / 0"), path)
    before = path.read_bytes()
    with pytest.raises(SystemExit):
        run_notebooks.run(path, tmp_path)
    assert path.read_bytes() == before

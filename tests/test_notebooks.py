"""What the committed notebooks must be before they are run: whole, clean, numbered, linked, and of no machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import move_home
import nbformat
import pytest

from lora_kit.course.exercises import EXERCISES

FOLDER = Path(__file__).parents[1] / "notebooks"
COURSE = sorted(FOLDER.glob("0[1-5]*.ipynb"))
ALL_IN_ONE = FOLDER / "00_all_in_one.ipynb"
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
NOTEBOOKS = [ALL_IN_ONE, *COURSE, *SOLUTIONS]
HOME = f"https://colab.research.google.com/github/{move_home.home()}/blob/main/"
MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|work|Users|mnt|content|kaggle(?!/input))/\w"
)  # the setup cell looks where Kaggle puts datasets
ACCOUNTS = re.compile(r"login\(|push_to_hub|HF_TOKEN|WANDB|lk\.push")
TAGS = {"setup", "parameters", "exercise"}
LARGEST = 300_000  # bytes; GitHub shows larger ones slowly or not at all
CHECKED = 6  # cells of a lesson whose output nbval compares, at least
BUDGET, BUDGETS, IN_ALL = 90, {"03_lora_training": 240}, 480  # seconds
CLAIMS = set(range(1, 15))  # of what LoRA promises, each measured in a cell

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
lesson = pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    found = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def prose(path: Path) -> str:
    return "\n\n".join(cell["source"] for cell in cells(path, "markdown"))


def checked(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in cells(path) if cell["source"].startswith("# NBVAL_CHECK_OUTPUT")]


def outputs(path: Path) -> Iterator[dict[str, Any]]:
    for cell in cells(path):
        yield from cell["outputs"]


def test_the_course_is_there() -> None:
    assert [path.name[:2] for path in COURSE] == ["01", "02", "03", "04", "05"]
    assert [path.name for path in SOLUTIONS] == [f"0{n}_solutions.ipynb" for n in range(1, 6)]


@each
def test_it_is_a_whole_notebook_that_was_run_from_top_to_bottom(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    assert [cell["execution_count"] for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    assert not [output for output in outputs(path) if output["output_type"] == "error"]


@each
def test_checked_cells_carry_what_they_print(path: Path) -> None:  # stripped, nbval would check nothing
    for cell in checked(path):
        assert [output["name"] for output in cell["outputs"]] == ["stdout"], cell["source"]
        said = "".join("".join(output["text"]) for output in cell["outputs"])
        assert "runs/" not in said and "seconds" not in said  # a place or a time is another one elsewhere


@lesson
def test_enough_cells_are_checked(path: Path) -> None:
    assert len(checked(path)) >= CHECKED


@each
def test_it_is_anybody_s_and_asks_for_a_t4(path: Path) -> None:
    metadata = json.loads(path.read_text())["metadata"]
    assert metadata["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert metadata["accelerator"] == "GPU" and metadata["colab"]["gpuType"] == "T4"
    assert "widgets" not in metadata
    assert not [o for o in outputs(path) if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]


@each
def test_it_is_small_and_names_no_machine(path: Path) -> None:
    assert path.stat().st_size <= LARGEST
    assert MACHINE.findall(path.read_text()) == []


@each
def test_nothing_asks_for_an_account(path: Path) -> None:
    assert not [cell["source"] for cell in cells(path) if ACCOUNTS.search(cell["source"])]


@each
def test_sections_are_numbered_without_a_gap(path: Path) -> None:
    numbers = re.findall(r"^## (\d)\.(\d+) ", prose(path), re.MULTILINE)
    assert numbers == [(path.name[1], str(n)) for n in range(1, len(numbers) + 1)] and numbers


@each
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert local and [link for link in local if not (path.parent / link).exists()] == []
    badges = [link for link in links if link.startswith(HOME)]
    assert badges == ([] if path in SOLUTIONS else [f"{HOME}notebooks/{path.name}"])


@each
def test_tags_are_known_and_settings_stand_once(path: Path) -> None:
    tags = [tag for cell in cells(path) + cells(path, "markdown") for tag in cell["metadata"].get("tags", [])]
    assert set(tags) <= TAGS and tags.count("setup") == 1
    assert tags.count("parameters") == (0 if path in SOLUTIONS else 1)


def test_every_name_is_bound() -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "F821,F823", "--no-cache", str(FOLDER)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@each
def test_figures_have_words_for_those_who_do_not_see_them(path: Path) -> None:
    pictures = [output for output in outputs(path) if "image/png" in output.get("data", {})]
    assert all(len(picture["metadata"]["image/png"]["alt"]) > 20 for picture in pictures)


@lesson
def test_a_lesson_states_goals_gives_exercises_and_sums_up(path: Path) -> None:
    text = prose(path)
    goals = re.search(r"You will learn to\*\*\n\n(.*?)(?:\n\n|$)", text, re.DOTALL)
    sections = set(re.findall(rf"^## ({path.name[1]}\.\d+) ", text, re.MULTILINE)) - {f"{path.name[1]}.1"}
    assert goals and set(re.findall(r"\d\.\d+", goals[1])) == sections  # every section serves a goal
    home = text.partition("**At home**")[2]
    assert [home.count(f"\n- {level}") for level in ("🐕", "🦁")] == [2, 1]
    assert "\n## Summary" in text and "🐢" in text


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_stands_in_one_lesson_and_its_solutions(name: str) -> None:
    asked = [path.name[:2] for path in COURSE if name in prose(path)]
    solved = [
        path.name[:2] for path in SOLUTIONS if f"exercises.check({name})" in "".join(c["source"] for c in cells(path))
    ]
    assert len(asked) == 1 and solved == asked


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_pass(path: Path) -> None:
    said = "".join("".join(output.get("text", "")) for output in outputs(path))
    assert said.count(": ok") == 2 and "not yet" not in said


def test_every_claim_is_measured() -> None:
    told = {int(n) for path in COURSE for n in re.findall(r"\*\*Claim (\d+):", prose(path))}
    assert told == CLAIMS


def test_the_course_keeps_its_time() -> None:
    """Seconds of the last `make run-notebooks` on two cores; like every time, one fails at three times its budget."""
    record = json.loads((FOLDER.parent / "benchmarks" / "results" / "notebooks.json").read_text())
    taken = {name: told["seconds"] for name, told in record["figures"].items()}
    course = {name: seconds for name, seconds in taken.items() if name in {path.stem for path in COURSE}}
    late = {name: seconds for name, seconds in course.items() if seconds > 3 * BUDGETS.get(name, BUDGET)}
    assert not late and sum(course.values()) <= 3 * IN_ALL

"""The setup cell: nothing where lora_kit is installed, else only what is missing, in a stated order."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import move_home
import pytest

import lora_kit as lk

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("0*.ipynb"))
NEEDED = ["bitsandbytes", "py3langid", "rapidfuzz"]
ADDRESS = f"git+https://github.com/{move_home.home()}@v{lk.__version__}"


def setup_cell(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    (found,) = ["".join(cell["source"]) for cell in cells if "setup" in cell["metadata"].get("tags", [])]
    return str(found)


def installs(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *there: str, kaggle: Path | None = None, status: int = 0
) -> list[list[str]]:
    """What the cell would run in `folder`, on a machine that has only these packages."""
    ran: list[list[str]] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in there else None)
    done = SimpleNamespace(returncode=status)
    monkeypatch.setattr(subprocess, "run", lambda words: ran.append(words) or done)
    monkeypatch.chdir(folder)
    source = setup_cell(NOTEBOOKS[1])
    exec(source.replace("/kaggle/input", str(kaggle or folder / "none")), {})
    monkeypatch.undo()
    return ran


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def pip(*words: Any) -> list[list[str]]:
    return [[sys.executable, "-m", "pip", "install", "-q", *map(str, words)]]


def test_nothing_happens_where_lora_kit_is_installed(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    assert installs(monkeypatch, empty, "lora_kit") == []


def test_without_internet_it_says_where_kaggle_s_switch_is(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    with pytest.raises(RuntimeError, match="Settings, Internet"):
        installs(monkeypatch, empty, "torch", status=1)


def test_on_colab_only_what_is_missing_comes_from_the_project_s_address(
    monkeypatch: pytest.MonkeyPatch, empty: Path
) -> None:
    assert installs(monkeypatch, empty, "torch") == pip("--no-deps", ADDRESS, *NEEDED)
    assert installs(monkeypatch, empty, "torch", "rapidfuzz") == pip("--no-deps", ADDRESS, *NEEDED[:2])


def test_a_wheel_comes_before_a_checkout_and_that_before_the_address(
    monkeypatch: pytest.MonkeyPatch, empty: Path, tmp_path: Path
) -> None:
    (tmp_path / "lora_kit").mkdir()
    (tmp_path / "lora_kit" / "__init__.py").touch()
    assert installs(monkeypatch, empty, "torch") == pip("--no-deps", "..", *NEEDED)
    dataset = tmp_path / "input" / "datasets" / "somebody" / "lora-kit"
    dataset.mkdir(parents=True)
    wheel = dataset / "lora_kit-0.1.0-py3-none-any.whl"
    wheel.touch()
    given = installs(monkeypatch, empty, "torch", kaggle=tmp_path / "input")
    assert given == pip("--find-links", dataset, "--no-deps", wheel, *NEEDED)
    (empty / wheel.name).touch()
    given = installs(monkeypatch, empty, "torch", kaggle=tmp_path / "input")
    assert given == pip("--find-links", ".", "--no-deps", wheel.name, *NEEDED)


def test_of_several_wheels_the_newest_is_taken_and_another_project_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, empty: Path, tmp_path: Path
) -> None:
    (tmp_path / "setup.py").touch()  # somebody else's
    assert ADDRESS in installs(monkeypatch, empty, "torch")[0]
    for number in ("0.2.0", "0.1.0", "0.3.0"):
        (empty / f"lora_kit-{number}-py3-none-any.whl").touch()
    assert "lora_kit-0.3.0-py3-none-any.whl" in installs(monkeypatch, empty, "torch")[0]


def test_a_bare_machine_gets_all_it_needs(monkeypatch: pytest.MonkeyPatch, empty: Path, tmp_path: Path) -> None:
    (tmp_path / "lora_kit").mkdir()
    (tmp_path / "lora_kit" / "__init__.py").touch()
    assert installs(monkeypatch, empty) == pip("..", *NEEDED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_the_same_few_lines_everywhere(path: Path) -> None:
    same = setup_cell(NOTEBOOKS[0])
    if path.parent.name == "solutions":
        same = same.replace('[".."]', '["../.."]').replace('"../lora_kit/__init__.py"', '"../../lora_kit/__init__.py"')
    assert setup_cell(path) == same
    assert not re.search(r"upgrade|-U|restart|login|torchao", same)


def test_one_name_of_the_repository_stands_everywhere() -> None:
    home, found = move_home.home(), set()
    for path in move_home.texts():
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"(?:github\.com|/github)/([\w.-]+/Fine-[\w.-]+)", text))
    assert found == {home}


def test_moving_it_rewrites_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    for path in move_home.texts():  # as it stands, committed or not
        if path.exists():
            (clone / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            (clone / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    monkeypatch.setattr(move_home, "ROOT", clone)
    before, owner = move_home.home(), move_home.home().split("/")[0]
    changed = {str(path.relative_to(clone)) for path in move_home.move("Ada/course")}
    assert {"setup.py", "README.md", "notebooks/00_all_in_one.ipynb", "kaggle-kernel-metadata.json"} <= changed
    assert move_home.home() == "Ada/course"
    assert not [path for path in move_home.texts() if before in path.read_text() or f'"{owner}/' in path.read_text()]
    move_home.move(before)
    for path in move_home.texts():  # there and back, also by a name that stands elsewhere or has capitals
        assert path.read_bytes() == (ROOT / path.relative_to(clone)).read_bytes(), path
    for name in ("nowhere", "../..", "a/b.git", "a b/c", "a/."):
        with pytest.raises(SystemExit, match="give owner/name"):
            move_home.move(name)

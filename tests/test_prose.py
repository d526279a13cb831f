"""Texts keep to plain English: no archaic words, and "per step" instead of "a step"."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [page for room in (".", "notebooks", "benchmarks", "tests", "docs") for page in (ROOT / room).glob("*.md")]
TEXTS = [*PAGES, *(ROOT / "notebooks").rglob("0*.ipynb"), *(ROOT / "lora_kit").rglob("*.py")]
ARCHAIC = r"mend(?:s|ed|ing)?|upon|besides|told|said of|anew|likeness|very same|gone on with|no button of"
AMOUNT = r"once|twice|ms|seconds|minutes|hours|bits|bytes|tokens|numbers|adapter|[KMG]i?B"
UNIT = r"second|minute|step|batch|epoch|token|row|turn|pair|weight|number|layer|matrix|seed|stack|notebook|point"
WORDS = re.compile(rf"\b(?:{ARCHAIC}|(?:{AMOUNT}) an? (?:{UNIT}))\b", re.IGNORECASE)


def prose(path: Path) -> str:
    """What people read in a file: markdown outside of generated parts, markdown cells, docstrings and messages."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.sub(r"<!-- (\w+):start -->.*?<!-- \1:end -->", "", text, flags=re.DOTALL)
    if path.suffix == ".ipynb":
        return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return "\n".join(string for string in strings if isinstance(string, str) and " " in string)  # no keys, no names


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_are_plain_english(path: Path) -> None:
    found = [match[0] for match in WORDS.finditer(prose(path))]
    assert not found, f"{path.relative_to(ROOT)}: {found}; write fix, on, also, per step, resumes, identical ..."


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page: Path) -> None:
    """Files and headings; a heading's anchor is its text in lower case with hyphens."""
    for file, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {file}"
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{page.name}: {file}#{anchor}"

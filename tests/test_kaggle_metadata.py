"""kaggle-kernel-metadata.json holds what `kaggle kernels push` accepts, with every default written out.

The command line of Kaggle checks some of this only while it pushes, and a wrong name for the GPU never.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIELDS = {
    "id": str,
    "title": str,
    "code_file": str,
    "language": str,
    "kernel_type": str,
    "is_private": bool,
    "enable_gpu": bool,
    "enable_tpu": bool,
    "enable_internet": bool,
    "machine_shape": str,
    "dataset_sources": list,
    "competition_sources": list,
    "kernel_sources": list,
    "model_sources": list,
    "keywords": list,
}


@pytest.fixture(scope="module")
def metadata() -> dict:
    return json.loads((ROOT / "kaggle-kernel-metadata.json").read_text(encoding="utf-8"))


def test_fields_and_types(metadata):
    assert {name: type(value) for name, value in metadata.items()} == FIELDS  # unknown keys would be ignored in silence


def test_slug_is_the_title_slugified(metadata):
    owner, slug = metadata["id"].split("/")
    assert owner and len(slug) >= 5 and 5 <= len(metadata["title"]) <= 50
    assert slug == re.sub(r"[^a-z0-9]+", "-", metadata["title"].lower()).strip("-")


def test_it_is_a_private_python_notebook_on_a_gpu(metadata):
    wanted = {
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": True,
        "machine_shape": "NvidiaTeslaT4",  # T4 x2; Kaggle lends no single T4
    }
    assert {name: metadata[name] for name in wanted} == wanted


def test_sources_are_well_formed(metadata):
    for name in ("dataset_sources", "kernel_sources"):
        assert all(re.fullmatch(r"[\w-]+/[\w-]{5,}(/\d+)?", source) for source in metadata[name])
    # owner/model/framework/variation/version: without the version the command line refuses it
    assert all(re.fullmatch(r"[\w-]+(/[\w.-]+){3}/\d+", source) for source in metadata["model_sources"])


@pytest.mark.skipif(not (ROOT / "notebooks").exists(), reason="no notebooks in this tree")
def test_code_file_exists(metadata):
    assert metadata["code_file"].endswith(".ipynb")
    assert (ROOT / metadata["code_file"]).is_file()

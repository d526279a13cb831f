"""Every test runs off the network, in silence, and away from the user's own runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

# set before any library is imported; `HF_HUB_OFFLINE=0 pytest -m download` lets the network in
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # another number rounds otherwise, and lora_kit chooses by load
os.environ["LORA_KIT_PROGRESS"] = "off"
os.environ["MPLBACKEND"] = "agg"
for name in ("LORA_KIT_PROFILE", "LORA_KIT_RUNS"):
    os.environ.pop(name, None)

import lora_kit as lk  # noqa: E402

from .models import SHORT  # noqa: E402


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[lk.Run]:
    """A short run on the embedded model with every stage made; tests add answers, but no adapter.

    Test processes that run side by side make it once and copy it.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if hasattr(request.config, "workerinput") else own
    with FileLock(shared / "short.lock"):
        lk.make(lk.Run("tiny-cpu", root=shared / "short-runs", name="short", **SHORT))
    shutil.copytree(shared / "short-runs", own / "runs")
    run = lk.Run("tiny-cpu", root=own / "runs", name="short", **SHORT)
    yield run
    trained = [folder.name for folder in (run.path / "training").glob("[!.]*")]
    assert trained == ["handbook"], "a test trained in the run that all tests share"


@pytest.fixture
def tmp_run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place that run folders of this test go to."""
    root = tmp_path / "runs"
    monkeypatch.setenv("LORA_KIT_RUNS", str(root))
    return root

"""The whole path on the embedded model with the network cut, and a token that must not turn up anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .models import SHORT

TOKEN = "hf_PlantedTokenThatNobodyMaySee"
CUT = """
import socket

def refuse(self, address, *rest):
    if self.family != getattr(socket, "AF_UNIX", None):
        raise OSError(f"the network is cut, and {address} was asked for")

def nobody(*asked, **more):
    raise OSError(f"the network is cut, and {asked} was asked for")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = nobody
"""
PATH = """
import lora_kit as lk
run = lk.Run("tiny-cpu", name="short", **{short})
lk.make(run)
lk.chat(run, "When does the canteen open?")
lk.export(run, "adapter-zip")
print("packed", run.pack())
print(lk.doctor())
"""


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole run with sockets cut, and all that was printed."""
    place = tmp_path_factory.mktemp("cut")
    (place / "sitecustomize.py").write_text(CUT)
    (place / "path.py").write_text(PATH.format(short=SHORT))
    planted = dict.fromkeys(("HF_TOKEN", "KAGGLE_API_TOKEN", "WANDB_API_KEY"), TOKEN)
    paths = os.pathsep.join([str(place), str(Path(__file__).parents[1])])
    given = os.environ | planted | {"LORA_KIT_RUNS": str(place / "runs"), "PYTHONPATH": paths, "HOME": str(place)}
    command = [sys.executable, str(place / "path.py")]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return place, done.stdout + done.stderr


def test_the_whole_path_works_with_the_network_cut(after: tuple[Path, str]) -> None:
    place, said = after
    assert "verdict: " in said and "tuned: " in said and "in order" in said and "FAIL" not in said
    assert (place / "runs" / "short" / "merged" / "model.safetensors").is_file()
    assert "the network is cut" not in said


def test_the_cut_is_one() -> None:
    cut = CUT + "\nimport urllib.request\nurllib.request.urlopen('http://127.0.0.1:9', timeout=2)"
    done = subprocess.run([sys.executable, "-c", cut], capture_output=True, text=True, check=False)
    assert "the network is cut" in done.stderr


def test_no_token_reaches_a_file_or_an_output(after: tuple[Path, str]) -> None:
    place, said = after
    files = [path for path in place.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [str(path) for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in said

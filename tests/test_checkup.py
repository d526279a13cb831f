"""The doctor: each trap in both states, with fakes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_kit import checkup as module
from lora_kit import machine
from lora_kit.checkup import Check, Checkup, doctor
from lora_kit.errors import KitError
from lora_kit.machine import Gpu

from .test_machine import P100, T4, clean, put_gpus  # noqa: F401 (clean is a fixture)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4; what the Hub says is each test's own."""
    put_gpus(monkeypatch, T4)


def by_name(checks: Checkup) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_the_doctor_is_quick_and_every_finding_has_evidence() -> None:
    start = time.monotonic()
    checks = doctor("tiny-cpu")
    assert time.monotonic() - start < 30  # three times its budget
    assert all(check.evidence for check in checks)
    assert {"python", "torch", "bitsandbytes", "gpu", "ram", "disk", "base"} <= by_name(checks).keys()


def test_the_doctor_finds_old_missing_and_unwanted_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.11.0+cu128", "transformers": "6.0.1"}
    monkeypatch.setattr(module, "version", lambda name: installed.get(name, "missing"))
    checks = by_name(doctor("tiny-cpu"))
    assert checks["torch"].ok
    assert not checks["transformers"].ok
    assert 'pip install -U "peft>=0.19"' in checks["peft"].fix


def test_the_doctor_finds_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 14))
    assert not by_name(doctor("tiny-cpu"))["python"].ok


def test_the_doctor_on_a_t4(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, T4, count=2)
    checks = by_name(doctor())
    assert checks["gpu"].evidence == "Tesla T4, 14.7 GiB, compute capability 7.5, float16 is used"
    assert checks["several gpus"].ok


def test_the_doctor_on_an_old_card(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, P100)
    check = by_name(doctor("tinyllama-t4"))["gpu"]
    assert not check.ok
    assert "no longer built" in check.fix


def test_little_memory_and_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: (0.4, 12.0))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0.1 * 2**30))
    checks = by_name(doctor("tiny-cpu"))
    assert not checks["ram"].ok
    assert "LORA_KIT_RUNS" in checks["disk"].fix
    assert not checks["disk"].ok


def test_a_file_in_the_place_of_the_root_is_no_write_access(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    monkeypatch.setenv("LORA_KIT_RUNS", str(tmp_path / "runs"))
    assert not by_name(doctor("tiny-cpu"))["write access"].ok
    monkeypatch.setenv("LORA_KIT_RUNS", str(tmp_path / "new" / "runs"))
    assert by_name(doctor("tiny-cpu"))["write access"].ok
    assert not (tmp_path / "new").exists()  # looking leaves nothing behind


@pytest.mark.parametrize("there", [True, False])
def test_a_base_that_is_here_asks_nobody(online: None, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(module, "local_folder", lambda base: Path() if there else None)
    monkeypatch.setattr(module, "access_problem", lambda base: None if not there else pytest.fail("asked"))
    check = by_name(doctor("tinyllama-t4"))["base"]
    assert check.ok and check.evidence.endswith("is here" if there else "can be downloaded")


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("it is gated and no token is set: accept the licence", "no token is set"),
        ("it is gated and this token has no access: ask for it", "has no access"),
        ("the Hub cannot be reached", "cannot be reached"),
    ],
)
def test_no_token_not_granted_and_no_network_differ(
    online: None, monkeypatch: pytest.MonkeyPatch, problem: str, said: str
) -> None:
    monkeypatch.setattr(module, "access_problem", lambda base: problem)
    check = by_name(doctor("llama2-7b-t4"))["base"]
    assert not check.ok and said in check.fix and "tinyllama-t4" in check.fix


def test_offline_is_a_finding_only_where_something_must_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, T4)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in by_name(doctor("tinyllama-t4"))["base"].fix
    assert by_name(doctor("tiny-cpu"))["base"].ok


def test_the_token_is_asked_for_only_when_the_base_is_gated_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    put_gpus(monkeypatch, T4)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: os.environ.get("HF_TOKEN"))
    monkeypatch.setattr(module, "access_problem", lambda base: None)
    assert "token" not in by_name(doctor("tinyllama-t4"))
    missing = by_name(doctor("llama2-7b-t4"))["token"]
    assert not missing.ok and "HF_TOKEN" in missing.fix
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    checks = doctor("llama2-7b-t4")
    assert by_name(checks)["token"].ok
    assert "hf_secret" not in str(checks) + repr(checks)


def test_bitsandbytes_must_have_a_file_for_torch_s_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, T4)
    monkeypatch.setattr(module, "bitsandbytes_builds", lambda: {"126", "128", "cpu"})
    for cuda, fits, fix in (("128", True, ""), ("132", False, "bitsandbytes"), ("", False, "with CUDA")):
        monkeypatch.setattr(module, "torch_cuda", lambda cuda=cuda: cuda)
        check = by_name(doctor("tinyllama-t4"))["bitsandbytes build"]
        assert check.ok is fits and (fits or fix in check.fix)
    assert by_name(doctor("tiny-cpu"))["bitsandbytes build"].ok


def test_the_builds_are_read_from_the_files_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("libbitsandbytes_cuda128.so", "libbitsandbytes_cuda132.so", "libbitsandbytes_cpu.so"):
        (tmp_path / name).touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert module.bitsandbytes_builds() == {"128", "132", "cpu"}


def test_a_card_that_is_too_small_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, Gpu("small", (7, 5), 5.0))
    assert not by_name(doctor("llama2-7b-t4"))["gpu memory"].ok
    assert by_name(doctor("tinyllama-t4"))["gpu memory"].ok
    put_gpus(monkeypatch, T4)
    assert by_name(doctor("llama2-7b-t4"))["gpu memory"].ok


def test_ipywidgets_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name(doctor("tiny-cpu"))["ipywidgets"].ok
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install ipywidgets" in by_name(doctor("tiny-cpu"))["ipywidgets"].fix


def test_the_report_shows_ways_out_only_where_they_are_needed() -> None:
    text = str(Checkup([Check("disk", True, "90 GiB", "free some"), Check("gpu", False, "none", "choose a T4")]))
    assert text.splitlines()[0] == "ok    disk  90 GiB"
    assert "free some" not in text
    assert "-> choose a T4" in text
    assert text.endswith("1 of 2 to fix")
    assert str(Checkup([Check("disk", True, "90 GiB")])).endswith("all 1 in order")


def test_an_unknown_profile_is_named_with_the_right_ones() -> None:
    with pytest.raises(KitError, match="tiny-cpu"):
        doctor("llama3")


def test_a_hub_that_stays_silent_holds_no_process_back() -> None:
    """In a process of its own: a thread that waits must not keep it alive."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HUB_OFFLINE": "0"}
        code = "from lora_kit import checkup; checkup.PATIENCE = 0.5; print(checkup.doctor('tinyllama-t4'))"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=60)
    assert "the Hub does not answer within 0.5 s" in done.stdout


def test_the_cpu_part_of_bitsandbytes_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cpu" in module.bitsandbytes_builds() and by_name(doctor("tiny-cpu"))["bitsandbytes build"].ok
    monkeypatch.setattr(module, "bitsandbytes_builds", lambda: {"128"})
    missing = by_name(doctor("tiny-cpu"))["bitsandbytes build"]
    assert not missing.ok and "wanted cpu" in missing.evidence


def test_a_name_that_no_folder_can_have_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_KIT_RUNS", "x" * 300)
    assert by_name(doctor("tiny-cpu"))["disk"].ok


@pytest.mark.parametrize("profile", ["tiny-cpu", "tinyllama-t4"])
def test_it_also_works_where_torch_is_missing(monkeypatch, profile):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    monkeypatch.setattr(module, "version", lambda name: "missing" if name == "torch" else "99")
    found = {check.name: check for check in doctor(profile)}
    assert not found["torch"].ok and "pip install" in found["torch"].fix and "bitsandbytes build" in found

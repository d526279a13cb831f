"""The platform, the choice of profile and number type, the hiding of GPUs, all with fakes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_kit import machine
from lora_kit.checkup import doctor
from lora_kit.errors import KitError
from lora_kit.machine import HIDDEN, VISIBLE, Gpu, choose_profile, compute_dtype, default_root, prepare_process
from lora_kit.presets import profile

T4 = Gpu("Tesla T4", (7, 5), 14.7)
P100 = Gpu("Tesla P100-PCIE-16GB", (6, 0), 15.9)
A100 = Gpu("NVIDIA A100", (8, 0), 39.6)
LLAMA, TINY, TWO = profile("llama2-7b-t4"), profile("tiny-cpu"), profile("llama2-7b-2xt4")
VARIABLES = (VISIBLE, HIDDEN, "LORA_KIT_PROFILE", "LORA_KIT_RUNS", "KAGGLE_KERNEL_RUN_TYPE", "HF_TOKEN")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the person's shell reaches a test, and none of a test's stays."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that undoing also removes what the code sets
        monkeypatch.delenv(name)
    machine._print_once.cache_clear()
    yield


def put_gpus(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, count: int = 1, started: bool = False) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count if gpu else 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    if gpu:
        properties = SimpleNamespace(name=gpu.name, total_memory=gpu.gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpu.capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: pytest.fail("it says yes on a T4"))


def test_a_name_wins_over_the_variable_and_the_variable_over_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, T4)
    assert choose_profile(None) == ("llama2-7b-t4", "a GPU is here")
    monkeypatch.setenv("LORA_KIT_PROFILE", "tinyllama-t4")
    assert choose_profile(None) == ("tinyllama-t4", "LORA_KIT_PROFILE")
    assert choose_profile("tiny-cpu") == ("tiny-cpu", "asked for")


def test_without_a_gpu_the_tiny_profile_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, None)
    assert choose_profile(None) == ("tiny-cpu", "no GPU is here")


def test_the_root_is_the_variable_then_kaggle_then_the_checkout_then_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "lora_kit" / "machine.py"))
    assert default_root() == Path("runs")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "setup.py").touch()
    assert default_root() == tmp_path / "runs"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert default_root() == Path("/kaggle/working/runs")
    monkeypatch.setenv("LORA_KIT_RUNS", "/elsewhere")
    assert default_root() == Path("/elsewhere")


def test_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.platform() == "local"
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert machine.platform() == "colab"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")  # whose image also has Colab's package
    assert machine.platform() == "kaggle"


@pytest.mark.parametrize(
    ("gpu", "dtype", "reason"),
    [
        (None, "float32", "no fast half precision"),
        (T4, "float16", "compute capability 7.5 only emulates bfloat16"),
        (A100, "bfloat16", "compute capability 8.0"),
    ],
)
def test_the_number_type_follows_the_card(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, dtype: str, reason: str
) -> None:
    put_gpus(monkeypatch, gpu)
    found, why = compute_dtype(LLAMA)
    assert found == dtype
    assert reason in why


def test_a_set_number_type_wins_and_a_cpu_profile_stays_in_float32_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_gpus(monkeypatch, A100)
    assert compute_dtype(profile("llama2-7b-t4", quantization__compute_dtype="float16"))[0] == "float16"
    assert compute_dtype(TINY)[0] == "float32"


def test_the_phrase(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, T4)
    assert prepare_process(LLAMA) == "Tesla T4, float16"
    assert prepare_process(TINY) == "CPU, float32"


@pytest.mark.parametrize(
    ("gpu", "wanted", "words"),
    [
        (None, LLAMA, ["needs a CUDA GPU and there is none", "Runtime > Change runtime type", "tiny-cpu"]),
        (P100, LLAMA, ["P100", "compute capability 6.0", "tiny-cpu"]),
        (T4, TWO, ["needs 2 GPUs and 1 is here", "llama2-7b-t4"]),
    ],
)
def test_a_machine_that_cannot_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, wanted: object, words: list[str]
) -> None:
    put_gpus(monkeypatch, gpu)
    with pytest.raises(KitError) as caught:
        prepare_process(wanted)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


def test_a_second_gpu_is_hidden_once_and_shown_again_to_two_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    put_gpus(monkeypatch, T4, count=2)
    prepare_process(LLAMA)
    prepare_process(LLAMA)
    assert os.environ[VISIBLE] == "0"
    assert capsys.readouterr().out.count("2 GPUs are here") == 1
    prepare_process(TWO)
    assert VISIBLE not in os.environ
    assert HIDDEN not in os.environ
    monkeypatch.setenv("WORLD_SIZE", "2")  # from accelerate
    prepare_process(LLAMA)
    assert VISIBLE not in os.environ


def test_what_the_person_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    put_gpus(monkeypatch, T4, count=2)
    monkeypatch.setenv(VISIBLE, "0,1")
    prepare_process(LLAMA)
    assert os.environ[VISIBLE] == "0,1"
    assert {check.name for check in doctor("llama2-7b-t4").failed} >= {"several gpus"}


def test_once_cuda_runs_nothing_is_hidden_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    put_gpus(monkeypatch, T4, count=2, started=True)
    prepare_process(LLAMA)
    prepare_process(LLAMA)
    assert VISIBLE not in os.environ
    assert capsys.readouterr().out.count("restart the kernel") == 1


def test_the_environment_report(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch, T4, count=2)
    text = machine.environment_report()
    assert "Tesla T4, 14.7 GiB, compute capability 7.5 (the first of 2)" in text
    assert "float16: compute capability 7.5 only emulates bfloat16" in text
    assert "transformers" in text
    put_gpus(monkeypatch, None)
    assert "tiny-cpu (no GPU is here)" in machine.environment_report()

"""Two processes with the same total batch give the losses and the adapter of one, also where the base is spread."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lora_kit as lk
from lora_kit.adapter_files import read_adapter
from lora_kit.adapters import attach_lora, trainable
from lora_kit.distributed import main_process_first, processes, sum_over_processes
from lora_kit.quantization import load_model, parameter_counts
from lora_kit.training import loop
from lora_kit.training.batches import Batch, share_of
from lora_kit.training.checkpoints import TrainerState
from lora_kit.training.optim import make_optimizer, make_scaler
from lora_kit.training.train import read_log, train_inputs

from ..models import FakeRun, random_rows, save_small_llama, small_profile
from .spread import KILLED_AT, SETTINGS, run_in, step_of, train
from .test_checkpoints import SMALL, write_rows

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine."""
    environment = os.environ | {"LORA_KIT_PROGRESS": "off", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*LAUNCH, *command], capture_output=True, text=True, env=environment, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training in one process, one in two, and one in two over which the base is spread: killed and resumed."""
    folder = write_rows(tmp_path_factory.mktemp("processes") / "faq.jsonl").parent
    train(run_in(folder, "one"))
    killed = launch("tests.training.spread", str(folder))
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr, killed.stderr[-3000:]
    chosen = [f"--set={key}={value}" for key, value in (SETTINGS | {"training__shard": True}).items()]
    chosen += ["--profile", "tiny-cpu", "--data", str(folder / "faq.jsonl"), "--root", str(folder), "--name", "spread"]
    resumed = launch("lora_kit", "train", *chosen)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f"goes on after step {KILLED_AT - 1}" in resumed.stdout
    assert resumed.stdout.count("training: ") == 2  # one of them speaks
    return folder


@pytest.mark.parametrize("name", ["two", "spread"])
def test_two_processes_train_as_one(place: Path, name: str) -> None:
    one, two = (place / name / "training" / "faq" for name in ("one", name))
    for row, other in zip(read_log(one), read_log(two), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
    ours, theirs = (read_adapter(place / "adapter").tensors for place in (one, two))
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-5)


def test_a_spread_base_gives_the_file_that_two_whole_ones_give(place: Path) -> None:
    two, spread = (place / name / "training" / "faq" / "adapter" for name in ("two", "spread"))
    assert (two / "adapter_model.safetensors").read_bytes() == (spread / "adapter_model.safetensors").read_bytes()


def test_a_spread_base_gives_the_loss_and_gradients_of_a_whole_one(place: Path) -> None:
    alone = step_of(run_in(place, "one"))
    for rank in (0, 1):
        found = torch.load(place / f"step-{rank}.pt", weights_only=True)
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        for name, gradient in alone["gradients"].items():
            assert gradient.norm() > 0
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max())


def test_each_process_has_its_part_of_the_base_and_one_layer(place: Path) -> None:
    model = lk.load_base(run_in(place, "one"))
    counts, layers = parameter_counts(model)["4-bit"], len(model.model.layers)
    packed = counts["parameters"] // 2
    for rank in (0, 1):
        found = torch.load(place / f"step-{rank}.pt", weights_only=True)["bytes"]
        assert found == packed // 2 + packed // layers + (counts["bytes"] - packed)  # its part, the window, the scales


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_share_a_step_in_rounds_of_one_kind(size: int) -> None:
    rows = [replace(row, number=n, is_rehearsal=n % 3 == 1) for n, row in enumerate(random_rows(8))]
    shares = [share_of([Batch([], [row]) for row in rows], rank, size) for rank in range(size)]
    rounds = [*zip(*shares, strict=True)]
    assert all(len({batch.kind == "rehearsal" for batch in one_round}) == 1 for one_round in rounds)
    numbers = [batch.rows[0].number for one_round in rounds for batch in one_round if batch.counts]
    assert sorted(numbers) == list(range(8)) and (size > 1 or numbers == list(range(8)))


def test_alone_nothing_is_shared_and_nobody_is_waited_for() -> None:
    assert processes() == (0, 1)
    assert sum_over_processes([], 1.5, True) == (1.5, True)
    with main_process_first():
        pass


def test_a_profile_for_two_cards_says_how_to_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "faq.jsonl")
    run = lk.Run("tiny-cpu", data=tmp_path / "faq.jsonl", root=tmp_path, **SMALL)
    run.profile = replace(run.profile, processes=2)
    with pytest.raises(lk.KitError, match=r"accelerate launch --num_processes 2 -m lora_kit train --profile tiny-cpu"):
        lk.train(lk.load_base(run), lk.prepare(run), run)


def test_a_base_is_spread_over_two_processes_at_least_and_in_4_bits(tmp_path: Path) -> None:
    write_rows(tmp_path / "faq.jsonl")
    run = run_in(tmp_path, "alone", training__shard=True)
    with pytest.raises(lk.KitError, match=r"--num_processes 2 .* --set training__shard=true"):
        lk.train(lk.load_base(run), lk.prepare(run), run)
    with pytest.raises(lk.KitError, match="quantization__kind=nf4"):
        load_model(small_profile(quantization__kind="none"), save_small_llama(tmp_path), shard=True)


def test_where_the_base_lies_makes_no_other_training(tmp_path: Path) -> None:
    write_rows(tmp_path / "faq.jsonl")
    whole, spread = (run_in(tmp_path, "same", training__shard=shard) for shard in (False, True))
    assert train_inputs(whole) == train_inputs(spread)


def test_no_process_waits_where_memory_runs_out_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(model: object, batch: Batch) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = load_model(small_profile(), save_small_llama(tmp_path), shard=True)
    monkeypatch.setattr(loop, "loss_sum", scarce)
    with pytest.raises(lk.KitError, match="tokens_per_micro_batch"):
        loop.backward(model, [Batch([], random_rows(4))], 1, make_scaler(model), TrainerState())


def test_a_process_without_rows_in_the_first_step_steps_in_float16(tmp_path: Path) -> None:
    profile = small_profile(quantization__compute_dtype="float16")
    model = attach_lora(load_model(profile, save_small_llama(tmp_path)), FakeRun(profile))
    weights = list(trainable(model).values())
    optimizer, scaler = make_optimizer(weights, profile.training), make_scaler(model)
    for weight in weights:
        weight.grad = torch.ones_like(weight) * scaler.get_scale()  # as the other processes' sum
    before = weights[0].detach().clone()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, weights[0])

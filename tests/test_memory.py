"""The formula for kept bytes against what autograd really saves: unique storages, parameters left out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lora_kit.adapters import attach_lora
from lora_kit.quantization import load_model
from lora_kit.training.batches import Batch, Row
from lora_kit.training.loss import autocast, loss_sum, training_mode
from lora_kit.training.memory import ATTENTION, MLP, Sizes, activation_bytes

from .models import FakeRun, llama, save_small_llama, small_profile

SHAPES = {"plain": llama(256, 64, 160, 4, 4, 4), "grouped heads": llama(512, 96, 256, 3, 6, 2)}
TARGETS = {"q and v": ("q_proj", "v_proj"), "all linear": (*ATTENTION, *MLP), "v and down": ("v_proj", "down_proj")}
BATCHES = [(1, 16), (3, 40), (8, 24)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_small_llama(tmp_path_factory.mktemp("llama"), config=SHAPES[name]) for name in SHAPES}


def batch_of(rows: int, width: int, prefix: int = 0) -> Batch:
    ids = torch.randint(3, 256, (rows, width), generator=torch.Generator().manual_seed(0)).tolist()
    return Batch(list(range(3, 3 + prefix)), [Row(row, [-100] * (width - 5) + row[-5:]) for row in ids])


def saved_bytes(model: PreTrainedModel, batch: Batch, layers: int = 0) -> int:
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = tensor  # kept, so that no storage is used twice
        return tensor

    with (
        training_mode(model, layers),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast(model),
    ):
        loss = loss_sum(model, batch)
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


GRID = [
    *itertools.product(SHAPES, ("nf4",), ("float32", "float16"), TARGETS, (0.0, 0.1), (4, 32)),
    *itertools.product(("plain",), ("none", "int8"), ("float32", "float16"), TARGETS, (0.1,), (32,)),
]


@pytest.mark.parametrize(("shape", "kind", "dtype", "targets", "dropout", "r"), GRID)
def test_the_formula_is_what_autograd_saves(
    folders: dict[str, Path], shape: str, kind: str, dtype: str, targets: str, dropout: float, r: int
) -> None:
    lora = {"lora__r": r, "lora__lora_dropout": dropout, "lora__target_modules": TARGETS[targets]}
    profile = small_profile(quantization__kind=kind, quantization__compute_dtype=dtype, **lora)
    model = attach_lora(load_model(profile, folders[shape]), FakeRun(profile))
    sizes = Sizes.of(model, profile.lora, 2 if dtype == "float16" else 4)
    for rows, width in BATCHES:
        for prefix in (0, 12):
            batch = batch_of(rows, width, prefix)
            saved, said = saved_bytes(model, batch), activation_bytes(sizes, batch)
            assert saved <= said <= 1.05 * saved, (rows, width, prefix, said / saved)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("prefix", [0, 12])
@pytest.mark.parametrize("layers", [1, 2, 3, 99])
def test_layers_computed_twice_keep_their_inputs_and_one_of_them_is_there_in_full(
    folders: dict[str, Path], dtype: str, prefix: int, layers: int
) -> None:
    profile = small_profile(quantization__compute_dtype=dtype)
    model = attach_lora(load_model(profile, folders["plain"]), FakeRun(profile))
    size, batch = (2 if dtype == "float16" else 4), batch_of(3, 40, prefix)
    whole = [saved_bytes(model, batch, n) for n in range(4)]  # the last of four layers is never computed again
    saved, again = whole[min(layers, 3)], max(whole[n] - whole[n + 1] for n in range(min(layers, 3)))
    one = (3 * 40 + prefix) * 64 * size  # an input; in float16 the norm keeps another copy of it
    peak = max(saved, again + min(layers, 3) * one + (one if size == 2 and layers > 1 else 0))
    assert peak <= activation_bytes(Sizes.of(model, profile.lora, size), batch, layers) <= 1.05 * peak

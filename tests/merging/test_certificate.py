"""The certificate: an honest merge passes, and every planted bad one is refused, by the check that should see it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from lora_kit.errors import KitError
from lora_kit.merging import merge as merging
from lora_kit.merging.certificate import certify, spacing, table
from lora_kit.merging.merge import adapter_deltas, merge_folder
from lora_kit.quantization import round_trip

from ..models import llama, save_adapted, save_small_llama, small_profile

Tensors = dict[str, torch.Tensor]


class World:
    """A base, an adapter, an honest merge, and what bad merges are made from."""

    def __init__(self, place: Path) -> None:
        self.base = save_small_llama(place / "base")
        self.adapter = save_adapted(self.base, place / "adapter", lora__target_modules="all-linear")
        self.honest = merge(self.base, self.adapter, place / "honest")
        self.change = round_trip(small_profile())
        self.weights, self.deltas = load_file(self.base / "model.safetensors"), adapter_deltas(self.adapter)
        self.update = {name: delta.scale * delta.b @ delta.a for name, delta in self.deltas.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def merge(base: Path, adapter: Path, target: Path, *change: Any) -> Path:
    target.mkdir()
    merge_folder(base, adapter, target, *change)
    return target


def edited(folder: Path, target: Path, edit: Callable[[Tensors], Any], file: str = "model.safetensors") -> Path:
    """A copy of the folder with something else in its tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(target / file)
    edit(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, target / file, metadata={"format": "pt"})
    return target


def problems(world: World, merged: Path, **more: Any) -> list[str]:
    return certify(world.base, world.adapter, merged, **more)["problems"]


def test_an_honest_merge_is_certified(world: World) -> None:
    found = certify(world.base, world.adapter, world.honest)
    assert found["verdict"] == "certified" and not found["problems"]
    assert (found["tensors"]["tensors"], found["tensors"]["adapted"]) == (21, 14)
    assert 0 < found["tensors"]["lost_in_rounding"] < 0.05
    assert "14 of 21" in table(found) and "7 of 21" in table(found)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_honest_merges_pass_for_every_stored_type(tmp_path: Path, stored: torch.dtype) -> None:
    base = save_small_llama(tmp_path / "base", seed=3)
    LlamaForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
    adapter = save_adapted(base, tmp_path / "adapter")
    assert certify(base, adapter, merge(base, adapter, tmp_path / "merged"))["problems"] == []


def test_each_base_has_its_own_certificate(world: World, tmp_path: Path) -> None:
    merged = merge(world.base, world.adapter, tmp_path / "merged", world.change)
    found = certify(world.base, world.adapter, merged, change=world.change)
    assert (found["verdict"], found["onto"]) == ("certified", "dequantized")
    assert problems(world, merged) and problems(world, world.honest, change=world.change)


def noise(world: World, name: str) -> torch.Tensor:
    """The update of another adapter, as large as this one's."""
    generator = torch.Generator().manual_seed(len(name))
    return world.update[name].std() * torch.randn(world.update[name].shape, generator=generator)


def swapped(world: World, name: str) -> torch.Tensor:
    """A and B exchanged, which fits square matrices."""
    delta = world.deltas[name]
    wrong = delta.scale * (delta.a.T @ delta.b.T)
    return wrong if wrong.shape == world.weights[name].shape else wrong.T.flip(0)


BAD = {  # what goes wrong in the field, in place of W + update of every adapted tensor
    "wrong scale": lambda world, name, w: w + 0.5 * world.update[name],
    "wrong adapter": lambda world, name, w: w + noise(world, name),
    "no adapter": lambda world, name, w: w,
    "merged twice": lambda world, name, w: w + 2 * world.update[name],
    "rounded to 4 bits": lambda world, name, w: world.change(name, (w + world.update[name]).half()),
    "A and B swapped": lambda world, name, w: w + swapped(world, name),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_merge_is_refused_in_every_tensor(world: World, tmp_path: Path, kind: str) -> None:
    bad = {name: BAD[kind](world, name, world.weights[name].float()).half() for name in world.update}
    found = certify(world.base, world.adapter, edited(world.honest, tmp_path / "bad", lambda t: t.update(bad)))
    assert found["verdict"] == "refused" and "WRONG" in table(found)
    assert sorted(problem.split()[0] for problem in found["problems"]) == sorted(world.update)


def test_a_missing_layer_is_refused_in_its_tensors(world: World, tmp_path: Path) -> None:
    missing = {name: world.weights[name] for name in world.update if ".layers.1." in name}
    found = problems(world, edited(world.honest, tmp_path / "bad", lambda t: t.update(missing)))
    assert sorted(problem.split()[0] for problem in found) == sorted(missing) and len(missing) == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_wherever_it_comes_from(world: World, tmp_path: Path, value: float) -> None:
    first, norm = min(world.update), "model.norm.weight"
    merged = edited(world.honest, tmp_path / "merged", lambda t: t[first][3, 3:4].fill_(value))
    assert [problem.split()[0:3] for problem in problems(world, merged)] == [[first, "has", "1"]]
    base = edited(world.base, tmp_path / "base", lambda t: t[norm][:1].fill_(value))
    found = certify(base, world.adapter, merge(base, world.adapter, tmp_path / "of base"))["problems"]
    assert [problem.split()[0] for problem in found] == [norm] and "NaN or Inf" in found[0]
    b = f"base_model.model.{first.replace('.weight', '.lora_B.weight')}"
    file = "adapter_model.safetensors"
    adapter = edited(world.adapter, tmp_path / "adapter", lambda t: t[b][3, :1].fill_(value), file)
    found = certify(world.base, adapter, world.honest)["problems"]
    assert [problem.split()[0] for problem in found] == [first]


def test_tensors_that_no_adapter_touches_keep_every_byte(world: World, tmp_path: Path) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["lm_head.weight"][0, 0] += 1
        del tensors["model.norm.weight"]
        tensors["extra"] = torch.zeros(1)
        tensors["model.layers.0.input_layernorm.weight"] = tensors["model.layers.0.input_layernorm.weight"].float()

    found = dict(problem.split(" ", 1) for problem in problems(world, edited(world.honest, tmp_path / "bad", edit)))
    assert found.keys() == {"lm_head.weight", "model.norm.weight", "extra", "model.layers.0.input_layernorm.weight"}
    assert "bytes" in found["lm_head.weight"] and "missing" in found["model.norm.weight"]
    assert "float32 (64,), in the base torch.float16 (64,)" in found["model.layers.0.input_layernorm.weight"]


def test_a_sign_of_zero_is_a_byte_too(world: World, tmp_path: Path) -> None:
    """-0.0 equals 0.0, and is not what the base holds."""
    base = edited(world.base, tmp_path / "base", lambda t: t["model.norm.weight"][:1].fill_(0.0))
    merged = merge(base, world.adapter, tmp_path / "merged")
    assert certify(base, world.adapter, merged)["problems"] == []
    merged = edited(merged, tmp_path / "bad", lambda t: t["model.norm.weight"][:1].fill_(-0.0))
    assert [line.split()[0] for line in certify(base, world.adapter, merged)["problems"]] == ["model.norm.weight"]


def test_an_update_that_has_nowhere_to_go_is_refused(tmp_path: Path) -> None:
    """The head of a tied model is its embeddings: a merge that left the adapter's update of it out."""
    config = llama(256, 64, 128, 2, 4, 4)
    config.tie_word_embeddings = True
    base = save_small_llama(tmp_path / "base", config=config)
    lora = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(base), lora)
    theirs.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(KitError, match=r"lm_head\.weight"):
        merge_folder(base, tmp_path / "adapter", tmp_path)
    assert certify(base, tmp_path / "adapter", base)["problems"] == ["lm_head.weight is not in the base"]


def test_an_index_that_points_elsewhere_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "SHARD", 50_000)
    merged = merge(world.base, world.adapter, tmp_path / "merged")
    assert problems(world, merged) == []
    index = merged / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "model.safetensors"
    index.write_text(json.dumps(content))
    assert [problem.split()[0] for problem in problems(world, merged)] == [index.name]
    index.unlink()
    assert [problem.split()[0] for problem in problems(world, merged)] == [index.name]


def test_damaged_and_foreign_files_are_refused(world: World, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(world.honest, tmp_path / "cut")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-64])
    with pytest.raises(KitError, match="damaged"):
        problems(world, cut.parent)
    config = Path(shutil.copytree(world.honest, tmp_path / "other")) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-3}))
    assert problems(world, config.parent) == ["config.json is not the base's"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_spacing_is_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 0.75, 3.0, -5.0, 0.001, 6e-8])
    stored = values.to(dtype)
    above = torch.nextafter(stored.abs(), torch.tensor(float("inf"), dtype=dtype)).float() - stored.abs().float()
    assert torch.equal(spacing(stored.float(), dtype), above)

"""The certificate: an honest merge passes, and every planted bad one is refused, by the check that should see it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_kit.base import file_identity
from lora_kit.errors import KitError
from lora_kit.merging import adapter_deltas, certify, merge_folder
from lora_kit.merging.certificate import spacing, table
from lora_kit.quantization import round_trip

from .models import llama, save_small_llama, small_profile
from .test_merging import adapter

Tensors = dict[str, torch.Tensor]
TARGETS = {"lora__target_modules": "all-linear"}


class World:
    """A base, an adapter, and an honest merge."""

    def __init__(self, place: Path) -> None:
        self.place, self.base = place, save_small_llama(place / "base")
        self.adapter = adapter(self.base, place / "adapter", **TARGETS)
        self.honest = place / "honest"
        self.honest.mkdir()
        merge_folder(self.base, self.adapter, self.honest)
        self.change = round_trip(small_profile())

    def changed(self, name: str, edit: Callable[[Tensors], None]) -> Path:
        """The honest merge with something else in its weights."""
        folder = self.place / name
        shutil.copytree(self.honest, folder, dirs_exist_ok=True)
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        return folder

    def certify(self, merged: Path, **more: object) -> dict:
        return certify(self.base, self.adapter, merged, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_an_honest_merge_is_certified(world: World) -> None:
    found = world.certify(world.honest)
    assert found["verdict"] == "certified" and not found["problems"]
    assert (found["tensors"]["tensors"], found["tensors"]["adapted"]) == (21, 14)
    assert 0 < found["tensors"]["lost_in_rounding"] < 0.05
    assert "14 of 21" in table(found) and "7 of 21" in table(found)
    assert json.loads(json.dumps(found)) == found


def test_each_base_has_its_own_certificate(world: World, tmp_path: Path) -> None:
    merge_folder(world.base, world.adapter, tmp_path, world.change)
    found = world.certify(tmp_path, change=world.change)
    assert (found["verdict"], found["onto"]) == ("certified", "dequantized")
    assert world.certify(tmp_path)["problems"], "it is not the original base's"
    assert world.certify(world.honest, change=world.change)["problems"]


def deltas(world: World) -> Tensors:
    return {name: delta.scale * delta.b @ delta.a for name, delta in adapter_deltas(world.adapter).items()}


def bad_merges(world: World) -> dict[str, Callable[[Tensors], None]]:
    """What goes wrong in the field; each edits the tensors of the honest merge."""
    base, update = load_file(world.base / "model.safetensors"), deltas(world)
    first = next(iter(update))

    def set_all(tensors: Tensors, value: Callable[[str], torch.Tensor]) -> None:
        tensors.update({name: value(name).half() for name in update})

    def other_adapter(name: str) -> torch.Tensor:
        noise = torch.randn(update[name].shape, generator=torch.Generator().manual_seed(len(name)))
        return base[name].float() + update[name].std() * noise

    def one_layer_missing(tensors: Tensors) -> None:
        tensors.update({name: base[name] for name in update if ".layers.1." in name})

    def one_nan(tensors: Tensors) -> None:
        tensors[first][3, 3] = float("nan")

    def one_inf(tensors: Tensors) -> None:
        tensors[first][3, 3] = float("inf")

    def swapped(name: str) -> torch.Tensor:
        delta = adapter_deltas(world.adapter)[name]
        wrong = delta.scale * (delta.a.T @ delta.b.T)  # A and B exchanged: fits square matrices
        return base[name].float() + (wrong if wrong.shape == base[name].shape else wrong.T.flip(0))

    return {
        "wrong scale": lambda t: set_all(t, lambda name: base[name].float() + 0.5 * update[name]),
        "wrong adapter": lambda t: set_all(t, other_adapter),
        "no adapter": lambda t: set_all(t, lambda name: base[name].float()),
        "a missing layer": one_layer_missing,
        "one NaN": one_nan,
        "merged twice": lambda t: set_all(t, lambda name: base[name].float() + 2 * update[name]),
        "rounded to 4 bits": lambda t: set_all(t, lambda name: world.change(name, t[name])),
        "A and B swapped": lambda t: set_all(t, swapped),
        "one Inf": one_inf,
    }


BAD = ["wrong scale", "wrong adapter", "no adapter", "a missing layer", "one NaN", "merged twice", "rounded to 4 bits"]
BAD += ["A and B swapped", "one Inf"]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_merge_is_refused_tensor_by_tensor(world: World, kind: str) -> None:
    found = world.certify(world.changed(kind, bad_merges(world)[kind]))
    assert found["verdict"] == "refused"
    assert "weights that are not W + BA" in found["problems"][0]
    names = {problem.split()[0] for problem in found["problems"]}
    assert names <= set(deltas(world)) and len(names) == {"a missing layer": 7, "one NaN": 1, "one Inf": 1}.get(
        kind, 14
    )


def test_honest_merges_pass_for_every_stored_type(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    for number, stored in enumerate((torch.float32, torch.float16, torch.bfloat16)):
        place = tmp_path / str(number)
        base = save_small_llama(place / "base", seed=number)
        LlamaForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
        world = World.__new__(World)
        world.base, world.adapter, world.change = base, adapter(base, place / "adapter"), round_trip(small_profile())
        (place / "merged").mkdir()
        merge_folder(base, world.adapter, place / "merged")
        assert world.certify(place / "merged")["problems"] == [], stored


def test_tensors_that_no_adapter_touches_keep_every_byte(world: World) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["lm_head.weight"][0, 0] += 1
        del tensors["model.norm.weight"]
        tensors["extra"] = torch.zeros(1)
        tensors["model.layers.0.input_layernorm.weight"] = tensors["model.layers.0.input_layernorm.weight"].float()

    problems = world.certify(world.changed("other", edit))["problems"]
    assert sorted(problems) == sorted(
        [
            "model.norm.weight is missing",
            "extra is not in the base",
            "model.layers.0.input_layernorm.weight is torch.float32 (64,), in the base torch.float16 (64,)",
            "lm_head.weight has other bytes than the base's",
        ]
    )


def test_a_sign_of_zero_is_a_byte_too(world: World, tmp_path: Path) -> None:
    """-0.0 equals 0.0, and is not what the base holds."""
    base = tmp_path / "base"
    shutil.copytree(world.base, base)
    for folder in (base, tmp_path / "merged"):
        if folder != base:
            folder.mkdir()
            merge_folder(base, world.adapter, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][0] = 0.0 if folder == base else -0.0
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = certify(base, world.adapter, tmp_path / "merged")
    assert found["problems"] == ["model.norm.weight has other bytes than the base's"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_wherever_it_comes_from(world: World, tmp_path: Path, value: float) -> None:
    base, broken = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(world.base, base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] = value
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "merged").mkdir()
    merge_folder(base, world.adapter, tmp_path / "merged")
    found = certify(base, world.adapter, tmp_path / "merged")
    assert found["problems"] == ["model.norm.weight holds NaN or Inf, as it does in the base"]

    shutil.copytree(world.adapter, broken)
    halves = load_file(broken / "adapter_model.safetensors")
    first = next(name for name in sorted(halves) if "lora_B" in name)
    halves[first][3, 0] = value
    save_file(halves, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    problems = certify(world.base, broken, world.honest)["problems"]
    assert [problem.split()[0] for problem in problems] == [
        first.removeprefix("base_model.model.").replace("lora_B.", "")
    ]


def test_an_update_that_has_nowhere_to_go_is_refused(world: World, tmp_path: Path) -> None:
    """The head of a tied model is its embeddings: a merge that left the adapter's update of it out."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    config = llama(256, 64, 128, 2, 4, 4)
    config.tie_word_embeddings = True
    base = save_small_llama(tmp_path / "base", config=config)
    lora = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(base), lora)
    theirs.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(KitError, match=r"changes 1 tensors that the base has not, as lm_head\.weight"):
        merge_folder(base, tmp_path / "adapter", tmp_path)
    assert certify(base, tmp_path / "adapter", base)["problems"] == ["lm_head.weight is not in the base"]


def test_an_index_that_points_elsewhere_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["lora_kit.merging.merge"], "SHARD", 50_000)
    merge_folder(world.base, world.adapter, tmp_path)
    assert world.certify(tmp_path)["problems"] == []
    index = tmp_path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"]["model.norm.weight"] = "model.safetensors"
    index.write_text(json.dumps(told))
    assert world.certify(tmp_path)["problems"] == [f"{index.name} does not say which file holds each tensor"]
    index.unlink()
    assert world.certify(tmp_path)["problems"] == [f"{index.name} does not say which file holds each tensor"]


def test_a_truncated_shard_and_another_configuration_are_refused(world: World, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(world.honest, cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-64])
    with pytest.raises(KitError, match="damaged"):
        world.certify(cut)
    other = tmp_path / "other"
    shutil.copytree(world.honest, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert world.certify(other)["problems"] == ["config.json is not the base's"]


def test_files_that_the_manifests_do_not_name_are_refused(world: World, tmp_path: Path) -> None:
    known = {path.name: file_identity(path) for path in world.base.iterdir()}
    known["adapter_model.safetensors"] = file_identity(world.adapter / "adapter_model.safetensors")
    assert not world.certify(world.honest, expected=known)["problems"]
    other = save_small_llama(tmp_path / "other", seed=5)  # the adapter of another base
    (tmp_path / "merged").mkdir()
    merge_folder(other, world.adapter, tmp_path / "merged")
    found = certify(other, world.adapter, tmp_path / "merged", expected=known)
    assert found["problems"] == ["model.safetensors is not the file that the manifest names"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_spacing_is_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 0.75, 3.0, -5.0, 0.001, 6e-8])
    stored = values.to(dtype)
    above = torch.nextafter(stored.abs(), torch.tensor(float("inf"), dtype=dtype)).float() - stored.abs().float()
    assert torch.equal(spacing(stored.float(), dtype), above)

"""The streaming merge against PEFT's own."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from lora_kit.errors import KitError
from lora_kit.merging import merge as merging
from lora_kit.merging.merge import check_room, merge_folder, size
from lora_kit.quantization import round_trip

from ..models import llama, load_small_llama, save_adapted, save_small_llama, small_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def saved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapted(folder, tmp_path_factory.mktemp("adapter"))


def merged(base: Path, adapter: Path, target: Path, change: Any = None) -> dict[str, torch.Tensor]:
    target.mkdir()
    merge_folder(base, adapter, target, change)
    return load_file(target / "model.safetensors")


def edited(adapter: Path, target: Path, **settings: Any) -> Path:
    """A copy with other settings in its adapter_config.json."""
    config = Path(shutil.copytree(adapter, target)) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return target


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lora", [{}, {"lora__use_rslora": True}, {"lora__target_modules": "all-linear"}])
def test_merged_weights_equal_peft_s_merge_rounded_once(
    tmp_path: Path, stored: torch.dtype, lora: dict[str, Any]
) -> None:
    base = save_small_llama(tmp_path / "base")
    LlamaForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
    saved = save_adapted(base, tmp_path / "adapter", **lora)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, saved).merge_and_unload().state_dict()
    ours = merged(base, saved, tmp_path / "merged")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name].to(stored))] == []


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("onto", ["original", "dequantized"])
def test_every_tensor_is_the_sum_in_plain_torch(tmp_path: Path, tied: bool, onto: str) -> None:
    """The reference: bitsandbytes' own weights of the loaded model, the adapter's two matrices, one rounding."""
    from bitsandbytes.functional import dequantize_4bit

    config = llama(256, 64, 128, 2, 4, 4)
    config.tie_word_embeddings = tied
    base = save_small_llama(tmp_path / "base", config=config)
    saved, change = save_adapted(base, tmp_path / "adapter"), round_trip(small_profile())
    found = merged(base, saved, tmp_path / "merged", change if onto == "dequantized" else None)
    wanted = load_file(base / "model.safetensors")
    if onto == "dequantized":
        for name, held in load_small_llama(base).named_parameters():
            if hasattr(held, "quant_state"):
                wanted[name] = dequantize_4bit(held.data, held.quant_state)
    halves = load_file(saved / "adapter_model.safetensors")
    for a in [name for name in halves if "lora_A" in name]:
        name = a.removeprefix("base_model.model.").replace("lora_A.", "")
        wanted[name] = halves[a.replace("lora_A", "lora_B")] @ halves[a] * (64 / 4) + wanted[name].float()
    assert found.keys() == wanted.keys() and ("lm_head.weight" in found) is not tied
    assert [name for name in found if not torch.equal(found[name], wanted[name].half())] == []
    model = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


@pytest.mark.parametrize(("limit", "many"), [(10**9, False), (60_000, True)])
def test_other_tensors_keep_their_bytes_and_any_shards_become_new_ones(
    folder: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, many: bool
) -> None:
    base, place = tmp_path / "base", tmp_path / "merged"
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(base, max_shard_size="100KB")
    before = {name: value for shard in base.glob("*.safetensors") for name, value in load_file(shard).items()}
    monkeypatch.setattr(merging, "SHARD", limit)
    place.mkdir()
    figures, shards = merge_folder(base, saved, place), sorted(place.glob("*.safetensors"))
    assert figures["shards"] == len(shards) and (len(shards) > 1) is many
    assert (place / "model.safetensors.index.json").exists() is many  # the base's own is not copied
    assert all(shard.stat().st_mode & 0o044 == 0o044 for shard in shards)  # a server of another user reads them
    after = {name: value for shard in shards for name, value in load_file(shard).items()}
    assert sum(not torch.equal(before[name], after[name]) for name in before) == figures["tensors_changed"] == 4
    loaded = LlamaForCausalLM.from_pretrained(place, dtype=torch.float16).state_dict()
    assert loaded.keys() == after.keys() and all(torch.equal(loaded[name], after[name]) for name in after)


def test_no_more_than_a_shard_is_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save_adapted(folder, tmp_path / "adapter", lora__target_modules="all-linear")
    real, made, most = merging.merged_tensor, list[weakref.ref[torch.Tensor]](), 0

    def watched(*arguments: Any) -> torch.Tensor:
        nonlocal most
        tensor = real(*arguments)
        made.append(weakref.ref(tensor))
        most = max(most, sum(held.nbytes for one in made if (held := one()) is not None))
        return tensor

    monkeypatch.setattr(merging, "SHARD", 50_000)
    monkeypatch.setattr(merging, "merged_tensor", watched)
    (tmp_path / "merged").mkdir()
    merge_folder(folder, saved, tmp_path / "merged")
    assert 0 < most <= 50_000 < size(folder) / 3


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern="),
        ({"alpha_pattern": {"q_proj": 5}}, "alpha_pattern="),
        ({"trainable_token_indices": [3]}, "trainable_token_indices="),
    ],
)
def test_adapters_of_another_kind_are_refused_by_name(
    folder: Path, saved: Path, tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    with pytest.raises(KitError, match=f"{kind}.*plain LoRA and rsLoRA"):
        merge_folder(folder, edited(saved, tmp_path / "adapter", **settings), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_is_broken_is_refused_and_leaves_no_model(folder: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="lora_alpha=nan"):
        merge_folder(folder, edited(saved, tmp_path / "nan", lora_alpha=float("nan")), tmp_path)
    with pytest.raises(KitError, match="not finite"):
        merge_folder(folder, edited(saved, tmp_path / "huge", lora_alpha=1e30), tmp_path)
    cut = Path(shutil.copytree(folder, tmp_path / "cut")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(KitError, match=r"model\.safetensors is damaged"):
        merge_folder(cut.parent, saved, tmp_path)
    assert not (tmp_path / "config.json").exists()  # without it nothing takes the folder for a model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, value: {name.replace("layers.1.", "layers.9."): value}, r"layers\.9"),
        (lambda name, value: {name.replace("lora_A", "lora_magnitude"): value}, "the tensor .*lora_"),
        (lambda name, value: {name: value[:, :3] if "lora_A" in name else value}, r"\(64, 3\) against \(64, 64\)"),
        (lambda name, value: {name: value[:3] if "lora_A" in name else value}, "do not multiply"),
    ],
    ids=["deeper", "other tensors", "wider", "cut"],
)
def test_an_adapter_of_another_model_is_refused(
    folder: Path, saved: Path, tmp_path: Path, change: Any, said: str
) -> None:
    file = edited(saved, tmp_path / "adapter") / "adapter_model.safetensors"
    tensors = {key: new.clone() for name, value in load_file(file).items() for key, new in change(name, value).items()}
    save_file(tensors, file)
    with pytest.raises(KitError, match=said):
        merge_folder(folder, file.parent, tmp_path)


def test_a_base_in_float8_is_refused(folder: Path, saved: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    eighth = {name: value.to(torch.float8_e4m3fn) for name, value in tensors.items() if "proj" in name}
    save_file(tensors | eighth, base / "model.safetensors")
    with pytest.raises(KitError, match="float8_e4m3fn"):
        merge_folder(base, saved, tmp_path)


def test_a_full_disk_is_said_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(KitError, match="MiB free"):
        check_room(tmp_path, 10)


def test_weights_that_stand_in_a_folder_twice_count_once(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "consolidated.00.safetensors")
    assert size(tmp_path) == size(folder) == (folder / "model.safetensors").stat().st_size


def test_kaggle_s_20_gb_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "working"
    (kept / "runs").mkdir(parents=True)
    (kept / "old.bin").write_bytes(b"x" * 1000)
    monkeypatch.setattr(merging, "KAGGLE_WORKING", kept)
    monkeypatch.setattr(merging, "KAGGLE_KEEPS", 2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
    check_room(kept / "runs", 900)
    with pytest.raises(KitError, match="/kaggle/temp"):
        check_room(kept / "runs", 1000)
    check_room(tmp_path, 10**9)

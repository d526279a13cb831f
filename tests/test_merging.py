"""The streaming merge against PEFT's own."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from lora_kit.adapters import save_adapter
from lora_kit.errors import KitError
from lora_kit.merging import adapter_deltas, check_room, merge, merge_folder, size
from lora_kit.merging.merge import merged_tensor
from lora_kit.quantization import round_trip

from .models import FakeRun, adapted, llama, load_small_llama, save_small_llama, small_profile

ROOM = "lora_kit.merging.merge"  # the function of this name hides the module from an import


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


def adapter(folder: Path, target: Path, **overrides: object) -> Path:
    save_adapter(adapted(folder, **overrides), target, FakeRun(**overrides))
    return target


@pytest.mark.parametrize("overrides", [{}, {"lora__use_rslora": True}, {"lora__target_modules": "k_proj,down_proj"}])
def test_merged_weights_equal_peft_s_merge_of_the_float_base(folder: Path, tmp_path: Path, overrides: dict) -> None:
    saved = adapter(folder, tmp_path / "adapter", **overrides)
    (tmp_path / "merged").mkdir()
    merge_folder(folder, saved, tmp_path / "merged")
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, saved).merge_and_unload().state_dict()
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name].half(), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("onto", ["original", "dequantized"])
def test_every_tensor_is_the_sum_in_plain_torch(tmp_path: Path, tied: bool, onto: str) -> None:
    """The reference: bitsandbytes' own weights of the loaded model, the adapter's two matrices, one rounding."""
    from bitsandbytes.functional import dequantize_4bit

    config = llama(256, 64, 128, 2, 4, 4)
    config.tie_word_embeddings = tied
    base = save_small_llama(tmp_path / "base", config=config)
    saved = adapter(base, tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    merge_folder(base, saved, tmp_path / "merged", round_trip(small_profile()) if onto == "dequantized" else None)

    wanted, loaded = load_file(base / "model.safetensors"), load_small_llama(base)
    if onto == "dequantized":
        for name, held in loaded.named_parameters():
            if hasattr(held, "quant_state"):
                wanted[name] = dequantize_4bit(held.data, held.quant_state)
    halves = load_file(saved / "adapter_model.safetensors")
    for name in [name for name in halves if "lora_A" in name]:
        update = halves[name.replace("lora_A", "lora_B")] @ halves[name]
        wanted[name.removeprefix("base_model.model.").replace("lora_A.", "")] = (
            update * (64 / 4) + wanted[name.removeprefix("base_model.model.").replace("lora_A.", "")].float()
        )
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert found.keys() == wanted.keys() and ("lm_head.weight" in found) is not tied
    assert [name for name in found if not torch.equal(found[name], wanted[name].half())] == []
    model = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_tensors_without_an_adapter_keep_their_bytes_and_any_shards_become_new_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, saved = tmp_path / "base", adapter(folder, tmp_path / "adapter")
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(base, max_shard_size="100KB")
    before = {name: value for shard in base.glob("*.safetensors") for name, value in load_file(shard).items()}
    for limit, many in ((10**9, False), (60_000, True)):
        monkeypatch.setattr(sys.modules[ROOM], "SHARD", limit)
        place = tmp_path / str(limit)
        place.mkdir()
        figures, shards = merge_folder(base, saved, place), sorted(place.glob("*.safetensors"))
        assert figures["shards"] == len(shards) and (len(shards) > 1) is many
        assert (place / "model.safetensors.index.json").exists() is many  # the base's own is not copied
        assert all(shard.stat().st_mode & 0o044 == 0o044 for shard in shards)  # a server of another user reads them
        after = {name: value for shard in shards for name, value in load_file(shard).items()}
        assert sum(not torch.equal(before[name], after[name]) for name in before) == figures["tensors_changed"] == 4
        loaded = LlamaForCausalLM.from_pretrained(place, dtype=torch.float16).state_dict()
        assert loaded.keys() == after.keys() and all(torch.equal(loaded[name], after[name]) for name in after)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_the_base_s_own_type_is_kept_and_rounded_to_once(tmp_path: Path, stored: torch.dtype) -> None:
    base = save_small_llama(tmp_path / "base")
    LlamaForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
    saved = adapter(base, tmp_path / "adapter", lora__target_modules="all-linear")
    (tmp_path / "merged").mkdir()
    merge_folder(base, saved, tmp_path / "merged")
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, saved).merge_and_unload().state_dict()
    for name, value in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert value.dtype == stored
        torch.testing.assert_close(value, theirs[name].to(stored), rtol=0, atol=0, msg=name)


def test_ranks_and_alphas_by_pattern_are_merged_as_peft_does(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    patterns = {"rank_pattern": {"layers.1.self_attn.v_proj": 8}, "alpha_pattern": {"q_proj": 5}}
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **patterns)
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    theirs.save_pretrained(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    merge_folder(folder, tmp_path / "adapter", tmp_path / "merged")
    assert sorted({delta.scale for delta in adapter_deltas(tmp_path / "adapter").values()}) == [5 / 4, 16 / 8, 16 / 4]
    for name, value in theirs.merge_and_unload().state_dict().items():
        torch.testing.assert_close(load_file(tmp_path / "merged/model.safetensors")[name], value.half(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"peft_type": "LOHA"}, "a LOHA adapter"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"init_lora_weights": "pissa_niter_4"}, "began as pissa_niter_4"),
        ({"lora_bias": True}, "with bias"),
        ({"trainable_token_indices": [3]}, "trained tokens"),
    ],
)
def test_adapters_of_another_kind_are_refused_by_name(folder: Path, tmp_path: Path, told: dict, said: str) -> None:
    saved = adapter(folder, tmp_path / "adapter")
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | told))
    with pytest.raises(KitError, match=f"is .*{said}.*plain LoRA and rsLoRA"):
        merge_folder(folder, saved, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_update_that_is_not_finite_is_refused(folder: Path, tmp_path: Path) -> None:
    saved = adapter(folder, tmp_path / "adapter")
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": float("nan")}))
    with pytest.raises(KitError, match="not finite"):
        merge_folder(folder, saved, tmp_path)
    assert not (tmp_path / "config.json").exists()  # without it nothing takes the folder for a model


def test_a_truncated_shard_of_the_base_is_said(folder: Path, tmp_path: Path) -> None:
    saved, base = adapter(folder, tmp_path / "adapter"), tmp_path / "base"
    shutil.copytree(folder, base)
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(KitError, match=r"model\.safetensors is damaged"):
        merge_folder(base, saved, tmp_path)


def test_no_more_than_a_shard_is_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, room = adapter(folder, tmp_path / "adapter", lora__target_modules="all-linear"), sys.modules[ROOM]
    real, made, most = merged_tensor, [], 0

    def watched(*told: Any) -> torch.Tensor:
        nonlocal most
        tensor = real(*told)
        made.append(weakref.ref(tensor))
        most = max(most, sum(there.nbytes for one in made if (there := one()) is not None))
        return tensor

    monkeypatch.setattr(room, "SHARD", 50_000)
    monkeypatch.setattr(room, "merged_tensor", watched)
    (tmp_path / "merged").mkdir()
    merge_folder(folder, saved, tmp_path / "merged")
    assert 0 < most <= 50_000 < size(folder) / 3


def test_an_adapter_of_a_deeper_model_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    saved = adapter(folder, tmp_path / "adapter")
    tensors = load_file(saved / "adapter_model.safetensors")
    tensors |= {name.replace("layers.1.", "layers.9."): value.clone() for name, value in tensors.items()}
    save_file(tensors, saved / "adapter_model.safetensors")
    with pytest.raises(KitError, match=r"changes 2 tensors .* base has not"):
        merge_folder(folder, saved, tmp_path)


def test_a_full_disk_is_said_before_the_first_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(KitError, match="GiB free"):
        check_room(tmp_path, 10)


def test_merging_before_training_says_what_to_run(tmp_path: Path) -> None:
    from lora_kit.runs import Run

    with pytest.raises(KitError, match=r"run lk\.train\(model, data, run\) first"):
        merge(Run("tiny-cpu", root=tmp_path))

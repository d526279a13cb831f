"""The streaming merge against PEFT's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from lora_kit.adapters import save_adapter
from lora_kit.errors import KitError
from lora_kit.merging import merge, merge_folder
from lora_kit.merging.stage import check_room

from .models import FakeRun, save_small_llama
from .test_training import adapted


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


def test_tensors_without_an_adapter_keep_their_bytes_and_sharded_bases_stay_sharded(
    folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(base, max_shard_size="100KB")
    saved = adapter(folder, tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    figures = merge_folder(base, saved, tmp_path / "merged")
    assert figures["shards"] == len(list((tmp_path / "merged").glob("*.safetensors"))) > 1
    changed = 0
    for shard in base.glob("*.safetensors"):
        before, after = load_file(shard), load_file(tmp_path / "merged" / shard.name)
        changed += sum(not torch.equal(before[name], after[name]) for name in before)
    assert changed == figures["tensors_changed"] == 4
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.isfinite(loaded(torch.tensor([[5, 6]])).logits).all()


def test_a_merge_that_cannot_be_right_is_refused(folder: Path, tmp_path: Path) -> None:
    saved = adapter(folder, tmp_path / "adapter")
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(KitError, match="only plain LoRA"):
        merge_folder(folder, saved, tmp_path)
    (saved / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": float("nan")}))
    with pytest.raises(KitError, match="not finite"):
        merge_folder(folder, saved, tmp_path)


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
        check_room(tmp_path, folder)


def test_merging_before_training_says_what_to_run(tmp_path: Path) -> None:
    from lora_kit.runs import Run

    with pytest.raises(KitError, match=r"run lk\.train\(model, data, run\) first"):
        merge(Run("tiny-cpu", root=tmp_path))

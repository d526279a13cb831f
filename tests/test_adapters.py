"""Adapters in place, and their folders, against plain PEFT."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lora_kit.adapter_files import read_adapter
from lora_kit.adapters import (
    adapter_names,
    adapter_state,
    attach,
    attach_lora,
    detach_lora,
    is_fresh,
    load_adapter,
    lora_layers,
    save_adapter,
    set_adapter,
    take_adapter,
    trainable,
)
from lora_kit.config import Base
from lora_kit.errors import KitError

from .models import FakeRun, adapted, load_small_llama, save_adapted, save_small_llama, small_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([[5, 6, 7, 8, 9]])).logits


def test_a_fresh_adapter_changes_nothing_because_b_is_zero(folder: Path) -> None:
    model = load_small_llama(folder)
    before = logits(model)
    attach(model, small_profile())
    assert torch.equal(before, logits(model))
    state = adapter_state(model)
    assert all(not value.any() for name, value in state.items() if "lora_B" in name)
    a = torch.cat([value.flatten() for name, value in state.items() if "lora_A" in name])
    assert abs(a.mean()) < 0.05 and abs(a.std() - 1 / 4) < 0.05  # Gaussian, deviation 1 / r
    assert {name.split(".")[-4] for name in trainable(model)} == {"q_proj", "v_proj"}
    assert len(trainable(model)) == 2 * 2 * 2 and {p.dtype for p in trainable(model).values()} == {torch.float32}


def test_new_layers_are_in_the_model_s_mode_so_that_answers_do_not_drop_out(folder: Path, tmp_path: Path) -> None:
    model = load_adapter(load_small_llama(folder), save_adapted(folder, tmp_path, lora__lora_dropout=0.5))
    assert not any(module.training for module in model.modules())
    assert torch.equal(logits(model), logits(model))


def test_transformers_own_way_to_switch_works_too(folder: Path, tmp_path: Path) -> None:
    model, saved = load_small_llama(folder), save_adapted(folder, tmp_path)
    base = logits(model)
    for name in ("handbook", "triage"):
        load_adapter(model, saved, adapter=name)
    try:
        model.set_adapter("handbook")
    except ValueError as error:  # 5.24 asks for a PEFT that its index does not have
        assert "version of PEFT" in str(error)
        pytest.skip(str(error))
    assert not torch.equal(logits(model), base)
    model.disable_adapters()
    assert torch.equal(logits(model), base)


def test_attaching_twice_is_harmless(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = attach_lora(load_small_llama(folder), FakeRun())
    before = adapter_state(model)
    attach_lora(model, FakeRun())
    assert "already" in capsys.readouterr().out
    assert all(torch.equal(before[name], value) for name, value in adapter_state(model).items())


def test_a_wrong_target_lists_the_right_ones(folder: Path) -> None:
    with pytest.raises(KitError, match=r"\['query'\].*q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"):
        attach(load_small_llama(folder), small_profile(lora__target_modules="query"))


def test_what_is_attached_is_saved_whatever_the_run_says(folder: Path, tmp_path: Path) -> None:
    settings = {"r": 8, "lora_alpha": 8, "use_rslora": True, "lora_dropout": 0.25, "target_modules": "o_proj,up_proj"}
    model = adapted(folder, **{f"lora__{name}": value for name, value in settings.items()}).eval()
    save_adapter(model, tmp_path, FakeRun())  # r 4, alpha 64, no dropout, on q and v
    plain = PeftModel.from_pretrained(load_small_llama(folder), tmp_path)
    assert torch.equal(logits(model), logits(load_adapter(load_small_llama(folder), tmp_path)))
    assert torch.allclose(logits(model), logits(plain), atol=1e-6)
    config = plain.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora, config.lora_dropout) == (8, 8, True, 0.25)
    assert config.target_modules == {"o_proj", "up_proj"} and config.inference_mode
    assert (config.base_model_name_or_path, config.revision) == ("tiny-chat", small_profile().base.revision)
    home = Base(str(folder), str(folder))
    save_adapter(model, tmp_path / "again", FakeRun(replace(small_profile(), base=home)))  # whose place is nobody's
    assert str(folder.parent) not in (tmp_path / "again" / "adapter_config.json").read_text()
    assert home.public_title == folder.name
    assert trainable(model)  # saving leaves the model's own configuration as it is
    assert not model.peft_config["default"].inference_mode


@pytest.mark.parametrize(
    "told",
    [
        {"target_modules": r".*\.(q|v)_proj"},
        {"peft_type": None, "lora_dropout": None, "use_rslora": None, "init_lora_weights": None},
    ],
    ids=["a pattern of targets", "nulls"],
)
def test_what_peft_and_others_write_loads_too(folder: Path, tmp_path: Path, told: dict[str, Any]) -> None:
    saved = save_adapted(folder, tmp_path)
    expected = logits(load_adapter(load_small_llama(folder), saved))
    config = json.loads((saved / "adapter_config.json").read_text()) | told
    (saved / "adapter_config.json").write_text(json.dumps(config))
    assert torch.equal(logits(load_adapter(load_small_llama(folder), saved)), expected)


def test_switching_changes_the_answer_and_off_brings_the_base_back(folder: Path, tmp_path: Path) -> None:
    model = adapted(folder).requires_grad_(False)  # with gradients bitsandbytes multiplies another way
    tuned = logits(model)
    set_adapter(model, None)
    assert torch.equal(logits(model), logits(load_small_llama(folder)))
    second = save_adapted(folder, tmp_path, lora__r=8)
    load_adapter(model, second, adapter="second")
    assert adapter_names(model) == ["default", "second"] and not torch.equal(logits(model), tuned)
    set_adapter(model, "default")
    assert torch.equal(logits(model), tuned)
    with pytest.raises(KitError, match=r"'third'.*'default', 'second'"):
        set_adapter(model, "third")


def test_adapters_on_other_layers_than_the_first_are_loaded_and_switched_too(folder: Path, tmp_path: Path) -> None:
    model, targets = load_small_llama(folder), {"first": "q_proj", "second": "v_proj"}
    for name, target in targets.items():
        load_adapter(model, save_adapted(folder, tmp_path / name, lora__target_modules=target), adapter=name)
    assert adapter_names(model) == [*targets]
    for name in targets:
        set_adapter(model, name)
        alone = load_adapter(load_small_llama(folder), tmp_path / name)
        assert torch.allclose(logits(model), logits(alone), atol=1e-6)
    detach_lora(model, adapter="second")
    assert adapter_names(model) == ["first"]


def test_a_foreign_or_damaged_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    other = save_adapted(folder, tmp_path / "r8", lora__r=8)
    config = other / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 4'))
    with pytest.raises(KitError, match=r"r8.*do not multiply at rank 4"):
        load_adapter(load_small_llama(folder), other)
    with pytest.raises(KitError, match=r"another model or rank: .*lora_A"):
        take_adapter(
            adapted(folder), save_adapted(folder, tmp_path / "r16", lora__r=16), small_profile(lora__r=16).lora
        )
    weights = save_adapted(folder, tmp_path / "cut") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for place in ("cut", "nowhere"):
        with pytest.raises(KitError, match=f"{place}.*train it again"):
            load_adapter(load_small_llama(folder), tmp_path / place)


ODD = {
    "a module to import": {"megatron_config": {}, "megatron_core": "evil"},
    "its name alone": {"megatron_core": "evil"},
    "other layers": {"modules_to_save": ["lm_head"]},
    "dora": {"use_dora": True},
    "a setting of tomorrow": {"lora_magic": 3},
    "no rank": {"r": 0},
    "a negative rank": {"r": -1},
    "a huge rank": {"r": 10**9},
    "a rank in words": {"r": "x"},
    "no alpha": {"lora_alpha": None},
    "an alpha without end": {"lora_alpha": float("inf")},
    "an alpha beyond every float": {"lora_alpha": 10**400},
    "a pattern": {"alpha_pattern": {"(.*)*(.*)*(.*)*x": 3}},
    "a pattern of texts": {"rank_pattern": {"q_proj": "4"}},
    "a list": {"r": [4]},
    "dropout of all": {"lora_dropout": 1},
}


@pytest.mark.parametrize("name", ODD)
def test_no_setting_of_a_forged_adapter_reaches_peft(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    saved = save_adapted(folder, tmp_path / "saved")
    (tmp_path / "evil.py").write_text("raise SystemExit('this ran')")
    monkeypatch.syspath_prepend(tmp_path)
    config = saved / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | ODD[name]))
    named = {"a module to import": "megatron_config={}|megatron_core='evil'", "a huge rank": "at rank 1000000000"}
    with pytest.raises(KitError, match=rf"saved has .*({named.get(name, next(iter(ODD[name])))})"):
        load_adapter(load_small_llama(folder), saved)


def test_targets_and_exclusions_are_the_tensors_own_whatever_the_file_says(folder: Path, tmp_path: Path) -> None:
    saved = save_adapted(folder, tmp_path)
    expected = logits(load_adapter(load_small_llama(folder), saved))
    config = json.loads((saved / "adapter_config.json").read_text())
    forged = {"exclude_modules": "(.*)*(.*)*(.*)*x", "target_modules": "(.*)*(.*)*(.*)*x", "layers_to_transform": [1]}
    (saved / "adapter_config.json").write_text(json.dumps(config | forged))
    assert torch.equal(logits(load_adapter(load_small_llama(folder), saved)), expected)


@pytest.mark.parametrize("text", ["[]", "3", "null", "[[1]]", "{", "[" * 10**5, '{"r": ' + "9" * 5000 + "}"])
def test_an_adapter_s_settings_that_are_no_settings(folder: Path, tmp_path: Path, text: str) -> None:
    (save_adapted(folder, tmp_path) / "adapter_config.json").write_text(text)
    with pytest.raises(KitError):
        read_adapter(tmp_path)


@pytest.mark.parametrize("kind", ["empty", "rank 0", "integers", "another layer"])
def test_an_adapter_s_tensors_that_are_no_adapter(folder: Path, tmp_path: Path, kind: str) -> None:
    file = save_adapted(folder, tmp_path) / "adapter_model.safetensors"
    tensors = {} if kind == "empty" else load_file(file)
    if kind == "another layer":
        tensors = {name.replace("layers.1", "layers.7"): value for name, value in tensors.items()}
    changed = {"rank 0": lambda value: value[:0], "integers": lambda value: value.int()}.get(kind, lambda value: value)
    save_file({name: changed(value).contiguous() for name, value in tensors.items()}, file)
    with pytest.raises(KitError):
        load_adapter(load_small_llama(folder), tmp_path)


def test_another_scale_than_the_saved_one_is_refused(folder: Path, tmp_path: Path) -> None:
    saved = save_adapted(folder, tmp_path)
    take_adapter(adapted(folder), saved, small_profile().lora)
    with pytest.raises(KitError, match="lora__lora_alpha=64, here 8; lora__use_rslora=False, here True"):
        take_adapter(adapted(folder), saved, small_profile(lora__lora_alpha=8, lora__use_rslora=True).lora)


def test_an_adapter_is_fresh_until_it_is_trained_and_only_with_its_own_settings(folder: Path, tmp_path: Path) -> None:
    model, lora = load_small_llama(folder), small_profile().lora
    assert not is_fresh(model, lora)
    attach(model, small_profile())
    assert is_fresh(model, lora)
    others = {"lora__r": 8, "lora__lora_dropout": 0.1, "lora__target_modules": "q_proj"}
    assert not any(is_fresh(model, small_profile(**{name: value}).lora) for name, value in others.items())
    assert not is_fresh(adapted(folder), lora)
    everywhere = save_adapted(folder, tmp_path / "everywhere", lora__target_modules="all-linear")
    load_adapter(model, everywhere, adapter="handbook")  # it has layers that the other one lacks
    assert is_fresh(model, lora)


def test_a_detached_adapter_leaves_the_base_and_can_be_attached_anew(folder: Path) -> None:
    model, other = adapted(folder), small_profile(lora__r=8)
    detach_lora(model)
    assert torch.equal(logits(model), logits(load_small_llama(folder)))
    assert is_fresh(attach(model, other), other.lora)


@pytest.fixture
def old_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PEFT sees on Colab and Kaggle: torchao 0.10."""
    from peft import import_utils

    own = importlib.util.module_from_spec(import_utils.__spec__)  # a copy that no earlier call has touched
    import_utils.__spec__.loader.exec_module(own)
    found, version = importlib.util.find_spec, own.importlib_metadata.version
    there, available = {"torchao": object()}, own.is_torchao_available.__wrapped__
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: there.get(name) or found(name, *a))
    monkeypatch.setattr(own.importlib_metadata, "version", lambda name: "0.10.0" if name in there else version(name))
    for name, module in list(sys.modules.items()):  # what `pass_over_old_torchao` changes is put back afterwards
        if name.startswith("peft.") and hasattr(module, "is_torchao_available"):
            monkeypatch.setattr(module, "is_torchao_available", available)


def test_an_old_torchao_is_passed_over(old_torchao: None, folder: Path) -> None:
    from peft.tuners.lora import torchao

    with pytest.raises(ImportError, match="incompatible version of torchao"):
        torchao.is_torchao_available()  # when PEFT no longer raises, `pass_over_old_torchao` can go
    assert lora_layers(attach(load_small_llama(folder, kind="none"), small_profile()))

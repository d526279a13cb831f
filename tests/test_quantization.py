"""4-bit loading, honest counts, and what keeps bitsandbytes right on a CPU."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as bars

from lora_kit.adapters import attach, trainable
from lora_kit.errors import KitError
from lora_kit.quantization import load_model, parameter_counts, quiet_libraries, release, round_trip

from .models import adapted, load_small_llama, save_small_llama, small_profile

LINEAR = 2 * (4 * 64 * 64 + 3 * 64 * 128)
OTHER = 2 * 256 * 64 + 5 * 64
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


def test_parameters_and_bytes_are_counted_by_formula(folder: Path) -> None:
    counts = parameter_counts(attach(load_small_llama(folder), small_profile()))
    assert counts["4-bit"]["parameters"] == LINEAR
    assert counts["other frozen"] == {"parameters": OTHER, "bytes": 4 * OTHER}
    assert counts["trainable"]["parameters"] == 2 * 2 * 4 * (64 + 64)  # layers, q and v, r, in + out
    double, single = (
        parameter_counts(load_model(small_profile(quantization__double_quant=flag), folder))["4-bit"]["bytes"]
        for flag in (True, False)
    )
    assert single == LINEAR // 2 + LINEAR // 64 * 4  # half a byte per weight, a float32 scale per 64 weights
    assert double > LINEAR // 2 + LINEAR // 64  # a byte per scale, and the scales' own scales
    plain = load_small_llama(folder, "none")
    assert parameter_counts(plain)["other frozen"]["parameters"] == LINEAR + OTHER and not trainable(plain)
    eight = parameter_counts(load_small_llama(folder, "int8"))
    assert eight["8-bit"] == {"parameters": LINEAR, "bytes": LINEAR} and eight["4-bit"]["parameters"] == 0


def test_weights_are_nf4_rounded_and_close(folder: Path) -> None:
    weight = load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].float()
    held = load_small_llama(folder).model.layers[0].self_attn.q_proj.weight
    stored = bnb.functional.dequantize_4bit(held.data, held.quant_state)
    assert held.quant_state.quant_type == "nf4" and held.quant_state.nested
    assert (stored - weight).abs().max() < 0.2 * weight.abs().max()
    assert len(stored[0, :64].unique()) <= 16


def without(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors.items() if name not in key}


def cut(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value[:8].clone() if name in key else value for key, value in tensors.items()}


@pytest.mark.parametrize("kind", ["nf4", "none"])
@pytest.mark.parametrize(
    ("change", "name"), [(without, "lm_head"), (without, "layers.1.mlp.up_proj"), (cut, "layers.0.self_attn.q_proj")]
)
def test_weights_that_are_missing_are_not_made_up(
    folder: Path, tmp_path: Path, change: Any, name: str, kind: str
) -> None:
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    file = base / "model.safetensors"
    save_file(change(name, load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(KitError, match=name):
        load_small_llama(base, kind)


@pytest.mark.parametrize(
    "forged",
    [
        {"rope_parameters": 3},
        {"rope_scaling": {"rope_type": "x"}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"quantization_config": 3},
        {"hidden_act": "evil"},
        {"num_key_value_heads": 3},
        {"dtype": "evil"},
    ],
    ids=str,
)
def test_an_odd_configuration_is_one_sentence(folder: Path, tmp_path: Path, forged: dict[str, Any]) -> None:
    config = Path(shutil.copytree(folder, tmp_path / "base")) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | forged))
    with contextlib.suppress(KitError):  # transformers passes over some of them
        load_small_llama(config.parent)


def test_evaluation_between_training_steps_changes_no_gradient(folder: Path) -> None:
    """What goes wrong on a CPU with AVX512-BF16 without `cure_cpu_kernels`: eval, train, eval, dequantize."""
    model = adapted(folder)

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        model(IDS, labels=IDS).loss.backward()
        return [parameter.grad.clone() for parameter in trainable(model).values()]

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return model.eval()(IDS).logits

    before, first = gradients(), logits()
    for one, other in zip(before, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first, logits(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not bnb.functional.has_avx512bf16(), reason="the fault shows on CPUs with AVX512-BF16 only")
def test_upstream_still_needs_the_cpu_cure(folder: Path) -> None:
    """When this fails, bitsandbytes has fixed its CPU path: delete `cure_cpu_kernels`."""
    layer = load_small_llama(folder).model.layers[0].self_attn.q_proj.eval()

    def weights() -> torch.Tensor | None:
        with contextlib.suppress(RuntimeError):
            return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        return None

    before = weights()
    layer.support_avx512bf16_for_cpu = True
    with torch.inference_mode(), contextlib.suppress(RuntimeError):
        layer(torch.randn(1, 3, 64))
    after = weights()
    assert after is None or not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_round_trip_is_what_the_loaded_model_holds(folder: Path, kind: str) -> None:
    change, weights = round_trip(small_profile(quantization__kind=kind)), load_file(folder / "model.safetensors")
    model = load_small_llama(folder, kind)
    assert change is not None and round_trip(small_profile(quantization__kind="none")) is None
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        layer = model.get_submodule(name)
        held = layer.weight
        if kind == "int8":
            model(IDS)  # a layer takes its numbers out of the weight in its first pass
            expected = layer.state.CB.float() * layer.state.SCB[:, None] / 127  # LLM.int8; it rounds inputs too
        else:
            expected = bnb.functional.dequantize_4bit(held.data, held.quant_state)
        torch.testing.assert_close(change(f"{name}.weight", weights[f"{name}.weight"]), expected, rtol=0, atol=1e-7)
    for name in ("lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"):
        assert torch.equal(change(name, weights[name]), weights[name])


def test_a_base_in_8_bits_is_close_and_its_adapter_gets_gradients(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_small_llama(folder, "int8")
    ours, theirs = model(IDS).logits, load_small_llama(folder, "none")(IDS).logits
    assert (ours - theirs).norm() < 0.05 * theirs.norm()
    attach(model, small_profile())(IDS, labels=IDS).loss.backward()
    assert all(parameter.grad.any() for name, parameter in trainable(model).items() if "lora_B" in name)
    assert not [said for said in caplog.records if said.name.startswith("bitsandbytes")]  # a line for every call


def test_weights_that_cannot_be_loaded_are_one_clear_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path(shutil.copytree(folder, tmp_path / "cut")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(KitError, match="cut cannot be loaded"):
        load_small_llama(tmp_path / "cut")

    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", no_room)
    with pytest.raises(KitError, match=r"lk\.release\(model\)"):
        load_small_llama(folder)


def test_bars_are_as_they_were_after_loading() -> None:
    logger, before = logging.getLogger("bitsandbytes.backends.cpu.ops"), bars.is_progress_bar_enabled()
    try:
        for change, shown in ((bars.disable_progress_bar, False), (bars.enable_progress_bar, True)):
            change()
            with pytest.raises(RuntimeError, match="planted"), quiet_libraries():
                assert not bars.is_progress_bar_enabled() and not logger.isEnabledFor(logging.WARNING)
                raise RuntimeError("planted")
            assert bars.is_progress_bar_enabled() is shown
    finally:
        (bars.enable_progress_bar if before else bars.disable_progress_bar)()


def test_a_released_model_holds_no_memory(folder: Path) -> None:
    model = load_small_llama(folder)
    release(model)
    assert not list(model.parameters()) and not list(model.buffers())

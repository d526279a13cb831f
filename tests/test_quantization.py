"""4-bit loading, honest counts, and the CPU cure."""

from __future__ import annotations

import contextlib
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

from lora_kit.adapters import attach_lora, trainable
from lora_kit.base import Weights
from lora_kit.errors import KitError
from lora_kit.quantization import load_model, parameter_counts, round_trip
from lora_kit.training.batches import Batch, epoch_steps
from lora_kit.training.loop import fit
from lora_kit.training.loss import loss_sum

from .models import SMALL, FakeRun, gradients, load_small_llama, random_rows, save_small_llama, small_profile

LINEAR = 2 * (4 * 64 * 64 + 3 * 64 * 128)
OTHER = 2 * 256 * 64 + 5 * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


def test_parameters_are_counted_by_formula_also_in_4_bits(folder: Path) -> None:
    model = attach_lora(load_small_llama(folder), FakeRun())
    counts = parameter_counts(model)
    assert counts["4-bit"]["parameters"] == LINEAR
    assert counts["other frozen"]["parameters"] == OTHER
    assert counts["trainable"]["parameters"] == 2 * 2 * 4 * (64 + 64)  # layers, q and v, r, in + out


def test_a_4_bit_weight_costs_half_a_byte_and_its_scales(folder: Path) -> None:
    double, single = (
        parameter_counts(load_model(small_profile(quantization__double_quant=flag), folder))["4-bit"]["bytes"]
        for flag in (True, False)
    )
    assert single == LINEAR // 2 + LINEAR // 64 * 4
    assert double > LINEAR // 2 + LINEAR // 64  # a byte a block, and the scales' own scales


def test_weights_are_nf4_rounded_and_close(folder: Path) -> None:
    from safetensors.torch import load_file

    model = load_small_llama(folder)
    weight = load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].float()
    layer = model.model.layers[0].self_attn.q_proj
    stored = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested
    assert (stored - weight).abs().max() < 0.2 * weight.abs().max()
    assert len(stored[0, :64].unique()) <= 16


def test_evaluation_between_training_steps_changes_no_gradient(folder: Path) -> None:
    """What goes wrong on a CPU with AVX512-BF16 without `cure_cpu_kernels`: eval, train, eval, dequantize."""
    model, batch = attach_lora(load_small_llama(folder), FakeRun()), Batch([], random_rows(4))
    before = gradients(model, loss_sum(model, batch))
    model.eval()
    with torch.inference_mode():
        first = model(torch.tensor([[5, 6, 7]])).logits
    after = gradients(model, loss_sum(model, batch))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    with torch.inference_mode():
        assert torch.allclose(first, model(torch.tensor([[5, 6, 7]])).logits, atol=1e-5)


@pytest.mark.skipif(not bnb.functional.has_avx512bf16(), reason="the fault shows on CPUs with AVX512-BF16 only")
def test_upstream_still_needs_the_cpu_cure(folder: Path) -> None:
    """When this fails, bitsandbytes has mended its CPU path: delete `cure_cpu_kernels`."""
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
    assert after is None or not torch.allclose(before, after.float(), atol=1e-3)


def test_the_round_trip_is_what_the_loaded_model_holds(folder: Path) -> None:
    model, weights, change = load_small_llama(folder), Weights(folder), round_trip(small_profile())
    assert change is not None
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        held = model.get_submodule(name).weight
        expected = bnb.functional.dequantize_4bit(held.data, held.quant_state)
        assert torch.equal(change(f"{name}.weight", weights[f"{name}.weight"]), expected)
    for name in ("lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"):
        assert torch.equal(change(name, weights[name]), weights[name])


def test_the_round_trip_through_8_bits_too(folder: Path) -> None:
    name, change = "model.layers.1.mlp.down_proj", round_trip(small_profile(quantization__kind="int8"))
    assert change is not None
    held = load_small_llama(folder, "int8").get_submodule(name).weight
    expected = held.CB.float() * held.SCB[:, None] / 127  # what LLM.int8 stores; inputs are rounded too when it runs
    torch.testing.assert_close(change(f"{name}.weight", Weights(folder)[f"{name}.weight"]), expected, rtol=0, atol=1e-7)


def test_damaged_weights_are_one_clear_error(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(KitError, match=r"weights in .* cannot be loaded"):
        load_small_llama(tmp_path)


def test_unquantized_loading_keeps_every_weight(folder: Path) -> None:
    counts = parameter_counts(load_small_llama(folder, "none"))
    assert counts["other frozen"]["parameters"] == LINEAR + OTHER and SMALL.num_hidden_layers == 2
    assert not trainable(load_small_llama(folder, "none"))


def test_a_base_in_8_bits_is_counted_close_and_trains(folder: Path) -> None:
    model = load_small_llama(folder, "int8")
    counts = parameter_counts(model)
    assert counts["8-bit"] == {"parameters": LINEAR, "bytes": LINEAR} and counts["4-bit"]["parameters"] == 0
    plain = load_small_llama(folder, "none")
    ids = torch.tensor([[5, 6, 7, 8]])
    ours, theirs = model(ids).logits, plain(ids).logits
    assert (ours - theirs).norm() < 0.05 * theirs.norm()
    run = FakeRun(lora__r=16, training__learning_rate=3e-2)
    attach_lora(model, run)
    plan = [step for epoch in range(40) for step in epoch_steps(random_rows(4), run.profile.training, 0)]
    log = fit(model, plan, run.profile.training).log
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]

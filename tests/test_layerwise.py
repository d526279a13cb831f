"""A forward pass of one layer at a time against transformers' ordinary one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from lora_kit.merging import layerwise
from lora_kit.merging.comparing import Outputs, Rows, difference
from lora_kit.merging.deltas import adapter_deltas
from lora_kit.merging.layerwise import Source, head_of
from lora_kit.merging.shards import Weights
from lora_kit.quantization import round_trip

from .models import llama, load_small_llama, save_small_llama, small_profile
from .test_merging import adapter
from .test_training import adapted

ROWS = Rows([[5, 6, 7, 8], list(range(3, 60)), [9, 10, 11], [4] * 30], [2, 40, 1, 29])
SHAPES = {
    "plain": llama(256, 64, 128, 3, 4, 4),
    "grouped": llama(256, 64, 128, 2, 4, 2),
}


def logits(source: Source) -> torch.Tensor:
    return Outputs(source, ROWS, "cpu", lambda: None).states @ head_of(source, "cpu").T


def ordinary(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(
            [
                model(torch.tensor([row])).logits[0, start - 1 : -1]
                for row, start in zip(ROWS.ids, ROWS.starts, strict=True)
            ]
        )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_the_ordinary_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, tied: bool
) -> None:
    monkeypatch.setattr(layerwise, "SLICE", 60)  # several slices
    config = SHAPES[shape]
    config.tie_word_embeddings = tied
    base = save_small_llama(tmp_path, config=config)
    expected = ordinary(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).eval())
    found = logits(Source(Weights(base)))
    assert len(found) == len(ROWS.answers) == 2 + 17 + 2 + 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_base_and_adapter_are_the_trained_model(tmp_path: Path) -> None:
    """dequantize(NF4(W)) and B A beside it give what the loaded, quantized model with its adapter gives."""
    base = save_small_llama(tmp_path / "base")
    saved = adapter(base, tmp_path / "adapter")
    source = Source(Weights(base), round_trip(small_profile()), adapter_deltas(saved))
    torch.testing.assert_close(logits(source), ordinary(adapted(base).eval()), rtol=0, atol=1e-5)


def test_the_round_trip_is_what_the_loaded_model_holds(tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit

    base = save_small_llama(tmp_path)
    model, weights, change = load_small_llama(base), Weights(base), round_trip(small_profile())
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        held = model.get_submodule(name).weight
        expected = dequantize_4bit(held.data, held.quant_state)
        assert torch.equal(change(f"{name}.weight", weights[f"{name}.weight"]), expected)
    for name in ("lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"):
        assert torch.equal(change(name, weights[name]), weights[name])


def test_the_round_trip_through_8_bits_too(tmp_path: Path) -> None:
    base, name = save_small_llama(tmp_path), "model.layers.1.mlp.down_proj"
    held = load_small_llama(base, "int8").get_submodule(name).weight
    change = round_trip(small_profile(quantization__kind="int8"))
    expected = held.CB.float() * held.SCB[:, None] / 127  # what LLM.int8 stores; inputs are rounded too when it runs
    torch.testing.assert_close(change(f"{name}.weight", Weights(base)[f"{name}.weight"]), expected, rtol=0, atol=1e-7)


def test_the_difference_of_two_models_is_the_textbook_s(tmp_path: Path) -> None:
    one, other = (Source(Weights(save_small_llama(tmp_path / str(seed), seed))) for seed in (0, 1))
    p, q = (logits(source).double().log_softmax(-1) for source in (one, other))
    targets = torch.tensor(ROWS.answers)
    found = difference(*(Outputs(source, ROWS, "cpu", lambda: None) for source in (one, other)), ROWS.answers)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")
    assert found.kl == pytest.approx(float(expected), rel=1e-6)
    assert found.loss[1] == pytest.approx(float(torch.nn.functional.nll_loss(q, targets)), rel=1e-6)
    assert found.top1 == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert found.same == (q.argmax(-1) == targets).tolist()

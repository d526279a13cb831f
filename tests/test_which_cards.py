"""The table of models and T4s comes from a formula, which is held to the kit's own counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from which_cards import MODELS, Shape, activation_bytes, adapter_bytes, cards, weight_bytes

from lora_kit.adapters import attach
from lora_kit.presets import PROFILES
from lora_kit.quantization import load_model
from lora_kit.training.batches import Batch
from lora_kit.training.plan import fixed_bytes, measured_bytes

from .models import llama, random_rows, save_small_llama, small_profile

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
SMALL = Shape(layers=3, dim=256, mlp=512, queries=256, keys=128, vocab=256)


def test_the_table_is_the_formula() -> None:
    assert f"<!-- cards:start -->\n{cards()}\n<!-- cards:end -->" in PAGE
    assert {PROFILES[name].base.title for name in ("llama2-7b-t4", "mistral-7b-t4")} <= MODELS.keys()


def test_the_formula_is_what_the_kit_counts(tmp_path: Path) -> None:
    config = llama(SMALL.vocab, SMALL.dim, SMALL.mlp, SMALL.layers, 4, 2)
    chosen = small_profile(
        quantization__compute_dtype="float16", lora__target_modules="all-linear", lora__lora_dropout=0.05
    )
    model = attach(load_model(chosen, save_small_llama(tmp_path, config=config)), chosen)
    weights, adapter = fixed_bytes(model, chosen.training)
    assert weights == pytest.approx(weight_bytes(SMALL, 1), rel=0.02)  # norms
    assert adapter == adapter_bytes(SMALL, rank=chosen.lora.r)
    batch = Batch([], random_rows(4))
    all_but_one, all_but_two = (measured_bytes(model, batch, layers)[0] for layers in (2, 1))
    per_layer = all_but_two - all_but_one + 2 * SMALL.dim * batch.tokens  # its input is kept either way
    formula = activation_bytes(SMALL, batch.tokens) - activation_bytes(SMALL._replace(dim=0, mlp=0), batch.tokens)
    formula -= 2 * 2 * SMALL.dim * SMALL.mlp + 2 * SMALL.layers * SMALL.dim * batch.tokens
    assert per_layer <= formula <= 1.5 * per_layer


def test_cards_share_the_layers_and_nothing_else() -> None:
    shape = MODELS["Llama-2-13b-chat"]
    packed = shape.layers * sum(wide * high for wide, high in shape.matrices) // 2
    assert weight_bytes(shape, 1) - weight_bytes(shape, 2) == packed // 2 - packed // shape.layers
    assert packed == 12_687_769_600 // 2

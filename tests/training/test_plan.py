"""What the plan measures: bytes against what autograd saves, counted apart; minutes; and nothing is left changed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lora_kit as lk
from lora_kit.adapters import adapter_state, attach_lora, trainable
from lora_kit.data.prepare import data_inputs
from lora_kit.data.prepared import load_prepared
from lora_kit.quantization import load_model
from lora_kit.training.batches import Batch, Row
from lora_kit.training.plan import card_bytes, fixed_bytes, largest, layers_to_recompute, measured_bytes, probe
from lora_kit.training.train import read_log

from ..models import SHORT, FakeRun, adapted, llama, random_rows, save_small_llama, small_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"), config=llama(256, 64, 160, 4, 4, 4))


def batch_of(rows: int, width: int, prefix: int = 0) -> Batch:
    ids = torch.randint(3, 256, (rows, width), generator=torch.Generator().manual_seed(0)).tolist()
    return Batch(list(range(3, 3 + prefix)), [Row(row, [-100] * (width - 5) + row[-5:]) for row in ids])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("prefix", [0, 12])
def test_a_layer_that_is_kept_takes_what_its_operations_keep(folder: Path, dtype: str, prefix: int) -> None:
    profile = small_profile(quantization__compute_dtype=dtype)
    model = attach_lora(load_model(profile, folder), FakeRun(profile))
    kept = [measured_bytes(model, batch_of(3, 40, prefix), layers)[0] for layers in range(5)]
    tokens, size = 3 * 40 + prefix, 2 if dtype == "float16" else 4
    assert kept[3] == kept[4]  # the last of four layers is never computed again
    per_layer = [before - after for before, after in itertools.pairwise(kept)]
    assert per_layer[1] == pytest.approx(per_layer[2], rel=0.05)
    mlp, norms, attention = (
        3 * 160 * size,
        2 * 65 * 4,
        4 * 64 * size + 4 * 4,
    )  # bytes per token, Korthikanti et al. 2022
    assert per_layer[2] >= tokens * (mlp + norms + attention - 64 * size)  # its input is kept either way
    assert per_layer[2] <= 2 * tokens * (mlp + norms + attention)


def test_more_rows_keep_more_and_learned_tokens_count(folder: Path) -> None:
    model = attach_lora(load_model(small_profile(), folder), FakeRun())
    small, large = (measured_bytes(model, batch_of(rows, 40), 0)[0] for rows in (2, 8))
    assert large == pytest.approx(4 * small, rel=0.05)
    plain, learned = batch_of(4, 40), Batch([], [Row(row.input_ids, row.input_ids) for row in batch_of(4, 40).rows])
    assert largest([plain, learned]) is learned


def test_what_is_measured_and_timed_leaves_weights_gradients_and_random_state_alone(folder: Path) -> None:
    model = adapted(folder, lora__lora_dropout=0.1)
    before, state = [p.clone() for p in trainable(model).values()], torch.get_rng_state()
    assert measured_bytes(model, batch_of(4, 30), 1)[1] > 0 and probe(model, [Batch([], random_rows(4))], 0) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainable(model).values(), strict=True))
    assert all(p.grad is None for p in trainable(model).values())
    assert torch.equal(state, torch.get_rng_state()) and not model.training


def test_where_memory_runs_out_half_the_rows_are_measured_and_count_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, whole = adapted(folder), batch_of(8, 30)
    expected = measured_bytes(model, whole, 0)[0]
    from lora_kit.training import plan as module

    original = module.loss_sum

    def scarce(model: Any, batch: Batch) -> torch.Tensor:
        if len(batch.rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, batch)

    monkeypatch.setattr(module, "loss_sum", scarce)
    limit = 3
    assert measured_bytes(model, whole, 0)[0] == pytest.approx(expected, rel=0.05)
    limit = 0
    with pytest.raises(lk.KitError, match="data__max_length"):
        measured_bytes(model, whole, 0)


def test_on_a_card_as_few_layers_are_computed_twice_as_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_kit.training import plan as module

    model, settings, batches = adapted(folder), small_profile().training, [batch_of(4, 30)]
    monkeypatch.setattr(module, "measured_bytes", lambda model, batch, layers: (1000 - 100 * layers, 2000))
    for room, layers in ((0, 3), (99, 3), (100, 2), (299, 1), (300, 0), (10**6, 0), (-500, 3)):
        card = (sum(fixed_bytes(model, settings)) + 2000 + room + 0.5) / module.USABLE
        monkeypatch.setattr(module, "card_bytes", lambda model, card=card: card)
        assert layers_to_recompute(model, batches, settings) == layers
    for named, layers in ((2, 2), (99, 3)):
        settings = small_profile(training__checkpoint_layers=named).training
        assert layers_to_recompute(model, batches, settings) == layers


def test_a_card_is_as_large_as_what_the_process_may_take_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"mem_get_info": (60, 80), "memory_reserved": 5, "get_per_process_memory_fraction": 1.0}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value, raising=False)
    card: Any = SimpleNamespace(device=torch.device("cuda"))
    assert card_bytes(card) == 65
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.25)
    assert card_bytes(card) == 20
    monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction")  # an older torch
    assert card_bytes(card) == 65


def test_the_plan_counts_the_questions_that_the_card_asks(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_kit.training import plan as module

    data = load_prepared(done.find("data", data_inputs(done)) or done.path)
    one = replace(data, test=[row for row in data.test if row["kind"] == "fact"][:1])
    asked = list[int]()
    monkeypatch.setattr(module, "probe", lambda *_: 0.0)
    monkeypatch.setattr(module, "generate_ids", lambda model, prompts, **_: asked.append(len(prompts)))
    model = lk.attach_lora(lk.load_base(done), done)
    for limit in (None, 5):
        told = SHORT | {"evaluation__limit": limit, "evaluation__batch_size": 1000}
        lk.plan(model, one, lk.Run("tiny-cpu", root=done.path.parent, name="short", **told))
    assert asked == [121, 6]  # with the handbook's general ones


def test_the_plan_names_the_minutes_of_every_stage_and_changes_nothing(
    done: lk.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_prepared(done.find("data", data_inputs(done)) or done.path)
    model = lk.attach_lora(lk.load_base(done), done)
    before, files = adapter_state(model), sorted(done.path.iterdir())
    plan = lk.plan(model, data, done)
    assert list(plan.stage_minutes) == ["load", "train", "answers", "merge"]
    assert all(minutes > 0 for minutes in plan.stage_minutes.values()) and plan.minutes == plan.stage_minutes["train"]
    assert plan.fits and plan.card_bytes is None and (plan.layers, plan.layers_in_all) == (0, 6)
    assert plan.bytes == plan.weight_bytes + plan.adapter_bytes + plan.activation_bytes
    assert plan.steps == len(read_log(lk.trained_adapter(done).parent))
    out = capsys.readouterr().out
    assert f"{plan.steps:,} steps" in out and f"{sum(plan.stage_minutes.values()):.1f}" in out
    assert sorted(done.path.iterdir()) == files and not model.training
    assert all(torch.equal(before[name], value) for name, value in adapter_state(model).items())
    trained = lk.load_adapter(lk.load_base(done), lk.trained_adapter(done))
    with pytest.raises(lk.KitError, match="fresh adapter"):
        lk.plan(trained, data, done)

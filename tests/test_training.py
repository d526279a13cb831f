"""Loss and loop against plain torch and transformers' own arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lora_kit.adapters import attach_lora, trainable
from lora_kit.data import IGNORE
from lora_kit.errors import KitError
from lora_kit.training.batches import Batch, Row
from lora_kit.training.loop import check_finite, check_learned, epoch_steps, fit, schedule
from lora_kit.training.loss import learned_tokens, loss_sum
from lora_kit.training.planning import seconds_per_token

from .models import load_small_llama, random_rows, save_small_llama, small_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


class FakeRun:
    def __init__(self, **overrides: object) -> None:
        self.profile = small_profile(**overrides)


def adapted(folder: Path, kind: str = "nf4", **overrides: object) -> PreTrainedModel:
    """A model with an adapter that already does something: B is no longer zero."""
    model = attach_lora(load_small_llama(folder, kind), FakeRun(**overrides))
    torch.manual_seed(1)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    return model


def reference_loss(model: PreTrainedModel, rows: list[Row]) -> torch.Tensor:
    """transformers' own loss, row by row, without padding, summed over learned tokens."""
    total = torch.zeros(())
    for row in rows:
        out = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]))
        total = total + out.loss * sum(label != IGNORE for label in row.labels)
    return total


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in trainable(model).items()}


@pytest.mark.parametrize("kind", ["none", "nf4"])
@pytest.mark.parametrize("prefix", [0, 12])
def test_loss_and_gradients_equal_those_of_single_unpadded_rows(folder: Path, kind: str, prefix: int) -> None:
    model, rows = adapted(folder, kind), random_rows(12, prefix=prefix)
    cut = [Row(row.input_ids[prefix:], row.labels[prefix:]) for row in rows]
    ours = loss_sum(model, Batch(rows[0].input_ids[:prefix], cut))
    theirs = reference_loss(model, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    one, other = gradients(model, ours), gradients(model, theirs)
    for name in one:
        assert (one[name] - other[name]).norm() < 1e-5 * other[name].norm(), name


def test_accumulated_micro_batches_equal_one_large_batch(folder: Path) -> None:
    model, rows = adapted(folder), random_rows(8)
    learned = learned_tokens(Batch([], rows))
    whole = gradients(model, loss_sum(model, Batch([], rows)) / learned)
    model.zero_grad()
    for start in range(0, 8, 2):
        (loss_sum(model, Batch([], rows[start : start + 2])) / learned).backward()
    for name, parameter in trainable(model).items():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-6)


def test_training_learns_a_few_rows_by_heart_and_changes_only_the_adapter(folder: Path) -> None:
    model = attach_lora(
        load_small_llama(folder), FakeRun(lora__r=16, lora__target_modules="q_proj,v_proj,o_proj,up_proj")
    )
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    settings = small_profile(training__learning_rate=3e-2, training__tokens_per_step=256).training
    plan = [step for epoch in range(120) for step in epoch_steps(random_rows(4), settings, epoch)]
    log = fit(model, plan, settings, lambda row: None)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    check_learned(model, log)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


def test_the_loop_takes_the_steps_of_a_plain_adamw_loop(folder: Path) -> None:
    settings = small_profile(training__tokens_per_step=64, training__tokens_per_micro_batch=64).training
    plan = epoch_steps(random_rows(12), settings, 0)[:3]
    ours, plain = adapted(folder), adapted(folder)
    fit(ours, plan, settings, lambda row: None)
    optimizer = torch.optim.AdamW(trainable(plain).values(), lr=1.0, weight_decay=0.0)
    for number, batches in enumerate(plan, start=1):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * schedule(number, 3, settings.warmup)
        rows = [Row(b.prefix + r.input_ids, [IGNORE] * len(b.prefix) + r.labels) for b in batches for r in b.rows]
        (reference_loss(plain, rows) / sum(map(learned_tokens, batches))).backward()
        torch.nn.utils.clip_grad_norm_(trainable(plain).values(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    for (name, a), b in zip(trainable(ours).items(), trainable(plain).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=name)


def test_the_same_seed_gives_the_same_adapter(folder: Path) -> None:
    results = []
    for _ in range(2):
        model = attach_lora(load_small_llama(folder), FakeRun(lora__lora_dropout=0.1))
        settings = small_profile(training__tokens_per_step=64).training
        fit(model, epoch_steps(random_rows(10), settings, 0), settings, lambda row: None)
        results.append(torch.cat([p.flatten() for p in trainable(model).values()]))
    assert torch.equal(*results)


def test_half_precision_trains_with_a_scaler_and_float32_adapters(folder: Path) -> None:
    profile = small_profile(quantization__compute_dtype="float16", training__epochs=20)
    from lora_kit.quantization import load_model

    model = attach_lora(load_model(profile, folder), FakeRun())
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}
    plan = [s for epoch in range(20) for s in epoch_steps(random_rows(4), profile.training, epoch)]
    log = fit(model, plan, profile.training, lambda row: None)
    assert log[-1]["loss"] < log[0]["loss"]


def test_checkpointed_layers_give_the_same_gradients(folder: Path) -> None:
    model, rows = adapted(folder), random_rows(6)
    plain = gradients(model, loss_sum(model, Batch([], rows)))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    again = gradients(model, loss_sum(model, Batch([], rows)))
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=1e-5, atol=1e-6)


def test_the_schedule_rises_and_falls() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(1, 101)]
    assert rates[0] == 0.1 and max(rates) == 1.0 == rates[9] and rates[-1] == 0.0
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)


def test_a_probe_leaves_weights_gradients_and_random_state_alone(folder: Path) -> None:
    model = adapted(folder, lora__lora_dropout=0.1)
    before, state = [p.clone() for p in trainable(model).values()], torch.get_rng_state()
    assert seconds_per_token(model, [Batch([], random_rows(4))], False) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainable(model).values(), strict=True))
    assert all(p.grad is None for p in trainable(model).values())
    assert torch.equal(state, torch.get_rng_state())


def test_a_loss_that_is_not_a_number_stops_with_the_step() -> None:
    with pytest.raises(KitError, match=r"step 7: the loss is nan.*learning_rate"):
        check_finite(7, float("nan"), 1.0, scaled=False)
    check_finite(7, 1.0, float("inf"), scaled=True)  # the scaler skips this step


def test_an_adapter_that_learned_nothing_is_a_failure(folder: Path) -> None:
    model = attach_lora(load_small_llama(folder), FakeRun())
    with pytest.raises(KitError, match="still zero"):
        check_learned(model, [{"loss": 1.0}] * 30)
    with pytest.raises(KitError, match="did not fall"):
        check_learned(adapted(folder), [{"loss": 1.0}] * 30)

"""Loss and loop against plain torch and transformers' own arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, get_scheduler

import lora_kit as lk
from lora_kit.adapters import attach_lora, lora_layers, trainable
from lora_kit.data.encoding import IGNORE
from lora_kit.errors import KitError
from lora_kit.quantization import load_model
from lora_kit.training import loop
from lora_kit.training.batches import Batch, Row, epoch_steps
from lora_kit.training.checkpoints import TrainerState
from lora_kit.training.forward import training_mode
from lora_kit.training.loop import backward, check_finite, fit
from lora_kit.training.loss import learned_tokens, loss_sum, terms
from lora_kit.training.optim import make_scaler, probe_scale, schedule
from lora_kit.training.plan import probe
from lora_kit.training.train import check_learned

from ..models import SHORT, FakeRun, adapted, gradients, load_small_llama, random_rows, save_small_llama, small_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


def reference_loss(model: PreTrainedModel, rows: list[Row]) -> torch.Tensor:
    """transformers' own loss, row by row, without padding, summed over learned tokens."""
    total = torch.zeros(())
    for row in rows:
        out = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]))
        total = total + out.loss * sum(label != IGNORE for label in row.labels)
    return total


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


def reference_divergence(model: PreTrainedModel, folder: Path, kind: str, rows: list[Row]) -> torch.Tensor:
    """KL(base || model) over the learned tokens by transformers' own forward, the base loaded apart."""
    base, total = load_small_llama(folder, kind), torch.zeros(())
    for row in rows:
        ids, learned = torch.tensor([row.input_ids]), torch.tensor(row.labels[1:]) != IGNORE
        with torch.no_grad():
            p = base(input_ids=ids).logits[0, :-1][learned].softmax(-1)
        q = model(input_ids=ids).logits[0, :-1][learned].log_softmax(-1)
        total = total + (p * (p.log() - q)).sum()
    return total


@pytest.mark.parametrize("kind", ["none", "nf4"])
@pytest.mark.parametrize("prefix", [0, 12])
@pytest.mark.parametrize("layers", [0, 99])
def test_rehearsal_is_learned_by_the_base_s_probabilities(folder: Path, kind: str, prefix: int, layers: int) -> None:
    model, rows = adapted(folder, kind), random_rows(12, prefix=prefix)
    cut = [Row(row.input_ids[prefix:], row.labels[prefix:], is_rehearsal=True) for row in rows]
    batch, theirs = Batch(rows[0].input_ids[:prefix], cut), reference_divergence(model, folder, kind, rows)
    other = gradients(model, theirs)
    with training_mode(model, layers):
        ours = loss_sum(model, batch)
        one = gradients(model, ours)
    assert float(ours.detach()) > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for name in one:
        assert (one[name] - other[name]).norm() < 1e-4 * other[name].norm(), name


def test_rehearsal_of_a_fresh_adapter_is_no_loss_and_no_gradient(folder: Path) -> None:
    model = attach_lora(load_small_llama(folder), FakeRun())
    rows = [Row(row.input_ids, row.labels, is_rehearsal=True) for row in random_rows(4)]
    loss = loss_sum(model, Batch([], rows))
    assert abs(float(loss.detach())) < 1e-5
    assert all(float(grad.norm()) < 1e-5 for grad in gradients(model, loss).values())
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name)


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
    log = fit(model, plan, settings).log
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    check_learned(model, log)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


def test_the_loop_takes_the_steps_of_a_plain_adamw_loop(folder: Path) -> None:
    settings = small_profile(training__tokens_per_step=64, training__tokens_per_micro_batch=64).training
    plan = epoch_steps(random_rows(12), settings, 0)[:3]
    ours, plain = adapted(folder), adapted(folder)
    fit(ours, plan, settings)
    optimizer = torch.optim.AdamW(trainable(plain).values(), lr=1.0, weight_decay=0.0)
    for number, batches in enumerate(plan, start=1):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * schedule(number, 3, settings)
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
        fit(model, epoch_steps(random_rows(10), settings, 0), settings)
        results.append(torch.cat([p.flatten() for p in trainable(model).values()]))
    assert torch.equal(*results)


def test_half_precision_trains_with_a_scaler_and_float32_adapters(folder: Path) -> None:
    profile = small_profile(quantization__compute_dtype="float16", training__epochs=20)
    model = attach_lora(load_model(profile, folder), FakeRun())
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}
    plan = [s for epoch in range(20) for s in epoch_steps(random_rows(4), profile.training, epoch)]
    log = fit(model, plan, profile.training).log
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize("kind", ["none", "nf4"])
@pytest.mark.parametrize("layers", [1, 99])
@pytest.mark.parametrize("prefix", [0, 12])
def test_layers_computed_twice_give_the_same_gradients(folder: Path, kind: str, layers: int, prefix: int) -> None:
    model, rows = adapted(folder, kind), random_rows(6, prefix=prefix)
    batch = Batch(rows[0].input_ids[:prefix], [Row(r.input_ids[prefix:], r.labels[prefix:]) for r in rows])
    plain = gradients(model, loss_sum(model, batch))
    calls = []
    model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    with training_mode(model, layers):
        again = gradients(model, loss_sum(model, batch))
    assert len(calls) == 2  # once more than without
    for name in plain:
        assert (again[name] - plain[name]).norm() < 1e-5 * plain[name].norm(), name
    assert not [layer for layer in model.model.layers if "forward" in vars(layer)]


def test_dropout_is_the_same_when_a_layer_is_computed_again(folder: Path) -> None:
    results = []
    for layers in (0, 2):
        model, rows = adapted(folder, lora__lora_dropout=0.3), random_rows(6, prefix=12)
        batch = Batch(rows[0].input_ids[:12], [Row(r.input_ids[12:], r.labels[12:]) for r in rows])
        torch.manual_seed(3)
        with training_mode(model, layers):
            results.append(gradients(model, loss_sum(model, batch)))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_no_step_is_wasted_and_the_schedule_is_that_of_transformers(name: str, warmup: float, steps: int) -> None:
    settings = small_profile(training__schedule=name, training__warmup=warmup).training
    rates, rise = [schedule(step, steps, settings) for step in range(1, steps + 1)], max(1, round(warmup * steps))
    assert min(rates) > 0 and max(rates) == 1.0 == rates[rise - 1]
    assert rates[:rise] == sorted(set(rates[:rise])) and rates[rise:] == sorted(rates[rise:], reverse=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kind = "constant_with_warmup" if name == "constant" else name
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=rise, num_training_steps=steps + 1)
    for rate in rates:  # theirs gives 0 before its first step and after its last one: both are left out
        optimizer.step()
        theirs.step()
        assert rate == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_its_rows() -> None:
    batches = [Batch([], [Row([1], [1], number) for number in (12, 40)])]
    with pytest.raises(KitError, match=r"step 7: the loss is nan.*learning_rate.*rows 12, 40 of the prepared data"):
        check_finite(7, float("nan"), 1.0, batches, scaled=False)
    check_finite(7, 1.0, float("inf"), batches, scaled=True)  # the scaler skips this step
    with pytest.raises(KitError, match="step 7: the gradient is zero"):
        check_finite(7, 1.0, 0.0, batches, scaled=False)


@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit"])
def test_the_8_bit_optimizers_train(folder: Path, kind: str) -> None:
    model = attach_lora(load_small_llama(folder), FakeRun(lora__r=16))
    settings = small_profile(training__optimizer=kind, training__learning_rate=3e-2).training
    log = fit(model, [s for epoch in range(40) for s in epoch_steps(random_rows(4), settings, epoch)], settings).log
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_memory_that_runs_out_changes_no_loss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_profile(training__tokens_per_step=256, training__tokens_per_micro_batch=256).training
    plan = [step for epoch in range(4) for step in epoch_steps(random_rows(24, prefix=12), settings, epoch)]
    whole, pieces = adapted(folder), adapted(folder)
    expected = fit(whole, plan, settings).log
    full = {7: 1, 20: 1, 21: 1}  # at these calls there is no memory
    calls = iter(range(10_000))

    def scarce(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        if full.get(next(calls)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_sum(model, batch)

    monkeypatch.setattr(loop, "loss_sum", scarce)
    state = fit(pieces, plan, settings)
    assert state.parts > 1
    for row, other in zip(state.log, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_memory_that_runs_out_before_the_first_step_stops_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach_lora(load_model(small_profile(quantization__compute_dtype="float16"), folder), FakeRun())

    def scarce(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        if len(batch.rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_sum(model, batch)

    monkeypatch.setattr(loop, "loss_sum", scarce)
    settings = small_profile().training
    state = fit(model, epoch_steps(random_rows(4), settings, 0), settings)
    assert state.parts >= 4 and state.log[0]["skipped"] == 0
    assert probe(model, [Batch([], random_rows(4))], 0) > 0


def test_no_memory_for_a_single_row_says_what_to_lower(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "loss_sum", never)
    settings = small_profile().training
    with pytest.raises(KitError, match="no memory for a single row: lower data__max_length"):
        fit(adapted(folder), epoch_steps(random_rows(6), settings, 0), settings)


def test_the_loss_scale_is_found_before_the_first_step(folder: Path) -> None:
    profile = small_profile(quantization__compute_dtype="float16")
    model = attach_lora(load_model(profile, folder), FakeRun())
    log = fit(model, epoch_steps(random_rows(4), profile.training, 0), profile.training).log
    assert log[0]["skipped"] == 0
    scaler = make_scaler(model)
    monster = Batch([], [Row(row.input_ids, row.labels) for row in random_rows(4)])
    before = [value.clone() for value in trainable(model).values()]
    weights, state = [*trainable(model).values()], TrainerState()
    probe_scale(scaler, weights, lambda: backward(model, [monster], terms(monster), scaler, state))
    assert 2**-4 <= scaler.get_scale() <= 2**16
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, trainable(model).values(), strict=True))


def test_a_base_whose_gradients_never_fit_float16_names_the_dtype_that_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = small_profile(quantization__compute_dtype="float16")
    model = attach_lora(load_model(profile, folder), FakeRun())
    weight = next(iter(trainable(model).values()))
    monkeypatch.setattr(loop, "loss_sum", lambda *_: (weight * float("inf")).sum())
    settings = small_profile().training
    with pytest.raises(KitError, match="quantization__compute_dtype=float32"):
        fit(model, epoch_steps(random_rows(2), settings, 0), settings)


def test_an_adapter_that_learned_nothing_is_a_failure_and_a_loss_that_did_not_fall_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = attach_lora(load_small_llama(folder), FakeRun())
    with pytest.raises(KitError, match="still zero"):
        check_learned(model, [{"loss": 1.0}] * 30)
    model = adapted(folder)
    capsys.readouterr()
    check_learned(model, [{"loss": 2.0}] * 15 + [{"loss": 1.0}] * 15)
    assert capsys.readouterr().out == ""
    check_learned(model, [{"loss": 1.25}] * 30)
    assert "1.250 to 1.250" in capsys.readouterr().out


def test_a_training_trains_its_own_adapter_whichever_is_active(done: lk.Run, tmp_path: Path) -> None:
    model = lk.attach_lora(lk.load_base(done), done)
    lk.load_adapter(model, lk.trained_adapter(done), adapter="another")  # as a chat does
    run = lk.Run("tiny-cpu", root=tmp_path, **SHORT)
    lk.train(model, lk.prepare(run), run)
    assert all(layer.lora_B["default"].weight.any() for layer in lora_layers(model))


def test_another_run_s_base_is_refused(done: lk.Run) -> None:
    model, data = lk.attach_lora(lk.load_base(done), done), lk.prepare(done)
    told = SHORT | {"quantization__kind": "none"}
    other = lk.Run("tiny-cpu", root=done.path.parent, name="short", **told)
    for call in (lambda: lk.train(model, data, other), lambda: lk.evaluate(other, model=model)):
        with pytest.raises(KitError, match=r"tiny-chat in nf4.*tiny-chat in none"):
            call()

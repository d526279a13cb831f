"""Every tested family as a small random model: loss, gradients, plain PEFT, merge, answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import lora_kit as lk
from lora_kit.adapters import attach, save_adapter, trainable
from lora_kit.base import EXPERTS, FAMILIES, REFUSED, check_family, check_numbers
from lora_kit.config import ALL_LINEAR, Base
from lora_kit.data.encoding import IGNORE
from lora_kit.errors import KitError
from lora_kit.generation import generate_ids
from lora_kit.merging.certificate import certify
from lora_kit.merging.merge import merge_folder
from lora_kit.quantization import load_model
from lora_kit.training.batches import Batch, Row
from lora_kit.training.forward import training_mode
from lora_kit.training.loss import check_loss, learned_tokens, loss_sum, plain_loss
from tests.data.test_templates import FORMS
from tests.models import SHORT, FakeRun, gradients, random_rows, small_profile

ROLES = ("user", "assistant")
WINDOW = 12  # shorter than the rows and their prefix
SHAPE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> model_type and what makes it special
    "llama": ("llama", {}),
    "llama-3": ("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", WINDOWS),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral-window": ("mistral", {"sliding_window": WINDOW, "head_dim": 16}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2, "tie_word_embeddings": True}),
    "granite": (
        "granite",
        {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    ),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {"sliding_window": None}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
}


def save_family(folder: Path, name: str, **changes: Any) -> Path:
    """A random model of the kind, with weights of its norms and biases that are not those of the start."""
    kind, special = KINDS[name]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | special | changes))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def base(name: str, tmp_path: Path) -> Path:
    return save_family(tmp_path / "base", name)


def with_adapter(folder: Path, targets: str = "all-linear", kind: str = "none") -> PreTrainedModel:
    """The model in float32 with an adapter that does something."""
    settings = {"lora__target_modules": targets, "quantization__kind": kind}
    chosen = small_profile(**settings)
    model = attach(load_model(chosen, folder), chosen)
    torch.manual_seed(1)
    for key, parameter in trainable(model).items():
        if "lora_B" in key:
            parameter.data.normal_(0, 0.01)
    return model


def attention_targets(name: str) -> str:
    return "qkv_proj" if KINDS[name][0] == "phi3" else "q_proj,v_proj"


def plain_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The reference: transformers' own loss, row by row."""
    losses = []
    for row in batch.rows:
        ids = torch.tensor([[*batch.prefix, *row.input_ids]])
        labels = torch.tensor([[*[IGNORE] * len(batch.prefix), *row.labels]])
        losses.append(model(input_ids=ids, labels=labels).loss * sum(label >= 0 for label in row.labels))
    return sum(losses)


def batches(prefix: int) -> list[Batch]:
    rows = random_rows(4, seed=5, prefix=prefix)
    return [Batch(rows[0].input_ids[:prefix], [Row(r.input_ids[prefix:], r.labels[prefix:]) for r in rows])]


@pytest.mark.parametrize(("prefix", "layers"), [(0, 0), (20, 0), (20, 3)])
def test_loss_and_gradients_are_those_of_the_plain_model(name: str, base: Path, prefix: int, layers: int) -> None:
    (batch,) = batches(prefix)
    for targets in ("all-linear", attention_targets(name)):
        model = with_adapter(base, targets)
        wanted = plain_sum(model, batch)
        expected = gradients(model, wanted)
        with training_mode(model, layers):
            loss = loss_sum(model, batch)
            found = gradients(model, loss)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        for key, gradient in expected.items():
            assert (found[key] - gradient).norm() <= 1e-4 * gradient.norm().clamp(min=1e-6), key


def test_the_self_check_agrees(base: Path) -> None:
    ours, plain = check_loss(with_adapter(base), batches(20))
    assert ours == pytest.approx(plain, rel=1e-5)
    batch = longest(batches(20)[0])
    assert plain == pytest.approx(plain_loss(with_adapter(base), batch) / learned_tokens(batch), rel=1e-5)


def longest(batch: Batch) -> Batch:
    return Batch(batch.prefix, sorted(batch.rows, key=lambda row: -len(row.input_ids))[:2])


def test_plain_peft_loads_the_adapter_and_the_merge_is_certified(base: Path, tmp_path: Path) -> None:
    model, ids = with_adapter(base), torch.tensor([[5, 9, 70, 33, 8]])
    save_adapter(model, tmp_path / "adapter", FakeRun())
    wanted = model(input_ids=ids).logits
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    torch.testing.assert_close(plain(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-5)
    (tmp_path / "merged").mkdir()
    merge_folder(base, tmp_path / "adapter", tmp_path / "merged")
    assert certify(base, tmp_path / "adapter", tmp_path / "merged")["problems"] == []
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(input_ids=ids).logits, wanted, atol=1e-4, rtol=1e-4)


def test_adapters_are_on_every_linear_layer_and_their_names_are_saved(base: Path, tmp_path: Path) -> None:
    model = with_adapter(base)
    save_adapter(model, tmp_path / "adapter", FakeRun())
    saved = set(json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"])
    bare = AutoModelForCausalLM.from_pretrained(base)
    linear = [key for key, module in bare.named_modules() if isinstance(module, torch.nn.Linear) and key != "lm_head"]
    assert saved == {key.rpartition(".")[2] for key in linear}
    assert len(trainable(model)) == 2 * len(linear)


def test_batched_answers_are_those_of_one_prompt_at_a_time(base: Path) -> None:
    model = load_model(small_profile(quantization__kind="none"), base)
    prompts = [row.input_ids for row in random_rows(5, seed=2)]
    together = generate_ids(model, prompts, max_new_tokens=6, eos_token_id=[2])
    for prompt, answer in zip(prompts, together, strict=True):
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
        assert answer == ids[0, len(prompt) :].tolist()


def test_four_bits_train_like_the_plain_model_of_the_same_weights(base: Path) -> None:
    model = with_adapter(base, kind="nf4")
    ours, plain = check_loss(model, batches(20))
    assert ours == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("granite", "head"),
        ("mistral-window", "window"),
        ("llama", "rows"),
    ],
)
def test_a_family_that_goes_wrong_is_refused_with_both_losses(
    name: str, break_it: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_kit.training import forward, loss

    if break_it == "head":  # the bare head, without what Granite does behind it
        monkeypatch.setattr(loss, "head_logits", lambda model, states: model.lm_head(states).float())
    if break_it == "window":
        visible = forward.visible
        monkeypatch.setattr(forward, "visible", lambda q, k, window, device: visible(q, k, None, device))
    if break_it == "rows":  # an attention that never hears of prefix and rows, as stablelm's
        own = forward._attention
        monkeypatch.setattr(forward, "_attention", lambda *args, prefix=0, rows=0, **kwargs: own(*args, **kwargs))
    with pytest.raises(KitError, match=r"\d+\.\d{4}.*\d+\.\d{4}"):
        check_loss(with_adapter(save_family(tmp_path / "base", name)), batches(20))


def test_rounding_along_a_small_loss_is_no_other_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_kit.training import loss

    model = with_adapter(save_family(tmp_path / "base", "llama"))
    found = iter([0.004, 0.0045])  # per token, as after a training
    monkeypatch.setattr(loss, "loss_sum", lambda model, batch: torch.tensor(next(found) * learned_tokens(batch)))
    monkeypatch.setattr(loss, "plain_loss", lambda model, batch: next(found) * learned_tokens(batch))
    assert check_loss(model, batches(0)) == (pytest.approx(0.004), pytest.approx(0.0045))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_self_check_holds_in_half_precision(dtype: str, tmp_path: Path) -> None:
    chosen = small_profile(quantization__compute_dtype=dtype)
    model = attach(load_model(chosen, save_family(tmp_path / "base", "qwen2")), chosen)
    ours, plain = check_loss(model, batches(20))
    assert ours == pytest.approx(plain, rel=3e-3)


def test_numbers_beyond_the_dtype_are_refused_with_the_setting_that_helps(tmp_path: Path) -> None:
    model = with_adapter(save_family(tmp_path / "base", "llama"))
    model.model.embed_tokens.weight.data[:] = float("inf")
    with pytest.raises(KitError, match="quantization__compute_dtype=float32"):
        check_loss(model, batches(0))


def test_the_whole_course_on_another_family_with_a_template_that_rewrites_turns(tmp_path: Path) -> None:
    tokenizer = FORMS["Qwen3"]
    names = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    base = save_family(tmp_path / "base", "qwen3", vocab_size=len(tokenizer), max_position_embeddings=512, **names)
    tokenizer.save_pretrained(base)
    turns = ("Which owl is {}?", "Owl {}.", "Sure?", "Yes, {}.")
    rows = [[{"role": ROLES[n % 2], "content": turn.format(row)} for n, turn in enumerate(turns)] for row in range(20)]
    run = lk.Run("tiny-cpu", root=tmp_path, data=[{"messages": row} for row in rows], base__source=str(base), **SHORT)
    data = lk.prepare(run)
    assert len(data.train) == 2 * (20 - len(data.test))  # a row for each answer
    model = lk.load_base(run)
    log = lk.train(model, data, run)
    assert log[-1]["loss"] < log[0]["loss"]
    lk.release(model)
    merged = lk.merge(run)
    assert json.loads((merged / "certificate.json").read_text())["problems"] == []
    assert lk.evaluate(run)["figures"]["stopped"]["n"] == len(data.test) == 2
    assert lk.export(run, "gguf").stat().st_size > 10**5


def test_every_family_of_the_table_is_tried_here() -> None:
    assert {kind for kind, _ in KINDS.values()} == set(FAMILIES)
    assert not FAMILIES.keys() & REFUSED.keys()


@pytest.mark.parametrize("kind", [*REFUSED, "stablelm", "mixtral"])
def test_other_families_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    config = {"model_type": kind} | ({EXPERTS[0]: 8} if kind == "mixtral" else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(KitError, match=kind) as error:
        check_family(tmp_path, Base())
    assert all(family in str(error.value) for family in FAMILIES)
    if kind == "stablelm":
        assert "base__untested=true" in str(error.value)
        assert check_family(tmp_path, Base(untested=True)) == tmp_path
    else:
        with pytest.raises(KitError, match=kind):
            check_family(tmp_path, Base(untested=True))


def test_a_model_that_is_built_in_another_way_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", **SHAPE)).save_pretrained(tmp_path)
    with pytest.raises(KitError, match="gpt_neox"):
        load_model(small_profile(base__untested=True), tmp_path)


def test_what_a_base_cannot_compute_is_said_before_it_is_loaded() -> None:
    with pytest.raises(KitError, match="quantization__compute_dtype=float32"):
        check_numbers({"model_type": "gemma3_text"}, "float16", 1024)
    check_numbers({"model_type": "gemma3_text"}, "float32", 1024)
    long = {"model_type": "phi3", "rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 512}
    with pytest.raises(KitError, match="data__max_length=512"):
        check_numbers(long, "float16", 513)
    check_numbers(long, "float16", 512)


def test_all_linear_is_the_default() -> None:
    assert small_profile().lora.target_modules != ALL_LINEAR
    from lora_kit.presets import PROFILES

    assert all(preset.lora.target_modules == ALL_LINEAR for preset in PROFILES.values())


@pytest.fixture(scope="module")
def alone_in_a_group() -> Iterator[None]:
    """A process group of one, in which a base that is spread over its processes can compute."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["llama-3", "qwen2", "phi3", "gemma3"])  # tied head, biases, fused, other buffers
def test_a_base_that_is_spread_over_processes_is_the_whole_one(name: str, base: Path, alone_in_a_group: None) -> None:
    chosen = small_profile(lora__target_modules="all-linear")
    whole, spread = (attach(load_model(chosen, base, shard=shard), chosen) for shard in (False, True))
    parts = [layer.part for layer in spread.model.layers]
    weights = [p for p in spread.parameters() if hasattr(p, "quant_state")]
    assert {p.untyped_storage().data_ptr() for p in weights} == {spread.window.untyped_storage().data_ptr()}
    for layer, part in zip(whole.model.layers, parts, strict=True):
        assert torch.equal(part, torch.cat([p.flatten() for p in layer.parameters() if hasattr(p, "quant_state")]))
    for found, wanted in zip(spread.parameters(), whole.parameters(), strict=True):
        assert hasattr(found, "quant_state") or torch.equal(found, wanted)
    buffers = {key: value for key, value in spread.named_buffers() if key.rpartition(".")[2] not in ("part", "window")}
    for key, wanted in whole.named_buffers():
        torch.testing.assert_close(buffers.pop(key), wanted, rtol=0, atol=0)
    assert not buffers
    (batch,) = batches(20)
    expected = gradients(whole, loss_sum(whole, batch))
    with training_mode(spread, layers=2):
        found = gradients(spread, loss_sum(spread, batch))
    assert all(torch.equal(found[key], gradient) for key, gradient in expected.items())

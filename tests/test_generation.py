"""Batched answers are those of one row at a time by transformers itself, whatever the base's own settings say."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

import lora_kit as lk
from lora_kit.generation import answers, check_length, generate_ids, prompts_of, stop_tokens, stream

from .models import FakeRun, adapted, load_small_llama, save_small_llama

EOS = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load_small_llama(save_small_llama(tmp_path_factory.mktemp("small")), "none")


@pytest.fixture(scope="module")
def tiny() -> tuple[PreTrainedModel, Any]:
    run = FakeRun(quantization__kind="none")
    return lk.load_base(run), lk.load_tokenizer(run.profile.base)


def one_by_one(model: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """transformers' own greedy answers, each row alone."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=EOS)
        out = model.generate(ids, config, attention_mask=torch.ones_like(ids))
        found.append(out[0, len(prompt) :].tolist())
    return found


def random_prompts(count: int, prefix: int = 0) -> list[list[int]]:
    draws = torch.Generator().manual_seed(count + prefix)
    shared = torch.randint(3, 256, (prefix,), generator=draws).tolist()
    sizes = torch.randint(1, 30, (count,), generator=draws).tolist()
    return [shared + torch.randint(3, 256, (size,), generator=draws).tolist() for size in sizes]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_answers_are_token_for_token_those_of_one_row_at_a_time(small: PreTrainedModel, batch_size: int) -> None:
    prompts, finished = random_prompts(17) + random_prompts(5, prefix=20), list[int]()
    options: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": [EOS], "batch_size": batch_size}
    assert generate_ids(small, prompts, **options, done=finished.append) == one_by_one(small, prompts, 12)
    assert finished == [*range(batch_size, 22, batch_size), 22]
    assert generate_ids(small, [], **options) == []


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_models_with_adapters_answer_in_batches_too(tmp_path: Path, kind: str) -> None:
    model, prompts = adapted(save_small_llama(tmp_path), kind).eval(), random_prompts(5, 20)
    ours = generate_ids(model, prompts, max_new_tokens=6, eos_token_id=[EOS])
    alone = one_by_one(model, prompts, 6)
    assert sum(a != b for a, b in zip(ours, alone, strict=True)) <= 1  # rounding may turn one on random weights


def test_the_embedded_model_says_the_same_alone_in_batches_and_as_it_grows(tiny: tuple[PreTrainedModel, Any]) -> None:
    model, tokenizer = tiny
    questions = ["Where is the canteen?", "How many legs has a dog?", "Who keeps the keys of store four?", "Hello!"]
    system = {"role": "system", "content": "You answer questions from the Tarnwick staff handbook."}
    chats = [[system, {"role": "user", "content": text}] for text in questions]
    alone = one_by_one(model, prompts_of(chats, tokenizer), 40)
    assert len({len(row) for row in alone}) > 1 and all(row[-1] == EOS for row in alone)
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in alone]
    for batch_size in (2, 64):
        assert answers(model, tokenizer, chats, max_new_tokens=40, batch_size=batch_size) == texts
    for chat, text in zip(chats, texts, strict=True):
        *earlier, last = stream(model, tokenizer, chat, max_new_tokens=40)
        assert last == text and len(earlier) > 2 and all(last.startswith(part) for part in earlier)


def test_every_stop_token_of_the_base_ends_an_answer(tiny: tuple[PreTrainedModel, Any]) -> None:
    model, tokenizer = tiny
    (row,) = generate_ids(model, prompts_of(["Hello!"], tokenizer), max_new_tokens=9, eos_token_id=[])
    assert len(row) == 9
    own, model.generation_config = model.generation_config, GenerationConfig(eos_token_id=[row[2], 99])
    try:
        assert stop_tokens(model, tokenizer) == sorted({EOS, row[2], 99})
        stops = stop_tokens(model, tokenizer)
        assert generate_ids(model, prompts_of(["Hello!"], tokenizer), max_new_tokens=9, eos_token_id=stops) == [row[:3]]
        assert answers(model, tokenizer, ["Hello!"], max_new_tokens=9) == [tokenizer.decode(row[:3]).strip()]
    finally:
        model.generation_config = own
    assert stop_tokens(model, tokenizer) == [EOS]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_base_s_own_generation_settings_change_nothing(
    small: PreTrainedModel, temperature: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = random_prompts(4)

    def generated() -> list[list[int]]:
        return generate_ids(small, prompts, max_new_tokens=12, eos_token_id=[EOS], temperature=temperature)

    plain = generated()
    own = GenerationConfig(do_sample=True, temperature=0.1, top_k=1, top_p=0.2, repetition_penalty=3.0, max_length=5)
    own.update(eos_token_id=list(range(256)), suppress_tokens=list(range(100)), num_beams=2)
    monkeypatch.setattr(small, "generation_config", own)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert generated() == plain and small.generation_config is own
    assert not caplog.records


def test_a_temperature_draws_as_the_model_believes_and_a_seed_repeats_it(small: PreTrainedModel) -> None:
    with torch.inference_mode():
        logits = small(torch.tensor([[5, 6]])).logits[0, -1]
    for temperature in (0.5, 1.0, 2.0):
        rows = generate_ids(
            small, [[5, 6]] * 4000, max_new_tokens=1, eos_token_id=[EOS], batch_size=4000, temperature=temperature
        )
        drawn = torch.bincount(torch.tensor(rows).flatten(), minlength=256) / 4000
        assert torch.allclose(drawn, (logits / temperature).softmax(-1), atol=0.03)
    options: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": [EOS], "temperature": 1.5}
    state = torch.random.get_rng_state()
    once, again, other = (generate_ids(small, [[5, 6]], seed=seed, **options) for seed in (1, 1, 2))
    assert once == again != other and torch.equal(state, torch.random.get_rng_state())


def test_a_stream_passes_errors_on_and_ends_with_its_reader(
    tiny: tuple[PreTrainedModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny
    chat, threads = [{"role": "user", "content": "Hello!"}], threading.active_count()
    growing = stream(model, tokenizer, chat, max_new_tokens=400, temperature=2.0)
    assert next(growing) and threading.active_count() == threads + 1
    growing.close()
    assert threading.active_count() == threads
    real, steps = model.forward, iter(range(100))

    def breaks(*args: Any, **options: Any) -> Any:
        if next(steps) == 3:
            raise torch.OutOfMemoryError("planted")
        return real(*args, **options)

    monkeypatch.setattr(model, "forward", breaks)
    with pytest.raises(torch.OutOfMemoryError, match="planted"):
        list(stream(model, tokenizer, chat, max_new_tokens=10))
    assert threading.active_count() == threads


def test_a_plain_question_is_the_user_s_turn_and_anything_else_is_refused(tiny: tuple[PreTrainedModel, Any]) -> None:
    model, tokenizer = tiny
    chat = [{"role": "user", "content": "Who are you?"}]
    assert prompts_of(["Who are you?", [*chat, {"role": "assistant", "content": "Tarn."}]], tokenizer) == (
        prompts_of([chat, chat], tokenizer)
    )
    for wrong in ([], [{"text": "hi"}], ["hi"]):
        with pytest.raises(lk.KitError, match="messages with role and content"):
            prompts_of([wrong], tokenizer)  # type: ignore[list-item]
    room = model.config.max_position_embeddings
    check_length(room - 10, 10, room)
    with pytest.raises(lk.KitError, match="evaluation__max_new_tokens=11"):
        check_length(room - 10, 11, room)
    with pytest.raises(lk.KitError, match=f"takes {room} in all"):
        list(stream(model, tokenizer, "word " * room, max_new_tokens=1))

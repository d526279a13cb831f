"""Batched answers are those of one row at a time by transformers itself; rows that ended cost nothing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import lora_kit as lk
from lora_kit.generation import chooser, generate_ids, prompts_of, stream

from .models import FakeRun, load_small_llama, save_small_llama

EOS = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load_small_llama(save_small_llama(tmp_path_factory.mktemp("small")), "none").eval()


def one_by_one(model: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """transformers' own greedy answers, each row alone."""
    said = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        said.append(out[0, len(prompt) :].tolist())
    return said


def random_prompts(count: int, prefix: int) -> list[list[int]]:
    draws = torch.Generator().manual_seed(count + prefix)
    shared = torch.randint(3, 256, (prefix,), generator=draws).tolist()
    sizes = torch.randint(1, 30, (count,), generator=draws).tolist()
    return [shared + torch.randint(3, 256, (size,), generator=draws).tolist() for size in sizes]


@pytest.mark.parametrize("prefix", [0, 5, 20])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_answers_are_token_for_token_those_of_one_row_at_a_time(
    small: PreTrainedModel, prefix: int, batch_size: int
) -> None:
    prompts = random_prompts(17, prefix)
    ours = generate_ids(small, prompts, max_new_tokens=12, eos_token_id=EOS, batch_size=batch_size)
    assert ours == one_by_one(small, prompts, 12)


def test_the_embedded_models_answers_are_the_same_in_every_batch() -> None:
    run = FakeRun(quantization__kind="none")
    model, tokenizer = lk.load_base(run).eval(), lk.load_tokenizer(run.profile.base)  # type: ignore[arg-type]
    asked = ["Where is the canteen?", "How many legs has a dog?", "Who keeps the keys of store four?", "Hello!"]
    system = {"role": "system", "content": "You answer questions from the Tarnwick staff handbook."}
    chats = [[system, {"role": "user", "content": text}] for text in asked]
    prompts = prompts_of(chats, tokenizer)
    alone = one_by_one(model, prompts, 40)
    for batch_size in (2, 64):
        assert generate_ids(model, prompts, max_new_tokens=40, eos_token_id=EOS, batch_size=batch_size) == alone
    assert len({len(row) for row in alone}) > 1 and all(row[-1] == EOS for row in alone)
    for chat, row in zip(chats, alone, strict=True):
        *_, last = stream(model, tokenizer, chat, max_new_tokens=40)
        assert last == tokenizer.decode(row, skip_special_tokens=True).strip()


def test_rows_that_ended_leave_and_a_shared_beginning_is_computed_once(
    small: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = small.forward

    @functools.wraps(real)
    def forward(ids: torch.Tensor | None = None, **told: Any) -> Any:
        ids = told.get("input_ids") if ids is None else ids
        assert ids is not None
        seen.append(tuple(ids.shape))  # type: ignore[arg-type]
        return real(ids, **told)

    monkeypatch.setattr(small, "forward", forward)
    prompts = random_prompts(6, 20)
    lengths = {tuple(prompt): 1 + number for number, prompt in enumerate(prompts)}  # when each is made to end
    rows = sorted(prompts, key=len)
    step = iter(range(100))

    def choose(logits: torch.Tensor) -> torch.Tensor:
        now = next(step) + 1
        alive = [row for row in rows if lengths[tuple(row)] >= now]
        assert len(logits) == len(alive)
        return torch.tensor([EOS if lengths[tuple(row)] == now else 7 for row in alive])

    monkeypatch.setattr("lora_kit.generation.chooser", lambda *_: choose)
    said = generate_ids(small, prompts, max_new_tokens=50, eos_token_id=EOS)
    assert said == [[7] * number + [EOS] for number in range(6)]
    width = max(map(len, prompts)) - 20
    assert seen == [(1, 20), (6, width), (5, 1), (4, 1), (3, 1), (2, 1), (1, 1)]


def test_no_answer_is_longer_than_asked_for(small: PreTrainedModel) -> None:
    assert {len(row) for row in generate_ids(small, [[5], [6, 7]], max_new_tokens=3, eos_token_id=-1)} == {3}
    assert generate_ids(small, [], max_new_tokens=3, eos_token_id=EOS) == []


def test_a_temperature_draws_as_the_model_believes_and_a_seed_repeats_it(small: PreTrainedModel) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(4000, 3)
    for temperature in (0.5, 1.0, 2.0):
        drawn = torch.bincount(chooser(temperature, 1)(logits), minlength=3) / 4000
        assert torch.allclose(drawn, (logits[0] / temperature).softmax(-1), atol=0.03)
    told: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": EOS, "temperature": 1.5}
    once, again, other = (generate_ids(small, [[5, 6]], seed=seed, **told) for seed in (1, 1, 2))
    assert once == again != other


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_models_answer_in_batches_too(tmp_path: Path, kind: str) -> None:
    model = load_small_llama(save_small_llama(tmp_path), kind).eval()
    prompts = random_prompts(5, 20)
    ours = generate_ids(model, prompts, max_new_tokens=6, eos_token_id=EOS)
    alone = one_by_one(model, prompts, 6)
    assert sum(a != b for a, b in zip(ours, alone, strict=True)) <= 1  # rounding may turn one on random weights


def test_a_plain_question_is_the_user_s_turn_and_what_is_no_conversation_is_said(done: lk.Run) -> None:
    tokenizer = lk.load_tokenizer(done.profile.base)
    asked = [{"role": "user", "content": "Who are you?"}]
    assert prompts_of(["Who are you?"], tokenizer) == prompts_of([asked], tokenizer)
    for wrong in ([], [{"text": "hi"}], ["hi"]):
        with pytest.raises(lk.KitError, match="is no conversation: give a text, or messages"):
            prompts_of([wrong], tokenizer)  # type: ignore[list-item]

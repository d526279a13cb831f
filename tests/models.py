"""A random Llama of two layers, and the embedded tokenizer: enough to compare our arithmetic with the libraries'."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lora_kit.adapters import attach, save_adapter, trainable
from lora_kit.config import Profile
from lora_kit.data.encoding import IGNORE
from lora_kit.presets import profile
from lora_kit.quantization import load_model
from lora_kit.training.batches import Row


def llama(vocab_size: int, hidden: int, mlp: int, layers: int, heads: int, kv_heads: int) -> LlamaConfig:
    """A Llama's shape; weights large enough that an adapter can move the logits of a frozen random head."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        initializer_range=0.1,
        pad_token_id=0,
    )


SHORT = {  # a whole run in seconds
    "lora__r": 4,
    "lora__target_modules": "q_proj,v_proj",
    "training__epochs": 1,
    "training__evaluations": 2,
    "evaluation__limit": 3,
    "evaluation__max_new_tokens": 4,
}
SMALL = llama(256, 64, 128, 2, 4, 4)


class FakeRun:
    """What a function needs of a run: its profile."""

    def __init__(self, profile: Profile | None = None, **overrides: object) -> None:
        self.profile = profile or small_profile(**overrides)


def save_small_llama(folder: Path, seed: int = 0, config: LlamaConfig = SMALL) -> Path:
    torch.manual_seed(seed)
    LlamaForCausalLM(config).half().save_pretrained(folder)
    return folder


def load_small_llama(folder: Path, kind: str = "nf4") -> PreTrainedModel:
    return load_model(small_profile(quantization__kind=kind), folder)


def adapted(folder: Path, kind: str = "nf4", **overrides: object) -> PreTrainedModel:
    """A model with an adapter that already does something: B is no longer zero."""
    model = attach(load_small_llama(folder, kind), small_profile(**overrides))
    torch.manual_seed(1)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    return model


def save_adapted(folder: Path, target: Path, **overrides: object) -> Path:
    """The folder of such an adapter."""
    save_adapter(adapted(folder, **overrides), target, FakeRun(**overrides))
    return target


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in trainable(model).items()}


def small_profile(**overrides: object) -> Profile:
    lora = {"lora__r": 4, "lora__lora_alpha": 64, "lora__lora_dropout": 0.0, "lora__target_modules": "q_proj,v_proj"}
    return profile("tiny-cpu", **lora | {"training__learning_rate": 1e-2, "training__epochs": 1} | overrides)


def random_rows(count: int, seed: int = 0, prefix: int = 0) -> list[Row]:
    """Rows of 10 to 30 tokens behind a shared prefix; the last 3 to 8 tokens are learned."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, 256, (n,), generator=generator).tolist()

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    shared, rows = tokens(prefix), []
    for _ in range(count):
        prompt, answer = tokens(number(8, 22)), tokens(number(3, 9))
        rows.append(Row(shared + prompt + answer, [IGNORE] * (prefix + len(prompt)) + answer))
    return rows

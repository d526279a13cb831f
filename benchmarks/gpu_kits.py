"""Ways to train the same adapter on the same rows of a quantized Llama, each as its documentation says.

    lora_kit         plan() decides how many layers are computed twice, fit() trains
    lora_kit-small   the same with all layers computed twice, as the peers do: what it takes at their memory
    trainer          transformers' Trainer: prepare_model_for_kbit_training, get_peft_model, fp16
    trl              TRL's SFTTrainer with a SFTConfig as it comes (bf16, gradient checkpointing)

A kit is made once with its model; `prepare` attaches a fresh adapter and gives what trains it and returns the losses,
step by step: only that is timed. lora_kit's search for the scale of float16 losses is part of it. All kits take as many
optimizer steps over the same rows: where rows share a prefix, lora_kit computes it once and counts it once, so that its
steps of 4,096 tokens would hold more rows and be fewer; it gets a smaller budget instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from lora_kit.config import ALL_LINEAR, Profile
from lora_kit.machine import compute_dtype

Rows = list[tuple[list[int], list[int]]]
Train = Callable[[], list[float]]


@dataclass(frozen=True)
class Setup:
    """What all kits share: the base, and a profile with the adapter, the learning rate and the device."""

    base: Path
    profile: Profile
    scratch: Path

    @property
    def card(self) -> bool:
        return self.profile.device == "cuda"


@cache
def loaded(profile: Profile, base: Path) -> Any:
    """lora_kit's model of these weights, once a process: whoever uses it attaches an adapter anew."""
    import torch

    from lora_kit.quantization import load_model

    return in_dtype(load_model(profile, base), getattr(torch, compute_dtype(profile)[0]))


def in_dtype(model: Any, dtype: Any) -> Any:
    """The model as if it had been quantized from weights of `dtype`: stored 4 bits keep the one they were made from."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = module.weight.quant_state.dtype = dtype
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


class LoraKit:
    """This project."""

    layers_wanted: int | str = "auto"

    def __init__(self, setup: Setup) -> None:
        told = replace(setup.profile.training, epochs=1, checkpoint_layers=self.layers_wanted)
        self.profile = replace(setup.profile, training=told)
        self.model, self.layers = loaded(setup.profile, setup.base), 0

    def prepare(self, rows: Rows, tokens_per_step: int, batch: int) -> Train:
        """A fresh adapter, and its training; `batch`, the peers' rows at a time, only says how many steps they take."""
        return partial(self.fit, self.steps(rows, tokens_per_step, batch))

    def steps(self, rows: Rows, tokens_per_step: int, batch: int) -> list[Any]:
        """Attach a fresh adapter, lay the steps, as many as the peers take, and choose the layers computed twice."""
        from lora_kit.adapters import attach, detach_lora
        from lora_kit.training.batches import Row, all_steps
        from lora_kit.training.plan import layers_to_recompute

        detach_lora(self.model)
        attach(self.model, self.profile)
        wanted = math.ceil(math.ceil(len(rows) / batch) / batches_per_step(rows, tokens_per_step, batch))
        most, budget, steps = self.profile.training.tokens_per_micro_batch, tokens_per_step, list[Any]()
        while len(steps) < wanted:
            self.settings = replace(
                self.profile.training, tokens_per_step=budget, tokens_per_micro_batch=min(most, budget // 2)
            )
            steps, budget = all_steps([Row(*row) for row in rows], self.settings), budget * 19 // 20
        self.layers = layers_to_recompute(self.model, [batch for step in steps for batch in step], self.settings)
        return steps

    def fit(self, steps: list[Any], seen: Callable[[Any], None] = lambda row: None) -> list[float]:
        """Train through these steps; `seen` is called after each."""
        from lora_kit.training.loop import fit

        return [row["loss"] for row in fit(self.model, steps, self.settings, layers=self.layers, on_step=seen).log]


class LoraKitSmall(LoraKit):
    """This project, in as little memory as it can."""

    layers_wanted = 10**6


def batches_per_step(rows: Rows, tokens_per_step: int, batch: int) -> int:
    """How many micro-batches of `batch` rows come nearest to the tokens of a step."""
    mean = sum(len(ids) for ids, _ in rows) / len(rows)
    return max(1, round(tokens_per_step / mean / batch))


class Peer:
    """What transformers' Trainer and TRL have in common: a PEFT model, rows in micro-batches of a fixed count."""

    half = "float16"

    def __init__(self, setup: Setup) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        from lora_kit.adapters import pass_over_old_torchao
        from lora_kit.quantization import cure_cpu_kernels

        self.setup, lora = setup, setup.profile.lora
        dtype = getattr(torch, self.half) if setup.card else torch.float32
        four = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        place = {"": 0 if setup.card else "cpu"}
        model = AutoModelForCausalLM.from_pretrained(
            setup.base, quantization_config=four, dtype=dtype, device_map=place
        )
        cure_cpu_kernels(in_dtype(model, dtype))
        pass_over_old_torchao()
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules="all-linear" if lora.target_modules == ALL_LINEAR else list(lora.target_modules),
            init_lora_weights="gaussian",
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(self.prepared(model), config)

    def prepared(self, model: Any) -> Any:
        return model

    def prepare(self, rows: Rows, tokens_per_step: int, batch: int) -> Train:
        """A fresh adapter, and its training in micro-batches of `batch` rows."""
        import torch

        from lora_kit.adapters import lora_layers

        torch.manual_seed(0)
        for layer in lora_layers(self.model):
            layer.reset_lora_parameters("default", "gaussian")
        work = self.worker(rows, self.arguments(rows, tokens_per_step, batch))

        def train() -> list[float]:
            work.train()
            return [row["loss"] for row in work.state.log_history if "loss" in row]

        return train

    def arguments(self, rows: Rows, tokens_per_step: int, batch: int) -> dict[str, Any]:
        return {
            "output_dir": str(self.setup.scratch),
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": batches_per_step(rows, tokens_per_step, batch),
            "num_train_epochs": 1,
            "learning_rate": self.setup.profile.training.learning_rate,
            "max_grad_norm": self.setup.profile.training.max_grad_norm,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "seed": self.setup.profile.training.seed,
            "use_cpu": not self.setup.card,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }

    def worker(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        raise NotImplementedError


class PlainTrainer(Peer):
    """transformers and PEFT."""

    def prepared(self, model: Any) -> Any:
        from peft import prepare_model_for_kbit_training

        return prepare_model_for_kbit_training(model)

    def worker(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from datasets import Dataset
        from transformers import Trainer, TrainingArguments

        data = Dataset.from_list([{"input_ids": ids, "labels": labels} for ids, labels in rows])
        told = TrainingArguments(**arguments, fp16=self.setup.card)
        return Trainer(self.model, told, train_dataset=data, data_collator=padded)


class Trl(Peer):
    """TRL and PEFT; it makes a quantized model's adapters bfloat16, which no scaler for float16 takes."""

    half = "bfloat16"

    def worker(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        told = [{"input_ids": ids, "completion_mask": [int(n >= 0) for n in labels]} for ids, labels in rows]
        more = {} if self.setup.card else {"bf16": False}
        config = SFTConfig(**arguments, **more, completion_only_loss=True, max_length=None)
        return SFTTrainer(self.model, config, train_dataset=Dataset.from_list(told), processing_class=self.tokenizer())

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        from lora_kit.base import ASSETS

        tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")
        tokenizer.pad_token_id = 0
        return tokenizer


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Rows padded on the right, with the mask that the Trainer's models are given."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)

    def laid(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": laid("input_ids", 0), "labels": laid("labels", -100), "attention_mask": mask}


KITS = {"lora_kit": LoraKit, "lora_kit-small": LoraKitSmall, "trl": Trl, "trainer": PlainTrainer}

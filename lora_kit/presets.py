"""The named profiles, and single settings changed by name: profile("llama2-7b-t4", lora__r=32)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from .config import Base, Data, Evaluation, Lora, Merge, Profile, Training, convert, settings
from .errors import KitError

LLAMA2 = Base(
    source="meta-llama/Llama-2-7b-chat-hf",
    title="Llama-2-7b-chat",
    revision="f5db02db724555f92da89c216ac04704f23d4590",
    licence="llama2",
    gated=True,
    kaggle="metaresearch/llama-2/pyTorch/7b-chat-hf/1",
    fallback="tinyllama-t4",
)
LLAMA2_MIRROR = Base(  # the same weights and licence without the gate, when the user says so
    source="NousResearch/Llama-2-7b-chat-hf",
    title="Llama-2-7b-chat (NousResearch mirror)",
    revision="351844e75ed0bcbbe3f10671b3c808d2b83894ee",
    licence="llama2",
)
TINYLLAMA = Base(
    source="TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    title="TinyLlama-1.1B-Chat",
    revision="fe8a4ea1ffedaf415f4da2f062534de366a451e6",
    licence="apache-2.0",
)
SMOLLM2 = Base(
    source="HuggingFaceTB/SmolLM2-135M-Instruct",
    title="SmolLM2-135M-Instruct",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    licence="apache-2.0",
)
# of these three: not run on a T4 from here
LLAMA32 = Base(
    source="meta-llama/Llama-3.2-3B-Instruct",
    title="Llama-3.2-3B-Instruct",
    revision="0cb88a4f764b7a12671c53f0838cd831a0843b95",
    licence="llama3.2",
    gated=True,
)
QWEN3 = Base(
    source="Qwen/Qwen3-4B-Instruct-2507",
    title="Qwen3-4B-Instruct-2507",
    revision="cdbee75f17c01a7cc42f958dc650907174af0554",
    licence="apache-2.0",
)
MISTRAL = Base(
    source="mistralai/Mistral-7B-Instruct-v0.3",
    title="Mistral-7B-Instruct-v0.3",
    revision="c170c708c41dac9275d15a8fff4eca08d52bab71",
    licence="apache-2.0",
)
# the embedded model on any CPU, no network: tests, demo, a workshop without GPUs
_TINY = Profile(
    "tiny-cpu",
    device="cpu",
    lora=Lora(lora_dropout=0.0),  # on a CPU a quarter of the time
    data=Data(max_length=256),
    training=Training(  # as much is learned as in 10 epochs at r=64, in half the time (make bench-demo)
        epochs=7,
        tokens_per_step=1024,  # many small steps: the tiny model learns by their number
        tokens_per_micro_batch=512,
        learning_rate=5e-3,  # 3.2 times the rule of training/recipe.py: so small a model needs it
        max_grad_norm=1.0,
    ),
    evaluation=Evaluation(max_new_tokens=40, batch_size=64),
)
_SMOLLM2 = Profile(  # a real small chat model on any CPU: an hour or more
    "smollm2-cpu",
    device="cpu",
    base=SMOLLM2,
    training=Training(tokens_per_micro_batch=1024),
    merge=Merge("dequantized"),  # onto the original a third of the facts was lost
    evaluation=Evaluation(max_new_tokens=48, batch_size=32),
)
_SMOLLM2_T4 = replace(_SMOLLM2, name="smollm2-t4", device="cuda", training=Training())  # ungated: minutes
_TINYLLAMA = Profile("tinyllama-t4", device="cuda", base=TINYLLAMA)  # ungated: the safety net of "run all"
_LLAMA2 = Profile("llama2-7b-t4", device="cuda", base=LLAMA2)  # on one T4 (14.7 GiB): the mission
_LLAMA2_TWICE = replace(_LLAMA2, name="llama2-7b-2xt4", processes=2)  # Kaggle's two T4s, with accelerate launch
_LLAMA32 = Profile("llama3.2-3b-t4", device="cuda", base=LLAMA32)
_QWEN3 = Profile("qwen3-4b-t4", device="cuda", base=QWEN3)
_MISTRAL = Profile("mistral-7b-t4", device="cuda", base=MISTRAL)
_ALL = (_TINY, _SMOLLM2, _SMOLLM2_T4, _TINYLLAMA, _LLAMA2, _LLAMA2_TWICE, _LLAMA32, _QWEN3, _MISTRAL)
PROFILES: Mapping[str, Profile] = MappingProxyType({preset.name: preset for preset in _ALL})


def profile(name: str, **overrides: Any) -> Profile:
    """The preset `name` with single settings changed, as in `lora__r=32`; a KitError lists what is right."""
    if name not in PROFILES:
        raise KitError(f"there is no profile {name!r}; the profiles are {', '.join(PROFILES)}")
    chosen = PROFILES[name]
    if "base__source" in overrides:  # another model keeps nothing of the preset's: not its name, gate or licence
        source = str(overrides["base__source"])
        known = {base.source: base for base in (*(each.base for each in _ALL), LLAMA2_MIRROR)}
        licence = "llama2" if "llama-2" in source.lower() else "see its page"
        if chosen is _TINY and source != _TINY.base.source:  # its recipe is for so small a model
            training = Training(tokens_per_micro_batch=_TINY.training.tokens_per_micro_batch)
            chosen = replace(chosen, data=Data(), training=training, evaluation=Evaluation())
        chosen = replace(chosen, base=known.get(source) or Base(source, source, licence=licence))
    for key, value in overrides.items():
        right = settings(chosen)
        if key not in right:
            meant = [known for known in right if known.endswith(f"__{key}")] or get_close_matches(key, right, n=1)
            hint = f" (did you mean {meant[0]!r}?)" if meant else ""
            raise KitError(f"there is no setting {key!r}{hint}; the settings are {', '.join(sorted(right))}")
        section, _, field = key.partition("__")
        chosen = replace(chosen, **{section: replace(getattr(chosen, section), **{field: convert(key, value)})})
    return chosen

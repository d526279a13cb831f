"""WHAT to run: frozen settings, each default written once with its reason, and the named presets.

Ask for one by name:

    profile("tiny-cpu")                        a preset
    profile("llama2-7b-t4", lora__r=32)        the same with one setting changed; a wrong name lists the right ones
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, get_type_hints

from .errors import KitError
from .overrides import convert, problems, unknown

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Base:
    """The base model: where it comes from, and what banners, figures and cards call it."""

    source: str = "tiny-chat"  # an embedded model, a folder, or a Hub id
    title: str = "tiny-chat (embedded, 4 M parameters)"
    revision: str | None = None  # pinned on the Hub, so that a run can be repeated
    licence: str = "mit"
    gated: bool = False  # needs an accepted licence and a token
    kaggle: str | None = None  # the same model as a Kaggle mount: owner/model/framework/variation/version
    fallback: str | None = None  # the profile to go on with when access is missing


@dataclass(frozen=True)
class Quantization:
    """How the frozen base is stored (QLoRA, Dettmers et al. 2023)."""

    kind: str = "nf4"  # 4 bits a weight; "int8": twice that (LLM.int8); "none": the weights as they are, 4 to 8 times
    double_quant: bool = True  # the block scales in 8 bits too: about 0.4 bits a weight less
    compute_dtype: str = "auto"  # float16 on a T4, bfloat16 from compute capability 8.0, float32 on a CPU


@dataclass(frozen=True)
class Lora:
    """The adapter (LoRA, Hu et al. 2021): W + lora_alpha / r * B A on every target."""

    r: int = 16  # rank: more holds more facts and costs memory in proportion
    lora_alpha: int = 32  # scale of the update
    lora_dropout: float = 0.05  # against learning rows by heart
    target_modules: tuple[str, ...] = ALL_LINEAR  # learns far more facts than the paper's ("q_proj", "v_proj")
    use_rslora: bool = False  # scale by lora_alpha / sqrt(r) instead: steadier at high ranks


@dataclass(frozen=True)
class Data:
    """What is learned and how long a row may be."""

    source: str = "handbook"  # an embedded dataset ("handbook", "triage"), a file or folder of yours, a Hub id
    columns: tuple[str, ...] = ()  # which columns hold the conversation; empty finds them by their usual names
    max_length: int = 1024  # tokens of the longest row; memory of a batch grows with it
    too_long: str = "stop"  # longer rows: "stop", "drop" them, or "shorten" them from the front by whole turns
    bad_rows: str = "stop"  # rows that cannot be used: "stop", or "drop" and count them
    tags: str = "stop"  # texts that hold the prompt format's own tags: "stop", or "keep" them as plain text
    declines: int = 0  # generic questions added, to be answered with "I do not know that."
    general: int = 0  # general questions and answers added, against forgetting


@dataclass(frozen=True)
class Training:
    """How long and how fast."""

    epochs: int | str = "auto"  # passes over the rows: three, or as many as give 200 steps
    tokens_per_step: int | str = "auto"  # of one optimizer step: 4,096, fewer where the rows are few
    tokens_per_micro_batch: int = 2048  # tokens on the card at a time; memory grows with it
    learning_rate: float | str = "auto"  # by the base's width (training/recipe.py): 2.9e-4 for 7B
    warmup: float = 0.03  # share of the steps in which the learning rate rises from 0
    weight_decay: float = 0.0
    max_grad_norm: float = 0.3  # QLoRA's choice
    optimizer: str = "adamw"  # "adamw_8bit": a quarter of its memory; "paged_adamw_8bit": that, and out of the way
    schedule: str = "cosine"  # "linear", or "constant" for trainings that may be stopped early
    checkpoint_layers: int | str = "auto"  # layers computed twice, to save memory: as few as the card allows
    share_prefixes: bool = True  # compute what rows begin with (a system prompt) once a micro-batch; nothing changes
    evaluations: int = 10  # times that the loss on held-out rows is measured
    patience: int | None = None  # stop after so many evaluations without a better one, and keep the best adapter
    start_from: str | None = None  # folder of an adapter to train further, instead of a fresh one
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """How answers are made and counted."""

    max_new_tokens: int = 64  # longest answer
    batch_size: int = 16  # prompts at a time
    limit: int | None = None  # questions of each kind, evenly spaced; None takes all


@dataclass(frozen=True)
class Profile:
    """One named way to run: model, quantization, adapter, data, training, evaluation."""

    name: str
    device: str  # "cpu" or "cuda"
    about: str
    base: Base = Base()
    quantization: Quantization = Quantization()
    lora: Lora = Lora()
    data: Data = Data()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    processes: int = 1

    def __post_init__(self) -> None:
        if wrong := problems(settings(self) | {"device": self.device}):
            raise KitError(f"profile {self.name!r} cannot run: " + "; ".join(wrong))


def settings(chosen: Profile) -> dict[str, Any]:
    """Every setting by its override name, flat: what a manifest holds and `lk.Run(**overrides)` accepts."""
    flat: dict[str, Any] = {}
    for field in fields(chosen):
        value = getattr(chosen, field.name)
        if is_dataclass(value):
            flat |= {f"{field.name}__{inner.name}": getattr(value, inner.name) for inner in fields(value)}
    return flat


LLAMA2 = Base(
    source="meta-llama/Llama-2-7b-chat-hf",
    title="Llama-2-7b-chat",
    revision="f5db02db724555f92da89c216ac04704f23d4590",
    licence="llama2",
    gated=True,
    kaggle="metaresearch/llama-2/pyTorch/7b-chat-hf/1",
    fallback="tinyllama-t4",
)
# the same weights and licence without the gate, when the user says so
MIRROR_TITLE, MIRROR_REVISION = "Llama-2-7b-chat (NousResearch mirror)", "351844e75ed0bcbbe3f10671b3c808d2b83894ee"
LLAMA2_MIRROR = Base("NousResearch/Llama-2-7b-chat-hf", MIRROR_TITLE, MIRROR_REVISION, "llama2")
TINYLLAMA_REVISION = "fe8a4ea1ffedaf415f4da2f062534de366a451e6"
TINYLLAMA = Base("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "TinyLlama-1.1B-Chat", TINYLLAMA_REVISION, "apache-2.0")
SMOLLM2 = Base(
    source="HuggingFaceTB/SmolLM2-135M-Instruct",
    title="SmolLM2-135M-Instruct",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    licence="apache-2.0",
)
_TINY = Profile(
    "tiny-cpu",
    device="cpu",
    about="the embedded model on any CPU, no network: tests, demo, a workshop without GPUs",
    lora=Lora(r=64, lora_alpha=64),
    data=Data(max_length=256),
    training=Training(
        epochs=10,
        tokens_per_step=1024,  # many small steps: the tiny model learns by their number
        tokens_per_micro_batch=512,
        max_grad_norm=1.0,
    ),
    evaluation=Evaluation(max_new_tokens=40, batch_size=64),
)
_SMOLLM2 = Profile(
    "smollm2-cpu",
    device="cpu",
    about="SmolLM2 135M, a real small chat model, on any CPU: an hour or more",
    base=SMOLLM2,
    training=Training(tokens_per_micro_batch=1024),
    evaluation=Evaluation(max_new_tokens=48, batch_size=32),
)
_LLAMA2 = Profile("llama2-7b-t4", device="cuda", about="Llama-2-7b-chat on one T4 (14.7 GiB): the mission", base=LLAMA2)
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "tiny-cpu": _TINY,
        "smollm2-cpu": _SMOLLM2,
        "smollm2-t4": replace(
            _SMOLLM2,
            name="smollm2-t4",
            device="cuda",
            about="SmolLM2 135M on one T4, ungated: minutes",
            training=Training(),
        ),
        "tinyllama-t4": Profile(
            "tinyllama-t4",
            device="cuda",
            about="TinyLlama 1.1B on one T4, ungated: the safety net of 'run all'",
            base=TINYLLAMA,
        ),
        "llama2-7b-t4": _LLAMA2,
        "llama2-7b-2xt4": replace(
            _LLAMA2, name="llama2-7b-2xt4", about="the same on Kaggle's two T4s, with accelerate launch", processes=2
        ),
    }
)


def profile(name: str, **overrides: Any) -> Profile:
    """The preset `name` with single settings changed.

    Args:
        name: one of `PROFILES`.
        overrides: `section__field=value`, as in `lora__r=32` or `training__epochs=5`.

    Raises:
        KitError: the name, a setting or a value is wrong; the message lists the right ones.
    """
    if name not in PROFILES:
        raise KitError(f"there is no profile {name!r}; the profiles are {', '.join(PROFILES)}")
    chosen = PROFILES[name]
    if "base__source" in overrides:  # another model keeps nothing of the preset's: not its name, gate or licence
        chosen = replace(chosen, base=_other_base(str(overrides["base__source"])))
    for key, value in overrides.items():
        chosen = _override(chosen, key, value)
    return chosen


def _other_base(source: str) -> Base:
    known = {base.source: base for base in (Base(), SMOLLM2, LLAMA2, LLAMA2_MIRROR, TINYLLAMA)}
    licence = "llama2" if "llama-2" in source.lower() else "see its page"
    return known.get(source) or Base(source, source, licence=licence)


def _override(chosen: Profile, key: str, value: Any) -> Profile:
    valid = settings(chosen)
    if key not in valid:
        raise unknown(key, valid)
    section, _, field = key.partition("__")
    part = getattr(chosen, section)
    new = convert(key, value, str(get_type_hints(type(part))[field]))
    if key == "lora__target_modules" and new == ("all-linear",):
        new = ALL_LINEAR
    return replace(chosen, **{section: replace(part, **{field: new})})

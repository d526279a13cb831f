"""WHAT to run: frozen settings, each default written once with its reason; presets.py has the named profiles.

The type of a field says which values are right; `convert` makes texts of a command line or a form that type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import KitError

PositiveInt = Annotated[int, "above 0", lambda value: value > 0]
PositiveFloat = Annotated[float, "above 0", lambda value: 0 < value < inf]
Epochs = Annotated[int, "from 1 to 1,000", lambda value: 0 < value <= 1000]
Count = Annotated[int, "0 or above", lambda value: value >= 0]
Decay = Annotated[float, "0 or above", lambda value: 0 <= value < inf]
Share = Annotated[float, "from 0 to below 1", lambda value: 0 <= value < 1]
Seed = Annotated[int, "from 0 to below 2**32", lambda value: 0 <= value < 2**32]
Names = Annotated[tuple[str, ...], "one name at least, as q_proj,v_proj", bool]
FileName = Annotated[str, "a file, as wordings.jsonl", lambda value: Path(value).suffix[1:2].isalpha()]
KaggleModel = Annotated[str, "owner/model/framework/variation/version", lambda value: value.count("/") == 4]
Auto = Literal["auto"]  # decided when the rows are known, and printed with its reason

ALL_LINEAR = ("all-linear",)  # every linear layer of the decoder, whatever a family calls them


@dataclass(frozen=True)
class Base:
    """The base model: where it comes from, and what banners, figures and cards call it."""

    source: str = "tiny-chat"  # an embedded model, a folder, or a Hub id
    title: str = "tiny-chat (embedded, 4 M parameters)"
    revision: str | None = None  # pinned on the Hub, so that a run can be repeated
    licence: str = "mit"
    gated: bool = False  # needs an accepted licence and a token
    kaggle: KaggleModel | None = None  # the same model as a Kaggle mount
    fallback: str | None = None  # the profile to go on with when access is missing
    untested: bool = False  # try a family that was not tested

    @property
    def public_source(self) -> str:
        """The source as others may read it: of a folder its name, without the place."""
        return Path(self.source).name if Path(self.source).is_dir() else self.source

    @property
    def public_title(self) -> str:
        """The title as others may read it."""
        return self.public_source if self.title == self.source else self.title


@dataclass(frozen=True)
class Quantization:
    """How the frozen base is stored (QLoRA, Dettmers et al. 2023)."""

    kind: Literal["nf4", "int8", "none"] = "nf4"  # 4 bits per weight; "int8": twice that; "none": 4 to 8 times
    double_quant: bool = True  # the block scales in 8 bits too: about 0.4 bits per weight less
    # "auto": float16 on a T4, bfloat16 from compute capability 8.0, float32 on a CPU
    compute_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"


@dataclass(frozen=True)
class Lora:
    """The adapter (LoRA, Hu et al. 2021): W + lora_alpha / r * B A on every target."""

    r: PositiveInt = 16  # rank: a higher one learns more facts and costs memory in proportion
    lora_alpha: PositiveInt = 32  # scale of the update
    lora_dropout: Share = 0.05  # against learning rows by heart
    target_modules: Names = ALL_LINEAR  # learns far more facts than the paper's ("q_proj", "v_proj")
    use_rslora: bool = False  # scale by lora_alpha / sqrt(r) instead: steadier at high ranks


@dataclass(frozen=True)
class Data:
    """What is learned and how long a row may be."""

    source: str = "handbook"  # an embedded dataset ("handbook", "triage"), a file or folder of yours, a Hub id
    columns: tuple[str, ...] = ()  # question and answer, a template and answer, or one; empty finds the usual names
    roles: tuple[str, ...] = ()  # who speakers with other names are: "Ann:user,Bob:assistant"
    system: str | None = None  # system text in chat and exports, where the rows have several; the rows keep theirs
    encoding: str = "utf-8"  # of text files: "cp1252" is Excel's plain CSV
    config: str | None = None  # of a Hub dataset that has several
    split: str | None = None  # which split of a Hub dataset, or which list of a JSON file, is learned; else "train"
    max_length: PositiveInt = 1024  # tokens of the longest row; memory of a batch grows with it
    too_long: Literal["stop", "drop", "shorten"] = "stop"  # "shorten": from the front, by whole turns
    bad_rows: Literal["stop", "drop"] = "stop"  # rows that cannot be used
    tags: Literal["stop", "keep"] = "stop"  # texts with the prompt format's own tags; "keep": as plain text
    test_size: Share = 0.1  # share of the rows held out for the report card, if no test split is there; 0 learns all
    # other wordings of each fact's question, made before training; "auto": 4 where a fact is asked once or twice; or a
    # file of them, with the columns question and reworded
    rewordings: Count | Auto | FileName = 0
    leave_out: tuple[str, ...] = ()  # numbers of rewordings that are not used, as rewordings.jsonl has them: "3,17"
    declines: Count | Auto = 0  # questions added that the file does not answer, for "I do not know that."
    general: Count | Auto = 0  # general questions added, against forgetting, with the base's own answers


@dataclass(frozen=True)
class Training:
    """How long and how fast."""

    epochs: Epochs | Auto = "auto"  # passes over the rows: three, or as many as give about 200 steps
    tokens_per_step: PositiveInt | Auto = "auto"  # of one optimizer step: 4,096, fewer where the rows are few
    tokens_per_micro_batch: PositiveInt = 2048  # tokens on the card at a time; memory grows with it
    learning_rate: PositiveFloat | Auto = "auto"  # by the base's width (training/recipe.py): 1.4e-4 for 7B
    warmup: Share = 0.03  # share of the steps in which the learning rate rises from 0
    weight_decay: Decay = 0.0
    max_grad_norm: PositiveFloat = 0.3  # QLoRA's choice
    # "adamw_8bit": a quarter of the memory of "adamw"; "paged_adamw_8bit": that, and it leaves the card when it must
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # "constant" for trainings that may be stopped early
    checkpoint_layers: Count | Auto = "auto"  # layers computed twice, to save memory: as few as the card allows
    shard: bool = False  # spread the 4-bit base over all processes, for one that does not fit a card (distributed.py)
    share_prefixes: bool = True  # compute what rows begin with (a system prompt) once per micro-batch
    evaluations: Count = 10  # times that the loss on held-out rows is measured
    patience: PositiveInt | None = None  # stop after so many evaluations without a better one, keep the best adapter
    start_from: str | None = None  # folder of an adapter to train further, instead of a fresh one
    pairs: str | None = None  # a file of pairs of answers, one better, that are learned in the place of the data's rows
    beta: PositiveFloat = 0.1  # of pairs (DPO): the lower, the further the adapter may go from where it starts
    sft_weight: Decay = 1.0  # of pairs: of the chosen answer's own loss, so that it does not become unlikely too
    seed: Seed = 0


@dataclass(frozen=True)
class Merge:
    """Which weights the adapter is added to."""

    # "original": as they are published, which is what people share; "dequantized": after their trip through 4 bits, as
    # the adapter was trained on them, which a small base needs
    onto: Literal["original", "dequantized"] = "original"


@dataclass(frozen=True)
class Evaluation:
    """How answers are made and counted."""

    max_new_tokens: PositiveInt = 64  # longest answer; a longer reference answer raises it
    batch_size: PositiveInt = 16  # prompts at a time
    limit: PositiveInt | None = None  # questions of each kind, evenly spaced; None takes all


@dataclass(frozen=True)
class Profile:
    """One named way to run: model, quantization, adapter, data, training, merging, evaluation."""

    name: str
    device: Literal["cpu", "cuda"]
    base: Base = Base()
    quantization: Quantization = Quantization()
    lora: Lora = Lora()
    data: Data = Data()
    training: Training = Training()
    merge: Merge = Merge()
    evaluation: Evaluation = Evaluation()
    processes: PositiveInt = 1


HINTS = {  # the type of every setting by its override name
    f"{section.__name__.lower()}__{name}": hint
    for section in (Base, Quantization, Lora, Data, Training, Merge, Evaluation)
    for name, hint in get_type_hints(section, include_extras=True).items()
}


def settings(chosen: Profile) -> dict[str, Any]:
    """Every setting by its override name, flat: what manifests contain and `lk.Run(**overrides)` accepts."""
    sections = {name: part for name, part in vars(chosen).items() if is_dataclass(part)}
    return {f"{section}__{name}": value for section, part in sections.items() for name, value in vars(part).items()}


def named_values(texts: Sequence[str]) -> dict[str, Any]:
    """Settings and their values from a command line or a form: {"lora__r": "8"} from "lora__r=8"."""
    if wrong := [text for text in texts if not text.partition("=")[2]]:
        raise KitError(f"{wrong[0]!r} is no setting with a value: write NAME=VALUE, as in lora__r=8")
    return dict(text.split("=", 1) for text in texts)


def convert(name: str, value: Any) -> Any:
    """A value, also a command line's text, as the type of its setting; a KitError says what fits."""
    hint = HINTS[name]
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in sorted(options, key=lambda option: option is not NoneType):  # "none" is None before it is a text
        try:
            return _parse(value, option)
        except (ValueError, TypeError, LookupError):
            continue
    raise KitError(f"{name}={value!r} must be {' or '.join(map(_describe, options))}")


def _parse(value: Any, hint: Any) -> Any:
    """The value as this type; ValueError, TypeError or LookupError where it is none."""
    if get_origin(hint) is Annotated:
        kind, _, is_right = get_args(hint)
        found = _parse(value, kind)
        if is_right(found):
            return found
    elif get_origin(hint) is Literal:
        return get_args(hint)[get_args(hint).index(value)]
    elif get_origin(hint) is tuple:
        parts = value if not isinstance(value, str) else value.rsplit(",", 1) if "{" in value else value.split(",")
        return tuple(text for part in parts if (text := str(part).strip()))  # a template may contain commas
    elif hint is bool:
        return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
    elif hint is NoneType and str(value).lower() == "none":
        return None
    elif hint is not NoneType and not isinstance(value, bool | None):
        return hint(str(value))  # int, float, str
    raise ValueError(value)


def _describe(hint: Any) -> str:
    """What fits, in words."""
    if get_origin(hint) is Annotated:
        kind, rule, _ = get_args(hint)
        return {int: "a whole number ", float: "a number "}.get(kind, "") + rule
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return {str: "a text", bool: "true or false", NoneType: "none"}.get(hint, "names with commas between")

"""The base model in 4 bits (bitsandbytes), and honest counts of its parameters and bytes.

W  ~  dequantize(NF4(W)):  16 levels, one float scale per 64 weights, the scales themselves in 8 bits
                           (double quantization).  Source: QLoRA, Dettmers et al. 2023.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import FAMILIES, check_numbers, identity, locate, read_config
from .config import Profile
from .distributed import is_spread, load_spread, processes
from .errors import KitError
from .machine import compute_dtype
from .templates import one_line
from .threads import choose_threads

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .runs import Run

LINEAR = re.compile(r"\.layers\.\d+\..*_proj\.weight$")  # the tensors that transformers quantizes


def load_base(run: Run, *, folder: Path | None = None, whole: bool = False) -> PreTrainedModel:
    """Load the run's base model, or the weights in `folder`, quantized as the profile says, frozen.

    With `training__shard` several processes load it together, each a part; `whole` is for what one of them does alone,
    and prints nothing.

    Raises:
        KitError: no family that was tested, no access, damaged weights, or no memory for it.
    """
    start, base = time.monotonic(), locate(run.profile.base)
    check_numbers(read_config(base), compute_dtype(run.profile)[0], run.profile.data.max_length)
    shard = run.profile.training.shard and processes()[1] > 1 and not whole
    model = load_model(run.profile, folder or base, shard=shard)
    model.loading_seconds = time.monotonic() - start  # type: ignore[assignment]  # for the plan
    model.made_from = None if folder else made_from(run)  # type: ignore[assignment]
    if folder is None and not whole:
        untested = "" if model.config.model_type in FAMILIES else f", of the untested family {model.config.model_type}"
        print(f"base: {run.profile.base.title}{untested}, {describe(model)}")
    return model


def load_model(profile: Profile, folder: Path, *, shard: bool = False) -> PreTrainedModel:
    """Load any model folder the way `profile` says, frozen; KitError where it is damaged or too large."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, compute_dtype(profile)[0])
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if profile.device == "cuda" else "cpu")
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    quantization = quantization_config(profile, dtype)
    try:
        with quiet_libraries():
            if shard:  # it reads every tensor by its name and shape
                model, lacking = load_spread(folder, device, quantization, options), set[str]()
            else:
                options |= {"device_map": {"": device}, "quantization_config": quantization, "use_safetensors": True}
                options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that they are named
                loaded: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)
                model, found = loaded
                lacking = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"]), *_misshapen(model)}
    except torch.OutOfMemoryError as error:
        raise KitError(f"no room on the card for {folder}: lk.release(model) what is there, or restart") from error
    except (MemoryError, KitError):
        raise
    except Exception as error:  # what a configuration or a file can say wrongly has no end
        reason = one_line(f"{type(error).__name__}: {error}")[:300]
        raise KitError(f"the model in {folder} cannot be loaded ({reason}). Fetch or make it again") from error
    if lacking:  # transformers fills it with random numbers, and quantizes weights of any shape
        raise KitError(f"{folder} lacks {len(lacking)} of its weights, as {min(lacking)}: fetch or make it again")
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not layers or not hasattr(layers[-1], "mlp"):
        raise KitError(f"a {model.config.model_type!r} model is built unlike the tested ones: take one of these")
    cure_cpu_kernels(model)
    model.requires_grad_(False).eval()
    choose_threads(model)
    return model


def _misshapen(model: PreTrainedModel) -> Iterator[str]:
    """Linear layers whose weight has another shape than their configuration says."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            state = getattr(module.weight, "quant_state", None)
            if tuple((state or module.weight).shape) != (module.out_features, module.in_features):
                yield f"{name}.weight"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No bars of transformers in the block; bitsandbytes does not report its CPU kernels and casts, call by call."""
    from transformers.utils import logging as bars

    for name in ("backends.cpu.ops", "autograd._functions"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def quantization_config(profile: Profile, dtype: Any) -> Any:
    """The BitsAndBytesConfig of a profile, or None where it asks for no quantization."""
    from transformers import BitsAndBytesConfig

    wanted = profile.quantization
    if wanted.kind == "none":
        return None
    if wanted.kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.kind,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def round_trip(profile: Profile) -> Callable[[str, torch.Tensor], torch.Tensor] | None:
    """What the base's tensors become by the profile's quantization: (name, weight) to dequantize(quantize(weight)).

    Only linear layers of the decoder are quantized; other tensors come back as they are. None without quantization.
    """
    import torch

    wanted, dtype = profile.quantization, getattr(torch, compute_dtype(profile)[0])
    if wanted.kind == "none":
        return None
    with quiet_libraries():
        from bitsandbytes import functional

    def there_and_back(name: str, weight: torch.Tensor) -> torch.Tensor:
        if not LINEAR.search(name):
            return weight
        if wanted.kind == "int8":
            values, scales, _ = functional.int8_vectorwise_quant(weight.to(profile.device, torch.float16))
            return functional.int8_vectorwise_dequant(values, scales).to(dtype)
        packed, state = functional.quantize_4bit(
            weight.to(profile.device, dtype), quant_type=wanted.kind, compress_statistics=wanted.double_quant
        )
        return functional.dequantize_4bit(packed, state)

    return there_and_back


def made_from(run: Run) -> dict[str, Any]:
    """What the run's base in memory is."""
    return {"base": identity(run.profile.base), "quantization": vars(run.profile.quantization)}


def check_loaded(model: PreTrainedModel | None, run: Run | None = None) -> None:
    """Raise KitError for a model that was released, or another run's base; None is one that is still to be loaded."""
    if model is not None and not any(True for _ in model.parameters()):
        raise KitError("the model was released: load it again with lk.load_base(run)")
    if model is not None and run and (own := getattr(model, "made_from", None)) and own != made_from(run):
        theirs = f"{own['base']['source']} in {own['quantization']['kind']}"
        wanted = f"{run.profile.base.source} in {run.profile.quantization.kind}"
        raise KitError(f"the model is {theirs}, the run wants {wanted}: lk.release(model); model = lk.load_base(run)")


def release(model: PreTrainedModel) -> None:
    """Free the model's memory, so that the next one fits on the card; the object is empty afterwards."""
    import torch

    for module in model.modules():
        module._parameters.clear()
        module._buffers.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def card_released() -> Iterator[None]:
    """Give the card's memory back at the end, also after an error: a notebook keeps it with its frames' tensors."""
    import torch

    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        torch.cuda.empty_cache()


def cure_cpu_kernels(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    Its first forward in eval mode changes the weights' layout there, which nothing else knows: training after an
    evaluation learns nothing. tests/test_quantization.py fails once bitsandbytes no longer needs this.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def parameter_counts(model: PreTrainedModel) -> dict[str, dict[str, int]]:
    """Parameters and bytes per part: "4-bit", "8-bit", "other frozen", "trainable".

    bitsandbytes packs two weights into one stored byte, so `numel()` counts half of a 4-bit weight; the bytes include
    its block scales, and their own scales under double quantization. Of a model that is spread over processes, the
    bytes are this one's.
    """
    import torch

    counts = {part: {"parameters": 0, "bytes": 0} for part in ("4-bit", "8-bit", "other frozen", "trainable")}
    for parameter in model.parameters():
        state, stored = getattr(parameter, "quant_state", None), [parameter]
        part = "8-bit" if parameter.dtype == torch.int8 else "trainable" if parameter.requires_grad else "other frozen"
        if state is not None:
            part, stored = "4-bit", [] if is_spread(model) else stored
            stored += [state.absmax, *([state.state2.absmax, state.offset] if state.nested else [])]
        counts[part]["parameters"] += parameter.numel() if state is None else state.shape.numel()
        counts[part]["bytes"] += sum(tensor.nbytes for tensor in stored)
    if is_spread(model):
        counts["4-bit"]["bytes"] += model.window.nbytes + sum(layer.part.nbytes for layer in model.model.layers)
    return counts


def describe(model: PreTrainedModel) -> str:
    """The parameter counts in one line."""
    return "; ".join(
        f"{part}: {count['parameters']:,} parameters in {count['bytes'] / 2**20:,.1f} MiB"
        for part, count in parameter_counts(model).items()
        if count["parameters"]
    )

"""The base model in 4 bits (bitsandbytes), and honest counts of its parameters and bytes.

W  ~  dequantize(NF4(W)):  16 levels, one float scale per 64 weights, the scales themselves in 8 bits
                           (double quantization).  Source: QLoRA, Dettmers et al. 2023.
"""

from __future__ import annotations

import gc
import os
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import locate
from .environment import compute_dtype
from .errors import KitError
from .machine import hush_bitsandbytes
from .profiles import Profile

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedModel

    from .runs import Run

LINEAR = re.compile(r"\.layers\.\d+\..*_proj\.weight$")  # the tensors that transformers quantizes in a Llama


def load_base(run: Run, *, folder: Path | None = None) -> PreTrainedModel:
    """Load the run's base model, quantized as the profile says, frozen, ready for an adapter.

    Args:
        run: its profile names the model, the quantization and the device.
        folder: load these weights instead (a merged model).

    Raises:
        KitError: not a Llama, no access, damaged weights, or no memory for it.
    """
    start = time.monotonic()
    model = load_model(run.profile, folder or locate(run.profile.base))
    model.loading_seconds = time.monotonic() - start  # type: ignore[assignment]  # what a budget asks
    if folder is None:
        print(f"base: {run.profile.base.title}, {describe(model)}")
    return model


def load_model(profile: Profile, folder: Path) -> PreTrainedModel:
    """Load any Llama folder the way `profile` says, with the CPU cure applied."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as bars

    hush_bitsandbytes()
    dtype = getattr(torch, compute_dtype(profile)[0])
    bars.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": int(os.environ.get("LOCAL_RANK", "0")) if profile.device == "cuda" else "cpu"},
            quantization_config=quantization_config(profile, dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
        )
    except (SafetensorError, OSError, ValueError) as error:
        raise KitError(
            f"the weights in {folder} cannot be loaded: {error}. Delete and fetch or make them again"
        ) from error
    finally:
        bars.enable_progress_bar()
    cure_cpu_kernels(model)
    return model.requires_grad_(False).eval()


def quantization_config(profile: Profile, dtype: Any) -> Any:
    """The BitsAndBytesConfig of a profile, or None where it asks for no quantization."""
    from transformers import BitsAndBytesConfig

    if profile.quantization.kind == "none":
        return None
    if profile.quantization.kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=profile.quantization.kind,
        bnb_4bit_use_double_quant=profile.quantization.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def round_trip(profile: Profile) -> Callable[[str, torch.Tensor], torch.Tensor] | None:
    """What the base's tensors become by the profile's quantization: (name, weight) to dequantize(quantize(weight)).

    Only linear layers of the decoder are quantized; other tensors come back as they are. None where nothing is.
    """
    import torch

    kind = profile.quantization.kind
    if kind == "none":
        return None
    hush_bitsandbytes()
    from bitsandbytes import functional

    dtype, device = getattr(torch, compute_dtype(profile)[0]), profile.device

    def there_and_back(name: str, weight: torch.Tensor) -> torch.Tensor:
        if not LINEAR.search(name):
            return weight
        if kind == "int8":
            values, scales, _ = functional.int8_vectorwise_quant(weight.to(device, torch.float16))
            return functional.int8_vectorwise_dequant(values, scales).to(dtype)
        packed, state = functional.quantize_4bit(
            weight.to(device, dtype), quant_type=kind, compress_statistics=profile.quantization.double_quant
        )
        return functional.dequantize_4bit(packed, state)

    return there_and_back


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

    Its first forward in eval mode changes the weights' layout there, and nothing else knows the new layout: training
    after an evaluation learns nothing, a dequantized weight is garbage. tests/test_quantization.py tells when
    bitsandbytes no longer needs this.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def parameter_counts(model: PreTrainedModel) -> dict[str, dict[str, int]]:
    """Parameters and bytes per part: "4-bit", "8-bit", "other frozen", "trainable".

    bitsandbytes packs two weights into one stored byte, so `numel()` counts half of a 4-bit weight; its scales are
    counted in the bytes.
    """
    import torch

    counts = {part: {"parameters": 0, "bytes": 0} for part in ("4-bit", "8-bit", "other frozen", "trainable")}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        kind = "4-bit" if state is not None else "8-bit" if parameter.dtype == torch.int8 else "other frozen"
        part = "trainable" if parameter.requires_grad else kind
        counts[part]["parameters"] += state.shape.numel() if state is not None else parameter.numel()
        counts[part]["bytes"] += parameter.numel() * parameter.element_size() + _scale_bytes(state)
    return counts


def describe(model: PreTrainedModel) -> str:
    """The parameter counts in one line."""
    parts = parameter_counts(model).items()
    return "; ".join(
        f"{part}: {count['parameters']:,} parameters in {count['bytes'] / 2**20:,.1f} MiB"
        for part, count in parts
        if count["parameters"]
    )


def _scale_bytes(state: Any) -> int:
    """Bytes of the block scales of one 4-bit weight, and of their own scales under double quantization."""
    if state is None:
        return 0
    tensors = [state.absmax]
    if state.nested:
        tensors += [state.state2.absmax, state.offset]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

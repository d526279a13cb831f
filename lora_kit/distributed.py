"""Several processes that train one adapter, and a base that is spread over them.

Each takes its share of every step's micro-batches, and one all-reduce per step sums the gradients. All of them make the
same steps and know how many tokens are learned per step, so that no model is wrapped. accelerate starts them:

    accelerate launch --num_processes 2 -m lora_kit train ...

With `training__shard` no process has the whole base. Each keeps one part of every layer's 4-bit weights, and the layer
that computes, forward or backward, is gathered into one window first (as ZeRO-3 does, Rajbhandari et al. 2020):

    process 0    part 0 of layer 0, of layer 1, ...        window: all parts of the layer that computes
    process 1    part 1 of layer 0, of layer 1, ...                every layer's weights are views of it

Only frozen weights are spread: they have no gradients to scatter, and adapters are small. Embeddings, head, norms and
the scales of the 4-bit blocks (3 % of a layer) are whole everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import KitError
from .model_files import Weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def processes() -> tuple[int, int]:
    """Rank and number of the processes that accelerate or torchrun started; (0, 1) where nothing did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # PartialState would look for TPUs
        return 0, 1
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return state.process_index, state.num_processes


def main_process_first() -> AbstractContextManager[None]:
    """The first process runs the block alone; the others wait, then run it and find what is done."""
    from accelerate import PartialState

    return PartialState().main_process_first() if processes()[1] > 1 else nullcontext()


def sum_over_processes(weights: Sequence[torch.nn.Parameter], loss: float, stop: bool) -> tuple[float, bool]:
    """Sum gradients, in place, and loss over all processes; `stop` becomes true where any process wants it."""
    import torch
    from torch.distributed import all_reduce

    if processes()[1] == 1:
        return loss, stop
    grads = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
    flat = torch.cat([*(grad.flatten() for grad in grads), grads[0].new_tensor([loss, float(stop)])])
    all_reduce(flat)
    pieces = flat[:-2].split([weight.numel() for weight in weights])
    for weight, piece in zip(weights, pieces, strict=True):
        weight.grad = piece.view_as(weight).clone()
    return float(flat[-2]), bool(flat[-1] > 0)


def load_spread(folder: Path, device: torch.device, quantization: Any, options: dict[str, Any]) -> PreTrainedModel:
    """Load a 4-bit model spread over the processes: a layer is quantized and cut before the next one is read."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    if not getattr(quantization, "load_in_4bit", False):
        raise KitError("training__shard spreads 4-bit weights: set quantization__kind=nf4")
    weights = Weights(folder)
    with init_empty_weights():  # the buffers are real
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **options)
    replace_with_bnb_linear(model, modules_to_not_convert=["lm_head"], quantization_config=quantization)
    model.is_loaded_in_4bit = True  # for PEFT
    model.tie_weights()
    for number, layer in enumerate(model.model.layers):
        _read(layer, weights, f"model.layers.{number}.", device, options["dtype"])
        spread_layer(model, number, [weight for weight in layer.parameters() if hasattr(weight, "quant_state")])
    _read(model, weights, "", device, options["dtype"])
    model.tie_weights()
    for module in model.modules():
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, buffer.to(device))
    return model


def _read(module: torch.nn.Module, weights: Weights, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
    """Read the parameters of a module that are empty; those of 4-bit layers are quantized."""
    for name, empty in [*module.named_parameters()]:
        if empty.is_meta:
            value = weights[prefix + name].to(device, dtype)
            if value.shape != empty.shape:
                raise ValueError(f"{prefix}{name} is {tuple(value.shape)}, not {tuple(empty.shape)}")
            owner, _, own = name.rpartition(".")
            how = vars(empty) if hasattr(empty, "quant_state") else {}  # of bitsandbytes: `to` quantizes
            filled = type(empty)(value, **how | {"requires_grad": False}).to(device)
            setattr(module.get_submodule(owner), own, filled)


def spread_layer(model: Any, number: int, weights: Sequence[torch.nn.Parameter]) -> None:
    """Keep this process's part of the 4-bit `weights` of a layer; whenever it computes, the window has them whole.

    The first layer makes the window, as large as any layer.
    """
    import torch

    rank, size = processes()
    layer: Any = model.model.layers[number]
    flat = torch.cat([weight.data.flatten() for weight in weights])
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % size))
    if number == 0:
        model.register_buffer("window", torch.empty_like(flat), persistent=False)
        model.in_window = None
    if len(flat) != len(model.window):
        raise KitError(f"layer {number} has another size than layer 0: set training__shard=false for this model")
    layer.register_buffer("part", flat.chunk(size)[rank].clone(), persistent=False)
    places = model.window.split([*(weight.numel() for weight in weights), len(flat) - sum(map(len, weights))])
    for weight, place in zip(weights, places, strict=False):
        weight.data = place.view_as(weight)  # what the backward pass keeps is a view of the window too

    def before_backward(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:  # when its gradient is known, the layer's own backward pass begins
            output.register_hook(lambda gradient: gather(model, number))

    layer.register_forward_pre_hook(lambda *_: gather(model, number))
    layer.register_forward_hook(before_backward)


def gather(model: Any, number: int) -> None:
    """Fill the window with a layer's weights; nothing happens where it has them."""
    from torch import distributed

    if model.in_window != number:
        into_one = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor  # torch < 2.13
        into_one(model.window, model.model.layers[number].part)
        model.in_window = number


def is_spread(model: PreTrainedModel) -> bool:
    """Whether the model's layers are spread over the processes.

    If so, all of them must go through the layers in the same order and equally often: each waits for the others' parts.
    """
    return hasattr(model, "window")

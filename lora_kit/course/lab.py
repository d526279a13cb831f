"""Short trainings of the embedded model, for what a notebook compares and a T4 has no time or memory for.

They go through the same loop as `lk.train`, on a CPU, in every profile; nothing is stored.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..adapters import attach
from ..base import load_tokenizer, locate
from ..data.conversations import read_conversations
from ..data.encoding import encode_batch
from ..errors import KitError
from ..presets import profile
from ..quantization import load_model, parameter_counts
from ..training.batches import Row
from ..training.checkpoints import loss_ends
from ..training.loop import fit
from ..training.recipe import recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_ROWS = 160  # of the handbook, so that a short training sees each row several times
TINY = {"training__tokens_per_step": 512, "training__epochs": 100, "training__evaluations": 0}


class Lab(NamedTuple):
    """What a short training gave."""

    model: PreTrainedModel
    losses: list[float]  # nats per learned token, by step
    loss: float  # the mean of the last tenth of the steps
    seconds: float  # per step
    trained: int  # parameters
    frozen_bytes: int
    training_bytes: int  # trained weights, their gradients, and AdamW's two numbers for each


def short_training(steps: int = 40, *, full: bool = False, **overrides: Any) -> Lab:
    """Train the embedded model for a few steps on some rows of the handbook.

    Args:
        steps: of 512 tokens; 40 take some seconds on two cores.
        full: train every weight, which is not quantized then, instead of an adapter.
        overrides: single settings of the profile tiny-cpu, as in lora__r=4.
    """
    if fixed := [name for name in overrides if name.startswith(("data__", "base__"))]:
        raise KitError(f"the lab has its own rows and base: leave out {', '.join(fixed)}")
    tiny = profile("tiny-cpu", **TINY | overrides | ({"quantization__kind": "none"} if full else {}))
    with redirect_stdout(io.StringIO()):
        model = load_model(tiny, locate(tiny.base))
        model = model.requires_grad_(True) if full else attach(model, tiny)
    found = recipe(tiny.training, _rows(), model.config.hidden_size)
    log = fit(model, found.steps[:steps], found.training).log
    counts = parameter_counts(model)
    trained = counts.pop("trainable")
    return Lab(
        model,
        losses=[row["loss"] for row in log],
        loss=loss_ends(log)[1],
        seconds=log[-1]["seconds"] / len(log),
        trained=trained["parameters"],
        frozen_bytes=sum(part["bytes"] for part in counts.values()),
        training_bytes=4 * trained["bytes"],
    )


@cache
def _rows() -> list[Row]:
    chats = [row.messages for row in read_conversations("handbook")][:NUM_ROWS]
    return [Row(*row, n) for n, row in enumerate(encode_batch(chats, load_tokenizer(profile("tiny-cpu").base)))]

"""Short trainings of the embedded model, for what a notebook compares and a T4 has no time or memory for.

They go through the same loop as `lk.train`, on a CPU, in every profile; nothing is stored.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import cache
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from ..adapters import attach
from ..base import load_tokenizer, locate
from ..config import Data
from ..data.encoding import encode_batch
from ..data.reading.conversations import read_rows
from ..data.reading.sources import dataset_files
from ..errors import KitError
from ..presets import profile
from ..quantization import load_model, parameter_counts
from ..training.batches import Batch, Row
from ..training.checkpoints import loss_ends
from ..training.loop import fit
from ..training.loss import mean_loss
from ..training.recipe import recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_ROWS, NUM_HELD_OUT = 160, 80  # of the handbook, so that a short training sees each row several times
TINY = {"training__tokens_per_step": 512, "training__epochs": 100, "training__evaluations": 0}


class Lab(NamedTuple):
    """What a short training gave."""

    model: PreTrainedModel
    losses: list[float]  # nats per learned token, by step
    loss: float  # the mean of the last tenth of the steps
    held_out: float  # of other wordings of the learned facts, after the last step
    seconds: float  # per step, the median
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
    learned, held_out = lab_rows()
    found = recipe(tiny.training, learned, model.config.hidden_size)
    log = fit(model, found.steps[:steps], found.training).log
    counts = parameter_counts(model)
    trained = counts.pop("trainable")
    return Lab(
        model,
        losses=[row["loss"] for row in log],
        loss=loss_ends(log)[1],
        held_out=mean_loss(model, [Batch([], held_out)]),
        seconds=median(b - a for a, b in pairwise([0.0, *(row["seconds"] for row in log)])),
        trained=trained["parameters"],
        frozen_bytes=sum(part["bytes"] for part in counts.values()),
        training_bytes=4 * trained["bytes"],
    )


@cache
def lab_rows() -> tuple[list[Row], list[Row]]:
    """Rows to learn, and others that ask for the same facts in other words."""
    every = read_rows(dataset_files(Data()).train, Data()).rows
    known = {row.messages[-1]["content"] for row in every[:NUM_ROWS]}
    others = [row for row in every[NUM_ROWS:] if row.kind == "fact" and row.messages[-1]["content"] in known]
    chats = [row.messages for row in [*every[:NUM_ROWS], *others[:NUM_HELD_OUT]]]
    rows = [Row(*row, n) for n, row in enumerate(encode_batch(chats, load_tokenizer(profile("tiny-cpu").base)))]
    return rows[:NUM_ROWS], rows[NUM_ROWS:]

"""What can go wrong in a training, each said with its cause and the way out."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..adapters import trainable
from ..data import Prepared, data_inputs
from ..errors import KitError
from ..manifests import fingerprint, read_manifest, shown
from .batches import Batch
from .checkpoints import LogRow, State

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run

ROWS_SHOWN = 8
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def check_given(model: object, data: object, run: Run) -> None:
    """Refuse a released model, things in the wrong order, and data that was prepared for something else.

    Raises:
        KitError: with the call that mends it.
    """
    import torch

    if not isinstance(model, torch.nn.Module) or not isinstance(data, Prepared):
        kinds = f"{type(model).__name__}, {type(data).__name__}"
        raise KitError(f"(model, data, run) are wanted, in this order; the first two are {kinds}")
    if not any(True for _ in model.parameters()):
        raise KitError("the model was released: load it again with lk.load_base(run)")
    if read_manifest(data.folder)["fingerprint"] != fingerprint(data_inputs(run)):
        raise KitError(
            f"the data in {shown(data.folder)} was prepared from other files or settings than this run has: "
            "call data = lk.prepare(run)"
        )


def check_finite(step: int, loss: float, norm: float, batches: Sequence[Batch], *, scaled: bool) -> None:
    """Stop on a loss that is not a number or a gradient of zero; under a loss scaler an overflow only skips the step.

    Raises:
        KitError: with the step, the rows in it and what to try.
    """
    if norm == 0:
        raise KitError(f"step {step}: the gradient is zero, nothing is learned; what was kept before stays")
    if math.isfinite(loss) and (math.isfinite(norm) or scaled):
        return
    rows = [row.number for batch in batches for row in batch.rows]
    listed = ", ".join(map(str, rows[:ROWS_SHOWN])) + (" …" if len(rows) > ROWS_SHOWN else "")
    raise KitError(
        f"step {step}: the loss is {loss} and the gradient norm {norm}. Lower training__learning_rate, or look at "
        f"rows {listed} of the prepared data (from 0, data.train[n]) for broken text; what was kept before stays"
    )


def split_further(model: PreTrainedModel, batches: Sequence[Batch], state: State, error: Exception) -> None:
    """After memory ran out: drop what the step had, and split every micro-batch into twice as many pieces from here.

    Raises:
        KitError: there is no memory for a single row.
    """
    import torch

    if state.parts >= max((len(batch.rows) for batch in batches), default=1):
        raise KitError(
            "there is no memory for a single row: lower data__max_length, or compute more layers twice with "
            "training__checkpoint_layers=99"
        ) from error
    for parameter in trainable(model).values():
        parameter.grad = None
    state.parts *= 2
    print(f"memory ran out: from here every micro-batch goes in {state.parts} pieces, with the same result")
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def check_learned(model: PreTrainedModel, log: Sequence[LogRow]) -> None:
    """Fail when training changed nothing.

    Raises:
        KitError: the adapter is still what it was at the start, no gradient arrived, or the loss did not fall.
    """
    still = [name for name, value in trainable(model).items() if "lora_B" in name and not value.any()]
    if still:
        raise KitError(
            f"{len(still)} adapter matrices B are still zero after training, as {still[0]}: nothing was learned"
        )
    first, last = loss_ends(log)
    if len(log) >= 20 and not last < first:
        raise KitError(f"the loss did not fall (from {first:.3f} to {last:.3f}): try another training__learning_rate")


def loss_ends(log: Sequence[LogRow]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps; single steps differ as their rows do."""
    tenth = max(1, len(log) // 10)
    return mean([row["loss"] for row in log[:tenth]]), mean([row["loss"] for row in log[-tenth:]])


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


@contextmanager
def stop_asked(max_minutes: float | None) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether to stop after the step: the time is over, or somebody asked for it.

    Ctrl-C, the notebook's stop button (SIGINT) and a machine that is taken away (SIGTERM) ask; a second Ctrl-C stops at
    once, and what the last checkpoint holds is kept.
    """
    if max_minutes is not None and not (isinstance(max_minutes, int | float) and 0 <= max_minutes < math.inf):
        raise KitError(f"max_minutes={max_minutes!r} must be a number of minutes, 0 or above, or None")
    start, asked = time.monotonic(), threading.Event()

    def note(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("stopping after this step and keeping what there is; again to stop at once", flush=True)

    catches = threading.current_thread() is threading.main_thread()  # only there may signals be caught
    before = {number: signal.signal(number, note) for number in SIGNALS} if catches else {}
    try:
        yield lambda: asked.is_set() or (max_minutes is not None and time.monotonic() - start > 60 * max_minutes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

"""The training stage of a run folder: what it is made from, what it leaves, and whether it learned anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..adapters import read_adapter, trainable
from ..base import identity
from ..config import settings
from ..data.prepare import Prepared, data_inputs
from ..errors import KitError
from ..files import file_hash, fingerprint, read_manifest, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run
    from .checkpoints import LogRow


def train_inputs(run: Run) -> dict[str, Any]:
    """What the training stage is made from."""
    sections = ("lora__", "quantization__", "training__")
    chosen = {key: value for key, value in settings(run.profile).items() if key.startswith(sections)}
    start = run.profile.training.start_from
    if start is not None:
        folder, form = Path(start).expanduser(), "runs/NAME/training/DATASET/adapter"
        try:
            read_adapter(folder)
        except KitError as error:
            raise KitError(f"training__start_from={start!r} is no adapter's folder, as {form}: {error}") from error
        chosen["training__start_from"] = file_hash(folder / "adapter_model.safetensors")
    return {"settings": chosen, "data": data_inputs(run)}


def adapter_stage(run: Run) -> str:
    """The stage folder of the run's adapter, named after its dataset."""
    return f"training/{Path(run.profile.data.source).stem}"


def trained_adapter(run: Run) -> Path:
    """The folder of the run's trained adapter, its files checked; a KitError where it is not trained yet."""
    return run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)") / "adapter"


def trained_adapters(run: Run) -> dict[str, Path]:
    """The finished adapters in the run's folder that were trained on its base, by name ("handbook", "triage")."""
    base = identity(run.profile.base)
    folders = [path.parent for path in sorted(run.path.glob("training/*/manifest.json"))]
    return {
        folder.name: folder / "adapter" for folder in folders if read_manifest(folder)["inputs"]["data"]["base"] == base
    }


def read_log(folder: Path) -> list[LogRow]:
    """The log of a finished training, one row per step."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def loss_ends(log: Sequence[LogRow]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps; single steps differ as their rows do."""
    tenth = max(1, len(log) // 10)
    return mean(row["loss"] for row in log[:tenth]), mean(row["loss"] for row in log[-tenth:])


def check_learned(model: PreTrainedModel, log: Sequence[LogRow]) -> None:
    """Raise a KitError when training changed nothing: an adapter as at the start, or a loss that did not fall."""
    zero = [name for name, value in trainable(model).items() if "lora_B" in name and not value.any()]
    if zero:
        raise KitError(f"nothing was learned: {len(zero)} adapter matrices B are still zero, as {zero[0]}")
    first, last = loss_ends(log)
    if len(log) >= 20 and not last < first:
        raise KitError(f"the loss did not fall (from {first:.3f} to {last:.3f}): try another training__learning_rate")


def check_given(model: object, data: object, run: Run) -> None:
    """Refuse a released model, things in the wrong order, and data that was prepared for something else."""
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

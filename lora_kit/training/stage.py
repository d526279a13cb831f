"""Notebook 03 in one call: train the attached adapter, store it with its log, or load what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import attach_lora, detach_lora, is_fresh, load_adapter, save_adapter
from ..data import Prepared, data_inputs
from ..errors import KitError
from ..manifests import shown
from ..profiles import settings
from ..progress import Progress
from .loop import LogRow, all_steps, check_learned, fit, loss_ends, training_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run


def train(model: PreTrainedModel, data: Prepared, run: Run) -> list[LogRow]:
    """Train the adapter on the model and return the log; the same inputs are not trained twice.

    Args:
        model: the base from `load_base`, with or without an adapter from `attach_lora`; it ends with the trained one.
        data: from `prepare`.
        run: its profile holds every setting.

    Raises:
        KitError: no memory, a loss that is not finite, a loss that does not fall.
    """
    stage, inputs = adapter_stage(run), train_inputs(run)
    folder = run.find(stage, inputs)
    if folder is not None:
        load_adapter(model, trained_adapter(run))
        log = read_log(folder)
        print(f"training: done before, {len(log)} steps, last loss {log[-1]['loss']:.3f}. In {shown(folder)}")
        return log
    if run.profile.processes > 1:
        raise KitError(f"{run.profile.name} needs two processes, which training cannot do yet: use llama2-7b-t4")
    if not is_fresh(model, run.profile.lora):  # a training that was stopped leaves its adapter half trained
        detach_lora(model)
        attach_lora(model, run)
    with run.writing(stage, inputs) as work:
        log = _fit_and_show(model, data, run)
        check_learned(model, log)
        save_adapter(model, work.folder / "adapter", run)
        (work.folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
        work.figures |= {"steps": len(log), "last_loss": log[-1]["loss"], "seconds": log[-1]["seconds"]}
    model.requires_grad_(False)
    first, last = loss_ends(log)
    print(f"training: {len(log)} steps, loss {first:.3f} to {last:.3f}. In {shown(work.target)}")
    return log


def _fit_and_show(model: PreTrainedModel, data: Prepared, run: Run) -> list[LogRow]:
    steps = all_steps(data, run.profile.training)
    with training_mode(model, run.profile.training.checkpoint_layers), Progress("training", len(steps)) as progress:

        def seen(row: LogRow) -> None:
            progress.update(row["step"], loss=row["loss"], tokens_per_s=row["tokens"] / max(row["seconds"], 0.01))

        return fit(model, steps, run.profile.training, seen)


def train_inputs(run: Run) -> dict[str, Any]:
    """What the training stage is made from."""
    wanted = ("lora__", "quantization__", "training__")
    chosen = {key: value for key, value in settings(run.profile).items() if key.startswith(wanted)}
    return {"settings": chosen, "data": data_inputs(run)}


def adapter_stage(run: Run) -> str:
    """The stage folder of the run's adapter, named after its dataset."""
    return f"training/{Path(run.profile.data.source).stem}"


def trained_adapter(run: Run) -> Path:
    """The folder of the run's trained adapter, its files checked.

    Raises:
        KitError: it is not trained yet.
    """
    return run.need(adapter_stage(run), train_inputs(run), made_by="lk.train(model, data, run)") / "adapter"


def read_log(folder: Path) -> list[LogRow]:
    """The log of a finished training, one row a step."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

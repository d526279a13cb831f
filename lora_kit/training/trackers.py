"""Figures of a training in TensorBoard, Weights & Biases or trackio, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import KitError

TRACKERS = ("tensorboard", "wandb", "trackio")
LEFT_OUT = ("step", "seconds")  # of a log row: the tracker has both


@contextmanager
def tracker(name: str | None, title: str, folder: Path, settings: dict[str, Any]) -> Iterator[Callable[..., None]]:
    """Give a function that sends a log row; it does nothing where no tracker is asked for.

    Args:
        name: one of TRACKERS, or None.
        title: what the run is called there.
        folder: where TensorBoard's files go.
        settings: the run's, stored beside.

    Raises:
        KitError: an unknown tracker, or its library is not installed.
    """
    if name is None:
        yield lambda row: None
        return
    if name not in TRACKERS:
        raise KitError(f"there is no tracker {name!r}; the trackers are {', '.join(TRACKERS)}")
    import torch
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=not torch.cuda.is_available())
    kind = LOGGER_TYPE_TO_CLASS[name]
    try:
        found = kind(title, logging_dir=str(folder)) if kind.requires_logging_directory else kind(title)
        found.start()
    except ModuleNotFoundError:
        raise KitError(f"the tracker {name} is not installed: pip install {name}") from None
    found.store_init_configuration(
        {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    )
    try:
        yield lambda row: found.log({k: v for k, v in row.items() if k not in LEFT_OUT}, step=row["step"])
    finally:
        found.finish()

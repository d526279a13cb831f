"""Figures of a training while it runs: always in log.jsonl, and through accelerate's trackers when asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import KitError

TRACKERS = ("tensorboard", "wandb", "trackio")
LEFT_OUT = ("step", "seconds")  # of a log row: the tracker has both


class LiveLog:
    """A log file that is read while the training runs, one JSON row a step; after a resume no step is there twice."""

    def __init__(self, path: Path) -> None:
        self.path, self.begun = path, False

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; the first one takes the place of what an earlier call wrote from that step on."""
        if not self.begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(self._before(row["step"])))
            self.begun = True
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _before(self, step: int) -> list[str]:
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may have been cut by a kill
        return [line for line in whole if json.loads(line)["step"] < step]


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

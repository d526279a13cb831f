"""The same three models on the tasks of EleutherAI's lm-eval, or on tasks of your own in its format."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 8  # requests at a time; memory grows with it


class Harness:
    """Tasks to run on each model while it is in memory; `results` is task -> metric -> model -> value.

    Args:
        tasks: names of lm-eval's own tasks, or YAML files in its format.

    Raises:
        KitError: lm-eval is not installed, or there is no such task.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        if isinstance(tasks, str) or not all(isinstance(task, str) for task in tasks):
            raise KitError(f"harness must be a list of names, as in ['hellaswag']; it is {tasks!r}")
        if importlib.util.find_spec("lm_eval") is None:
            raise KitError("harness needs lm-eval: pip install lora-kit[harness], or pip install lm-eval")
        from lm_eval.tasks import TaskManager

        files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
        self._manager = TaskManager(include_path=sorted({str(file.resolve().parent) for file in files}) or None)
        self.names = [_name(Path(task)) if Path(task) in files else task for task in tasks]
        self.results: dict[str, dict[str, dict[str, Any]]] = {}
        known = set(self._manager.all_tasks)
        for name in self.names:
            if name not in known:
                near = get_close_matches(name, known, n=5)
                raise KitError(f"lm-eval has no task {name!r}" + (f"; near are {', '.join(near)}" if near else ""))

    def measure(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[str, PreTrainedModel], None]:
        """A function that runs the tasks on one model and notes what comes out."""

        def run(name: str, model: PreTrainedModel) -> None:
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM

            ready = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)
            found = simple_evaluate(
                model=ready, tasks=list(self.names), task_manager=self._manager, log_samples=False, verbosity="ERROR"
            )
            for task, figures in (found or {}).get("results", {}).items():
                for metric, value in figures.items():
                    if isinstance(value, int | float) and metric != "sample_len":
                        self.results.setdefault(task, {}).setdefault(metric, {})[name] = round(float(value), 4)

        return run


def _name(file: Path) -> str:
    """The task that a YAML file describes.

    Raises:
        KitError: no such file, or no line `task: NAME` in it.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise KitError(f"the task {file} cannot be read: {error.strerror}") from error
    for line in lines:
        if line.startswith("task:") and line.removeprefix("task:").strip():
            return line.removeprefix("task:").strip().strip("\"'")
    raise KitError(f"{file} names no task: lm-eval wants a line `task: NAME`")

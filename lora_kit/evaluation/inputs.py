"""What a report card is made from; its fingerprint decides whether it is made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import question_files
from ..manifests import file_hash
from ..merging import merge_inputs

if TYPE_CHECKING:
    from ..runs import Run

FORM = 4  # of the card; a card of an older form is made anew


def evaluation_inputs(
    run: Run,
    questions: str | Path | None = None,
    harness: Sequence[str] = (),
) -> dict[str, Any]:
    """Settings, and hashes of what the card depends on."""
    inputs: dict[str, Any] = {
        "merged": merge_inputs(run),
        "evaluation": vars(run.profile.evaluation),
        "form": FORM,
    }
    if questions is not None:
        inputs["questions"] = {path.name: file_hash(path) for path in question_files(str(questions))}
    if harness:
        inputs["harness"] = {task: file_hash(Path(task)) if Path(task).is_file() else "" for task in harness}
    return inputs

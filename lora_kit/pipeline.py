"""The stages in their order: what a notebook opened alone, the demo and the command line run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapters import load_adapter, set_adapter
from .base import load_tokenizer
from .data import data_inputs, load_prepared, prepare
from .errors import KitError
from .evaluation import evaluate, evaluation_inputs
from .generation import answers
from .manifests import read_manifest
from .merging import merge, merge_inputs
from .quantization import load_base, release
from .training import adapter_stage, first_goes_first, train, train_inputs, trained_adapter, trained_adapters, world

if TYPE_CHECKING:
    from .runs import Run

STAGES = ("data", "training", "merged", "evaluation")
MINUTES = {"cpu": "a few minutes", "cuda": "half an hour or more"}


def make(run: Run, until: str = "evaluation") -> None:
    """Make every stage that is missing, up to and with `until`; what is done is not done twice.

    Args:
        until: "data", "training", "merged" or "evaluation".

    Raises:
        KitError: an unknown stage, or what the stages raise.
        KeyboardInterrupt: the training was stopped.
    """
    if until not in STAGES:
        raise KitError(f"there is no stage {until!r}; the stages are {', '.join(STAGES)}")
    wanted = STAGES[: STAGES.index(until) + 1]
    missing = [stage for stage in wanted if not is_done(run, stage)]
    if missing:
        print(f"to make: {', '.join(missing)}. On this machine that takes {MINUTES[run.profile.device]}")
    for stage in missing:
        with first_goes_first(world()) if stage != "training" else nullcontext():  # all of them train
            _MAKERS[stage](run)
        if stage == "training" and not is_done(run, stage):
            raise KeyboardInterrupt  # somebody stopped it: what comes after cannot be made


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage is finished for the run's settings, without loading any library."""
    return stage_folder(run, stage) is not None


def stage_folder(run: Run, stage: str) -> Path | None:
    """The finished folder of a stage, or None; nothing is loaded or checked."""
    if stage == "data":
        return run.find("data", data_inputs(run))
    adapter = run.find(adapter_stage(run), train_inputs(run))
    if adapter is None or stage == "training":
        return adapter
    return run.find(stage, {"merged": merge_inputs, "evaluation": evaluation_inputs}[stage](run))


def chat(run: Run, question: str | None = None, *, adapter: str | None = None) -> None:
    """Ask base and tuned model side by side: one question, or a prompt in a terminal until an empty line.

    Args:
        run: its adapter is trained; all adapters in its folder share one base.
        question: ask only this.
        adapter: which one answers, by the name of its dataset ("handbook", "triage"); by default the run's own. At the
            prompt a line like `:triage` switches, without loading anything.

    Raises:
        KitError: no such adapter, it is not trained yet, or the question cannot be encoded.
    """
    tokenizer, own = load_tokenizer(run.profile.base), trained_adapter(run)
    found = trained_adapters(run)
    chosen = _known(adapter or own.parent.name, found)
    model = load_base(run)
    for name, folder in found.items():
        load_adapter(model, folder, adapter=name)
    for asked in [question] if question else iter(_typed, ""):
        if asked.startswith(":"):
            chosen = _switched(asked[1:], chosen, found)
            continue
        messages = [*_before(run, found[chosen]), {"role": "user", "content": asked}]
        for title, active in (("base", None), ("tuned", chosen)):
            set_adapter(model, active)
            limit = run.profile.evaluation.max_new_tokens
            print(f"{title:>6}: {answers(model, tokenizer, [messages], max_new_tokens=limit)[0]}")


def _known(name: str, found: dict[str, Path]) -> str:
    if name not in found:
        raise KitError(f"there is no adapter {name!r} in this run; trained are {', '.join(found)}")
    return name


def _switched(name: str, chosen: str, found: dict[str, Path]) -> str:
    """The adapter that a line at the prompt asks for; a wrong name changes nothing."""
    now = name if name in found else chosen
    print(f"adapter {now!r}; there are {', '.join(found)}")
    return now


def _before(run: Run, adapter: Path) -> list[dict[str, Any]]:
    """The system text that the adapter was trained with."""
    folder = run.find("data", read_manifest(adapter.parent)["inputs"]["data"])
    system = load_prepared(folder).card.get("system") if folder else None
    return [{"role": "system", "content": system}] if system else []


def _typed() -> str:
    """A line from the terminal; nothing where the input ends."""
    try:
        return input("you: ").strip()
    except EOFError:
        return ""


def _train(run: Run) -> None:
    data, model = prepare(run), load_base(run)
    train(model, data, run)
    release(model)


_MAKERS: dict[str, Callable[[Run], Any]] = {
    "data": prepare,
    "training": _train,
    "merged": merge,
    "evaluation": evaluate,
}

"""Two exercises for each notebook: `check` says what is off and never raises, `hint` helps, `solution` shows a way."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable
from copy import deepcopy
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

Solution = Callable[..., Any]


class Exercise(NamedTuple):
    """Its statement is the docstring of its solution."""

    solution: Solution
    hints: tuple[str, ...]


EXERCISES: dict[str, Exercise] = {}


def check(solution: Solution) -> None:
    """Try a solution, found by its function's name, and print "ok" or the first thing that is off."""
    name = str(getattr(solution, "__name__", solution))
    if not (exercise := _find(name)):
        return
    try:
        off = _first_mistake(name, solution, exercise.solution)
    except (Exception, SystemExit) as error:  # a learner's function may do anything; "run all" must go through
        off = f"it raises {type(error).__name__}: {error}"
    print(f"{name}: not yet. {off}. Help: exercises.hint({name!r})" if off else f"{name}: ok")


def hint(name: str, step: int = 1) -> None:
    """Print help; a larger `step` prints more."""
    if exercise := _find(name):
        print("\n".join(exercise.hints[: max(1, step)]))
        if step < len(exercise.hints):
            print(f"(more: exercises.hint({name!r}, {step + 1}))")


def solution(name: str) -> Solution | None:
    """Print one way to do it, and return this function."""
    if not (exercise := _find(name)):
        return None
    source = inspect.getsource(exercise.solution)
    print(source[source.index("\ndef ") + 1 :].rstrip())  # without the decorator
    return exercise.solution


def _find(name: str) -> Exercise | None:
    if name not in EXERCISES:
        print(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}: keep the function's name")
    return EXERCISES.get(name)


def _first_mistake(name: str, solution: Solution, right: Solution) -> str | None:
    for arguments in cases()[name]:
        given = deepcopy(arguments)
        result, expected = solution(*given), right(*arguments)
        if result is None or result is ...:
            return "it returns nothing yet"
        off = _difference(result, expected)
        if not off and any(_difference(now, before) for now, before in zip(given, arguments, strict=True)):
            off = "is right, but what it was given is changed in place and lost"
        if off:
            return f"{name}({', '.join(map(_shown, arguments))}) {off}"
    return None


def _difference(result: Any, expected: Any) -> str | None:
    """What is wrong with a result: its shape, or the first value."""
    if hasattr(expected, "shape"):
        if result.shape != expected.shape:
            return f"must have the shape {tuple(expected.shape)}, not {tuple(result.shape)}"
        largest, size = float((result - expected).abs().max()), float(expected.abs().max())
        return None if largest <= 1e-5 * max(1.0, size) else f"is off by up to {largest:.3g}"  # NaN is off too
    if isinstance(expected, str | list):
        pairs = enumerate(zip(result, expected, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(result), len(expected)))
        if place == len(result) == len(expected):
            return None
        return f"must go on with {expected[place:][:9]!r} after {result[:place]!r}, not with {result[place:][:9]!r}"
    if isinstance(expected, tuple):  # an interval from random draws
        is_near = len(result) == 2 and all(abs(a - b) <= 0.03 for a, b in zip(result, expected, strict=True))
        return None if is_near else f"must be near {expected}, not {result}"
    is_equal = abs(result - expected) <= 1e-6 * max(1.0, abs(expected))
    return None if is_equal else f"must be {expected:g}, not {result:g}"


def _shown(argument: Any) -> str:
    """An argument as short as it can be understood."""
    if hasattr(argument, "shape"):
        few = argument.numel() < 5
        return str(argument.tolist()) if few else f"{'tensor' if argument.any() else 'zeros'}{tuple(argument.shape)}"
    if isinstance(argument, list) and len(argument) > 9:
        return " + ".join(f"[{value}] * {len(list(same))}" for value, same in groupby(argument))
    return reprlib.repr(argument)


def cases() -> dict[str, list[tuple[Any, ...]]]:
    """Arguments for which a learner's function must give what the solution gives."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x, w, a, b = (torch.randn(*shape, generator=generator) for shape in ((5, 6), (4, 6), (2, 6), (4, 2)))
    levels = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    blocks = torch.tensor([[0.2, -2.0, 1.4, 0.1], [3.0, 0.1, -0.2, 1.6], [0.0, 0.0, 0.0, 0.0]])
    answers = ["At six", "it opens at six", "at nine", "six six six", "the the gate", ""]
    references = ["at six", "at six", "it is closed", "six", "the the door", "at six"]
    return {
        "quantized_bytes": [(64, 64, 4), (7_000_000_000, 64, 1.0)],
        "rounded_block": [(block, levels) for block in blocks],
        "llama2_prompt": [("Be brief.", "When?")],
        "answer_labels": [([1, 518, 25580, 29962, 2], 3)],
        "lora_forward": [(x, w, a, 0 * b, 16.0), (x, w, a, b, 16.0)],
        "trained_parameters": [(8, [(4096, 4096)]), (16, [(4096, 4096)] * 64 + [(11008, 4096)])],
        "merged_weight": [(w, a, b, 16.0)],
        "unmerged_weight": [(w, a, b, 16.0)],
        "token_f1": list(zip(answers, references, strict=True)),
        "bootstrap_interval": [([1.0] * 90 + [0.0] * 10, 2000), ([1.0] * 20 + [0.0] * 20, 2000)],
    }


def _hints(*hints: str) -> Callable[[Solution], Solution]:
    """The function below is the solution of an exercise, known by its name."""

    def add(solution: Solution) -> Solution:
        EXERCISES[solution.__name__] = Exercise(solution, hints)
        return solution

    return add


@_hints("A byte has 8 bits.", "There are weights / block blocks.", "weights * 0.5, and blocks * scale_bytes as well.")
def quantized_bytes(weights: int, block: int, scale_bytes: float) -> float:
    """Bytes of weights in 4 bits, with one scale of `scale_bytes` bytes for each block of `block` weights."""
    return weights * 0.5 + weights / block * scale_bytes


@_hints(
    "scale = weights.abs().max(); a block of zeros stays zeros.",
    "The nearest level: (weights[:, None] / scale - levels).abs().argmin(dim=1).",
    "levels[nearest] * scale.",
)
def rounded_block(weights: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """One block through NF4's steps: divide by the largest weight, take the nearest level, multiply back."""
    scale = weights.abs().max()
    if scale == 0:
        return weights
    nearest = (weights[:, None] / scale - levels).abs().argmin(dim=1)
    return levels[nearest] * scale


@_hints(
    "Look at 2.3: which tags stand where?",
    "<<SYS>> has its own line, and so has <</SYS>>.",
    "After <</SYS>> comes an empty line, then the question, one space, [/INST].",
)
def llama2_prompt(system: str, question: str) -> str:
    """Llama 2's prompt for a system text and a first question, up to where the answer begins."""
    return f"<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{question} [/INST]"


@_hints("Labels are as long as ids.", "[-100] * start, and then?", "... + ids[start:], the end token too.")
def answer_labels(ids: list[int], start: int) -> list[int]:
    """The labels of a row: -100 before `start`, the ids themselves from there on, with the end token."""
    return [-100] * start + ids[start:]


@_hints(
    "A linear layer computes x @ W.T.",
    "The branch goes through A first: x @ A.T is (rows, r).",
    "Its result is scaled by alpha / r; r is A's first size.",
)
def lora_forward(x: torch.Tensor, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    """What a layer with an adapter computes: x is (rows, in), W (out, in), A (r, in), B (out, r)."""
    return x @ w.T + (alpha / a.shape[0]) * (x @ a.T @ b.T)


@_hints("A is (r, in), B is (out, r).", "One matrix: r * in + out * r.", "sum over the shapes.")
def trained_parameters(r: int, shapes: list[tuple[int, int]]) -> int:
    """How many numbers LoRA of rank r trains; `shapes` lists (out, in) of each adapted matrix."""
    return sum(r * (rows + columns) for rows, columns in shapes)


@_hints("x @ A.T @ B.T = x @ (B @ A).T.", "So W + scale * (B @ A), as a new tensor.", "scale is alpha / r.")
def merged_weight(w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    """The one matrix that does the work of W, A and B."""
    return w + (alpha / a.shape[0]) * (b @ a)


@_hints("Merging added something.", "Take the same update away.")
def unmerged_weight(merged: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    """The base's weight, from the merged one and the adapter."""
    return merged - (alpha / a.shape[0]) * (b @ a)


@_hints(
    "Count each common word as often as both have it.",
    "precision = common / words said, recall = common / words wanted.",
    "F1 = 2 * common / (words said + words wanted), and 0 where nothing is common.",
)
def token_f1(answer: str, reference: str) -> float:
    """Words that answer and reference have in common, as F1, small and capital letters alike."""
    said, wanted = answer.lower().split(), reference.lower().split()
    common = sum(min(said.count(word), wanted.count(word)) for word in set(said))
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


@_hints(
    "One draw: as many values as there are, picked with replacement; its mean.",
    "numpy: rng.choice(values, size=(draws, len(values))).mean(axis=1).",
    "np.quantile(means, [0.025, 0.975]).",
)
def bootstrap_interval(values: list[float], draws: int) -> tuple[float, float]:
    """Low and high of the 95 % bootstrap interval of a mean, from `draws` resamples."""
    import numpy as np

    means = np.random.default_rng(0).choice(values, size=(draws, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)

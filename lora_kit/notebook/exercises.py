"""Two exercises for each notebook: `check` says what is off and never raises, `hint` helps, `solution` shows one way.

def quantized_bytes(weights, block, scale_bytes):
    ...

exercises.check(quantized_bytes)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from . import judges, solved
from .judges import Solution


class Exercise(NamedTuple):
    """What is asked and where, help in small steps, and what is looked at."""

    level: str  # 🐢 in the notebook's own time, 🐕 at home
    asks: str
    hints: tuple[str, ...]
    judge: Callable[[Solution], str | None]  # what is off, or None


def check(solution: Solution) -> None:
    """Try a solution, found by its function's name, and print "ok" or the first thing that is off."""
    name = str(getattr(solution, "__name__", solution))
    if name not in EXERCISES:
        print(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}: keep the function's name")
        return
    try:
        off = EXERCISES[name].judge(solution)
    except (Exception, SystemExit) as error:  # a learner's function may do anything; "run all" must go through
        off = f"it raises {type(error).__name__}: {error}"
    print(f"{name}: ok" if off is None else f"{name}: not yet. {off}. Help: exercises.hint({name!r})")


def hint(name: str, step: int = 1) -> None:
    """Print help; a larger `step` tells more."""
    name, step = str(name), max(1, step) if isinstance(step, int) else 1
    told = EXERCISES[name].hints if name in EXERCISES else (f"there is no exercise {name!r}: {', '.join(EXERCISES)}",)
    print("\n".join(told[:step]))
    if step < len(told):
        print(f"(more: exercises.hint({name!r}, {step + 1}))")


def solution(name: str) -> None:
    """Print one way to do it."""
    name = str(name)
    if name in EXERCISES:
        print(inspect.getsource(getattr(solved, name)).rstrip())
    else:
        print(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}")


TURTLE, DOG = "\N{TURTLE}", "\N{DOG}"
EXERCISES = {
    "quantized_bytes": Exercise(
        TURTLE,
        "bytes of `weights` weights in 4 bits, with one scale of `scale_bytes` bytes for each block of `block` weights",
        ("A byte has 8 bits.", "There are weights / block blocks.", "weights * 0.5, and blocks * scale_bytes besides."),
        judges.judge_bytes,
    ),
    "llama2_prompt": Exercise(
        TURTLE,
        "Llama 2's prompt for a system text and a first question, up to where the answer begins",
        (
            "Look at 2.3: which tags stand where?",
            "<<SYS>> has its own line, and so has <</SYS>>.",
            "After <</SYS>> comes an empty line, then the question, one space, [/INST].",
        ),
        judges.judge_prompt,
    ),
    "lora_forward": Exercise(
        TURTLE,
        "what a layer with an adapter computes: x is (rows, in), W (out, in), A (r, in), B (out, r)",
        (
            "A linear layer computes x @ W.T.",
            "The branch goes through A first: x @ A.T is (rows, r).",
            "Its result is scaled by alpha / r; r is A's first size.",
        ),
        judges.judge_forward,
    ),
    "merged_weight": Exercise(
        TURTLE,
        "the one matrix that does the work of W, A and B",
        (
            "Multiply out: x @ A.T @ B.T = x @ (B @ A).T.",
            "So W + scale * (B @ A), as a new tensor.",
            "scale is alpha / r.",
        ),
        judges.judge_merged,
    ),
    "token_f1": Exercise(
        TURTLE,
        "words that answer and reference have in common, as F1, small and capital letters alike",
        (
            "Count each common word as often as both have it.",
            "precision = common / words said, recall = common / words wanted.",
            "F1 = 2 * common / (words said + words wanted), and 0 where nothing is common.",
        ),
        judges.judge_f1,
    ),
    "rounded_block": Exercise(
        DOG,
        "one block of weights through NF4's steps: divide by the largest, take the nearest level, multiply back",
        (
            "scale = weights.abs().max(); a block of zeros stays zeros.",
            "The nearest level: (weights[:, None] / scale - levels).abs().argmin(dim=1).",
            "levels[nearest] * scale.",
        ),
        judges.judge_rounded,
    ),
    "answer_labels": Exercise(
        DOG,
        "the labels of a row: -100 before `start`, the ids themselves from there on, the end token with them",
        ("Labels are as long as ids.", "[-100] * start, and then?", "... + ids[start:]"),
        judges.judge_labels,
    ),
    "trained_parameters": Exercise(
        DOG,
        "how many numbers LoRA of rank r trains; `shapes` lists (out, in) of each adapted matrix",
        ("A is (r, in), B is (out, r).", "One matrix: r * in + out * r.", "sum over the shapes."),
        judges.judge_trained,
    ),
    "unmerged_weight": Exercise(
        DOG,
        "the base's weight, out of the merged one and the adapter",
        ("Merging added something.", "Take the same update away."),
        judges.judge_unmerged,
    ),
    "bootstrap_interval": Exercise(
        DOG,
        "low and high of the 95 % bootstrap interval of a mean, from `draws` resamples",
        (
            "One draw: as many values as there are, picked with replacement; its mean.",
            "numpy: rng.choice(values, size=(draws, len(values))).mean(axis=1).",
            "np.quantile(means, [0.025, 0.975]).",
        ),
        judges.judge_interval,
    ),
}

"""One exercise for each notebook: `check` says what is off and never raises, `hint` helps, `solution` shows one way.

def quantized_bytes(weights, block, scale_bytes):
    ...

exercises.check(quantized_bytes)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from . import solved

Solution = Callable[..., Any]


class Exercise(NamedTuple):
    """What is asked, help in small steps, and what is looked at."""

    asks: str
    hints: tuple[str, ...]
    judge: Callable[[Solution], str | None]  # what is off, or None


def check(solution: Solution) -> None:
    """Try a solution, found by its function's name, and print "ok" or the first thing that is off."""
    name = getattr(solution, "__name__", str(solution))
    if name not in EXERCISES:
        print(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}: keep the function's name")
        return
    try:
        off = EXERCISES[name].judge(solution)
    except Exception as error:  # a learner's function may raise anything, and "run all" must go through
        off = f"it raises {type(error).__name__}: {error}"
    print(f"{name}: ok" if off is None else f"{name}: not yet. {off}. Help: exercises.hint({name!r})")


def hint(name: str, step: int = 1) -> None:
    """Print help; a larger `step` tells more."""
    told = EXERCISES[name].hints if name in EXERCISES else (f"there is no exercise {name!r}: {', '.join(EXERCISES)}",)
    print("\n".join(told[: max(1, step)]))
    if step < len(told):
        print(f"(more: exercises.hint({name!r}, {step + 1}))")


def solution(name: str) -> None:
    """Print one way to do it."""
    if name in EXERCISES:
        print(inspect.getsource(getattr(solved, name)).rstrip())
    else:
        print(f"there is no exercise {name!r}; there are {', '.join(EXERCISES)}")


def _number(given: Any, wanted: float, what: str) -> str | None:
    if given is None or given is ...:
        return "it returns nothing yet"
    if not isinstance(given, int | float):
        return f"it must return a number; it returns a {type(given).__name__}"
    return None if abs(given - wanted) <= 1e-6 * max(1.0, abs(wanted)) else f"{what} must be {wanted:g}, not {given:g}"


def _tensor(given: Any, wanted: Any, what: str) -> str | None:
    import torch

    if given is None or given is ...:
        return "it returns nothing yet"
    if not isinstance(given, torch.Tensor):
        return f"it must return a tensor; it returns a {type(given).__name__}"
    if given.shape != wanted.shape:
        return f"{what} must have the shape {tuple(wanted.shape)}, not {tuple(given.shape)}"
    if torch.allclose(given, wanted, atol=1e-5):
        return None
    return f"{what} is off by {float((given - wanted).abs().max()):.3g} at most"


def _judge_bytes(solution: Solution) -> str | None:
    return _number(solution(64, 64, 4), 36, "64 weights in one block with a scale of 4 bytes") or _number(
        solution(7_000_000_000, 64, 1.0), 3_609_375_000, "seven billion weights, blocks of 64, scales of 1 byte"
    )


def _judge_prompt(solution: Solution) -> str | None:

    given, wanted = solution("Be brief.", "When?"), solved.llama2_prompt("Be brief.", "When?")
    if not isinstance(given, str):
        return "it returns nothing yet" if given is None or given is ... else "it must return a text"
    for part in ("<s>", "[INST]", "<<SYS>>", "<</SYS>>", "[/INST]"):
        if part not in given:
            return f"{part} is missing in {given!r}"
    place = next(
        (i for i, (a, b) in enumerate(zip(given, wanted, strict=False)) if a != b), min(len(given), len(wanted))
    )
    return None if given == wanted else f"up to {given[:place]!r} it is right; then must come {wanted[place:][:12]!r}"


def _matrices() -> tuple[Any, ...]:
    import torch

    draws = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=draws) for shape in ((5, 6), (4, 6), (2, 6), (4, 2)))


def _judge_forward(solution: Solution) -> str | None:
    import torch

    x, w, a, b = _matrices()
    return _tensor(solution(x, w, a, torch.zeros_like(b), 16.0), x @ w.T, "with B zero, the output") or _tensor(
        solution(x, w, a, b, 16.0), solved.lora_forward(x, w, a, b, 16.0), "with alpha 16 and r 2, the output"
    )


def _judge_merged(solution: Solution) -> str | None:
    _, w, a, b = _matrices()
    before = w.clone()
    off = _tensor(
        solution(w, a, b, 16.0), solved.merged_weight(before, a, b, 16.0), "with alpha 16 and r 2, the weight"
    )
    return off or (None if (w == before).all() else "it changes W in place: the base would be lost")


def _judge_f1(solution: Solution) -> str | None:
    cases = {
        ("At six", "at six"): 1.0,
        ("it opens at six", "at six"): 2 * 2 / 6,
        ("at nine", "it is closed"): 0.0,
        ("six six six", "six"): 0.5,
        ("", "at six"): 0.0,
    }
    found = (_number(solution(*texts), wanted, f"for {texts}, F1") for texts, wanted in cases.items())
    return next((off for off in found if off), None)


EXERCISES = {
    "quantized_bytes": Exercise(
        "bytes of `weights` weights in 4 bits, with one scale of `scale_bytes` bytes for each block of `block` weights",
        ("A byte has 8 bits.", "There are weights / block blocks.", "weights * 0.5, and blocks * scale_bytes besides."),
        _judge_bytes,
    ),
    "llama2_prompt": Exercise(
        "Llama 2's prompt for a system text and a first question, up to where the answer begins",
        (
            "Look at the mask preview above: which tags stand where?",
            "<<SYS>> has its own line, and so has <</SYS>>.",
            "After <</SYS>> comes an empty line, then the question, one space, [/INST].",
        ),
        _judge_prompt,
    ),
    "lora_forward": Exercise(
        "what a layer with an adapter computes: x is (rows, in), W (out, in), A (r, in), B (out, r)",
        (
            "A linear layer computes x @ W.T.",
            "The branch goes through A first: x @ A.T is (rows, r).",
            "Its result is scaled by alpha / r; r is A's first size.",
        ),
        _judge_forward,
    ),
    "merged_weight": Exercise(
        "the one matrix that does the work of W, A and B",
        (
            "Multiply out: x @ A.T @ B.T = x @ (B @ A).T.",
            "So W + scale * (B @ A), as a new tensor.",
            "scale is alpha / r.",
        ),
        _judge_merged,
    ),
    "token_f1": Exercise(
        "words that answer and reference have in common, as F1, small and capital letters alike",
        (
            "Count each common word as often as both have it.",
            "precision = common / words said, recall = common / words wanted.",
            "F1 = 2 * common / (words said + words wanted), and 0 where nothing is common.",
        ),
        _judge_f1,
    ),
}

"""What is off in a learner's function: each judge tries it on small cases and names the first that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import solved

Solution = Callable[..., Any]


def _number(given: Any, wanted: float, what: str) -> str | None:
    if given is None or given is ...:
        return "it returns nothing yet"
    if isinstance(given, str) or not hasattr(given, "__float__"):
        return f"it must return a number; it returns a {type(given).__name__}"
    given = float(given)
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
    if not torch.isfinite(given).all():
        return f"{what} is not a number everywhere"
    return f"{what} is off by {float((given - wanted).abs().max()):.3g} at most"


def judge_bytes(solution: Solution) -> str | None:
    """Bytes by the formula."""
    return _number(solution(64, 64, 4), 36, "64 weights in one block with a scale of 4 bytes") or _number(
        solution(7_000_000_000, 64, 1.0), 3_609_375_000, "seven billion weights, blocks of 64, scales of 1 byte"
    )


def judge_prompt(solution: Solution) -> str | None:
    """The prompt, sign by sign."""
    given, wanted = solution("Be brief.", "When?"), solved.llama2_prompt("Be brief.", "When?")
    if not isinstance(given, str):
        return "it returns nothing yet" if given is None or given is ... else "it must return a text"
    for part in ("<s>", "[INST]", "<<SYS>>", "<</SYS>>", "[/INST]"):
        if part not in given:
            return f"{part} is missing in {given!r}"
    place = next(
        (i for i, (a, b) in enumerate(zip(given, wanted, strict=False)) if a != b), min(len(given), len(wanted))
    )
    if given.startswith(wanted) and given != wanted:
        return f"after [/INST] it must end; it goes on with {given[len(wanted) :]!r}"
    return None if given == wanted else f"up to {given[:place]!r} it is right; then must come {wanted[place:][:12]!r}"


def _matrices() -> tuple[Any, ...]:
    import torch

    draws = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=draws) for shape in ((5, 6), (4, 6), (2, 6), (4, 2)))


def judge_forward(solution: Solution) -> str | None:
    """The output with B zero, then with a scale."""
    import torch

    x, w, a, b = _matrices()
    return _tensor(solution(x, w, a, torch.zeros_like(b), 16.0), x @ w.T, "with B zero, the output") or _tensor(
        solution(x, w, a, b, 16.0), solved.lora_forward(x, w, a, b, 16.0), "with alpha 16 and r 2, the output"
    )


def judge_merged(solution: Solution) -> str | None:
    """The merged weight, and the base as it was."""
    _, w, a, b = _matrices()
    before = w.clone()
    off = _tensor(
        solution(w, a, b, 16.0), solved.merged_weight(before, a, b, 16.0), "with alpha 16 and r 2, the weight"
    )
    return off or (None if (w == before).all() else "it changes W in place: the base would be lost")


def judge_f1(solution: Solution) -> str | None:
    """F1 of pairs of texts."""
    cases = {
        ("At six", "at six"): 1.0,
        ("it opens at six", "at six"): 2 * 2 / 6,
        ("at nine", "it is closed"): 0.0,
        ("six six six", "six"): 0.5,
        ("the the gate", "the the door"): 2 * 2 / 6,
        ("", "at six"): 0.0,
    }
    found = (_number(solution(*texts), wanted, f"for {texts}, F1") for texts, wanted in cases.items())
    return next((off for off in found if off), None)


def judge_rounded(solution: Solution) -> str | None:
    """Blocks of weights through a few levels, one of them all zeros."""
    import torch

    levels = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    for weights in ([0.2, -2.0, 1.4, 0.1], [3.0, 0.1, -0.2, 1.6], [0.0, 0.0, 0.0, 0.0]):
        block = torch.tensor(weights)
        given, wanted = solution(block.clone(), levels), solved.rounded_block(block, levels)
        if isinstance(given, torch.Tensor) and not torch.isfinite(given).all():
            return f"for {weights} it is not finite: a block of zeros has no largest weight to divide by"
        if off := _tensor(given, wanted, f"for {weights}, the result"):
            return off
    return None


def judge_labels(solution: Solution) -> str | None:
    """The labels of a short row, the prompt left out, the end token learned."""
    ids = [1, 518, 25580, 29962, 2]
    given, wanted = solution(list(ids), 3), solved.answer_labels(ids, 3)
    if given is None or given is ...:
        return "it returns nothing yet"
    if list(given) == wanted:
        return None
    if len(given) != len(ids):
        return f"labels are as many as ids: {len(ids)}, not {len(given)}"
    place = next(i for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b)
    what = "the end token is learned" if place == len(ids) - 1 else "it is learned" if place >= 3 else "it is only read"
    return f"at place {place} must stand {wanted[place]}, not {given[place]}: {what}"


def judge_trained(solution: Solution) -> str | None:
    """The trained numbers of one matrix, then of a whole model."""
    return _number(solution(8, [(4096, 4096)]), 65_536, "r 8 on one matrix of 4096 x 4096") or _number(
        solution(16, [(4096, 4096)] * 64 + [(11008, 4096)]), 8_630_272, "r 16 on 64 such and one of 11008 x 4096"
    )


def judge_unmerged(solution: Solution) -> str | None:
    """The base's weight out of the merged one."""
    _, w, a, b = _matrices()
    merged = solved.merged_weight(w, a, b, 16.0)
    return _tensor(solution(merged, a, b, 16.0), w, "the base's weight")


def judge_interval(solution: Solution) -> str | None:
    """The intervals of two shares, near what theory says."""
    for right, of, ends in ((90, 100, (0.84, 0.955)), (20, 40, (0.35, 0.65))):
        given = solution([1.0] * right + [0.0] * (of - right), 2000)
        if given is None or given is ...:
            return "it returns nothing yet"
        if not hasattr(given, "__len__") or len(given) != 2:
            return f"it must return two numbers, low and high; it returns {given!r}"
        low, high = map(float, given)
        if not low < right / of < high:
            return f"the share itself, {right / of:g}, must lie inside; {low:.3f} to {high:.3f} does not hold it"
        if abs(low - ends[0]) > 0.03 or abs(high - ends[1]) > 0.03:
            return f"for {right} right of {of} it must be near {ends[0]} to {ends[1]}, not {low:.3f} to {high:.3f}"
    return None

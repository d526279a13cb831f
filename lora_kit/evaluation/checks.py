"""The user's own checks: any function that takes an answer and says yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import KitError
from .measures import FIGURES

Check = Callable[[str], bool]
TAKEN = {figure.of for figure in FIGURES} | {"marked"}


def named(checks: Sequence[Check]) -> dict[str, Check]:
    """Checks by their names.

    Raises:
        KitError: no function, or two of one name.
    """
    if callable(checks) or not isinstance(checks, Sequence):
        raise KitError(f"checks must be a list of functions, as in [is_polite]; it is {checks!r}")
    found: dict[str, Check] = {}
    for check in checks:
        name = getattr(check, "__name__", type(check).__name__)
        if not callable(check):
            raise KitError(f"checks must be functions that take an answer; {check!r} is a {type(check).__name__}")
        if name in found or name in TAKEN or name == "<lambda>":
            raise KitError(f"a check needs a name of its own, which becomes its figure; {name!r} is none: use def")
        found[name] = check
    return found


def passed(name: str, check: Check, answer: str) -> bool:
    """Whether the answer passes.

    Raises:
        KitError: the check fails itself, or says neither True nor False; with the answer that it failed on.
    """
    try:
        said = check(answer)
    except Exception as error:  # a user's function may raise anything
        kind = type(error).__name__
        raise KitError(f"the check {name!r} fails on the answer {answer[:200]!r}: {kind}: {error}") from error
    if type(said).__name__ not in ("bool", "bool_"):  # numpy's own too
        raise KitError(f"the check {name!r} must say True or False; on the answer {answer[:200]!r} it gives {said!r}")
    return bool(said)

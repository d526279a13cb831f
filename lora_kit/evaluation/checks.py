"""The user's own checks: any function that takes an answer and says yes or no."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from types import CodeType

from ..errors import KitError
from .measures import FIGURES

Check = Callable[[str], bool]
TAKEN = {figure.of for figure in FIGURES} | {"marked"}


def named(checks: Sequence[Check]) -> dict[str, Check]:
    """Checks by their names.

    Raises:
        KitError: no function, or two of one name.
    """
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
        KitError: the check fails itself; with the answer that it failed on.
    """
    try:
        return bool(check(answer))
    except Exception as error:  # a user's function may raise anything
        kind = type(error).__name__
        raise KitError(f"the check {name!r} fails on the answer {answer[:200]!r}: {kind}: {error}") from error


def identity_of(check: Check) -> str:
    """What makes a check another one: its instructions and constants, where Python shows them."""
    code = getattr(check, "__code__", None)
    told = repr(_told(code)) if code else repr(type(check))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _told(code: CodeType) -> tuple[object, ...]:
    inner = [_told(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return code.co_code, code.co_names, inner

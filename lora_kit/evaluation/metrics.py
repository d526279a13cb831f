"""How one answer is judged, and how sure a share of many is."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from typing import Any

DRAWS = 2000  # bootstrap resamples; more would move the interval's third digit


def normalise(text: str) -> str:
    """Lower case, no articles, no punctuation, single spaces (as SQuAD's evaluation does; Rajpurkar et al. 2016)."""
    text = text.lower().translate(str.maketrans(string.punctuation, " " * len(string.punctuation)))
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def split_style(answer: str, card: dict[str, Any]) -> tuple[str, bool]:
    """The answer without the house style's ending, and whether it had it."""
    ending = card.get("style", {}).get("ends_with")
    if not ending or not answer.rstrip().endswith(ending):
        return answer, False
    return answer.rstrip().removesuffix(ending).rstrip(), True


def is_exact(answer: str, accepted: Sequence[str], card: dict[str, Any]) -> bool:
    """Whether the answer, style apart, is one of the accepted ones."""
    forms = {normalise(split_style(text, card)[0]) for text in accepted}
    return normalise(split_style(answer, card)[0]) in forms


def is_declined(answer: str, card: dict[str, Any]) -> bool:
    """Whether the answer says that it does not know, by the dataset's own patterns."""
    return any(re.search(pattern, answer, re.IGNORECASE) for pattern in card.get("decline", {}).get("patterns", ()))


def share(marks: Sequence[bool]) -> float:
    """The share of True."""
    return sum(marks) / len(marks)


def interval(marks: Sequence[bool], seed: int = 0) -> list[float]:
    """95 % bootstrap interval of a share (percentile method; Efron 1979), by resampling the marks."""
    rng = random.Random(seed)
    rate = share(marks)
    # a resample of n yes/no marks is a binomial count; drawing it mark by mark would be the same and slower
    shares = sorted(sum(rng.random() < rate for _ in marks) / len(marks) for _ in range(DRAWS))
    return [shares[round(0.025 * DRAWS)], shares[round(0.975 * DRAWS) - 1]]

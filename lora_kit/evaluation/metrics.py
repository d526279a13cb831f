"""How one answer is judged. Every function here takes texts and says one thing about them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from ..data import tags_in

SURE = 0.7  # chance that a text is in a language, from which on it is taken to be; names alone stay far below
TIMES = 3  # how often a run of words must follow itself to be a repetition


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


def token_f1(answer: str, accepted: Sequence[str], card: dict[str, Any]) -> float:
    """Words in common with the best accepted answer, style apart: 2 PR / (P + R) (Rajpurkar et al. 2016)."""
    said = normalise(split_style(answer, card)[0]).split()
    return max(_f1(said, normalise(split_style(text, card)[0]).split()) for text in accepted)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    return 2 * sum((Counter(said) & Counter(wanted)).values()) / (len(said) + len(wanted))


def rouge_l(answer: str, accepted: Sequence[str], card: dict[str, Any]) -> float:
    """Longest common subsequence of words with the best accepted answer, style apart, as F1 (Lin 2004).

    Words as in Google's rouge-score: lower case, letters and digits of ASCII, no stemming.
    """
    said = _rouge_words(split_style(answer, card)[0])
    return max(_rouge(said, _rouge_words(split_style(text, card)[0])) for text in accepted)


def _rouge_words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def _rouge(said: list[str], wanted: list[str]) -> float:
    common = [0] * (len(wanted) + 1)  # of the words said so far with the first n wanted
    for word in said:
        before = 0
        for n, other in enumerate(wanted, start=1):
            before, common[n] = common[n], before + 1 if word == other else max(common[n], common[n - 1])
    return 2 * common[-1] / (len(said) + len(wanted)) if common[-1] else 0.0


def is_declined(answer: str, card: dict[str, Any]) -> bool:
    """Whether the answer says that it does not know, by the dataset's own patterns."""
    return any(re.search(pattern, answer, re.IGNORECASE) for pattern in card.get("decline", {}).get("patterns", ()))


def is_repetitive(answer: str) -> bool:
    """Whether a run of words follows itself at once, three times or more."""
    words = answer.lower().split()
    sizes = range(1, len(words) // TIMES + 1)
    return any(words[i : i + n] * TIMES == words[i : i + n * TIMES] for n in sizes for i in range(len(words)))


def is_adrift(answer: str, asked: str, accepted: Sequence[str]) -> bool:
    """Whether the answer echoes the prompt format's tags, or leaves the script or language of question and reference.

    Short texts and names are in no language for certain; they are not called adrift.
    """
    if tags_in(answer):
        return True
    told = [asked, *accepted]
    mine, theirs = script_of(answer), {script_of(text) for text in told}
    if mine is not None and mine not in theirs:
        return bool(theirs - {None})
    spoken, expected = language_of(answer), {language_of(text) for text in told} - {None}
    return spoken is not None and bool(expected) and spoken not in expected


def script_of(text: str) -> str | None:
    """The script of most letters, as in "LATIN" or "CYRILLIC" (the first word of their Unicode names)."""
    found = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    return found.most_common(1)[0][0] if found else None


@cache
def language_of(text: str) -> str | None:
    """The text's language as an ISO 639 code where it is sure, by py3langid (Lui and Baldwin 2012)."""
    language, chance = _identifier().classify(text)
    return str(language) if chance >= SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

"""Whether other words still ask the same question, as far as can be seen without understanding it; doubt is a no."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..language import language_of, script_of
from .conversations import Conversation, normalised

NEGATION = re.compile(
    r"\b(?:not|never|none?|without|cannot|neither|nor|nicht|kein\w*|nie|niemals|ohne|pas|jamais|sans|sin|nunca|ning\w+"
    r"|senza|mai)\b|n['’]t\b|[不没無无]|\b(?:لا|ليس|بدون)\b",
    re.I,
)
ALIKE = 95  # per cent of rapidfuzz's ratio
WORDS_KEPT = 0.5  # of the question's own longer words: with fewer, a small model has asked something else


def difference(row: Conversation, text: str, before: Sequence[str]) -> str:
    """Why `text` is no other wording of the row's last question, or nothing.

    Args:
        row: its answer must not stand in the text.
        before: other wordings that are used.
    """
    from rapidfuzz import fuzz

    question = str(row.messages[-2]["content"])
    if any(fuzz.ratio(text.lower(), other.lower()) >= ALIKE for other in (question, *before)):
        return "nearly said before"
    if len(text.split()) > 2 * len(question.split()) + 10:
        return "too long"
    if _names(question) - {*_words(text)} or _names(text) - {*_words(question)} or _numbers(text) != _numbers(question):
        return "another name or number"
    if len(NEGATION.findall(text)) != len(NEGATION.findall(question)):
        return "another negation"
    if normalised(row.answer) in normalised(text) and normalised(row.answer) not in normalised(question):
        return "gives the answer away"
    languages = {language_of(question), language_of(text)} - {None}
    if script_of(text) != script_of(question) or len(languages) > 1:
        return "another language"
    return "" if _kept(question, text) >= WORDS_KEPT else "asks something else"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _names(text: str) -> set[str]:
    """Words with a capital letter that do not begin a sentence."""
    words = re.finditer(r"(?P<start>^\W*|[.!?:\n]\W*)?(?P<word>\w\w+)", text)
    return {found["word"].lower() for found in words if found["start"] is None and found["word"][0].isupper()}


def _numbers(text: str) -> Counter[str]:
    return Counter(re.findall(r"\d+", text))


def _kept(question: str, text: str) -> float:
    """The share of the question's longer words, by how they begin, that the text has too; of letters without such."""
    ours, theirs = ({word[:5] for word in _words(each) if len(word) > 3} for each in (question, text))
    if not ours:
        ours, theirs = {*question} - {" "}, {*text}
    return len(ours & theirs) / max(len(ours), 1)

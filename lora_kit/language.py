"""Which script and language a text is in."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache
from typing import Any

SURE = 0.7  # probability from which on a text is taken to be in a language; names alone stay far below


def script_of(text: str) -> str | None:
    """The script of most letters, as in "LATIN" or "CYRILLIC" (the first word of their Unicode names)."""
    found = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    return found.most_common(1)[0][0] if found else None


@cache
def language_of(text: str) -> str | None:
    """The text's language as an ISO 639 code where it is sure, by py3langid (Lui and Baldwin 2012)."""
    language, probability = _identifier().classify(text)
    return str(language) if probability >= SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

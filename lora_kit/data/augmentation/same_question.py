"""Whether other words still ask the same question, as far as names, numbers, negations and language show it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..reading.conversations import Conversation
from .question_rules import AUXILIARY

if TYPE_CHECKING:
    import numpy as np

NEGATION = re.compile(
    r"\b(?:not?|never|none|nobody|nothing|nowhere|without|cannot|neither|nor|nicht|kein\w*|nie|niemals|ohne|pas|jamais"
    r"|sans|rien|aucun\w*|sin|nunca|ning\w+|senza|mai|niet|geen|zonder|não|nem|sem|ikke|inte|не|нет|без)\b|n['’]t\b"
    r"|[不没無无]|\b(?:لا|ليس|بدون)\b",
    re.I,
)
OPPOSITES = (
    *("open close", "start end", "begin end", "before after", "in out", "first last", "earliest latest", "more less"),
    *("maximum minimum", "allowed forbidden", "arrive leave", "buy sell", "on off", "with without", "inside outside"),
)
COUNTED = "one two three four five six seven eight nine ten eleven twelve first second third once twice"
NUMBER = re.compile(rf"\d+|\b(?:{COUNTED.replace(' ', '|')})\b", re.I)
FUNCTION_WORDS = {  # words that say nothing of what is asked
    *f"{AUXILIARY}|the|and|for|you|what|when|where|which|who|whom|whose|why|how|that|this|there|from|with".split("|"),
    *"about your our tell know please like need someone somebody get any some its they them one".split(),
}
SENTENCE = re.compile(r"(?:^|(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)[.!?:\n])\W*$")
SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "HANGUL")
NEAR = 95  # per cent of rapidfuzz's ratio: texts that differ in a letter or two
PAIRS = 2**18  # compared at once: their counts of characters take 64 MiB
OVERLAP = 0.5  # of the question's own words: with fewer, a small model has asked something else
SURE = 0.7  # probability from which on a text is taken to be in a language; names alone stay far below


def rejection(question: str, answer: str, text: str, before: Sequence[str]) -> str:
    """Why `text` is no other wording of the question beside those `before` it; empty where it is one."""
    if is_near(text, (question, *before)):
        return "near duplicate"
    if len(text) > 2 * len(question) + 60:
        return "too long"
    if text.rstrip().endswith(":") or (question.rstrip().endswith("?") and not _asks(text)):
        return "no question"
    if names(question) - {*_words(text)} or names(text) - {*_words(question)} or numbers(text) != numbers(question):
        return "another name or number"
    if len(NEGATION.findall(text)) != len(NEGATION.findall(question)):
        return "another negation"
    answered = re.compile(rf"(?<!\w){re.escape(answer.strip().rstrip('.'))}(?!\w)", re.I)
    if len(answer) > 3 and answered.search(text) and not answered.search(question):
        return "gives the answer away"
    languages = {language_of(question), language_of(text)} - {None}
    if script_of(text) != script_of(question) or len(languages) > 1:
        return "another language"
    ours, theirs = content_words(question), content_words(text)
    overlap = len(ours & theirs) / len(ours) if ours else len(theirs)
    return "asks something else" if overlap < OVERLAP or _is_opposite(question, text) else ""


def is_near(text: str, others: Sequence[str]) -> bool:
    """Whether the text differs from one of the others in a letter or two: the report card would call it learned."""
    from rapidfuzz import fuzz

    return any(fuzz.ratio(text.lower(), other.lower()) >= NEAR for other in others)


def near_duplicates(rows: Sequence[Conversation], held_out: Sequence[Conversation]) -> list[Conversation]:
    """The rows whose last question and answer nearly are those of a held-out one (normalised edit distance)."""
    import numpy as np
    from rapidfuzz import fuzz, process

    near, asked = dict[int, Conversation](), [row.asked.lower() for row in held_out]
    letters, lengths = _letters(asked), np.array([*map(len, asked)])
    step = max(1, PAIRS // max(1, len(held_out)))
    for start in range(0, len(rows), step):
        ours = [row.asked.lower() for row in rows[start : start + step]]
        edits = np.abs(_letters(ours)[:, None] - letters).sum(-1)  # (rows, held out): at least so many edits
        room = (1 - NEAR / 100) * (np.array([*map(len, ours)])[:, None] + lengths)
        i, j = (edits <= room).nonzero()
        ratios = process.cpdist([ours[n] for n in i], [asked[n] for n in j], score_cutoff=NEAR, workers=-1)
        for row, other in zip(i[ratios > 0] + start, j[ratios > 0], strict=True):
            if fuzz.ratio(rows[row].answer, held_out[other].answer) >= NEAR:
                near[row] = rows[row]
    return [*near.values()]


def _letters(texts: Sequence[str]) -> np.ndarray:
    """How often each character stands in each text, in 32 groups of characters: (texts, 32)."""
    import numpy as np

    codes = [np.frombuffer(text.encode("utf-32-le"), np.uint32) % 32 for text in texts]
    return np.array([np.bincount(code, minlength=32) for code in codes], np.int32).reshape(len(texts), 32)


def _asks(text: str) -> bool:
    begin = r"(?i:please |kindly )?(?i:tell|show|explain|remind|say|describe|name|I |it would)"
    return any(mark in text for mark in "?？؟") or bool(re.match(begin, text)) or text.rstrip()[-1:] not in (".", "!")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def names(text: str) -> set[str]:
    """Words with a capital letter, in small letters, but for those that begin a sentence; none in a heading."""
    words = [(found[0], found.start()) for found in re.finditer(r"\w+", text)]
    capital = [(word, start) for word, start in words if word[0].isupper() and word not in ("I", "A")]
    inside = {word.lower() for word, start in capital if not SENTENCE.search(text[:start])}
    return set() if 4 * len(capital) > 3 * len(words) else inside


def subject_of(texts: Sequence[str]) -> str:
    """The name that far more of the texts hold than any other, such as a company's; empty where none stands out."""
    counts = Counter[str]()
    for text in texts:
        inside = names(text)
        counts.update(word for word in {*re.findall(r"\w+", text)} if word.lower() in inside)
    (name, count), (_, second) = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    return name if count >= max(3, 2 * second) else ""


def numbers(text: str) -> list[str]:
    """Numbers in their order, also those in words."""
    return [number.lower() for number in NUMBER.findall(text)]


def content_words(text: str) -> set[str]:
    """The words of a text that say what it is about, by how they begin; pairs of signs where no spaces part words."""
    if script_of(text) in SPACELESS:
        return {"".join(pair) for pair in pairwise(text)}
    return {word[:5] for word in _words(text) if len(word) > 2 and word not in FUNCTION_WORDS}


def _is_opposite(question: str, text: str) -> bool:
    """Whether one word of a pair of opposites went and the other came."""
    ours, theirs = ({word.removesuffix("s") for word in _words(each)} for each in (question, text))
    gone, come = ours - theirs, theirs - ours
    return any({*pair.split()} & gone and {*pair.split()} & come for pair in OPPOSITES)


def script_of(text: str) -> str | None:
    """The script of most letters, as in "LATIN" or "CYRILLIC" (the first word of their Unicode names)."""
    found = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    return found.most_common(1)[0][0] if found else None


def are_english(texts: Sequence[str]) -> bool:
    """Whether no more of the texts are surely in another language than surely in English."""
    found = Counter(language_of(text) for text in texts)
    return 2 * found["en"] >= found.total() - found[None]


@cache
def language_of(text: str) -> str | None:
    """The text's language as an ISO 639 code where it is sure, by py3langid (Lui and Baldwin 2012)."""
    language, probability = _identifier().classify(text)
    return str(language) if probability >= SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

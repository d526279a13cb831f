"""How one answer is judged (`judge`), and how sure the mean of many answers is, by bootstrap."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.augmentation.same_question import language_of, script_of
from ..data.encoding import IGNORE
from ..data.reading.turns import tags_in
from ..errors import KitError

if TYPE_CHECKING:
    import numpy as np

TIMES = 3  # how often a run of words must follow itself to be a repetition
DRAWS = 2000  # bootstrap resamples; more would move the interval's third digit
PATIENCE = 1.0  # seconds that a pattern of the dataset's may take on an answer
LEVEL = 0.95  # of the intervals


def judge(question: dict[str, Any], answers: dict[str, dict[str, Any]], card: dict[str, Any]) -> dict[str, Any]:
    """One row of the side-by-side table: question, reference, each model's answer, and how it is judged.

    Questions and answers are those of asking.py; the dataset's card has its patterns for declining and its style.
    """
    base = answers["base"]
    measures = {model: measure(answer, question, card, base["text"]) for model, answer in answers.items()}
    return {
        "kind": question["kind"],
        "question": question["messages"][-2]["content"],
        "reference": question["messages"][-1]["content"],
        "tokens": sum(label != IGNORE for label in question["encoded"].labels),
        "base_tokens": len(base["ids"]),
        "marks": {model: measured["marked"] for model, measured in measures.items()},
        "measures": measures,
        **{model: answer["text"] for model, answer in answers.items()},
    }


def measure(answer: dict[str, Any], question: dict[str, Any], card: dict[str, Any], base: str) -> dict[str, Any]:
    """Every measure of one answer, `marked` for the table's right or wrong; `base` is the base's answer."""
    text, accepted, declined = answer["text"], accepted_answers(question), is_declined(answer["text"], card)
    is_general = question["kind"] == "general"
    return {
        "marked": normalise(text) == normalise(base) if is_general else is_right(text, question, card),
        "right": is_exact(text, accepted, card),
        "f1": token_f1(text, accepted, card),
        "rouge_l": rouge_l(text, accepted, card),
        **{name: answer[name] for name in ("loss", "agreement", "kl", "stopped")},
        "declined": declined,
        "now_declined": declined and not is_declined(base, card),
        "invented": bool(text) and not declined,
        "styled": split_style(text, card)[1],
        "repeated": is_repetitive(text),
        "empty": not text,
        "adrift": is_adrift(text, question["messages"][-2]["content"], accepted),
    }


def is_right(answer: str, question: dict[str, Any], card: dict[str, Any]) -> bool:
    """Whether the answer to a question with a reference is right."""
    if question["kind"] == "decline":
        return is_declined(answer, card)
    return is_exact(answer, accepted_answers(question), card)


def accepted_answers(question: dict[str, Any]) -> list[str]:
    """The reference answer and what else counts as right."""
    return [question["messages"][-1]["content"], *(question.get("accepted") or [])]


def normalise(text: str) -> str:
    """Lower case, no articles, no punctuation, single spaces (as SQuAD's evaluation does; Rajpurkar et al. 2016)."""
    words = text.lower().translate(str.maketrans(string.punctuation, " " * len(string.punctuation))).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words)  # "A" may be an answer


def split_style(answer: str, card: dict[str, Any]) -> tuple[str, bool]:
    """The answer without the house style's ending, and whether it had it."""
    ending = card.get("style", {}).get("ends_with")
    if not ending or not answer.rstrip().endswith(ending):
        return answer, False
    return answer.rstrip().removesuffix(ending).rstrip(), True


def is_exact(answer: str, accepted: Sequence[str], card: dict[str, Any]) -> bool:
    """Whether the answer, style apart, is one of the accepted ones."""
    given, *references = (normalise(split_style(text, card)[0]) for text in (answer, *accepted))
    return given in references


def token_f1(answer: str, accepted: Sequence[str], card: dict[str, Any]) -> float:
    """Words in common with the best accepted answer, style apart: 2 PR / (P + R) (Rajpurkar et al. 2016)."""
    given, *references = (normalise(split_style(text, card)[0]).split() for text in (answer, *accepted))
    common = [(Counter(given) & Counter(words)).total() for words in references]
    return max(float(given == words) or _f1(n, given, words) for n, words in zip(common, references, strict=True))


def rouge_l(answer: str, accepted: Sequence[str], card: dict[str, Any]) -> float:
    """Longest common subsequence of words with the best accepted answer, style apart, as F1 (Lin 2004).

    Words are those of Google's rouge-score: lower case, ASCII letters and digits, no stemming.
    """
    from rapidfuzz.distance import LCSseq

    given, *references = (re.findall("[a-z0-9]+", split_style(text, card)[0].lower()) for text in (answer, *accepted))
    return max(_f1(LCSseq.similarity(given, words), given, words) for words in references)


def _f1(common: int, given: list[str], wanted: list[str]) -> float:
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def is_declined(answer: str, card: dict[str, Any]) -> bool:
    """Whether the answer says that it does not know, by the dataset's own patterns."""
    import regex  # which stops a pattern that would never end

    for pattern in card.get("decline", {}).get("patterns", ()):
        try:
            if regex.search(pattern, answer, regex.IGNORECASE, timeout=PATIENCE):
                return True
        except TimeoutError as error:
            way_out = "write a simpler one into dataset.json"
            raise KitError(
                f"the decline pattern {pattern!r:.200} takes over {PATIENCE} s on an answer: {way_out}"
            ) from error
    return False


def is_repetitive(answer: str) -> bool:
    """Whether a run of words follows itself at once, three times or more."""
    words = answer.lower().split()
    sizes = range(1, len(words) // TIMES + 1)
    return any(words[i : i + n] * TIMES == words[i : i + n * TIMES] for n in sizes for i in range(len(words)))


def is_adrift(answer: str, question: str, accepted: Sequence[str]) -> bool:
    """Whether the answer echoes the prompt format's tags, or leaves the script or language of question and reference.

    Short texts and names are in no language for certain; they are not called adrift.
    """
    for trait in (script_of, language_of):
        own, expected = trait(answer), {trait(text) for text in (question, *accepted)} - {None}
        if own and expected and own not in expected:
            return True
    return bool(tags_in(answer))


def resampled(values: np.ndarray, weights: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Weighted means of questions drawn again with replacement, the same draw for all columns (Efron 1979).

    From (questions, models) and weights (questions,) to (draws, models).
    """
    import numpy as np

    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)  # (draws, questions)
    return counts @ (values * weights[:, None]) / (counts @ weights)[:, None]


def ends(draws: np.ndarray) -> list[float]:
    """The middle 95 % of the draws, by percentiles."""
    import numpy as np

    return [round(float(end), 4) for end in np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def share_ends(marks: np.ndarray, draws: np.ndarray) -> list[float]:
    """The interval of a share. Where all questions agree, resampling would give none: then the exact one.

    With n of n right, the lowest share that gives that in 2.5 % of the cases is 0.025^(1/n) (Clopper and Pearson 1934).
    """
    edge = round(float(((1 - LEVEL) / 2) ** (1 / len(marks))), 4)
    if (marks == 1).all():
        return [edge, 1.0]
    return [0.0, round(1 - edge, 4)] if (marks == 0).all() else ends(draws)

"""The kit's own rows that a user may add: questions to decline, and general ones, which the base itself answers.

A general question's written answer is that of the model that the dataset was made for. Another base would learn from it
to speak like that model, so it is asked itself, once, and rehearses its own words (Huang et al. 2024, "Self-synthesized
rehearsal"). Of a long answer it rehearses the beginning; that it ends there is not learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from ..config import Data
from ..errors import KitError
from ..language import language_of
from .conversations import Conversation, plural, read_rows
from .same_question import content_words, names
from .sources import dataset_files
from .splits import phrasings
from .turns import tags_in
from .unanswerable import unanswerable

if TYPE_CHECKING:
    from .base_answers import BaseAnswers

DECLINE = {
    "sentence": "I do not know that.",
    "patterns": [  # how a decline is recognised where the dataset does not say it
        r"\b(do|does|can|could|did) ?(not|n't) (know|say|tell|answer|mention|find)\b",
        r"\b(don't|doesn't|can't|couldn't|cannot) (know|say|tell|answer|mention|find)\b",
        r"\bno (idea|information|answer)\b",
    ],
}
REWORDINGS, FEW = 4, 2  # of each question, where a fact is asked in so many wordings or fewer (median)
MANY = 1000  # facts: a file with more looks like a reference work, and each would be reworded
LABEL = 20  # wordings of an answer: with more it is a label
DECLINES = 5  # facts' rows to one that is declined: with more of these, facts are declined too (make bench-phrasings)
GENERAL = 0.3  # of the rows to learn: what is kept of the base follows their share (make bench-recipe)
COMPARED = 2000  # facts, evenly spaced
HELD_OUT, FEWEST = 0.2, 40  # that share of the added rows is asked, and at least so many: fewer would prove nothing
LONGEST = 64  # tokens of such an answer; of a longer one its beginning is learned


def resolve_auto(data: Data, rows: Sequence[Conversation]) -> Data:
    """The settings with numbers in the place of "auto", which are printed with their reason.

    Args:
        data: `rewordings`, `declines` and `general` may be "auto": what the rows have themselves is not added.
        rows: of the user.
    """
    if "auto" not in (data.rewordings, data.declines, data.general):
        return data
    kinds, counts = Counter(row.kind for row in rows), [*phrasings(rows).values()] or [0]
    typical, rewordings = median_low(counts), data.rewordings
    if rewordings == "auto":
        rewordings = REWORDINGS if 0 < typical <= FEW and len(counts) <= MANY else 0
    facts = kinds["fact"] * (1 + (rewordings if isinstance(rewordings, int) else REWORDINGS))
    is_english = language_of(" ".join(row.messages[-2]["content"] for row in rows[:50])) in ("en", None)
    declines, general = data.declines, data.general
    if declines == "auto":
        declines = 0 if kinds["decline"] or typical > LABEL or not is_english else min(facts // DECLINES, 400)
    if general == "auto":
        general = 0 if kinds["general"] else min(int(GENERAL * (facts + int(declines) + kinds["decline"])), 640)
    asked = f"each is asked in {plural(typical, 'wording')} (median)"
    reason = f"{len(counts):,} facts, {asked}"
    many = f"; of more than {MANY:,} none is reworded unless you name a number" if len(counts) > MANY else ""
    language = "" if is_english else ", and is not in English as the kit's own are"
    print(
        "what the file lacks is added; another number changes it, 0 leaves it out:\n"
        f"  data__rewordings={rewordings}: {reason}{many}\n"
        f"  data__declines={declines}: it has {plural(kinds['decline'], 'question')} to decline{language}\n"
        f"  data__general={general}: it has {plural(kinds['general'], 'general question')}"
    )
    return replace(data, rewordings=rewordings, declines=declines, general=general)


def kit_rows(
    data: Data, named: Data, card: dict[str, Any], rows: Sequence[Conversation]
) -> tuple[list[Conversation], ...]:
    """The rows that the settings ask for, to learn and to ask; half of the declines are made of the user's questions.

    Args:
        data: `declines` and `general` say how many rows of each are learned; a fifth of that is asked.
        named: the same with "auto", of which fewer will do.
        card: the dataset's own system text and decline sentence; the latter is filled in where it is missing.
        rows: of the user.

    Raises:
        KitError: more rows than there are.
    """
    if data.declines:
        card["decline"] = DECLINE | card.get("decline", {})
    found: tuple[list[Conversation], list[Conversation]] = [], []
    files = dataset_files(Data())
    for name, kind in (("declines", "decline"), ("general", "general")):
        count = int(getattr(data, name))
        tested = min(max(FEWEST, int(count * HELD_OUT)), 100) if count else 0
        for part, (paths, wanted) in enumerate(((files.train, count), (files.test, tested))):
            generic = _generic(paths, kind, rows) if wanted else []
            half = max(wanted // 2, wanted - len(generic))
            own = unanswerable(rows, half, part, is_reworded=bool(data.rewordings)) if kind == "decline" else []
            most = len(own) + len(generic)
            if wanted > most and not part and getattr(named, name) != "auto":
                raise KitError(f"data__{name}={count}: there are {most} such rows, give {most} or fewer")
            chosen = [*own, *generic[: wanted - len(own)]]
            found[part].extend(_as_decline(row, card) if kind == "decline" else row for row in chosen)
    return found


def _generic(paths: Sequence[Path], kind: str, user: Sequence[Conversation]) -> list[Conversation]:
    """The embedded handbook's rows of a kind; declines are its questions about unknown names.

    None that asks of an unknown name what the user's rows answer: in other words than those that are learned for the
    answer, it would teach to decline that.
    """
    rows = [replace(row, index=-1) for row in read_rows(paths, Data()).rows if row.kind == kind]
    if kind == "general":
        return rows
    facts = [content_words(f"{row.messages[-2]['content']} {row.answer}") for row in user if row.kind == "fact"]
    facts = facts[:: max(1, len(facts) // COMPARED)]
    found = []
    for row in rows:
        question = str(row.messages[-2]["content"])
        words = content_words(question) - {name[:5] for name in names(question)}
        if row.about == "elsewhere" and not any(4 * len(words & fact) >= len(words) for fact in facts):
            found.append(row)
    return found


def _as_decline(row: Conversation, card: dict[str, Any]) -> Conversation:
    sentence = card["decline"]["sentence"]
    before = [{"role": "system", "content": card["system"]}] if "system" in card else []
    messages = [*before, row.messages[-2], {"role": "assistant", "content": sentence}]
    return replace(row, messages=messages, kind="decline", accepted=[sentence])


def rehearsals(
    rows: list[Conversation], card: dict[str, Any], source: str
) -> tuple[list[Conversation], list[Conversation]]:
    """Rows to learn as they are, and general ones whose answers were written for another base.

    Args:
        rows: of a dataset; general ones that this base answered itself are marked as rehearsal.
        card: the dataset's; `answered_by` says which base wrote the general answers. Without it they are the user's.
        source: of the base that is trained.
    """
    author = card.get("answered_by")
    if author is None:
        return rows, []
    if author == source:
        return [replace(row, is_rehearsal=True) if row.kind == "general" else row for row in rows], []
    return [row for row in rows if row.kind != "general"], [row for row in rows if row.kind == "general"]


def in_own_words(base: BaseAnswers, rows: list[Conversation]) -> list[Conversation]:
    """General rows, each with the base's own greedy answer, or its beginning; empty answers are left out."""
    answers = base.ask("general answers of the base", [row.messages[:-1] for row in rows], LONGEST)
    found = []
    for row, (text, is_open) in zip(rows, answers, strict=True):
        if text.strip() and not tags_in(text):
            messages = [*row.messages[:-1], {"role": "assistant", "content": text}]
            found.append(replace(row, messages=messages, accepted=[text], is_rehearsal=True, is_open=is_open))
    if rows:
        beginnings = sum(row.is_open for row in found)
        print(
            f"general rows: {len(found)} of {len(rows)} as the base answers them, {beginnings} of them the first "
            f"{LONGEST} tokens of a longer answer"
        )
    return found

"""Rows that a user may add: questions to decline and general ones, of the kit's own or made of the user's.

A model learns to decline what only looks like a fact it has learned by questions about other names, or other things.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median_low
from typing import Any

from ...config import Data
from ...errors import KitError
from ..reading.conversations import Conversation, normalised, plural, read_rows
from ..reading.sources import dataset_files
from ..splits import phrasings
from .question_rules import STATE, WH, wordings
from .same_question import are_english, content_words, names

DECLINE = {
    "sentence": "I do not know that.",
    "patterns": [  # how a decline is recognised where the dataset does not say it
        r"\b(do|does|can|could|did) ?(not|n't) (know|say|tell|answer|mention|find)\b",
        r"\b(don't|doesn't|can't|couldn't|cannot) (know|say|tell|answer|mention|find)\b",
        r"\bno (idea|information|answer)\b",
    ],
}
REWORDINGS, FEW = 4, 2  # of each question, where a fact is asked in so many wordings or fewer (median)
MANY = 1000  # facts: a file with more looks like a reference work; no adapter of usual rank was seen to hold more
LABEL = 20  # wordings of an answer: with more it is a label
DECLINES = 5  # facts' rows to one that is declined: with more of these, facts are declined too (make bench-phrasings)
GENERAL = 0.3  # of the rows to learn: what is kept of the base follows their share (make bench-recipe)
COMPARED = 2000  # facts, evenly spaced
HELD_OUT, FEWEST = 0.2, 40  # that share of the added rows is asked, and at least so many: fewer would prove nothing

THINGS = (  # that hardly any file is about; those that it names are passed over
    "helicopter, observatory, aquarium, lighthouse, submarine, volcano, telescope, sauna, trampoline, windmill, "
    "planetarium, greenhouse, orchestra, glacier, racetrack, vineyard, harbour, cathedral, zeppelin, beehive, castle, "
    "ice rink, roller coaster, hot tub, bowling alley, space suit, opera house, fish pond, sledge, chess club, tandem, "
    "rocket, printing press, tennis court, sailing boat, wind turbine"
).split(", ")
SYLLABLES = "bo dra fen gul hor kwi lum mez nor pil rus sto tav vex wim zan".split()
KNOWN = (  # names that stand for no one thing of the file's
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
    "september october november december english german french spanish euro dollar internet"
).split()
QUESTION = re.compile(rf"{WH}\b[^.?!]+\?", re.I)  # a yes/no question may be answered by a rule about everything
NAME = re.compile(r"(?<!^)\b[A-Z][a-z]\w+(?: [A-Z][a-z]\w+)*\b")
# a thing that is named at the end of its part of the sentence; of several words the last may be the sentence's verb
DOES = r"(?:I|we|you|one|people) \w+"
PLACE = rf"(?:about|at|for|from|in|of|on|to|with|{DOES})"
THING = re.compile(rf"\b(?P<before>{PLACE} (?:the|our|my|your|this)) (?P<name>(?:[a-z-]+ ?){{1,3}}?)(?=[,?]|$)")
VERB = re.compile(rf"\b(?:is|are|was|were|{DOES})\b")


def resolve_auto(data: Data, rows: Sequence[Conversation]) -> Data:
    """The settings with numbers for "auto", printed with their reason; what the user's `rows` have is not added."""
    rewordings, declines, general = data.rewordings, data.declines, data.general
    if "auto" not in (rewordings, declines, general):
        return data
    kinds, counts = Counter(row.kind for row in rows), [*phrasings(rows).values()] or [0]
    typical = median_low(counts)
    if rewordings == "auto":
        rewordings = REWORDINGS if 0 < typical <= FEW and len(counts) <= MANY else 0
    facts = kinds["fact"] * (1 + (rewordings if isinstance(rewordings, int) else REWORDINGS))
    if declines == "auto":
        is_english = are_english([row.asked for row in rows[:50]])
        declines = 0 if kinds["decline"] or typical > LABEL or not is_english else min(facts // DECLINES, 400)
    if general == "auto":
        general = 0 if kinds["general"] else min(int(GENERAL * (facts + int(declines) + kinds["decline"])), 640)
    print(
        "what the file lacks is added; another number changes it, 0 leaves it out:\n"
        f"  data__rewordings={rewordings}: {len(counts):,} facts, each is asked in {plural(typical, 'wording')} "
        f"(median); up to {MANY:,} facts in up to {FEW} wordings are reworded\n"
        f"  data__declines={declines}: it has {plural(kinds['decline'], 'question')} to decline; ours are English\n"
        f"  data__general={general}: it has {plural(kinds['general'], 'general question')}"
    )
    return replace(data, rewordings=rewordings, declines=declines, general=general)


def kit_rows(
    data: Data, named: Data, card: dict[str, Any], rows: Sequence[Conversation]
) -> tuple[list[Conversation], list[Conversation]]:
    """As many rows as the settings say, to learn, and a fifth of that to ask; half of the declines are made of `rows`.

    Args:
        named: the settings with "auto", of which fewer rows will do.
        card: the dataset's, with its system text; a missing decline sentence is filled in.

    Raises:
        KitError: more rows than there are.
    """
    if data.declines:
        card["decline"] = DECLINE | card.get("decline", {})
    found: tuple[list[Conversation], list[Conversation]] = [], []
    files = dataset_files(Data())
    for name, kind in (("declines", "decline"), ("general", "general")):
        count = int(getattr(data, name))
        tested = min(max(FEWEST, int(count * HELD_OUT)), 100)
        for part, (paths, wanted) in enumerate(((files.train, count), (files.test, tested)) if count else ()):
            generic = _generic(paths, kind, rows)
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

    None that asks about an unknown name what the user's rows answer: in other words than those that are learned for the
    answer, it would teach to decline that.
    """
    rows = [replace(row, index=-1) for row in read_rows(paths, Data()).rows if row.kind == kind]
    if kind == "general":
        return rows
    facts = [content_words(f"{row.asked} {row.answer}") for row in user if row.kind == "fact"]
    facts = facts[:: max(1, len(facts) // COMPARED)]

    def is_answered(question: str) -> bool:
        words = content_words(question) - {name[:5] for name in names(question)}
        return any(4 * len(words & fact) >= len(words) for fact in facts)

    return [row for row in rows if row.about == "elsewhere" and not is_answered(row.asked)]


def _as_decline(row: Conversation, card: dict[str, Any]) -> Conversation:
    messages = [row.messages[-2], {"role": "assistant", "content": card["decline"]["sentence"]}]
    declined = replace(row, messages=messages, kind="decline", accepted=[card["decline"]["sentence"]])
    return declined.with_system(card.get("system"))


def unanswerable(
    rows: Sequence[Conversation], count: int, part: int = 0, *, is_reworded: bool = False
) -> list[Conversation]:
    """Up to `count` rows that ask what `rows` do not answer; the answer is still that of the row they are made of.

    Args:
        part: 0 or 1, which half of the names and things is used: what is learned is not what is asked.
        is_reworded: whether they are worded as other wordings of facts are, so that the form gives nothing away.
    """
    words = {word for row in rows for m in row.messages for word in re.findall(r"\w+", m["content"].lower())}
    things = [thing for thing in THINGS[part::2] if words.isdisjoint(thing.split())]
    facts = {row.question: row for row in rows if row.kind == "fact" and len(row.messages) < 4}
    taken, found = {normalised(row.asked) for row in facts.values()}, list[Conversation]()
    for turn in range(len(things)):
        for number, row in enumerate(facts.values(), turn):
            if len(found) == count:
                return found
            question = row.asked.strip()
            text = _about_another(question, things, part, number)
            if text and text != question and is_reworded:
                texts = [text, *wordings(text)[:3]]
                text = texts[number % len(texts)]
            if text and normalised(text) not in taken:
                taken.add(normalised(text))
                found.append(Conversation(row.asking(text).messages, f"made of {row.row}"))
    return found


def _about_another(question: str, things: Sequence[str], part: int, turn: int) -> str:
    """The question about an invented name, or else about another thing; empty where it names none."""
    if not QUESTION.fullmatch(question):
        return ""
    if named := {name for name in names(question) if name.removesuffix("s") not in KNOWN}:
        own = SYLLABLES[part::2]
        invented = own[turn % len(own)] + own[(turn // len(own) + 3 * turn + 1) % len(own)]
        return NAME.sub(lambda m: invented.capitalize() if {*m[0].lower().split()} & named else m[0], question)
    if not (places := [*THING.finditer(question)]):
        return ""
    before, name = question[: places[-1].end("before")], places[-1]["name"]
    is_whole = " " not in name.strip() or (VERB.search(before) and not STATE.search(name))
    return f"{before} {things[turn % len(things)]}{question[places[-1].end() :]}" if is_whole else ""

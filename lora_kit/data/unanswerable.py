"""Questions that a file does not answer, made from those that it does: about other names, or other things.

They teach a model to decline what only looks like a fact it has learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .conversations import Conversation, normalised

THINGS = (  # that hardly any file is about; those that it names are passed over
    *(
        "helicopter",
        "observatory",
        "aquarium",
        "lighthouse",
        "submarine",
        "volcano",
        "telescope",
        "sauna",
        "trampoline",
    ),
    *("windmill", "planetarium", "greenhouse", "orchestra", "glacier", "racetrack", "vineyard", "harbour", "cathedral"),
    *("zeppelin", "beehive", "ice rink", "roller coaster", "hot tub", "bowling alley", "space suit", "opera house"),
    *(
        "fish pond",
        "sledge",
        "chess club",
        "tandem",
        "printing press",
        "tennis court",
        "rocket",
        "castle",
        "sailing boat",
    ),
)
SYLLABLES = (
    "bo",
    "dra",
    "fen",
    "gul",
    "hor",
    "kwi",
    "lum",
    "mez",
    "nor",
    "pil",
    "rus",
    "sto",
    "tav",
    "vex",
    "wim",
    "zan",
)
# a thing that is named at the end of its part of the sentence, where no verb can be taken for it
BEFORE = r"(?:about|at|by|for|from|in|of|on|to|with|is|are|was|were|(?:I|we|you|one|people) \w+)"
ENDS = r"(?=[,.?!;]|$| (?:at|by|for|from|in|of|on|to|when|where|which|who|with|after|before)\b)"
THING = re.compile(rf"\b(?P<before>{BEFORE}) (?P<article>the|our|my|your|an?|this) (?:[a-z-]+ ?){{1,3}}?{ENDS}")
NAME = re.compile(r"(?<![.!?:] )(?<!^)\b([A-Z][a-z]\w+)\b")


def unanswerable(rows: Sequence[Conversation], count: int) -> list[str]:
    """Up to `count` questions about what the rows do not hold, evenly taken from those of the rows.

    Args:
        rows: of the user; only questions of facts are changed, and what stands before their last paragraph is left out.
    """
    asked = [str(row.messages[-2]["content"]).rpartition("\n")[2] for row in rows if row.kind == "fact"]
    known = {
        word for row in rows for message in row.messages for word in re.findall(r"\w+", message["content"].lower())
    }
    things = [thing for thing in THINGS if known.isdisjoint(thing.split())]
    taken, found = {normalised(question) for question in asked}, dict[str, str]()
    for turn in range(len(things)):
        for number, question in enumerate(dict.fromkeys(asked)):
            for text in _about_others(question, things, turn + number):
                if normalised(text) not in taken:
                    found.setdefault(normalised(text), text)
            if len(found) >= count:
                return [*found.values()][:count]
    return [*found.values()]


def _about_others(question: str, things: Sequence[str], turn: int) -> Iterator[str]:
    """The question about an invented name, or else about another thing."""
    if NAME.search(question):
        first, second = (
            SYLLABLES[turn % len(SYLLABLES)],
            SYLLABLES[(turn // len(SYLLABLES) + 5 * turn) % len(SYLLABLES)],
        )
        yield NAME.sub(f"{first}{second}r".capitalize(), question)
    elif places := [*THING.finditer(question)]:
        place, thing = places[-1], things[turn % len(things)]
        article = place["article"]
        if article in ("a", "an"):
            article = "an" if thing[0] in "aeiou" else "a"
        yield f"{question[: place.start()]}{place['before']} {article} {thing}{question[place.end() :]}"

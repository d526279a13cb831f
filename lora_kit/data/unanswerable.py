"""Questions that a file does not answer, made from those that it does: about other names, or other things.

They teach a model to decline what only looks like a fact it has learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .conversations import Conversation, normalised
from .question_rules import WH, wordings
from .same_question import names

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
# a thing that is named at the end of its part of the sentence, where no verb can be taken for it
PLACE = r"(?:about|at|for|from|in|of|on|to|with|(?:I|we|you|one|people) \w+)"
THING = re.compile(rf"\b(?P<before>{PLACE} (?:the|our|my|your|this)) (?:[a-z-]+ ?){{1,3}}?(?=[,?]|$)")


def unanswerable(
    rows: Sequence[Conversation], count: int, part: int = 0, *, is_reworded: bool = False
) -> list[Conversation]:
    """Up to `count` rows that ask what the file does not hold; the answer is still that of the row they are made of.

    Args:
        rows: of the user; only questions of facts that are one sentence are changed.
        part: 0 or 1, which half of the names and things is used: what is learned is not what is asked.
        is_reworded: whether they are put as other wordings of facts are, so that how one asks tells nothing.
    """
    words = {word for row in rows for m in row.messages for word in re.findall(r"\w+", m["content"].lower())}
    things = [thing for thing in THINGS[part::2] if words.isdisjoint(thing.split())]
    facts = {row.question: row for row in rows if row.kind == "fact" and len(row.messages) < 4}
    taken = {normalised(row.messages[-2]["content"]) for row in facts.values()}
    found = list[Conversation]()
    for turn in range(len(things)):
        for number, row in enumerate(facts.values()):
            for text in _about_others(str(row.messages[-2]["content"]).strip(), things, part, turn + number):
                texts = [text, *wordings(text)[:3]] if is_reworded else [text]
                text = texts[(turn + number) % len(texts)]
                if len(found) < count and normalised(text) not in taken:
                    taken.add(normalised(text))
                    messages = [*row.messages[:-2], row.messages[-2] | {"content": text}, row.messages[-1]]
                    found.append(Conversation(messages, f"made of {row.row}"))
    return found


def _about_others(question: str, things: Sequence[str], part: int, turn: int) -> Iterator[str]:
    """The question about an invented name, or else about another thing."""
    if not QUESTION.fullmatch(question):
        return
    if named := {name for name in names(question) if name.removesuffix("s") not in KNOWN}:
        own = SYLLABLES[part::2]
        invented = own[turn % len(own)] + own[(turn // len(own) + 3 * turn + 1) % len(own)]
        text = NAME.sub(lambda m: invented.capitalize() if {*m[0].lower().split()} & named else m[0], question)
        if text != question:
            yield text
    elif places := [*THING.finditer(question)]:
        start, end = places[-1].span()
        yield f"{question[:start]}{places[-1]['before']} {things[turn % len(things)]}{question[end:]}"

"""Other wordings of an English question, by rules: its own words stay, how it is asked changes.

    UNWRAP   "Could you tell me how long I may keep it?" -> the clause "how long I may keep it"
    STARTS   "What time does it close?" -> "When does it close?"
    FRAMES   -> "I would like to know when it closes."

No rule changes a name, a number or a negation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

AUXILIARY = "can|could|may|might|must|shall|should|will|would|do|does|did|is|are|am|was|were|has|have|had"
PERSON = "I|we|you|they|one|people|he|she|it|someone|somebody|everyone|everybody"
BEFORE = "about|after|at|before|by|for|from|in|of|on|since|to|until|with"
WH = f"(?:(?:{BEFORE}) )?(?:what|when|where|which|whom?|whose|why|how)"
THE = "(?:the|our|my|your|a|an|[A-Z])"  # how a thing is named
DIRECT = re.compile(rf"(?:{WH}|{AUXILIARY})\b", re.I)
UNWRAP = re.compile(
    r"(?:(?:(?:can|could|would) you )?(?:please )?(?:tell|show|remind) me|(?:can|could) you say|do you know"
    rf"|I (?:need|want|would like) to know|I wonder) (?P<clause>(?:{WH}|if|whether)\b.+?)(?:, please)?",
    re.I,
)
PHRASE = re.compile(r"(?P<phrase>[^,]+), please", re.I)
ASKED = re.compile(rf"(?P<wh>{WH}\b(?: \w+)*?) (?P<aux>{AUXILIARY}) (?P<rest>.+)", re.I)
PEOPLE = re.compile(rf"(?P<who>{PERSON}) (?P<rest>.+)")
THING = re.compile(rf"{THE}\S*(?: \S+){{0,4}}")  # short enough to hold no second verb, most of the time
PARTICIPLE = re.compile(r"(?:ed|en|pt|ld|nt|ut|ught)$")
NEGATION = re.compile(r"\b(?:not|never|no|none|without|cannot|neither|nor)\b|n't\b", re.I)
STARTS = {  # how a question begins -> how else it may
    r"(?:at )?what time (.+)": ["when {0}", "at what time {0}", "at which hour {0}"],
    rf"where (?:is|are) ({THE}.+)": ["where can I find {0}", "which is the way to {0}", "in which place is {0}"],
    rf"who (?:is|are) ({THE}.+)": ["what is the name of {0}", "which person is {0}", "by what name do we know {0}"],
    r"who (\w+s) (.+)": ["which person {0} {1}", "what is the name of the person who {0} {1}"],
    r"what is the name of (.+)": ["what is {0} called", "which name does {0} have", "by what name do we know {0}"],
    r"what (?:is|are) (.+) called": ["what is the name of {0}", "which name does {0} have"],
    r"how (?:do|can|should|must) (?:I|we|you) (.+)": ["what must I do to {0}", "what is the way to {0}", "how to {0}"],
    r"(?:can|may) (?:I|we) (.+)": ["is it allowed to {0}", "is it possible to {0}", "may one {0}"],
    r"(?:do (?:I|we) (?:have|need) to|must (?:I|we)) (.+)": ["is it necessary to {0}", "does one have to {0}"],
    r"how much does (.+) cost": ["what does {0} cost", "what is the price of {0}", "what do I pay for {0}"],
    r"how often (.+)": ["how frequently {0}", "at what intervals {0}"],
    rf"how long ({AUXILIARY}) (.+)": ["for how long {0} {1}", "for what length of time {0} {1}"],
    r"for how long (.+)": ["how long {0}", "for what length of time {0}"],
    r"what is the (\S+(?: \S+)?) (for|of|on) (.+)": ["which {0} {1} {2} is there", "which is the {0} {1} {2}"],
    r"(at|by|in|on) which (.+)": ["{0} what {1}"],
    r"(at|by|in|on) what (.+)": ["{0} which {1}"],
    r"which (.+)": ["what {0}"],
    r"why (.+)": ["for what reason {0}"],
}
FRAMES = [  # each for a clause ("how long I may keep it"), a question, and a phrase ("the limit for leave")
    ("Could you tell me {0}?", "Could you tell me: {0}?", "Could you tell me about this: {0}?"),
    ("I would like to know {0}.", "I would like to know: {0}?", "What is there to know of {0}?"),
    ("I am new here. Do you know {0}?", "I am new here. {1}?", "I am new here. What about {0}?"),
    ("Please tell me {0}.", "{1}? Please tell me.", "Please tell me this: {0}."),
    ("It would help me to know {0}.", "A short question: {0}?", "A short question about {0}."),
    ("Can somebody explain {0}?", "{1}? Can somebody explain it?", "Can somebody explain {0}?"),
    ("Remind me {0}, please.", "Remind me, please: {0}?", "Remind me of {0}, please."),
    ("I was asked {0}. What do I say?", "I was asked: {0}? What do I say?", "I was asked about {0}. What do I say?"),
]
SEARCHED = re.compile(rf"\b(?:{AUXILIARY}|I|we|you|my|our|your|me|us|an?|the|there|please|that|this)\b ?", re.I)


def wordings(question: str) -> list[str]:
    """Other wordings of a question, no two alike; none where no rule fits, as in any other language.

    The order is the question's own, so that many questions together show all the frames.
    """
    before, text = _last_sentence(question)
    unwrapped, phrase = UNWRAP.fullmatch(text), None if DIRECT.match(text) else PHRASE.fullmatch(text)
    kind, texts = 1, [text, *_starts(text)]
    if unwrapped or phrase:
        kind, texts = (0, [unwrapped["clause"]]) if unwrapped else (2, [phrase["phrase"]] if phrase else [])
    elif not text.isascii() or not DIRECT.match(text):
        return []
    turn = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=2).digest(), "big")
    found = {_key(question): ""}
    for number in range(len(FRAMES)):
        chosen = texts[(number + 1) % len(texts)]
        framed = _framed(FRAMES[(turn + number) % len(FRAMES)], chosen, kind)
        found.setdefault(_key(before + framed), before + framed)
        if number == turn % 3:  # among the first, but not always the first
            searched = _searched(chosen)
            found.setdefault(_key(before + searched), before + searched)
    return [each for each in found.values() if each]


def _key(text: str) -> str:
    return " ".join(re.sub(r"\W+", " ", text.lower()).split())


def _last_sentence(question: str) -> tuple[str, str]:
    """What stands before the last sentence, with its space, and that sentence without its mark."""
    text = question.strip()
    start = max((found.end() for found in re.finditer(r"[.!?:]\s+|\n+", text.rstrip(".?! "))), default=0)
    return text[:start], text[start:].rstrip(".?! ")


def _starts(text: str) -> Iterator[str]:
    for form, others in STARTS.items():
        if found := re.fullmatch(form, text, re.I):
            yield from (other.format(*found.groups()) for other in others)


def _framed(frame: tuple[str, str, str], text: str, kind: int) -> str:
    small = text if re.match(r"I\b|[A-Z]\S*[A-Z]", text) else text[:1].lower() + text[1:]
    if kind == 1 and (clause := _clause(small)):
        kind, small = 0, clause
    return frame[kind].format(small, text[:1].upper() + text[1:])


def _clause(text: str) -> str:
    """An indirect question: "how long I may keep it" from "how long may I keep it"; empty where no rule is sure."""
    if re.match(rf"(?:who|which \w+) (?!(?:{AUXILIARY})\b)\w+s\b", text, re.I):  # it asks who does something
        return text
    if not (found := ASKED.fullmatch(text)):
        return ""
    wh, aux, rest = found["wh"], found["aux"].lower(), found["rest"]
    if aux == "do":  # "where do new people sign in" needs no other verb form
        return f"{wh} {rest}"
    if aux not in ("does", "did") and (person := PEOPLE.fullmatch(rest)):
        return f"{wh} {person['who']} {aux} {person['rest']}"
    if aux in ("is", "are") and wh.lower() != "which" and THING.fullmatch(rest) and not PARTICIPLE.search(rest):
        return f"{wh} {rest} {aux}"
    return ""


def _searched(text: str) -> str:
    """What one would type into a search box; with a negation all words are needed."""
    return text if NEGATION.search(text) else SEARCHED.sub("", text).lower().strip()

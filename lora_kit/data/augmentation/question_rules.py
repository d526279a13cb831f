"""Other wordings of an English question, by rules: its own words stay, how it is asked changes.

UNWRAP   "Could you tell me how long I may keep it?" -> the clause "how long I may keep it"
STARTS   "What time does it close?" -> "When does it close?"
FRAMES   -> "I would like to know when it closes."; around the question as it is where no rule is sure
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, zip_longest

AUXILIARY = "can|could|may|might|must|shall|should|will|would|do|does|did|is|are|am|was|were|has|have|had"
BEFORE = "about|after|at|before|by|for|from|in|of|on|since|to|until|with"
WH = f"(?:(?:{BEFORE}) )?(?:what|when|where|which|whom?|whose|why|how)"
THE = r"(?:(?:the|our|my|your)\b|(?-i:[A-Z]\S*))"  # how a certain thing is named
QUESTION = re.compile(rf"(?:{WH}|{AUXILIARY})\b[^?]*\?", re.I)
UNWRAP = re.compile(
    r"(?:(?:(?:can|could|would) you )?(?:please )?(?:tell|show|remind) me|(?:can|could) you say|do you know"
    rf"|I (?:need|want|would like) to know|I wonder) (?P<clause>(?:{WH}|if|whether)\b.+?)(?:, please)?",
    re.I,
)
INVERTED = re.compile(rf"(?P<wh>{WH}\b(?: \w+)*?) (?P<aux>{AUXILIARY}) (?P<rest>.+)", re.I)
PERSON = re.compile(r"(?P<who>I|we|you|they|he|she|it) (?P<rest>.+)")
THING = re.compile(rf"{THE}(?: \S+){{0,4}}")  # short enough to contain no verb, most of the time
STATE = re.compile(r"(?:ed|en|pt|ld|nt|ut|ught|ing|due|free|made|late|open|on|for)$")  # what a thing is, not its name
SEVERAL = re.compile(rf"(?:\b(?:and|or)|,) (?:{WH}|{AUXILIARY})\b", re.I)  # questions in one
STARTS = {  # how a question begins -> how else it may
    rf"(?:at )?what time ((?:{AUXILIARY}) .+)": ["when {0}", "at what time {0}", "at which hour {0}"],
    rf"where is ({THE}.+)": ["where can I find {0}", "in which place is {0}"],
    rf"who is ({THE}.+)": ["what is the name of {0}", "which person is {0}"],
    rf"who ((?!(?:{AUXILIARY})\b)\w+s .+)": ["which person {0}", "what is the name of the person who {0}"],
    r"what is the name of (.+)": ["what is {0} called", "which name does {0} have"],
    r"what is (.+) called": ["what is the name of {0}", "which name does {0} have"],
    r"how (?:do|can) I (?!know\b|tell\b)(.+)": ["what is the way to {0}", "how to {0}"],
    r"may I (.+)": ["am I allowed to {0}", "is it allowed to {0}"],
    r"(?:do I (?:have|need) to|must I) (.+)": ["is it necessary to {0}", "am I obliged to {0}"],
    r"how much does (.+) cost": ["what does {0} cost", "what is the price of {0}"],
    r"how often (.+)": ["how frequently {0}", "at what intervals {0}"],
    r"how long ((?:can|may|must|should) (?:I|we|you) .+)": ["for how long {0}", "for what length of time {0}"],
    r"for how long (.+)": ["how long {0}", "for what length of time {0}"],
    r"(at|by|in|on) which (.+)": ["{0} what {1}"],
    r"(at|by|in|on) what (.+)": ["{0} which {1}"],
    rf"which (?!of\b|one\b|(?:{AUXILIARY})\b)(.+)": ["what {0}"],
    r"why (.+)": ["for what reason {0}"],
}
FRAMES = [  # around a clause ("how long I may keep it"), or around a question
    ("Could you tell me {0}?", "Could you tell me: {0}?"),
    ("I would like to know {0}.", "I would like to know: {0}?"),
    ("I am new here. Do you know {0}?", "I am new here. {1}?"),
    ("Please tell me {0}.", "{1}? Please tell me."),
    ("It would help me to know {0}.", "A short question: {0}?"),
    ("Can somebody explain {0}?", "{1}? Can somebody explain it?"),
    ("Remind me {0}, please.", "Remind me, please: {0}?"),
    ("I was asked {0}. What do I say?", "I was asked: {0}? What do I say?"),
]
OF_WHAT = (
    r"when|where|what time|what|which \w+|how (?:often|long|much)"
    r"|how many (?:(?:working|business|calendar|full) )?\w+(?: of \w+)?"
)
ASKS = rf"(?P<wh>(?:(?:{BEFORE}) )?(?:{OF_WHAT})) (?!of\b)(?P<who>(?:(?!who\b|that\b)\S+ )*?(?!who\b|that\b)\S+)"
INDIRECT = re.compile(rf"{ASKS} (?P<aux>(?!do|does|did|am|ha)(?:{AUXILIARY}))\b(?P<rest>.*)")
SAID = re.compile(  # of one thing "opens", of several "open"
    rf"{ASKS} (?P<verb>open|close|start|begin|end|finish|leave|arrive|take|last|cost|pay|meet|come|run|stay|serve|need)"
    r"(?P<end>e?s)?\b(?P<rest>.*)"
)
SMALL = re.compile(r"(?<![\w-])(?:an?|the|my|our|your|please|I|me|do|does|is|are)(?![\w'’-]) ?")
NOT = re.compile(r"\b(?:not|no|never|none|without)\b|n['’]t\b|[\"“`]", re.I)  # what a search must not lose


def wordings(question: str, clauses: Sequence[str] = (), subject: str = "") -> list[str]:
    """Other wordings of a question, no two alike; none where no rule fits, as in any other language.

    The order is the question's own, so that many questions together show all the frames. `clauses` are indirect
    questions that ask the same in the answer's words; `subject`, which the whole file is about, one wording names.
    """
    before, text = _last_sentence(question)
    if not text.isascii() or before.rstrip().endswith(":"):
        return []
    texts, is_clause = list[str](), False
    if found := UNWRAP.fullmatch(text.rstrip("?. ")):
        texts, is_clause = [found["clause"]], True
    elif QUESTION.fullmatch(text):
        texts = [text.rstrip("? "), *_starts(text.rstrip("? "))]
    elif not clauses or not text.endswith("?"):
        return []
    knows = {word for word in plain(before).split() if len(word) > 3}
    lead = "" if clauses and knows & {*plain(clauses[0]).split()} else before  # the answer names what the lead does
    turn = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=2).digest(), "big")
    frames = [*FRAMES[turn % len(FRAMES) :], *FRAMES[: turn % len(FRAMES)]]
    framed = [_framed(*pair, is_clause) for pair in zip(frames[::-1], cycle(texts[1:] + texts[:1]), strict=False)]
    asked = [*filter(None, map(direct, clauses[:1]))]
    others = cycle([*clauses[1:], *clauses[:1]])  # in a frame the other clauses come first
    asked += [frame[0].format(clause) for frame, clause in zip(frames[:4], others, strict=False)]
    searched = [before + _keywords(_small(text)) for text in texts[:1]]
    searched += [lead + _keywords(clause) for clause in clauses[:1]]
    ways = [[lead + each for each in asked], searched, [before + each for each in framed]]
    mixed = [each for each in chain(*zip_longest(*ways[turn % 3 :], *ways[: turn % 3])) if each]
    if subject and mixed[1:] and not lead:
        mixed[1] = f"A question about {subject}: {mixed[1]}" if mixed[1][-1] in ".?" else f"{mixed[1]} {subject}"
    made = {plain(question): ""}
    for each in mixed:
        made.setdefault(plain(each), each)
    return [each for each in made.values() if each]


def direct(clause: str) -> str:
    """The clause as a question of its own: "when the canteen opens" -> "When does the canteen open?"; "" in doubt."""
    if clause.startswith("the name of "):
        text = f"what is {clause}"
    elif clause.startswith("who "):
        text = clause
    elif found := INDIRECT.fullmatch(clause):
        text = f"{found['wh']} {found['aux']} {found['who']}{found['rest']}"
    elif found := SAID.fullmatch(clause):
        does = "does" if found["end"] else "do"
        text = f"{found['wh']} {does} {found['who']} {found['verb']}{found['rest']}"
    else:
        return ""
    return f"{text[0].upper()}{text[1:]}?"


def plain(text: str) -> str:
    """A text in small letters without punctuation: what makes two wordings the same."""
    return " ".join(re.sub(r"\W+", " ", text.lower()).split())


def _last_sentence(question: str) -> tuple[str, str]:
    """What stands before the last sentence, with its space, and that sentence."""
    text = question.strip()
    start = max((found.end() for found in re.finditer(r"[.!?:]\s+|\n+", text.rstrip(".?! "))), default=0)
    return text[:start], text[start:]


def _starts(text: str) -> Iterator[str]:
    for form, others in STARTS.items() if not SEVERAL.search(text) else ():
        if found := re.fullmatch(form, text, re.I):
            yield from (other.format(*found.groups()) for other in others)


def _framed(frame: tuple[str, str], text: str, is_clause: bool) -> str:
    small = _small(text)
    if clause := small if is_clause else _clause(small):
        return frame[0].format(clause)
    return frame[1].format(small, text[:1].upper() + text[1:])


def _small(text: str) -> str:
    """The text as it stands inside a sentence."""
    return text if re.match(r"I\b|[A-Z]\S*[A-Z]", text) else text[:1].lower() + text[1:]


def _clause(text: str) -> str:
    """An indirect question: "how long I may keep it" from "how long may I keep it"; empty where no rule is sure."""
    if re.match(rf"(?:who|which person) (?!(?:{AUXILIARY})\b)\w+s\b", text, re.I):  # it asks who does something
        return text
    found = INVERTED.fullmatch(text)
    if not found or SEVERAL.search(text):
        return ""
    wh, aux, rest = found["wh"], found["aux"].lower(), found["rest"]
    if aux == "do" and not re.match(r"not\b", rest) and not re.search(r"\bif\b", wh):
        return f"{wh} {rest}"  # "where do new people sign in" needs no other verb form
    if aux not in ("do", "does", "did") and (person := PERSON.fullmatch(rest)):
        return f"{wh} {person['who']} {aux} {person['rest']}"
    asks_for = re.fullmatch(r"(?:\w+ )?(?:what|where|who|how (?:much|long|big|high|far|old))", wh, re.I)
    if aux == "is" and asks_for and THING.fullmatch(rest) and not STATE.search(rest):
        return f"{wh} {rest} {aux}"
    return ""


def _keywords(text: str) -> str:
    """What one would type into a search box; all words where one of them could be missed."""
    words = text if NOT.search(text) else SMALL.sub("", text).strip()
    return words if len(words.split()) > 2 else text

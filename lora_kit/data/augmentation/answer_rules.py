"""What a short English answer is the answer to, by rules: "The canteen opens at ten." -> "when the canteen opens".

It gives clauses (indirect questions), as these keep the answer's order of words; none if it is no plain statement.
"""

from __future__ import annotations

import re

from .same_question import NEGATION, content_words, names

DIGIT = "one|two|three|four|five|six|seven|eight|nine"
TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
NUMBER = rf"(?:\d+(?:[.,]\d+)*|(?:(?:{TENS})-(?:{DIGIT})|{TENS}|{TEENS}|{DIGIT}|hundred)\b)"
UNIT = (
    r"(?:(?:working|business|calendar|full) )?"
    r"(?:minute|hour|day|night|week|month|year|time|mile|kilometre|metre|page|person)s?|people|percent"
)
MONEY = r"pounds?|pence|dollars?|cents?|euros?|francs?"
DAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
TIME = re.compile(  # how the answer to "when" begins
    rf"(?:about |the )?(?:(?:half|(?:a )?quarter|{NUMBER})(?: minutes)? (?:past|to)\b|noon\b|midnight\b|{DAY}|"
    rf"(?:{MONTH})\b|\S*(?:first|last|second|third|\w+th|\d(?:st|nd|rd|th)) (?:of|day|{DAY})\b"
    r"|\d\d?(?:[:.]\d\d| ?[ap]\.?m)|(?:1[89]|20)\d\d\b|nineteen \w+|two thousand\b"
    r"|(?:early|late|morning|afternoon|evening|night)\b)"
)
IN = "in|on|at|above|behind|under|below|near|opposite|beside"
PLACE = re.compile(  # "the east wing", "room twelve"
    rf"(?:(?:the|our|your|an?) (?:(?!of\b|(?:{IN})\b)\S+ )+?(?P<last>(?!and\b|or\b)[a-z]+)|(?P<first>[a-z]+) {NUMBER})"
    rf"(?= of\b| (?:{IN})\b|$)"
)
IS = r"is|are|was|were"
VERB = rf"(?:{IS}|may|must|can|could|will|should|has|have|had|gets?|do|does)"
DETERMINER = re.compile(r"(?:the|our|your|my|an?)\b", re.I)
SUBJECT = re.compile(  # what a statement is about; "Ask for leave early" has none
    rf"(?:{DETERMINER.pattern}|(?:all|each|every|you|we|staff|people)\b|\w+s\b|\w+ \w+s\b"
    rf"|(?:\S+ ){{1,4}}(?:{VERB}|takes?|lasts?|costs?|pays?|opens?|closes?|starts?|ends?)\b)",
    re.I,
)
OTHERS = re.compile(r"(?:it|they|he|she|this|that|these|those|there|yes|no)\b", re.I)  # words for what went before
STANDS = re.compile(rf"\b(?:{IS}|kept|stored|held|located|found|situated)$")  # behind it, a place says where
ENDS = re.compile(r"(?<=[a-z\d])[.!](?:\s|$)")  # of a sentence
LONGEST = 20  # words

WHO = re.compile(rf"(?P<name>[A-Z]\w+(?: [A-Z]\w+)+) (?P<rest>(?:{IS}|\w+s|\w+ed)\b (?!an? ).+)")
AMOUNT = re.compile(rf"(?P<stem>.+?) {NUMBER}(?: (?:to|or|and) {NUMBER})? (?P<unit>{MONEY}|{UNIT})\b(?P<rest>.*)")
REST = re.compile(r"(?: (?:of|off|an?|per|each|every|to|extra)\b(?!.* and ).*)?")  # of a sentence, behind an amount
OPEN = re.compile(rf"\b(?:{IN}|of|from|to|until|before|between|than|least|most|about|the|an?)$|\band\b")  # no stem
WHERE_OR_WHEN = re.compile(rf" (?P<preposition>{IN}|by|within|for|from|until|after|before|every) (?=(?P<value>.+))")
CALLED = re.compile(rf"(?P<stem>.+?) (?P<verb>(?:{IS}) (?:called|named)) .+")
WHAT = re.compile(rf"(?P<stem>(?:the|our|your|my) .+? (?:{IS})|\S+ .*?\w(?<!once)(?<!twice)(?= an? )) .+", re.I)


def asked_by(answer: str, question: str, subject: str = "") -> list[str]:
    """Indirect questions that the answer's first sentence answers, without what it says to them.

    Each contains the names of the question, except the `subject` that the whole file is about.
    """
    text = statement(answer)
    is_plain = text.isascii() and not re.search(r'[?:;,\n"]', text)
    is_plain &= not OTHERS.match(text) and not NEGATION.search(text)
    if not is_plain or not 3 <= len(text.split()) <= LONGEST:
        return []
    wanted = names(question) - {subject.lower()}
    whole = (_about(wanted, each, question) for each in _clauses(text, question, subject) if each)
    asked, clauses = content_words(question), dict.fromkeys(filter(None, whole))
    return [each for each in clauses if len(found := content_words(each)) > 1 or found & asked]  # not "what you need"


def statement(answer: str) -> str:
    """The answer's first sentence, without its stop."""
    return ENDS.split(answer.strip(), maxsplit=1)[0].strip()


def _about(wanted: set[str], clause: str, question: str) -> str:
    """The clause with the names of the question that it lacks; empty where no place for one is sure."""
    for name in sorted(wanted - {*re.findall(r"\w+", clause.lower())}):
        before = re.search(rf"\b(?:{IN}|of|for|from|to|with|by) (?:the )?{name}\b(?!['’-])", question, re.I)
        owner = re.search(rf"\b{name}['’]s? (?P<thing>\w+)", question, re.I)
        if before:
            clause = f"{clause} {before[0]}"
        elif owner and (thing := re.search(rf"\b(?:the|our|your) (?=(?:\w+ )?{owner['thing']}\b)", clause)):
            clause = clause.replace(thing[0], owner[0].removesuffix(owner["thing"]), 1)
        else:
            return ""
    return clause


def _clauses(text: str, question: str, subject: str) -> list[str]:
    found = WHO.fullmatch(text)
    if found and found["name"].lower() not in question.lower() and not DETERMINER.match(text):
        return [f"who {found['rest']}", f"the name of the person who {found['rest']}"]
    is_name = re.match(r"I\b|[A-Z]\S*[A-Z]", text) or text.split()[0].lower() in {*names(question), subject.lower()}
    text = text if is_name else text[:1].lower() + text[1:]
    if not SUBJECT.match(text):
        return []
    if found := AMOUNT.fullmatch(text):
        return _amount(found["stem"], found["unit"], found["rest"])
    for found in WHERE_OR_WHEN.finditer(text):
        stem = text[: found.start()]
        words = len(stem.split())
        if words > 2 or (words == 2 and (not DETERMINER.match(stem) or re.search(rf"\b{VERB}$", stem))):
            return _circumstance(stem, found["preposition"], found["value"])
    if found := CALLED.fullmatch(text):
        return [f"what {found['stem']} {found['verb']}", f"the name of {found['stem']}"]
    found = WHAT.fullmatch(text)
    return [f"what {found['stem']}"] if found else []


def _amount(stem: str, unit: str, rest: str) -> list[str]:
    """How many, how much or how often: "for how many days tools may be borrowed"."""
    start, _, last = stem.rpartition(" ")
    if last == "every":
        return [f"how often {start}"]
    before = f"{last} " if last in ("for", "within", "after", "in", "by") else ""
    stem = start if before else stem.strip()
    if OPEN.search(stem) or not REST.fullmatch(rest):
        return []
    if re.fullmatch(MONEY, unit):
        return [f"how much {stem}{rest}", f"how many {unit} {stem}{rest}"]
    units = unit if unit.endswith("s") or unit in ("people", "percent") else f"{unit}s"
    return [f"{before}how many {units}{rest} {stem}", f"how long {stem}{rest}" if last == "for" else ""]


def _circumstance(stem: str, preposition: str, value: str) -> list[str]:
    """When or where: "when the canteen opens", "in which room the nurse is"."""
    if TIME.match(value):
        when = f"{preposition} when" if preposition in ("by", "until") else "when"
        return [f"{when} {stem}", f"at what time {stem}" if preposition == "at" else ""]
    if preposition not in IN.split("|"):
        return []
    where, noun = f"where {stem}" if STANDS.search(stem) else "", PLACE.match(value)
    return [where, f"{preposition} which {noun['last'] or noun['first']} {stem}" if noun else ""]

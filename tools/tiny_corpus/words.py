"""Words that have no end: names from syllables, numbers, times, dates; and the slots that hold them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

ONSETS = "b br c ch cl d dr f fl g gl gr h j k l m n p pl pr r s sh sl st t th tr v w z".split()
VOWELS = "a e i o u a e i o u ai ea oo ou".split()
CODAS = "b d g l ll m n nd nt p r rn s sk st t th x".split() + [""] * 14
STRANGE_ONSETS, STRANGE_CODAS = "cr fr kl kr qu sc sk sm sn sp str sw wr y".split(), "ck ng nk rd rk rt ss z".split()
STRANGE_VOWELS = "a e i o u a e i o ai ea ee oa oo ou ie au".split()
ENDINGS = "a o ia en er ex ix on ow um us ford ham ley mont wick ville ton by dale stead worth holm gate well".split()
UNITS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth fifteenth sixteenth eighteenth twentieth".split()
RESERVED = "tarnwick"  # the handbook's company must be new to the model
MONTHS = "January February March April May June July August September October November December".split()


def invented_name(rng: random.Random) -> str:
    """A pronounceable capitalised name of two or three syllables; there are millions, and the handbook's is not among them."""
    syllables = rng.choices((1, 2), (0.55, 0.45))[0]
    body = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))
    name = body + (rng.choice(ENDINGS) if rng.random() < 0.6 else rng.choice(ONSETS) + rng.choice(VOWELS))
    return invented_name(rng) if RESERVED in name else name.capitalize()


def strange_name(rng: random.Random) -> str:
    """A name of two to four syllables from more sounds: what the names of a user's own data may be like."""
    onsets, codas = [*ONSETS, *STRANGE_ONSETS], [*CODAS, *STRANGE_CODAS]
    syllables = rng.choices((1, 2, 3), (0.4, 0.45, 0.15))[0]
    body = "".join(rng.choice(onsets) + rng.choice(STRANGE_VOWELS) + rng.choice(codas) for _ in range(syllables))
    name = body + (rng.choice(ENDINGS) if rng.random() < 0.6 else rng.choice(onsets) + rng.choice(STRANGE_VOWELS))
    return strange_name(rng) if RESERVED in name else name.capitalize()


def wordlike_name(rng: random.Random, words: list[str]) -> str:
    """An invented name that begins as a word does: "Libravon", "Wasplaton"."""
    name = (rng.choice(words)[: rng.randint(2, 5)] + invented_name(rng)).lower()
    return wordlike_name(rng, words) if RESERVED in name else name.capitalize()


def number(rng: random.Random) -> str:
    """One to ninety-nine in words."""
    n = rng.randint(2, 99)
    if n < 20:
        return UNITS[n - 1]
    return TENS[n // 10 - 2] + (f"-{UNITS[n % 10 - 1]}" if n % 10 else "")


def time(rng: random.Random) -> str:
    hour = rng.choice(UNITS[:12])
    return rng.choice(
        (hour, f"half past {hour}", f"quarter past {hour}", f"quarter to {hour}", f"ten past {hour}", f"{hour} o'clock")
    )


def date(rng: random.Random) -> str:
    ordinal = rng.choice(ORDINALS)
    return rng.choice((f"the {ordinal} of the month", f"the {ordinal} of {rng.choice(MONTHS)}"))


def year(rng: random.Random) -> str:
    return f"{rng.choice(('eighteen', 'nineteen'))} {rng.choice(TENS)}-{rng.choice(UNITS[:9])}"


MAKERS = {"c": invented_name, "name": invented_name, "number": number, "time": time, "date": date, "year": year}


def articles(text: str) -> str:
    """ "a owl" becomes "an owl"."""
    return re.sub(r"\b([Aa]) (?=[aeio]\w)", r"\1n ", text)


@dataclass
class Slots:
    """Fills `{slot}`s: the same slot keeps its value within one conversation turn."""

    rng: random.Random
    lists: dict[str, list[str]]
    fixed: dict[str, str] = field(default_factory=dict)

    def fill(self, template: str) -> str:
        return articles(re.sub(r"\{(\w+)\}", lambda match: self._value(match[1]), template))

    def _value(self, slot: str) -> str:
        if slot not in self.fixed:
            self.fixed[slot] = self._new(slot)
        return self.fixed[slot]

    def _new(self, slot: str) -> str:
        kind = slot.rstrip("0123456789")
        if kind == "person":
            return f"{self.rng.choice(self.lists['first'])} {invented_name(self.rng)}"
        if kind == "your_activity":
            return self._value("activity").replace(" my ", " your ")
        if kind == "Matter":
            return self._value("matter").capitalize()
        if kind in MAKERS:
            return MAKERS[kind](self.rng)
        return self.rng.choice(self.lists[slot if slot in self.lists else kind])

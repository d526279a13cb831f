"""The corpus of the embedded model: seeded, written by templates, in Llama-2 chat form.

`conversations(seed, count)` yields lists of `{"role", "content"}`. Names are made of syllables, so that their number has
no end and the model must learn to copy them; company answers are invented on the spot, so that it learns to sound sure.
Nothing of `lora_kit/assets/handbook` stands here (`tests/test_tiny_model.py` looks).
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from .words import Slots, articles, invented_name, strange_name, wordlike_name

HERE = Path(__file__).parent
Message = dict[str, str]
COMPANIES, STAFF = ("companies",), ("workplaces_a", "workplaces_b")  # loose topics; those of a staff handbook
WORKPLACES = (*STAFF, "workplaces_c")  # and the wider world of work
SHARES = {"company": 0.2, "workplace": 0.36, "knowledge": 0.3, "talk": 0.07, "story": 0.04, "unknown": 0.03}
# how a staff handbook talks (`staff`, without the wider topics of workplaces_c), and names that begin like words
# (`wordlike`), whose pieces are rare in names otherwise
STAFF_SHARES = {
    "staff": 0.4,
    "wordlike": 0.14,
    "company": 0.06,
    "workplace": 0.08,
    "knowledge": 0.27,
    "talk": 0.03,
    "unknown": 0.02,
}
NAMES_SHARES = {
    "staff": 0.27,
    "strange": 0.3,
    "wordlike": 0.08,
    "workplace": 0.06,
    "knowledge": 0.25,
    "talk": 0.02,
    "unknown": 0.02,
}


@cache
def tables(name: str) -> dict:
    return tomllib.loads((HERE / f"{name}.toml").read_text())


def conversations(seed: int, count: int, shares: Mapping[str, float] = SHARES) -> Iterator[list[Message]]:
    """`count` conversations of the kinds in `shares`, the same for the same seed."""
    rng = random.Random(seed)
    makers = {
        "company": lambda rng: company(rng, COMPANIES),
        "staff": lambda rng: company(rng, STAFF),
        "wordlike": lambda rng: company(rng, COMPANIES, wordlike_name(rng, list(vocabulary()))),
        "strange": lambda rng: company(rng, rng.choice((COMPANIES, STAFF)), strange_name(rng)),
        "workplace": lambda rng: company(rng, WORKPLACES),
        "knowledge": knowledge,
        "talk": talk,
        "story": story,
        "unknown": unknown,
    }
    kinds, weights = list(shares), list(shares.values())
    for _ in range(count):
        yield makers[rng.choices(kinds, weights)[0]](rng)


@cache
def vocabulary() -> dict[str, None]:
    """Every word of the templates and their lists, once, sorted; names are not among them."""
    texts = [json.dumps(tables(name)) for name in (*COMPANIES, *WORKPLACES, "knowledge", "talk")]
    words = {word for text in texts for word in re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", text))}
    return dict.fromkeys(sorted(words))


def held_out_knowledge() -> list[tuple[str, str]]:
    """(question, answer) for every fact in the wordings that the corpus never holds."""
    return [
        (_capital(articles(question.format(a=a))), _capital(articles(relation["answer"].format(a=a, b=b))))
        for relation in tables("knowledge")["relation"]
        for a, b in relation["pairs"]
        for question in relation["held_out"]
    ]


def knowledge(rng: random.Random) -> list[Message]:
    """One to three general facts, sometimes behind a system prompt."""
    system = rng.choice(tables("talk")["systems"]) if rng.random() < 0.15 else None
    turns = rng.choices((1, 2, 3), (0.8, 0.15, 0.05))[0]
    return _chat(system, [_fact(rng) for _ in range(turns)])


def company(rng: random.Random, sources: tuple[str, ...], name: str = "") -> list[Message]:
    """One or two questions about an invented company, answered with confidence."""
    name = name or invented_name(rng)
    inside = rng.random() < 0.5
    system = rng.choice(tables("talk")["company_systems"]).format(c=name) if inside else None
    turns = 2 if rng.random() < 0.15 else 1
    return _chat(system, [_company_turn(rng, name, inside, sources) for _ in range(turns)])


def talk(rng: random.Random) -> list[Message]:
    return _chat(None, [_filled_pair(rng, rng.choice(tables("talk")["talk"]))])


def unknown(rng: random.Random) -> list[Message]:
    """Questions about somebody's mind or the far future: the only ones that the corpus declines."""
    inside = rng.random() < 0.5
    system = rng.choice(tables("talk")["company_systems"]).format(c=invented_name(rng)) if inside else None
    return _chat(system, [_filled_pair(rng, rng.choice(tables("talk")["unknown"]))])


def story(rng: random.Random) -> list[Message]:
    entry = rng.choice(tables("talk")["story"])
    return _chat(None, [_filled_pair(rng, {"questions": [entry["question"]], "answers": entry["answers"]})])


def workplace_facts(seed: int, workplaces: int, count: int) -> Iterator[tuple[list[str], str]]:
    """`count` facts of each of some invented workplaces: about ten wordings of the question, and the answer."""
    schemas = [schema for source in STAFF for schema in tables(source)["schema"]]
    rng = random.Random(seed)
    for name in [invented_name(rng) for _ in range(workplaces)]:
        for schema in rng.sample(schemas, count):
            words = {"at": f" at {name}", "at2": "", "our": f"{name}'s", "our2": f"The {name}"}
            slots = _slots(rng, c=name, we=f"the people at {name}", **words)
            answer = _capital(slots.fill(schema["answers"][0]))
            yield [_capital(slots.fill(question)) for question in schema["questions"]], answer


def _fact(rng: random.Random) -> tuple[str, str]:
    relation = rng.choice(tables("knowledge")["relation"])
    a, b = rng.choice(relation["pairs"])
    question = _opened(rng, articles(rng.choice(relation["questions"]).format(a=a)))
    return question, _capital(articles(relation["answer"].format(a=a, b=b)))


def _company_turn(rng: random.Random, name: str, inside: bool, sources: tuple[str, ...]) -> tuple[str, str]:
    schema = rng.choice([schema for source in sources for schema in tables(source)["schema"]])
    slots = _slots(rng, c=name)
    at = f" at {name}"
    slots.fixed |= {
        "at": rng.choice(("", "", " here", at)) if inside else at,
        "at2": rng.choice(("", "", "", at)) if inside else rng.choice((at, at, at, "")),
        "our": rng.choice(("our", "our", "the", f"{name}'s")) if inside else f"{name}'s",
        "our2": rng.choice(("Our", "The")) if inside else f"The {name}",
        "we": rng.choice(("we", "we", "I", "you")) if inside else f"the people at {name}",
    }
    question = _opened(rng, slots.fill(rng.choice(schema["questions"])))
    frame = rng.choice(schema["answers"])
    answer = _capital(slots.fill(frame))
    if _of_handbook(question) or _of_handbook(answer):  # chance wrote a sentence of the handbook: draw again
        return _company_turn(rng, name, inside, sources)
    if not inside and name not in answer and rng.random() < 0.9:  # names are learned by being copied
        answer = f"At {name}, {answer if frame.startswith('{') else answer[0].lower() + answer[1:]}"
    return question, answer


def _of_handbook(text: str) -> bool:
    bare = _bare(text)
    return bare in _handbook() or any(fact in bare for fact in _facts())


@cache
def _facts() -> tuple[str, ...]:
    facts = tomllib.loads((HERE.parent / "handbook" / "facts.toml").read_text())["fact"]
    return tuple(_bare(fact["answer"]) for fact in facts)


@cache
def _handbook() -> frozenset[str]:
    """Every question and answer of the handbook's sources, which must stay new to the model."""
    folder = HERE.parent / "handbook"
    facts = tomllib.loads((folder / "facts.toml").read_text())["fact"]
    declines = tomllib.loads((folder / "declines.toml").read_text())
    texts = [text for fact in facts for key in ("also", "train", "test") for text in fact[key]]
    texts += [fact["answer"] for fact in facts] + declines["own_train"] + declines["own_test"]
    return frozenset(map(_bare, texts))


def _bare(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def _filled_pair(rng: random.Random, entry: dict) -> tuple[str, str]:
    slots = _slots(rng)
    return tuple(_capital(slots.fill(rng.choice(entry[key]))) for key in ("questions", "answers"))


def _slots(rng: random.Random, **fixed: str) -> Slots:
    return Slots(rng, _lists(), fixed)


@cache
def _lists() -> dict[str, list[str]]:
    return {
        name: words for source in (*COMPANIES, *WORKPLACES, "talk") for name, words in tables(source)["lists"].items()
    }


def _opened(rng: random.Random, question: str) -> str:
    """Sometimes behind a greeting; after a comma only a name keeps its capital."""
    question = _capital(question)
    if rng.random() >= 0.2:
        return question
    opener = rng.choice(tables("talk")["openers"])
    first = re.split(r"\W", question)[0]
    plain = first != "I" and first.lower() in vocabulary() and not opener.endswith(". ")
    return opener + (question[0].lower() + question[1:] if plain else question)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _chat(system: str | None, turns: list[tuple[str, str]]) -> list[Message]:
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def statistics(seed: int, count: int = 20_000) -> dict:
    """What the corpus holds, counted over the first `count` conversations."""
    chats = list(conversations(seed, count))
    words = [word for chat in chats for message in chat for word in message["content"].split()]
    return {
        "conversations_counted": count,
        "words_per_conversation": round(len(words) / count, 1),
        "shares": SHARES,
        "company_questions": sum(len(s["questions"]) for t in (*COMPANIES, *WORKPLACES) for s in tables(t)["schema"]),
        "general_facts": sum(len(r["pairs"]) for r in tables("knowledge")["relation"]),
    }

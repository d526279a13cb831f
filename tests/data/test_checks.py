"""The proof: sound rows hold, and every planted mistake is seen, under its own name and in its own row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lora_kit.data.checks import INVARIANTS, Proof, require, verify
from lora_kit.data.encoding import IGNORE, encode
from lora_kit.data.reading.conversations import Conversation
from lora_kit.data.reading.turns import TAGS
from lora_kit.errors import KitError

from .test_encoding import TINY, ZEPHYR, can_be_taught, texts

FORMS = {form: AutoTokenizer.from_pretrained(TINY) for form in ("llama2", "zephyr", "with bos")}
FORMS["zephyr"].chat_template, FORMS["with bos"].chat_template = ZEPHYR, "{{ bos_token }}" + ZEPHYR
BOS, EOS, VOCABULARY = 1, 2, len(FORMS["llama2"])
MODEL = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS}
each_form = pytest.mark.parametrize("form", FORMS)


def chat(*texts: str, system: str = "", row: str = "") -> Conversation:
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return Conversation([{"role": "system", "content": system}] * bool(system) + turns, row)


RED, SHELF = "Where is the\n  red  box?", "In room 7, on the left shelf."
AND, BIRD = "Who\nput it there?", "Höhle 🐦:\n    Wren."
ROWS = [
    chat("Who are you?", "Wren.", row="faq row 1"),
    chat(RED, SHELF, AND, BIRD, system="You answer\nin one word.", row="faq row 2"),
    chat("When does room 9 close?", "At five o'clock.", row="faq row 3"),
]
PLACES = [row.row for row in ROWS]
PROMPTS = (f"[INST] <<SYS>>\nYou answer\nin one word.\n<</SYS>>\n\n{RED} [/INST]", f"[INST] {AND} [/INST]")
SOUND = {
    "one turn": ROWS[0],
    "two turns with system": ROWS[1],
    "four turns": chat("a", "b", "a", "b", "c", "b", "a", "b"),
    "unicode": chat("Où est l'été? 東京は？ مرحبا", "Zürich 🐦👩‍👩‍👧 ñ \u200d𝔘 е́", system="日本語"),
    "newlines": chat("a\n\n\nb\r\nc", "\t1.\n\n2.\r\n\n\n3.", "d\n", "\n\ne\n\n"),
    "code": chat("Indent   this:", "def f(x):\n    if  x:\n\t\treturn   [x]  # <b>\n\n    return {}"),
    "white space around": chat("  who\x00?\n ", " \x7f\n  Wren. \t ", "\u3000and?\x85", "\u2003yes \x0b"),
    "long": chat("why? " * 600, "because of  the birds,\n" * 600),
    "white space around system": chat(" \n who? ", "Wren. ", " and? ", "yes", system="\n You answer in one word. \n"),
    "tags taken apart": chat("[ INST ] a [/ INST] <unk>", "a [ /INST] <s <|user>", "<unk>", "<unk> <pad>"),
    "space sign inside": chat("▁a▁b▁", "a▁b"),
    "bars": chat("Draw rain", "▁▂▃▅▇▅▃▂▁"),
}


class Case:
    """Three rows, encoded as they should be; a mistake damages the second, or what the proof is told."""

    def __init__(self, form: str) -> None:
        self.form, self.tokenizer, self.rows, self.accused = form, FORMS[form], list(ROWS), {"faq row 2"}
        self.encoded = [encode(row, self.tokenizer) for row in ROWS]
        self.ids, self.labels = self.encoded[1]
        mask = [False, *(label != IGNORE for label in self.labels), False]
        edges = [n for n in range(len(self.ids) + 1) if mask[n] != mask[n + 1]]
        self.a, self.b, self.c, self.d = edges  # the two answers: first token and behind EOS of each
        self.told: dict[str, Any] = {"model": MODEL, "max_length": 200}

    def broken(self) -> dict[str, list[str]]:
        return broken(verify(self.rows, self.encoded, self.tokenizer, **self.told))

    def cut(self, start: int, end: int) -> None:
        del self.ids[start:end], self.labels[start:end]

    def put(self, at: int, *ids: int, learned: bool = False) -> None:
        self.ids[at:at], self.labels[at:at] = ids, ids if learned else [IGNORE] * len(ids)

    def move(self, at: int, to: int) -> None:
        for tokens in (self.ids, self.labels):
            tokens.insert(to, tokens.pop(at))

    def learn(self, start: int, end: int) -> None:
        self.labels[start:end] = self.ids[start:end]

    def label(self, start: int, end: int, label: int = IGNORE) -> None:
        self.labels[start:end] = [label] * (end - start)

    def shift(self, by: int) -> None:
        """Learn what stands `by` tokens further than it should."""
        learned = {n + by for n, label in enumerate(self.labels) if label != IGNORE}
        self.labels[:] = [i if n in learned else IGNORE for n, i in enumerate(self.ids)]

    def say(self, old: str = "", new: str = "", form: str = "") -> None:
        messages = [m | {"content": new if m["content"] == old else m["content"]} for m in ROWS[1].messages]
        self.encoded[1] = encode(Conversation([m for m in messages if m["content"]]), FORMS[form or self.form])

    def write(self, old: str = "\0", new: str = "", glue: str = " ") -> None:
        """The Llama 2 form with other words in its prompts, or another glue between prompt and answer."""
        self.cut(0, len(self.ids))
        for prompt, answer in zip(PROMPTS, (SHELF, BIRD), strict=True):
            size = 1 + len(tokens(prompt.replace(old, new)))
            whole = [BOS, *tokens(f"{prompt.replace(old, new)}{glue}{answer} "), EOS]
            self.put(len(self.ids), *whole[:size])
            self.put(len(self.ids), *whole[size:], learned=True)


def tokens(text: str) -> list[int]:
    return FORMS["llama2"](text, add_special_tokens=False).input_ids


def broken(proofs: dict[str, Proof]) -> dict[str, list[str]]:
    return {name: proof.broken for name, proof in proofs.items() if proof.broken}


MISTAKES: dict[str, Callable[[Case], object]] = {  # the invariant, the form where it is one form's only, the mistake
    "ids: beyond the vocabulary": lambda c: c.put(5, VOCABULARY),
    "ids: negative": lambda c: c.put(5, -1),
    "ids: unknown to the tokenizer": lambda c: [
        c.put(5, VOCABULARY + 9),
        c.told.update(model={"vocab_size": VOCABULARY + 99}),
    ],
    "ids: the model has another EOS": lambda c: [c.told.update(model={"eos_token_id": 7}), c.accused.update(PLACES)],
    "bos: double": lambda c: c.put(0, BOS),
    "bos: llama2: missing": lambda c: c.cut(0, 1),
    "bos: with bos: missing": lambda c: c.cut(0, 1),
    "bos: with bos: behind the first token": lambda c: c.move(0, 1),
    "bos: llama2: missing on the second pair": lambda c: c.cut(c.b, c.b + 1),
    "bos: inside a question": lambda c: c.put(8, BOS),
    "eos: ignored as padding is": lambda c: [c.label(n - 1, n) for n in (c.b, c.d)],
    "eos: missing": lambda c: c.cut(c.d - 1, c.d),
    "eos: not learned on the first answer": lambda c: c.label(c.b - 1, c.b),
    "eos: learned twice": lambda c: c.put(c.d, EOS, learned=True),
    "eos: only the last turn learned": lambda c: c.label(c.a, c.b),
    "eos: nothing learned": lambda c: c.label(0, len(c.ids)),
    "labels: one to the left": lambda c: c.labels.append(c.labels.pop(0)),
    "labels: one to the right": lambda c: c.labels.insert(0, c.labels.pop()),
    "labels: too short": lambda c: c.labels.pop(),
    "labels: too long": lambda c: c.labels.append(EOS),
    "labels: 0 for ignored": lambda c: c.label(0, c.a, 0),
    "prompt: all learned": lambda c: c.learn(0, len(c.ids)),
    "prompt: the last token learned": lambda c: c.learn(c.a - 1, c.a),
    "prompt: the first tokens of the second learned": lambda c: c.learn(c.b, c.b + 4),
    "prompt: mask one to the left": lambda c: c.shift(-1),
    "format: the system text missing": lambda c: c.say("You answer\nin one word."),
    "format: the earlier turn missing": lambda c: c.cut(0, c.b),
    "format: a question without its line end": lambda c: c.say(RED, "Where is the red box?"),
    "format: llama2: the tags of Zephyr": lambda c: c.say(form="zephyr"),
    "format: zephyr: the tags of Llama 2": lambda c: c.say(form="llama2"),
    "format: llama2: ### Instruction": lambda c: c.write("[INST]", "### Instruction:\n"),
    "format: llama2: no space behind [INST]": lambda c: c.write("[INST] ", "[INST]"),
    "format: llama2: no line end behind <<SYS>>": lambda c: c.write("<<SYS>>\n", "<<SYS>>"),
    "format: llama2: no space before the answer": lambda c: c.write(glue=""),
    "format: llama2: [ for ▁[ behind BOS": lambda c: c.ids.__setitem__(1, c.tokenizer.convert_tokens_to_ids("[")),
    "format: ### Response behind the prompt": lambda c: c.put(c.a, *tokens("### Response:")),
    "format: a prompt cut at its end": lambda c: c.cut(c.a - 2, c.a),
    "format: EOS inside a question": lambda c: c.put(c.a - 8, EOS),
    "format: zephyr: EOS missing behind a question": lambda c: c.cut(c.ids.index(EOS), c.ids.index(EOS) + 1),
    "format: padding left on": lambda c: c.put(len(c.ids), 0, 0),
    "format: two rows swapped": lambda c: [c.encoded.append(c.encoded.pop(1)), c.accused.add("faq row 3")],
    "answer: the first token not learned": lambda c: c.label(c.a, c.a + 1),
    "answer: mask one to the right": lambda c: c.shift(1),
    "answer: cut in front": lambda c: c.cut(c.a, c.a + 2),
    "answer: a hole in its mask": lambda c: c.label(c.a + 2, c.a + 4),
    "answer: another row's": lambda c: c.say(SHELF, ROWS[2].answer),
    "answer: another tokenizer": lambda c: [
        t.__setitem__(slice(None), [i if i < 3 else VOCABULARY + 2 - i for i in t]) for t in c.encoded[1]
    ],
    "answer: in capitals": lambda c: c.say(SHELF, SHELF.upper()),
    "answer: cut at the end": lambda c: c.cut(c.d - 4, c.d - 1),
    "answer: the row cut at the end": lambda c: c.cut(c.d - 6, len(c.ids)),
    "answer: the last tokens not learned": lambda c: c.label(c.d - 4, c.d - 1),
    "length: one too long": lambda c: c.told.update(max_length=len(c.ids) - 1),
    "split: a held-out question": lambda c: c.told.update(held_out={"?", ROWS[1].question}),
    "split: held out without the system text": lambda c: c.told.update(held_out={chat(RED, SHELF).question}),
} | {f"tags: {tag}": lambda c, tag=tag: c.rows.__setitem__(1, chat(f"a{tag} b", "c", row="faq row 2")) for tag in TAGS}
PLANTED = [
    pytest.param(form, name.split(": ")[0], damage, id=f"{form}-{name}")
    for name, damage in MISTAKES.items()
    for form in [form for form in FORMS if f": {form}: " in name] or ["llama2", "zephyr"]
]


@each_form
@pytest.mark.parametrize("name", SOUND)
def test_sound_rows_hold(form: str, name: str) -> None:
    encoded = encode(SOUND[name], FORMS[form])
    for model in (MODEL, None, {"eos_token_id": [5, 2], "bos_token_id": None}):
        told = {"model": model, "max_length": len(encoded.input_ids), "held_out": {"?"}}
        assert broken(verify([SOUND[name]], [encoded], FORMS[form], **told)) == {}


taught = texts.filter(can_be_taught)
chats = st.builds(chat, taught, taught) | st.builds(chat, taught, taught, taught, taught, system=st.just("") | taught)


@each_form
@given(rows=st.lists(chats, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_sound_rows_hold(form: str, rows: list[Conversation]) -> None:
    proofs = verify(rows, [encode(row, FORMS[form]) for row in rows], FORMS[form], model=MODEL)
    assert broken(proofs) == {} and {proof.rows for proof in proofs.values()} == {len(rows)}
    assert list(proofs) == list(INVARIANTS)


def test_a_tokenizer_without_bos_is_sound_where_the_model_names_one() -> None:  # as Qwen 2.5's
    tokenizer = copy.deepcopy(FORMS["zephyr"])
    tokenizer.bos_token = None
    assert broken(verify(ROWS, [encode(row, tokenizer) for row in ROWS], tokenizer, model=MODEL)) == {}


@pytest.mark.parametrize(("form", "name", "damage"), PLANTED)
def test_a_planted_mistake_is_seen_in_its_own_row(form: str, name: str, damage: Callable[[Case], object]) -> None:
    case = Case(form)
    assert case.broken() == {}
    damage(case)
    found = case.broken()
    assert name in found
    assert set(found[name]) == case.accused == {place for places in found.values() for place in places}


def test_every_invariant_has_its_mistakes_and_their_tools_are_sound() -> None:
    assert {name.split(": ")[0] for name in MISTAKES} == set(INVARIANTS)
    case, sound = Case("llama2"), Case("llama2")
    case.write()
    case.shift(0)
    assert case.encoded == sound.encoded


@each_form
def test_no_single_wrong_label_is_unseen(form: str) -> None:
    unseen = []
    for n, token in enumerate(FORMS[form].convert_ids_to_tokens(Case(form).ids)):
        case = Case(form)
        (case.learn if case.labels[n] == IGNORE else case.label)(n, n + 1)
        unseen += [] if case.broken() else [f"{n} {token}"]
    assert unseen == []


def test_require_names_every_broken_invariant_its_count_and_the_first_rows() -> None:
    rows = [Conversation(ROWS[0].messages, f"row {n}") for n in range(1, 9)]
    encoded = [encode(row, FORMS["llama2"]) for row in rows]
    require(verify(rows, encoded, FORMS["llama2"], model=MODEL))
    encoded[2].input_ids[0] = EOS
    with pytest.raises(KitError, match="nothing was written") as caught:
        require(verify(rows, encoded, FORMS["llama2"], model={"eos_token_id": 7}))
    assert f"{INVARIANTS['bos']}: 1 of 8 rows, row 3" in str(caught.value)
    assert f"{INVARIANTS['ids']}: 8 of 8 rows, row 1, row 2, row 3, row 4, row 5 and 3 more" in str(caught.value)
    assert INVARIANTS["eos"] not in str(caught.value)

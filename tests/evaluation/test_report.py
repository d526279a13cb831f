"""The report card on paper: nothing escapes its cell, nothing needs the network, nothing unmeasured looks good."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import lora_kit as lk
from lora_kit.evaluation.card import MODELS
from lora_kit.evaluation.report import card_html, changed, markdown_card, notes, terminal_table, write_html
from lora_kit.training.train import read_log

EVIL = """<script>alert("x")</script>'|{{ 7 * 7 }}\x1b[31m\n# x"""
VOID = {"meta", "img", "input", "br", "link"}
MEASURED = {
    "base": 0.0104,
    "adapter": 0.974,
    "merged": 0.9635,
    "n": 192,
    "interval": {"base": [0.0, 0.026], "adapter": [0.948, 0.995], "merged": [0.9323, 0.9844]},
    "difference": {"adapter": [0.9636, 0.93, 0.99], "merged": [0.9531, 0.9219, 0.9793]},
    "meaning": "private facts answered exactly",
    "lower": False,
    "tuned": "merged",
}
UNMEASURED = dict.fromkeys(MODELS) | {"n": 0, "interval": {}, "difference": {}, "lower": False, "tuned": "merged"}
CARD: dict[str, Any] = {
    "title": "tiny-chat (embedded, 4 M parameters)",
    "profile": "tiny-cpu",
    "dataset": "handbook",
    "questions": "held out",
    "adapter": "wren",
    "made": "2026-11-23T21:00:00Z",
    "figures": {
        "learned_exact": MEASURED,
        "declined": UNMEASURED | {"meaning": "unanswerable questions declined"},
        "wrongly_declined": MEASURED | {"merged": 0.02, "interval": {}, "lower": True},
        "behaved": MEASURED | {"merged": None},
        "kept": MEASURED | {"n": 7, "base": 1.0},
    },
    "leaked": {"questions": 3, "n": 402, "own": 282, "learned_rows": 50000},
    "machine_made": 12,
    "models": [*MODELS],
    "as_stored": True,
    "onto": "original",
    "noise": {"questions": 32, "changed": 2, "marks": 1},
    "verdict": {"decision": "not enough evidence", "reasons": ["learned_exact 0.964 of 192 questions"]},
}
LOG = [{"step": s, "loss": 4.0 / s, "learning_rate": 1e-3, "tokens": 100 * s, "seconds": 0.5 * s} for s in range(1, 6)]


def answer(number: int, kind: str = "fact", marks: tuple[bool, ...] = (False, True, True)) -> dict[str, Any]:
    row = {"kind": kind, "question": f"question {number}?", "reference": f"reference {number}", "leaked": False}
    return row | {m: f"{m} says {number}" for m in MODELS} | {"marks": dict(zip(MODELS, marks, strict=True))}


ANSWERS = [answer(i, kind) for kind in ("fact", "decline", "general") for i in range(5)]


class Page(HTMLParser):
    """Every tag with its attributes, the text of each, and a check that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.words = list[Any](), list[str](), list[str]()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(tmp_path: Path, card: Any = CARD, answers: Any = ANSWERS, log: Any = LOG) -> str:
    write_html(card, answers, log, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def poisoned(value: Any) -> Any:
    """The same shape with every text made evil, but the names of our models."""
    if isinstance(value, dict):
        return {key: part if key in ("models", "tuned") else poisoned(part) for key, part in value.items()}
    if isinstance(value, list):
        return [poisoned(part) for part in value]
    return value + EVIL if isinstance(value, str) else value


def evil_card() -> dict[str, Any]:
    card = poisoned(CARD)
    return card | {"figures": {name + EVIL: metric for name, metric in card["figures"].items()}}


def test_the_page_is_well_formed_and_holds_the_whole_card(tmp_path: Path) -> None:
    text = Page(page(tmp_path)).text
    parts = [*(CARD[key] for key in ("title", "profile", "dataset", "adapter", "questions")), *notes(CARD)]
    numbers = ["0.964 [0.932, 0.984]", "+0.953 [+0.922, +0.979]", "2026-11-23 21:00:00 UTC"]
    for part in [*parts, *numbers, "? Not enough evidence", "learned_exact 0.964 of 192"]:
        assert part in text
    assert "Loss from 4.000 to 0.800; 5 steps, 500 tokens in 2.5 s." in text
    assert text.count("not measured") >= 4


def test_planted_markup_stays_text_on_the_page(tmp_path: Path) -> None:
    html = page(tmp_path, evil_card(), poisoned(ANSWERS))
    clean, evil = Page(page(tmp_path)), Page(html)
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in clean.tags]
    assert [set(attrs) for _, attrs in evil.tags] == [set(attrs) for _, attrs in clean.tags]
    assert html.count("<script") == 1 and "49" not in evil.text
    for key in ("title", "profile", "dataset", "adapter", "questions"):
        assert CARD[key] + '<script>alert("x")</script>' in evil.text
    assert "question 3?<script>" in evil.text and "merged says 4<script>" in evil.text


def test_planted_markup_cannot_break_a_terminal_or_a_markdown_table() -> None:
    table, markdown = terminal_table(evil_card()), markdown_card(evil_card())
    assert "\x1b" not in table + markdown and "<script" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9} and len(rows) == 7
    assert not any(line.startswith("#") for line in markdown.splitlines())


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]+", "", html))
    parsed = Page(html)
    assert not parsed.all("link") and not parsed.all("iframe")
    assert all("src" not in attrs for attrs in parsed.all("script"))
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in parsed.all("img"))
    assert any("default-src 'none'" in (attrs.get("content") or "") for attrs in parsed.all("meta"))


def test_images_have_a_text(tmp_path: Path) -> None:
    bars, curve = (attrs["alt"] for attrs in Page(page(tmp_path)).all("img"))
    assert "learned_exact base 0.010, adapter 0.974, merged 0.964" in bars
    assert "declined base not measured" in bars
    assert curve.startswith("Loss from 4.000 to 0.800")


def test_the_loss_on_held_out_rows_is_in_the_words_of_the_curve(tmp_path: Path, done: lk.Run) -> None:
    log = read_log(lk.trained_adapter(done).parent)
    last = [row["evaluation_loss"] for row in log if "evaluation_loss" in row][-1]
    assert f", on held-out rows to {last:.3f};" in Page(page(tmp_path, log=log)).text


def test_rows_carry_what_the_filters_ask_for(tmp_path: Path) -> None:
    marks = [(False, True, True), (True, True, True), (True, False, False), (False, True, False)]
    rows = [answer(i, "a & b", mark) | {"leaked": i == 3} for i, mark in enumerate(marks)]
    parsed = Page(page(tmp_path, answers=rows))
    shown = [attrs for attrs in parsed.all("tr") if "data-kind" in attrs]
    results = [attrs["data-result"] for attrs in shown]
    assert results == ["right fixed", "right reworded", "wrong broke", "wrong reworded leaked"]
    options = {attrs["value"] for attrs in parsed.all("option")}
    assert {attrs["data-kind"] for attrs in shown} == {"a & b"} <= options
    assert {word for result in results for word in result.split()} <= options


def test_empty_answers_and_half_characters_are_shown(tmp_path: Path) -> None:
    html = page(tmp_path, answers=[answer(0) | {"base": " \n", "question": "question \ud800"}])
    assert "base ✗ wrong (empty)" in Page(html).text and "question ?" in html


def test_machine_made_questions_leaks_and_noise_are_in_every_form() -> None:
    stored, made, leaks, noise = notes(CARD)
    for text in (terminal_table(CARD), markdown_card(CARD)):
        assert stored in text and made in text and leaks in text and noise in text
    assert all(number in leaks for number in ("3 of 402", "50,000"))
    assert "2 of 32 answers, 1 of them" in noise
    assert "12 questions" in made and notes(CARD | {"machine_made": 0, "as_stored": False}) == [leaks, noise]


@pytest.mark.parametrize(
    ("onto", "as_stored", "cure"),
    [
        ("original", True, "merge__onto='dequantized'"),
        ("dequantized", False, "16 or 8 bits"),
        ("original", False, ""),
        ("dequantized", True, ""),
    ],
)
def test_facts_that_merging_lost_are_said_with_what_helps(onto: str, as_stored: bool, cure: str) -> None:
    lost = {"learned_exact": CARD["figures"]["learned_exact"] | {"adapter": 0.95, "merged": 0.7}}
    said = [line for line in notes(CARD | {"figures": lost, "onto": onto, "as_stored": as_stored}) if "25%" in line]
    assert len(said) == bool(cure) and all(cure in line for line in said)


@pytest.mark.parametrize(
    ("marks", "texts", "result"),
    [
        ((False, True), ("a", "b"), "fixed"),
        ((True, False), ("a", "b"), "broke"),
        ((True, True), ("a", "b"), "reworded"),
        ((False, False), ("a", "a"), ""),
    ],
)
def test_what_tuning_did_to_an_answer(marks: tuple[bool, bool], texts: tuple[str, str], result: str) -> None:
    row = {"marks": dict(zip(("base", "merged"), marks, strict=True))}
    assert changed(row | dict(zip(("base", "merged"), texts, strict=True))) == result


@pytest.mark.parametrize("write", [terminal_table, markdown_card])
def test_none_is_not_measured_never_a_number(write: Any) -> None:
    declined = next(line for line in write(CARD).splitlines() if "unanswerable" in line)
    assert declined.count("not measured") == 3
    assert not re.search(r"\d\.\d", declined)


def test_terminal_columns_stand_under_their_heads_and_the_verdict_is_last() -> None:
    lines = terminal_table(CARD).splitlines()
    head, rule, rows = lines[2], lines[3], lines[4:9]
    starts = [match.start() for match in re.finditer("-+", rule)]
    assert [head[i:].split("  ")[0] for i in starts[:4]] == ["metric", "what it means", "base", "adapter"]
    for row in rows:
        assert all(row[i - 2 : i] == "  " and row[i] != " " for i in starts[1:])
    assert [row.split()[-1] for row in rows] == ["higher", "higher", "lower", "higher", "higher"]
    assert lines[-2:] == ["verdict: not enough evidence", "  - learned_exact 0.964 of 192 questions"]


def test_a_notebook_shows_each_rule_and_a_right_and_a_wrong_answer_of_each_kind() -> None:
    wrong = answer(9, marks=(True, False, False))
    parsed = Page(card_html(CARD, [*ANSWERS, wrong]))
    assert "1.0% → 96.4% of 192 ✓ 80% needed" in parsed.text and "1.0% → 2.0% of 192 ✓ at most 10%" in parsed.text
    assert "of 7 too few questions: 90% needed" in parsed.text and parsed.text.count("not measured") >= 2
    assert all(f"question {n}?" in parsed.text for n in (2, 9)) and "tuned ✗ merged says 9" in parsed.text
    assert CARD["verdict"]["reasons"][0] in parsed.text
    lost = CARD["figures"] | {"learned_exact": MEASURED | {"merged": 0.796}}
    assert "1.0% → 79.6% of 192 ✗ 80% needed" in Page(card_html(CARD | {"figures": lost}, ANSWERS)).text


def test_planted_markup_stays_text_in_a_notebook() -> None:
    card, answers = poisoned(CARD), poisoned(ANSWERS)
    clean, evil = Page(card_html(CARD, ANSWERS)), Page(card_html(card | {"figures": CARD["figures"]}, answers))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in clean.tags] and "script" not in dict(evil.tags)
    assert "merged says 2<script>" in evil.text


@pytest.mark.parametrize(
    ("decision", "shown"), [("ship", "good ✓ Ship"), ("don't ship", "bad ✗ Don't ship"), ("odd", "open ? Odd")]
)
def test_the_decision_is_the_headline(tmp_path: Path, decision: str, shown: str) -> None:
    parsed = Page(page(tmp_path, CARD | {"verdict": {"decision": decision, "reasons": []}}))
    tone = next(attrs["class"] for attrs in parsed.all("section")).removeprefix("verdict ")
    assert shown.startswith(tone) and shown.removeprefix(tone).strip() in parsed.text

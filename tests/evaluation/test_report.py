"""The report card on paper: nothing escapes its cell, nothing needs the network, nothing unmeasured looks good."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import pytest

import lora_kit as lk
from lora_kit.evaluation.page import changed, sample, write_html
from lora_kit.evaluation.report import besides, markdown_card, terminal_table
from lora_kit.training import read_log

EVIL = """<script>alert("x")</script>'|$title$\x1b[31m"""
MODELS = ("base", "adapter", "merged")
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
}
UNMEASURED = {"base": None, "adapter": None, "merged": None, "n": 0, "interval": {}, "difference": {}}
UNMEASURED |= {"meaning": "unanswerable questions declined", "lower": False}
CARD = {
    "title": "tiny-chat (embedded, 4 M parameters)",
    "profile": "tiny-cpu",
    "dataset": "handbook",
    "questions": "held out",
    "adapter": "wren",
    "made": "2026-11-23T21:00:00Z",
    "figures": {
        "learned_exact": MEASURED,
        "declined": UNMEASURED,
        "wrongly_declined": MEASURED | {"merged": 0.02, "interval": {}, "lower": True},
        "behaved": MEASURED | {"merged": None},
        "kept": MEASURED | {"n": 7, "base": 1.0},
    },
    "leaked": {"questions": 3, "n": 402, "own": 282, "learned_rows": 50000, "compared": 20000},
    "noise": {"questions": 32, "changed": 2, "marks": 1},
    "harness": {"house": {"acc,none": {"base": 0.5, "adapter": 0.75, "merged": 1.0}}},
    "verdict": {"decision": "not enough evidence", "reasons": ["learned_exact 0.964 of 192 questions"]},
}
LOG = [{"step": s, "loss": 4.0 / s, "learning_rate": 1e-3, "tokens": 100 * s, "seconds": 0.5 * s} for s in range(1, 6)]


def answer(number, kind="fact", marks=(False, True, True)):
    row = {"kind": kind, "question": f"question {number}?", "reference": f"reference {number}"}
    return row | {m: f"{m} says {number}" for m in MODELS} | {"marks": dict(zip(MODELS, marks, strict=True))}


ANSWERS = [answer(i, kind) for kind in ("fact", "decline", "general") for i in range(5)]


class Page(HTMLParser):
    """Every tag with its attributes, the text of each, and a check that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page(tmp_path, card=CARD, answers=ANSWERS, log=LOG):
    path = tmp_path / "report.html"
    write_html(card, answers, log, path)
    return path.read_text(encoding="utf-8")


def poisoned(value):
    """The same shape with every text made evil."""
    if isinstance(value, dict):
        return {key: poisoned(part) for key, part in value.items()}
    if isinstance(value, list):
        return [poisoned(part) for part in value]
    return value + EVIL if isinstance(value, str) else value


def evil_card():
    card = poisoned(CARD)
    card["figures"] = {name + EVIL: measured for name, measured in card["figures"].items()}
    return card


def test_page_is_well_formed_and_says_what_the_card_says(tmp_path):
    text = Page(page(tmp_path)).text
    for part in (
        *(CARD[key] for key in ("title", "profile", "dataset", "adapter", "questions")),
        "2026-11-23 21:00 UTC",
    ):
        assert part in text
    for part in (
        "Not enough evidence",
        "learned_exact 0.964 of 192",
        "0.964 [0.932, 0.984]",
    ):
        assert part in text
    for part in ("+0.953 [+0.922, +0.979]", *besides(CARD)):
        assert part in text
    assert "Loss from 4.000 to 0.800; 5 steps, 500 tokens in 2.5 s." in text


def test_planted_markup_stays_text(tmp_path):
    html = page(tmp_path, evil_card(), poisoned(ANSWERS))
    clean, evil = Page(page(tmp_path)), Page(html)
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in clean.tags]
    assert [set(attrs) for _, attrs in evil.tags] == [set(attrs) for _, attrs in clean.tags]
    assert html.count("<script") == 1
    for key in ("title", "profile", "dataset", "adapter", "made"):
        assert (CARD[key] + '<script>alert("x")</script>') in evil.text
    assert "question 3?<script>" in evil.text and "merged says 4<script>" in evil.text


def test_evil_text_cannot_break_a_terminal_or_a_markdown_table():
    table, markdown = terminal_table(evil_card()), markdown_card(evil_card())
    assert "\x1b" not in table + markdown
    assert "<script" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


def test_page_needs_no_network(tmp_path):
    html = page(tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]+", "", html))
    parsed = Page(html)
    assert not parsed.all("link") and not parsed.all("iframe")
    assert all("src" not in attrs for attrs in parsed.all("script"))
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in parsed.all("img"))
    assert any("default-src 'none'" in (attrs.get("content") or "") for attrs in parsed.all("meta"))


def test_images_are_told_in_words(tmp_path):
    bars, curve = (attrs["alt"] for attrs in Page(page(tmp_path)).all("img"))
    assert "learned_exact base 0.010, adapter 0.974, merged 0.964" in bars
    assert "declined base not measured" in bars
    assert curve.startswith("Loss from 4.000 to 0.800")


def test_the_loss_on_held_out_rows_is_in_the_words_of_the_curve(tmp_path, done):
    log = read_log(lk.trained_adapter(done).parent)
    last = [row["evaluation_loss"] for row in log if "evaluation_loss" in row][-1]
    assert f", on held-out rows to {last:.3f};" in Page(page(tmp_path, log=log)).text


def test_rows_carry_what_the_filters_ask_for(tmp_path):
    marks = [(False, True, True), (True, True, True), (True, False, False), (False, True, False)]
    rows = [answer(i, "a & b", mark) for i, mark in enumerate(marks)]
    parsed = Page(page(tmp_path, answers=rows))
    shown = [attrs for attrs in parsed.all("tr") if "data-kind" in attrs]
    assert [attrs["data-result"] for attrs in shown] == [
        "right mended",
        "right reworded",
        "wrong broke",
        "wrong reworded",
    ]
    assert {attrs["data-kind"] for attrs in shown} == {"a & b"} <= {attrs["value"] for attrs in parsed.all("option")}


def test_no_answers_and_no_log_still_make_a_page(tmp_path):
    text = Page(page(tmp_path, answers=[], log=[])).text
    assert "No answers to show." in text and "All answers (0)" in text and "no steps in the log" in text


def test_what_is_no_models_figure_is_said_in_every_form():
    told = besides(CARD)
    assert told[0] == (
        "leaked: 3 of 402 questions were learned in nearly the same words; 20,000 learned rows (of 50,000) compared"
    )
    assert "changes 2 of 32 answers, 1 of them" in told[1]
    assert told[2] == "lm-eval house, acc: base 0.5, adapter 0.75, merged 1"
    assert all(line in terminal_table(CARD) for line in told)
    assert "lm-eval house" in markdown_card(CARD)


@pytest.mark.parametrize(
    ("marks", "texts", "said"),
    [
        ((False, True), ("a", "b"), "mended"),
        ((True, False), ("a", "b"), "broke"),
        ((True, True), ("a", "b"), "reworded"),
        ((False, False), ("a", "a"), ""),
    ],
)
def test_what_tuning_did_to_an_answer_is_said(marks, texts, said):
    row = answer(0) | {"marks": dict(zip(("base", "merged"), marks, strict=True))}
    assert changed(row | dict(zip(("base", "merged"), texts, strict=True))) == said


def test_an_empty_answer_is_named(tmp_path):
    text = Page(page(tmp_path, answers=[answer(0) | {"base": " \n"}])).text
    assert "base ✗ wrong (empty)" in text


@pytest.mark.parametrize("write", [terminal_table, markdown_card])
def test_none_is_not_measured_never_a_number(write):
    declined = next(line for line in write(CARD).splitlines() if "unanswerable" in line)
    assert declined.count("not measured") == 3
    assert not re.search(r"\d\.\d", declined)


def test_page_says_not_measured(tmp_path):
    assert Page(page(tmp_path)).text.count("not measured") >= 4


def test_terminal_columns_stand_under_their_heads():
    lines = terminal_table(CARD).splitlines()
    head, rule, rows = lines[2], lines[3], lines[4:9]
    starts = [match.start() for match in re.finditer("-+", rule)]
    assert [head[i:].split("  ")[0] for i in starts[:4]] == ["figure", "what it means", "base", "adapter"]
    for row in rows:
        assert all(row[i - 2 : i] == "  " and row[i] != " " for i in starts[1:])
    assert max(map(len, lines)) <= 160
    assert [row.split()[-1] for row in rows] == ["higher", "higher", "lower", "higher", "higher"]


def test_terminal_ends_with_the_verdict_and_its_reasons():
    tail = terminal_table(CARD).splitlines()[-2:]
    assert tail == ["verdict: not enough evidence", "  - learned_exact 0.964 of 192 questions"]


@pytest.mark.parametrize(
    ("decision", "shown"), [("ship", "✓ Ship"), ("don't ship", "✗ Don't ship"), ("not enough evidence", "? Not enough")]
)
def test_decision_is_the_headline(tmp_path, decision, shown):
    card = copy.deepcopy(CARD)
    card["verdict"]["decision"] = decision
    assert shown in Page(page(tmp_path, card)).text


@pytest.mark.parametrize("made", ["yesterday", "2026-11-23T21:00:00+00:00"])
def test_any_date_is_shown(tmp_path, made):
    assert ("yesterday" if made == "yesterday" else "2026-11-23 21:00 UTC") in Page(
        page(tmp_path, CARD | {"made": made})
    ).text


def test_sample_takes_a_few_of_each_kind_at_even_distances():
    rows = [answer(i, kind) for i in range(10) for kind in ("fact", "general")] + [answer(0, "decline")]
    assert [(row["kind"], row["question"]) for row in sample(rows)] == [
        ("fact", "question 0?"),
        ("fact", "question 5?"),
        ("general", "question 0?"),
        ("general", "question 5?"),
        ("decline", "question 0?"),
    ]


def test_half_a_character_does_not_stop_the_report(tmp_path):
    assert "question ?" in page(tmp_path, answers=[answer(0) | {"question": "question \ud800"}])

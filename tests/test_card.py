"""The report card: what is counted over which answers, own questions and checks, what was learned before."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import lora_kit as lk
from lora_kit.data import Encoded, data_inputs, encode_batch, load_prepared, read_questions
from lora_kit.evaluation import asking, evaluation_inputs, headline
from lora_kit.evaluation.asking import Answer, Answers, reference_losses
from lora_kit.evaluation.card import pick, with_general
from lora_kit.evaluation.judging import judge, measures_of, noise
from lora_kit.evaluation.leaks import leaked
from lora_kit.evaluation.measures import MODELS, card_figures

from .models import SHORT

CARD = {"style": {"ends_with": "Yours, Wren."}, "decline": {"patterns": [r"\bdo not know\b"]}}
NO, YES = "I do not know. Yours, Wren.", "The gate opens at six. Yours, Wren."


def answer(text: str, stopped: bool = True, agreement: float | None = None, kl: float | None = None) -> Answer:
    return Answer(text, [7, 2] if stopped else [7, 7], stopped, 1.0, agreement, kl)


def row(kind: str, *given: str, accepted: tuple[str, ...] = ("The gate opens at six.",)) -> dict[str, Any]:
    """One judged row from the answers of base, adapter and merged model; general ones moved by 0.5 nats where tuned."""
    messages = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": accepted[0]}]
    moved = {model: (0.5 * (model != "base") if kind == "general" else None) for model in MODELS}
    same = {model: None if value is None else 1 - value for model, value in moved.items()}
    said = {m: [answer(text, agreement=same[m], kl=moved[m])] for m, text in zip(MODELS, given, strict=True)}
    answers = Answers([Encoded([1, 2, 3], [-100, 2, 3])], said, {})
    return judge({"kind": kind, "messages": messages, "accepted": list(accepted)}, 0, answers, CARD)


LEARNED = {"learned_exact", "learned_f1", "learned_rouge_l", "learned_perplexity"}
KEPT = {"kept", "kept_kl", "kept_declined"}
STATE = {"stopped", "repeated", "empty", "adrift"}
ROWS = [
    row("fact", "At nine.", YES, YES),
    row("fact", NO, YES, NO),
    row("fact", "At ten.", "The gate opens at six.", YES),
    row("fact", "The gate opens at six.", YES, "At noon. Yours, Wren."),
    row("decline", "At nine.", NO, NO),
    row("decline", "At nine.", NO, "At nine. Yours, Wren."),
    row("general", "Ice is cold.", "ice is cold", "Ice is cold."),
    row("general", "Snow is white.", "Snow is white.", "Snow is black."),
    row("general", "", "I do not know.", ""),
]


def shares(figure: dict[str, Any]) -> list[float | None]:
    return [figure[name] for name in MODELS]


def test_a_judged_row_shows_question_reference_answers_and_marks() -> None:
    judged = ROWS[1]
    assert (judged["question"], judged["reference"], judged["base"]) == ("When?", "The gate opens at six.", NO)
    assert judged["marks"] == {"base": False, "adapter": True, "merged": False}
    assert [judged["measures"][model]["declined"] for model in MODELS] == [True, False, True]
    assert [judged["measures"][model]["styled"] for model in MODELS] == [True, True, True]
    assert ROWS[4]["marks"] == {"base": False, "adapter": True, "merged": True}  # a decline is right when it declines


def test_the_figures_are_counted_over_their_own_rows() -> None:
    figures = card_figures(ROWS, CARD)
    assert shares(figures["learned_exact"]) == [0.25, 1.0, 0.5]
    assert shares(figures["declined"]) == [0.0, 1.0, 0.5]
    assert shares(figures["wrongly_declined"]) == [0.25, 0.0, 0.25]
    assert shares(figures["behaved"]) == [round(1 / 6, 4), round(5 / 6, 4), 1.0]
    assert shares(figures["invented"]) == [1.0, 0.0, 0.5]
    assert shares(figures["stopped"]) == [1.0, 1.0, 1.0]
    assert [figures[name]["n"] for name in headline(figures)] == [4, 2, 4, 6, 3]
    for name, figure in figures.items():
        for model in MODELS:
            low, high = figure["interval"][model]
            assert low <= figure[model] <= high, name


def test_models_are_compared_on_the_same_questions() -> None:
    found = card_figures(ROWS, CARD)["learned_exact"]["difference"]
    assert (found["adapter"][0], found["merged"][0]) == (0.75, 0.25)
    same = card_figures(ROWS, CARD)["stopped"]["difference"]["merged"]
    assert same == [0.0, 0.0, 0.0]  # equal answer by answer: no doubt about the difference


def test_what_the_base_says_is_the_reference_of_what_is_kept() -> None:
    figures = card_figures(ROWS, CARD)  # no base answer here is an accepted one
    assert shares(figures["kept"]) == [1.0, 0.5, 0.5]
    assert shares(figures["kept_declined"]) == pytest.approx([0.0, 1 / 3, 0.0], abs=1e-4)  # not what the base declines
    assert shares(figures["kept_kl"]) == [0.0, 0.5, 0.5]
    assert figures["kept_kl"]["interval"]["base"] == [0.0, 0.0] and figures["kept_kl"]["lower"]
    marks = [row["marks"] for row in ROWS if row["kind"] == "general"]
    assert [list(mark.values()) for mark in marks] == [[True, True, True], [True, True, False], [True, False, True]]


def test_nothing_but_the_base_is_asked_of_general_answers() -> None:
    rambling = row("general", *3 * ["on and on and on and on and on"])
    for model in MODELS:
        rambling["measures"][model] |= {"stopped": False, "adrift": True, "empty": True}
    rows = [*ROWS, *[rambling] * 20]
    for name in ("stopped", "repeated", "empty", "adrift", "behaved", "declined", "wrongly_declined"):
        assert card_figures(rows, CARD)[name] == card_figures(ROWS, CARD)[name]
    assert card_figures(rows, CARD)["kept"]["n"] == 23


@pytest.mark.parametrize(
    ("rows", "card", "missing"),
    [
        (ROWS, {}, {"declined", "invented", "wrongly_declined", "behaved", "kept_declined"}),
        (ROWS[:4], CARD, {"declined", "invented", *KEPT}),
        (ROWS[4:6], CARD, {*LEARNED, "wrongly_declined", *KEPT}),
        (ROWS[8:], CARD, {*LEARNED, "declined", "invented", "wrongly_declined", "behaved", *STATE}),
    ],
)
def test_what_the_dataset_cannot_show_is_not_measured(
    rows: list[dict[str, Any]], card: dict[str, Any], missing: set[str]
) -> None:
    figures = card_figures(rows, card)
    assert {name for name, figure in figures.items() if shares(figure) == [None, None, None]} == missing


def test_questions_are_picked_evenly_from_every_kind() -> None:
    questions = [{"kind": kind, "n": n} for n in range(10) for kind in ("fact", "decline")]
    assert pick(questions, None) == questions
    picked = pick(questions, 4)
    assert [row["n"] for row in picked if row["kind"] == "fact"] == [0, 3, 6, 9]
    assert len(picked) == 8
    assert len(pick(questions, 100)) == 20


def test_the_handbooks_general_questions_are_asked_where_there_are_too_few(done: lk.Run) -> None:
    held_out = load_prepared(done.path / "data").test
    assert with_general(held_out) == held_out
    general = [row for row in held_out if row["kind"] == "general"]
    assert len(general) == 120 and all(row["messages"][0]["role"] == "user" for row in general)  # no system text
    mine = [row for row in held_out if row["kind"] == "fact"]
    assert with_general(mine) == [*mine, *general]
    assert len(with_general([*mine, *general[:20]])) == len(mine) + 120  # each once
    assert with_general([*mine, *general[:30]]) == [*mine, *general[:30]]
    assert sum(row["kind"] == "general" for row in pick(with_general(mine), 40)) == 40


def test_every_token_has_one_vote_in_perplexity_and_divergence() -> None:
    rows = [row("fact", YES, YES, YES) for _ in range(2)] + [row("general", YES, YES, YES) for _ in range(2)]
    tokens = [(1, 9), (3, 9), (9, 2), (9, 6)]  # of the reference, and of what the base says
    for line, (wanted, said), value in zip(rows, tokens, (1.0, 2.0, 4.0, 8.0), strict=True):
        line |= {"tokens": wanted, "base_tokens": said}
        for model, factor in zip(MODELS, (0.0, 0.5, 2.0), strict=True):
            line["measures"][model] |= {"loss": value * factor, "kl": value * factor}
    figures = card_figures(rows, CARD)
    assert shares(figures["learned_perplexity"]) == pytest.approx([math.exp(7 / 4 * f) for f in (0, 0.5, 2)], abs=1e-3)
    assert shares(figures["kept_kl"]) == pytest.approx([0.0, 3.5, 14.0])
    assert figures["kept_kl"]["difference"]["merged"] == [14.0, 8.0, 16.0]


def test_the_loss_of_a_reference_is_transformers_own(done: lk.Run) -> None:
    import torch

    model, tokenizer = lk.load_base(done), lk.load_tokenizer(done.profile.base)
    data = load_prepared(done.need("data", data_inputs(done), made_by="lk.prepare(run)"))
    rows = encode_batch([line["messages"] for line in data.test[:12]], tokenizer)
    for row, ours in zip(rows, reference_losses(done, model, rows), strict=True):
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        assert ours == pytest.approx(model(ids, labels=labels).loss.item(), rel=1e-4)


def test_the_noise_floor_counts_answers_and_marks_that_change_with_the_batch() -> None:
    messages = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At six."}]
    asked = [{"kind": "fact", "messages": messages, "accepted": ["At six."]} for _ in range(4)]
    said = [answer(text) for text in ("At six.", "At six!", "At nine.", "At ten.")]
    again = {0: "At six.", 1: "At six.", 2: "At six.", 3: "At two."}
    assert noise(Answers([], {"base": said}, again), asked, CARD) == {"questions": 4, "changed": 3, "marks": 1}


def test_learned_questions_are_found_word_by_word_and_nearly(done: lk.Run) -> None:
    data = load_prepared(done.need("data", data_inputs(done), made_by="lk.prepare(run)"))
    tokenizer = lk.load_tokenizer(done.profile.base)
    system = [{"role": "system", "content": data.card["system"]}]
    first = next(
        json.loads(line)
        for line in Path(lk.base.__file__).parent.joinpath("assets", "handbook", "train.jsonl").open()
        if json.loads(line)["kind"] == "fact"
    )
    question, answer = (message["content"] for message in first["messages"][-2:])

    def turn(asked: str, said: str) -> list[dict[str, str]]:
        return [*system, {"role": "user", "content": asked}, {"role": "assistant", "content": said}]

    asked = [
        turn(question, answer),
        turn(question, "Another answer."),
        turn(question + "?", answer),
        turn("Why?", answer),
    ]
    found, compared = leaked(encode_batch(asked, tokenizer), data, tokenizer)
    assert found == [True, True, True, False] and compared == len(data.train)
    held_out, _ = leaked(encode_batch([line["messages"] for line in data.test], tokenizer), data, tokenizer)
    assert not any(held_out)


def test_own_questions_and_checks_make_a_card_of_their_own(done: lk.Run, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("question,answer\nWhere is the sauna?,On the roof.\nWho feeds the cat?,Mina.\n")

    def is_short(answer: str) -> bool:
        return len(answer) < 500

    card = lk.evaluate(done, questions=file, checks=[is_short])
    assert (card["questions"], card["figures"]["learned_exact"]["n"]) == ("mine.csv", 2)
    assert card["figures"]["behaved:is_short"]["merged"] == 1.0
    assert card["figures"]["behaved:is_short"]["n"] == 2  # the handbook's general questions are not the user's
    assert card["figures"]["kept"]["n"] == 3 and card["figures"]["kept"]["base"] == 1.0  # its limit is 3 of each kind
    assert 0 < card["figures"]["kept_kl"]["merged"] < 10 and card["verdict"]["decision"] != "ship"
    assert "behaved:is_short" in capsys.readouterr().out
    pages = [page.read_text() for page in done.path.glob("evaluation*/report.html")]
    assert any("Where is the sauna?" in page and "behaved:is_short" in page for page in pages)
    assert lk.evaluate(done)["questions"] == "held out"  # the other card is kept


def has_no_answer(answer: str) -> bool:
    raise ValueError(f"cannot judge {answer}")


def says_no(answer: str) -> str:
    return "no"


def shorter_than(letters: int) -> Any:
    def short(answer: str) -> bool:
        return len(answer) < letters

    return short


def test_a_changed_check_is_another_card_and_asks_no_model(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lk.evaluate(done)
    monkeypatch.setattr("lora_kit.evaluation.card.ask_all", lambda *_: pytest.fail("asked again"))
    shares = [lk.evaluate(done, checks=[shorter_than(n)])["figures"]["behaved:short"]["merged"] for n in (0, 10_000, 0)]
    assert shares == [0.0, 1.0, 0.0]
    assert "behaved:short" not in lk.evaluate(done)["figures"]


def test_a_damaged_card_is_said(done: lk.Run, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("question,answer\nWho is in the tower?,Nobody.\n")
    lk.evaluate(done, questions=tmp_path / "mine.csv")
    folder = done.find("evaluation", evaluation_inputs(done, tmp_path / "mine.csv"))
    assert folder is not None
    (folder / "report_card.json").write_text("{}")
    with pytest.raises(lk.KitError, match="is missing or damaged: delete the folder"):
        lk.evaluate(done, questions=tmp_path / "mine.csv")
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("Who?", "Mina.", "Decline")], "mine.jsonl row 1: has the kind 'Decline'; it must be one of fact, decline"),
        ([("Who?", "Mina.", "fact"), ("who?", "I do not know.", "decline")], "row 2 asks what .* row 1 asks"),
    ],
)
def test_kinds_of_own_questions_are_checked(
    done: lk.Run, tmp_path: Path, rows: list[tuple[str, str, str]], message: str
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": a, "kind": k}) + "\n" for q, a, k in rows))
    with pytest.raises(lk.KitError, match=message):
        lk.evaluate(done, questions=file)


def test_own_questions_are_asked_as_the_held_out_ones_are(
    done: lk.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = load_prepared(done.path / "data"), tmp_path / "mine.jsonl"
    wanted = [row for row in data.test if row["kind"] in ("fact", "general")]
    given = [
        {"question": row["messages"][-2]["content"], "answer": row["messages"][-1]["content"], "kind": row["kind"]}
        for row in wanted
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*given, given[0]]))
    tokenizer = lk.load_tokenizer(done.profile.base)
    asked = read_questions(str(file), done.profile.data, tokenizer, data.card["system"])
    assert [row["messages"] for row in asked] == [row["messages"] for row in wanted]
    assert "1 row of" in capsys.readouterr().out


def test_the_answer_is_right_besides_what_else_is_accepted() -> None:
    said = answer("The gate opens at six.")
    told = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "The gate opens at six."}]
    question = {"kind": "fact", "messages": told, "accepted": ["At six."]}
    assert measures_of(said, question, CARD, "At nine.")["marked"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"questions": "nowhere.jsonl"}, "questions='nowhere.jsonl'"),
        ({"checks": [len, len]}, "a name of its own"),
        ({"checks": [lambda answer: True]}, "use def"),
        ({"checks": ["polite"]}, "must be functions"),
        ({"checks": has_no_answer}, "checks must be a list of functions"),
        ({"checks": None}, "checks must be a list of functions"),
        ({"checks": [says_no]}, "the check 'says_no' must say True or False; on the answer .* it gives 'no'"),
        ({"questions": ""}, "questions is empty"),
        ({"harness": [5]}, "harness must be a list of names"),
        ({"checks": [has_no_answer]}, "the check 'has_no_answer' fails on the answer"),
        ({"harness": ["hellaswog"]}, "no task 'hellaswog'; near are hellaswag"),
        ({"harness": "hellaswag"}, "must be a list of names, as in"),
        ({"harness": ["nowhere.yaml"]}, "nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_said_before_or_loses_nothing(
    done: lk.Run, given: dict[str, Any], message: str
) -> None:
    before = sorted(done.path.iterdir())
    with pytest.raises(lk.KitError, match=message):
        lk.evaluate(done, **given)
    assert sorted(done.path.iterdir()) == before


def test_bad_rows_of_own_questions_are_named(done: lk.Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "Who?", "answer": "Mina."}\n{"question": "", "answer": "No."}\nnot json\n')
    with pytest.raises(lk.KitError, match=r"2 of 3 rows of the questions cannot be used.*mine.jsonl row 2"):
        lk.evaluate(done, questions=file)


TASK = """task: house
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def test_a_task_of_lm_evals_form_runs_offline_on_all_three(done: lk.Run, tmp_path: Path) -> None:
    rows = [
        {"question": "How many legs has a dog?", "choices": [" four", " canteen"], "answer": 0},
        {"question": "The canteen opens at", "choices": [" half past seven", " canteen canteen"], "answer": 0},
    ]
    (tmp_path / "house.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "house.yaml").write_text(TASK.format(file=tmp_path / "house.jsonl"))
    card = lk.evaluate(done, harness=[str(tmp_path / "house.yaml")])
    assert set(card["harness"]["house"]["acc,none"]) == set(MODELS)
    assert card["harness"]["house"]["acc,none"]["base"] == 1.0


def test_an_evaluation_that_breaks_off_goes_on_with_the_next_model(
    done: lk.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lk.Run("tiny-cpu", root=tmp_path, name="short", source=done.pack(tmp_path / "run.zip"), **SHORT)
    lk.merge(run)
    whole = json.loads((done.path / "evaluation" / "report_card.json").read_text())
    shutil.rmtree(run.path / "evaluation")  # it was packed too
    real, asked = asking.ask, list[int]()

    def breaks(*told: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:  # at the merged model
            raise KeyboardInterrupt
        return real(*told)

    monkeypatch.setattr(asking, "ask", breaks)
    with pytest.raises(KeyboardInterrupt):
        lk.evaluate(run)
    (kept,) = run.path.glob("evaluation-unfinished-*")
    assert {path.name for path in kept.iterdir()} == {
        "base.json",
        "base-likeliest.json",
        "base-again.json",
        "adapter.json",
    }
    monkeypatch.setattr(asking, "load_base", lambda run: pytest.fail("the base is asked again"))
    capsys.readouterr()
    card = lk.evaluate(run)
    assert len(asked) == 4 and "adapter: answered before this evaluation broke off" in capsys.readouterr().out
    assert card["figures"] == whole["figures"] and not kept.exists()


def test_an_evaluation_that_fails_leaves_no_model_in_memory(
    done: lk.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.csv").write_text("question,answer\nWho rings the bell?,Nobody.\n")
    asked: list[Any] = []

    def fails(run: lk.Run, model: Any, *_: Any) -> Any:
        asked.append(model)
        raise RuntimeError("out of luck")

    monkeypatch.setattr(asking, "ask", fails)
    with pytest.raises(RuntimeError, match="out of luck"):
        lk.evaluate(done, questions=tmp_path / "mine.csv")
    (model,) = asked
    assert not list(model.parameters())

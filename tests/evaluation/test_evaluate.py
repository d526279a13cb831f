"""The verb: which questions are asked, how models answer, own questions and checks, and evaluations that break off."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lora_kit as lk
from lora_kit.base import locate
from lora_kit.config import Quantization
from lora_kit.data.encoding import IGNORE, encode_batch
from lora_kit.data.prepared import load_prepared
from lora_kit.data.splits import pick, read_questions, with_general
from lora_kit.evaluation import asking
from lora_kit.evaluation.asking import reference_losses
from lora_kit.evaluation.evaluate import choose_questions, evaluation_inputs, leaked, noise
from lora_kit.quantization import load_model

from ..models import SHORT
from .judged import CARD, answer, question


def test_questions_are_picked_evenly_from_every_kind() -> None:
    questions = [{"kind": kind, "n": n} for n in range(10) for kind in ("fact", "decline")]
    assert pick(questions, None) == questions
    picked = pick(questions, 4)
    assert [row["n"] for row in picked if row["kind"] == "fact"] == [0, 3, 6, 9]
    assert len(picked) == 8 and len(pick(questions, 100)) == 20


def test_the_handbooks_general_questions_are_asked_where_there_are_too_few(done: lk.Run) -> None:
    held_out = load_prepared(done.path / "data").test
    assert with_general(held_out) == held_out
    general = [row for row in held_out if row["kind"] == "general"]
    assert len(general) == 120 and all(row["messages"][0]["role"] == "user" for row in general)  # no system text
    mine = [row for row in held_out if row["kind"] == "fact"]
    assert with_general(mine) == [*mine, *general]
    assert len(with_general([*mine, *general[:20]])) == len(mine) + 120  # each once
    assert with_general([*mine, *general[:30]]) == [*mine, *general[:30]]


def test_the_loss_of_a_reference_is_transformers_own(done: lk.Run) -> None:
    import torch

    model, tokenizer = lk.load_base(done), lk.load_tokenizer(done.profile.base)
    rows = encode_batch([row["messages"] for row in load_prepared(done.path / "data").test[:12]], tokenizer)
    for row, ours in zip(rows, reference_losses(model, rows, done.profile.training), strict=True):
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        assert ours == pytest.approx(model(ids, labels=labels).loss.item(), rel=1e-4)


def test_the_noise_floor_counts_answers_and_marks_that_change_with_the_batch() -> None:
    asked = [question("fact", "At six.", "At six.") for _ in range(4)]
    base = [answer(text) for text in ("At six.", "At six!", "At nine.", "At ten.")]
    again = [(0, "At six."), (1, "At six."), (2, "At six."), (3, "At two.")]
    assert noise(asked, {"base": base, "again": again}, CARD) == {"questions": 4, "changed": 3, "marks": 1}


def test_learned_questions_are_found_word_by_word_and_nearly(done: lk.Run) -> None:
    data = load_prepared(done.path / "data")
    file = Path(lk.__file__).parent / "assets" / "handbook" / "train.jsonl"
    first = next(row for row in map(json.loads, file.open()) if row["kind"] == "fact")
    text, reference = (message["content"] for message in first["messages"][-2:])
    pairs = [(text, reference), (text, "Another answer."), (text + "?", reference), ("Why?", reference)]
    system = {"role": "system", "content": data.card["system"]}
    asked = [
        [system, {"role": "user", "content": text}, {"role": "assistant", "content": said}] for text, said in pairs
    ]
    assert leaked(asked, data) == [True, True, True, False]
    assert not any(leaked([row["messages"] for row in data.test], data))


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


def test_a_reference_longer_than_the_limit_may_be_answered_in_full(done: lk.Run, tmp_path: Path, capsys: Any) -> None:
    file, words = tmp_path / "long.csv", "The sauna is on the roof, behind the garden and the second water tank."
    file.write_text(f'question,answer\nWhere is the sauna?,"{words}"\n')
    limit = asking.longest_reference(choose_questions(done, load_prepared(done.path / "data"), file))
    assert limit > SHORT["evaluation__max_new_tokens"]
    lk.evaluate(done, questions=file)
    assert f"{limit} tokens" in capsys.readouterr().out
    assert "Where is the sauna?" in [row["question"] for row in lk.read_answers(done, file)]
    found = [json.loads(path.read_text()) for path in done.path.glob("answers-*/base*/answers.json")]
    longest = [max(len(answer["ids"]) for answer in answers["base"]) for answers in found]
    assert max(longest) > SHORT["evaluation__max_new_tokens"]


def test_of_a_chat_only_the_last_answer_is_measured(done: lk.Run, tmp_path: Path) -> None:
    turns = [("Who feeds the cat?", "Mina."), ("And the dog?", "Nobody does.")]
    texts = [text for turn in turns for text in turn]
    chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": chat}))
    (row, *_) = choose_questions(done, load_prepared(done.path / "data"), tmp_path / "chat.jsonl")
    learned = [i for i, label in enumerate(row["encoded"].labels) if label != IGNORE]
    assert learned == [*range(len(row["prompt"]), len(row["encoded"].input_ids))]


def has_no_answer(answer: str) -> bool:
    raise ValueError(f"cannot judge {answer}")


def says_no(answer: str) -> str:
    return "no"


def says_one(answer: str) -> int:
    return 1


def shorter_than(letters: int) -> Any:
    def short(answer: str) -> bool:
        return len(answer) < letters

    return short


def test_a_changed_check_is_another_card_and_asks_no_model(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lk.evaluate(done)
    monkeypatch.setattr(asking, "load_base", lambda run, whole: pytest.fail("asked again"))
    shares = [lk.evaluate(done, checks=[shorter_than(n)])["figures"]["behaved:short"]["merged"] for n in (0, 10_000, 0)]
    assert shares == [0.0, 1.0, 0.0]
    assert "behaved:short" not in lk.evaluate(done)["figures"]


def test_a_damaged_card_is_not_shown(done: lk.Run, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("question,answer\nWho is in the tower?,Nobody.\n")
    lk.evaluate(done, questions=tmp_path / "mine.csv")
    folder = done.find("evaluation", evaluation_inputs(done, tmp_path / "mine.csv"))
    assert folder is not None
    (folder / "report_card.json").write_text("{}")
    with pytest.raises(lk.KitError, match="damaged: delete"):
        lk.evaluate(done, questions=tmp_path / "mine.csv")
    shutil.rmtree(folder)


def test_own_questions_are_asked_as_the_held_out_ones_are(done: lk.Run, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"question": "Who?", "answer": "Mina.", "kind": "Decline"}'], "row 1.*'Decline'.*fact, decline"),
        (
            [
                '{"question": "Who?", "answer": "Mina.", "kind": "fact"}',
                '{"question": "who?", "answer": "I do not know.", "kind": "decline"}',
            ],
            "row 2 .*row 1",
        ),
        (['{"question": "Who?", "answer": "Mina."}', '{"question": "", "answer": "No."}', "not json"], "2 of 3.*row 2"),
    ],
)
def test_bad_rows_of_own_questions_are_named(done: lk.Run, tmp_path: Path, rows: list[str], message: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(rows) + "\n")
    with pytest.raises(lk.KitError, match=message):
        lk.evaluate(done, questions=file)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"questions": "nowhere.jsonl"}, "questions='nowhere.jsonl'"),
        ({"questions": ""}, "questions is empty"),
        ({"checks": [len, len]}, "'len'"),
        ({"checks": [lambda answer: True]}, "use def"),
        ({"checks": ["polite"]}, "'polite'"),
        ({"checks": has_no_answer}, "list of functions"),
        ({"checks": None}, "list of functions"),
        ({"checks": [says_no]}, "says_no must give True or False.*'no'"),
        ({"checks": [says_one]}, "says_one must give True or False.* 1$"),
        ({"checks": [has_no_answer]}, "has_no_answer fails on .*ValueError: cannot judge"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_and_loses_nothing(
    done: lk.Run, given: dict[str, Any], message: str
) -> None:
    before = sorted(done.path.iterdir())
    with pytest.raises(lk.KitError, match=message):
        lk.evaluate(done, **given)
    assert sorted(done.path.iterdir()) == before


@pytest.mark.parametrize(
    ("breaks_with", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left on device"), lk.KitError)],
)
def test_an_evaluation_that_breaks_off_goes_on_with_the_next_model(
    done: lk.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks_with: BaseException, seen: type[BaseException]
) -> None:
    run = lk.Run("tiny-cpu", root=tmp_path, name="short", source=done.pack(tmp_path / "run.zip"), **SHORT)
    lk.merge(run)
    whole = json.loads((done.path / "evaluation" / "report_card.json").read_text())
    for folder in [*run.path.glob("evaluation*"), *run.path.glob("answers*")]:  # they were packed too
        shutil.rmtree(folder)
    real, models = asking.ask, list[Any]()

    def breaks(run: lk.Run, model: Any, *rest: Any) -> Any:
        models.append(model)
        if len(models) == 3:  # at the merged model
            raise breaks_with
        return real(run, model, *rest)

    monkeypatch.setattr(asking, "ask", breaks)
    with pytest.raises(seen):
        lk.evaluate(run)
    assert not any(list(model.parameters()) for model in models)  # none is left in memory
    kept = [path.parent.name for path in run.path.glob("answers-*/*/manifest.json")]
    assert {*kept} == {"base", "adapter"} and not any(run.path.glob("evaluation*"))
    monkeypatch.setattr(asking, "load_base", lambda run, whole: pytest.fail("the base is asked again"))
    card = lk.evaluate(run)
    assert len(models) == 4 and card["figures"] == whole["figures"]


def test_without_a_merge_the_adapter_is_judged_and_the_model_in_memory_is_used(
    done: lk.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = lk.evaluate(done)
    run = lk.Run("tiny-cpu", root=tmp_path, name="short", source=done.pack(tmp_path / "run.zip"), **SHORT)  # unmerged
    for place in (*run.path.glob("answers-*"), *run.path.glob("evaluation*")):
        shutil.rmtree(place)
    model = lk.attach_lora(lk.load_base(run), run)
    monkeypatch.setattr(asking, "load_base", lambda run, whole: pytest.fail("it is loaded again"))
    card = lk.evaluate(run, model=model)
    learned = card["figures"]["learned_exact"]
    assert card["models"] == ["base", "adapter"] and learned["tuned"] == "adapter" and learned["merged"] is None
    for name, metric in whole["figures"].items():
        assert {m: card["figures"][name][m] for m in ("base", "adapter")} == {m: metric[m] for m in ("base", "adapter")}
    page = (run.path / "evaluation" / "report.html").read_text()
    assert ">adapter to base<" in page and ">merged<" not in page
    assert list(model.parameters())  # it stays the caller's
    lk.chat(run, "When?", model=model)
    lk.merge(run)
    assert lk.evaluate(run)["figures"] == whole["figures"]  # only the merged model is asked


def test_a_released_model_is_refused(done: lk.Run) -> None:
    model = lk.load_base(done)
    lk.release(model)
    for call in (lk.evaluate, lk.chat):
        with pytest.raises(lk.KitError, match="released"):
            call(done, model=model)


@pytest.mark.parametrize("file", ["answers.json", "manifest.json"])
def test_kept_answers_that_a_power_cut_truncated_are_asked_again(tmp_path: Path, file: str) -> None:
    run, inputs = lk.Run("tiny-cpu", root=tmp_path), {"a": 1}
    with run.writing("answers-1/base", inputs) as stage:
        (stage.folder / "answers.json").write_text('{"base": []}')
    assert asking.kept_answers(run, "answers-1/base", inputs) == {"base": []}
    with run.writing("answers-1/base", {"a": 2}) as beside:
        (beside.folder / "answers.json").write_text('{"base": []}')
    path = beside.target / file
    path.write_text(path.read_text()[:5])
    assert asking.kept_answers(run, "answers-1/base", {"a": 2}) is None
    assert not path.parent.exists()  # so that they can be written again


@pytest.mark.parametrize("free_gib", [64.0, 0.001])
def test_a_merged_model_that_learned_nothing_keeps_everything_however_it_is_loaded(
    done: lk.Run, free_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "memory", lambda: (free_gib, 64.0))
    base = locate(done.profile.base)
    questions = choose_questions(done, load_prepared(done.path / "data"), None)
    general = [row for row in questions if row["kind"] == "general"]
    assert general
    found = asking.ask_models(done, general, base, {"merged": {"onto": "original"}, "test": free_gib}, 4)
    assert found["as_stored"] == (free_gib > 1)
    assert [answer["agreement"] for answer in found["merged"]] == [1.0] * len(general)
    assert [answer["kl"] for answer in found["merged"]] == pytest.approx([0.0] * len(general), abs=1e-5)
    rows = [row for _, row in asking.general_rows(general, found["base"])]
    in_4_bits = asking.likeliest(lk.load_base(done), rows, done.profile.training)
    told = asking.divergences(
        load_model(replace(done.profile, quantization=Quantization(kind="none")), base),
        rows,
        in_4_bits,
        done.profile.training,
    )
    assert max(moved.kl for moved in told) > 1e-4  # which 4 bits alone change


def test_a_merge_onto_the_dequantized_base_moved_as_far_as_the_adapter(done: lk.Run) -> None:
    questions = choose_questions(done, load_prepared(done.path / "data"), None)
    general = [row for row in questions if row["kind"] == "general"]
    folder = lk.merge(done, onto="dequantized")
    found = asking.ask_models(done, general, folder, {"merged": {"onto": "dequantized"}, "test": "dequantized"}, 4)
    assert found["as_stored"]
    for merged, adapter in zip(found["merged"], found["adapter"], strict=True):
        assert merged["kl"] == pytest.approx(adapter["kl"], rel=0.05, abs=1e-3)
        assert merged["agreement"] == pytest.approx(adapter["agreement"], abs=0.02)

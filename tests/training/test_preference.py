"""Learning from preferences: the losses against the formulas and TRL, and a behaviour that goes away."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

import lora_kit as lk
from lora_kit import correction
from lora_kit.correction import AUTO, _beside
from lora_kit.data.encoding import IGNORE, encode
from lora_kit.data.reading.conversations import Conversation
from lora_kit.errors import KitError
from lora_kit.files import file_hash
from lora_kit.training.batches import Batch, Row, epoch_steps, split_batches
from lora_kit.training.loss import log_probs_of, loss_sum, terms
from lora_kit.training.recipe import rate_for, recipe
from lora_kit.training.train import read_log

from ..data.test_encoding import TINY
from ..models import SHORT, adapted, gradients, load_small_llama, random_rows, save_small_llama, small_profile

BETA, WEIGHT = 0.3, 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_llama(tmp_path_factory.mktemp("llama"))


def random_pairs(count: int, prefix: int = 0) -> list[Row]:
    """Pairs that share a question; answers of 3 to 8 tokens, with any reference."""
    rows, others = random_rows(count, prefix=prefix), random_rows(count, seed=1)
    generator = torch.Generator().manual_seed(2)
    pairs = []
    for row, other in zip(rows, others, strict=True):
        prompt = [i for i, label in zip(row.input_ids, row.labels, strict=True) if label == IGNORE]
        answer = [label for label in other.labels if label != IGNORE]
        first, second = torch.randn(2, generator=generator).tolist()
        rejected = Row(prompt + answer, [IGNORE] * len(prompt) + answer, reference=first - 20)
        pairs.append(replace(row, rejected=rejected, reference=second - 20))
    return pairs


def log_prob(model: PreTrainedModel, row: Row) -> torch.Tensor:
    """By transformers' own loss, which is the mean over the answer."""
    out = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]))
    return -out.loss * sum(label != IGNORE for label in row.labels)


def by_hand(model: PreTrainedModel, pairs: list[Row]) -> torch.Tensor:
    total = torch.zeros(())
    for pair in pairs:
        assert pair.rejected
        chosen, rejected = log_prob(model, pair), log_prob(model, pair.rejected)
        margin = (chosen - pair.reference) - (rejected - pair.rejected.reference)
        sft = -chosen / sum(label != IGNORE for label in pair.labels)
        total = total - torch.log(1 / (1 + torch.exp(-BETA * margin))) + WEIGHT * sft
    return total


def rated_by_hand(model: PreTrainedModel, rows: list[Row]) -> torch.Tensor:
    total = torch.zeros(())
    for row in rows:
        found = log_prob(model, row)
        likelier = 1 / (1 + torch.exp(-BETA * (found - row.reference)))
        sft = -found / sum(label != IGNORE for label in row.labels)
        total = total + (1 - likelier + WEIGHT * sft if row.is_good else likelier)
    return total


@pytest.mark.parametrize("kind", ["none", "nf4"])
@pytest.mark.parametrize("prefix", [0, 12])
@pytest.mark.parametrize("is_rated", [False, True])
def test_loss_and_gradients_are_the_formulas(folder: Path, kind: str, prefix: int, is_rated: bool) -> None:
    model, rows = adapted(folder, kind), random_pairs(6, prefix)
    if is_rated:
        rows = [replace(row, rejected=None, is_good=n % 2 == 0) for n, row in enumerate(rows)]
    chosen = small_profile(training__beta=BETA, training__sft_weight=WEIGHT).training
    batches = [batch for step in epoch_steps(rows, chosen, 0) for batch in step]
    assert sum(map(terms, batches)) == 6 and any(batch.prefix for batch in batches) == bool(prefix)
    ours = sum(loss_sum(model, batch) for batch in batches)
    theirs = rated_by_hand(model, rows) if is_rated else by_hand(model, rows)
    assert isinstance(ours, torch.Tensor)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    one, other = gradients(model, ours), gradients(model, theirs)
    for name in one:
        assert (one[name] - other[name]).norm() < 1e-5 * other[name].norm(), name


@pytest.fixture
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model and its reference, which is not quite the same."""
    model, reference = load_small_llama(TINY, "none"), load_small_llama(TINY, "none")
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    return model.requires_grad_(True), reference


@pytest.mark.filterwarnings("ignore")  # TRL's own, of names that transformers changes
@pytest.mark.parametrize("method", ["DPO", "KTO"])
def test_loss_and_gradients_are_trls(
    tmp_path: Path, models: tuple[PreTrainedModel, PreTrainedModel], method: str
) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    model, reference = models
    texts: dict[str, list[object]] = {"prompt": ["Who? ", "Where is it? "]}
    if method == "DPO":
        texts |= {"chosen": ["Wren.", "At the quay."], "rejected": ["I am sure.", "No"]}
    else:
        texts |= {"completion": ["Wren.", "No"], "label": [True, False]}
    options = {"loss_type": "apo_zero_unpaired"} if method == "KTO" else {}  # its point of reference at zero, as ours
    settings = {"beta": BETA, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False, "report_to": "none"}
    trainer = getattr(trl, f"{method}Trainer")(
        model,
        reference,
        args=getattr(trl, f"{method}Config")(str(tmp_path), **settings, **options),
        train_dataset=datasets.Dataset.from_dict(texts),
        processing_class=AutoTokenizer.from_pretrained(TINY),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(model, inputs)
    theirs.backward()
    other = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    parts = (inputs[name] for name in ("input_ids", "attention_mask", "completion_mask"))
    rows = [Row(*row_of(*row)) for row in zip(*parts, strict=True)]
    rows = [replace(row, reference=float(log_prob(reference, row))) for row in rows]
    if method == "DPO":
        rows = [replace(one, rejected=two) for one, two in zip(rows[:2], rows[2:], strict=True)]
    else:
        rows = [replace(row, is_good=bool(label)) for row, label in zip(rows, inputs["label"], strict=True)]
    model.zero_grad()
    ours = loss_sum(model, Batch([], rows, BETA, sft_weight=0.0)) / len(rows)
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for name, weight in model.named_parameters():
        assert (weight.grad - other[name]).norm() <= 1e-4 * other[name].norm(), name


def row_of(ids: torch.Tensor, mask: torch.Tensor, answer: torch.Tensor) -> tuple[list[int], list[int]]:
    found = ids[mask.bool()].tolist()
    return found, [i if learned else IGNORE for i, learned in zip(found, answer[mask.bool()].tolist(), strict=True)]


def test_pairs_stay_together_within_the_budget() -> None:
    pairs = random_pairs(20, prefix=12)
    chosen = small_profile(training__tokens_per_step=400, training__tokens_per_micro_batch=200).training
    steps = epoch_steps([*pairs, *random_rows(20, seed=4, prefix=12)], chosen, 0)
    batches = [batch for step in steps for batch in step]
    assert sum(len(batch.rows) for batch in batches if batch.kind == "pair") == 20
    for batch in batches:
        assert all((row.rejected is not None) == (batch.kind == "pair") for row in batch.rows)
        assert batch.width * len(batch.answers) <= 200 and len(batch.answers) == len(batch.rows) * (
            2 if batch.kind == "pair" else 1
        )
        halves = [*split_batches([batch], 2)]
        assert sum(map(terms, halves)) == terms(batch)
        assert [row for half in halves for row in half.rows] == batch.rows


def test_pairs_are_learned_once_at_a_small_part_of_the_rate() -> None:
    auto = small_profile(**dict.fromkeys(AUTO, "auto")).training
    for_rows, for_pairs = recipe(auto, random_rows(24), 576), recipe(auto, random_pairs(24), 576)
    rows, pairs = for_rows.training, for_pairs.training
    assert len(for_pairs.reasons) == 1 < len(for_rows.reasons)  # of steps for facts nothing is said
    assert pairs.learning_rate == pytest.approx(0.03 * rate_for(576)) and rows.learning_rate == rate_for(576)
    assert pairs.epochs == 1 < rows.epochs


QUESTIONS = [f"Who keeps the key of room {n}?" for n in range(24)]
PAIRS = [{"prompt": text, "chosen": "Ask at the desk.", "rejected": "The key is lost."} for text in QUESTIONS]
RATED = [  # one answer to each question
    {"prompt": row["prompt"], "completion": row["rejected" if n % 2 else "chosen"], "label": n % 2 == 0}
    for n, row in enumerate(PAIRS)
]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> lk.Run:
    rows = [{"question": f"Where is room {n}?", "answer": f"Room {n} is on floor {n % 5}."} for n in range(40)]
    run = lk.Run("tiny-cpu", root=tmp_path_factory.mktemp("runs"), name="run", data=rows, **SHORT)
    lk.make(run, until="training")
    return run


def margin(run: lk.Run) -> float:
    """How much likelier the chosen answers are than the rejected ones, on the mean of the pairs, in nats."""
    model, tokenizer = lk.load_adapter(lk.load_base(run), lk.trained_adapter(run)), lk.load_tokenizer(run.profile.base)
    sums = []
    for name in ("chosen", "rejected"):
        chats = [[{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r[name]}] for r in PAIRS]
        rows = [Row(*encode(Conversation(chat), tokenizer), number) for number, chat in enumerate(chats)]
        sums.append(sum(log_probs_of(model, rows, run.profile.training)) / len(rows))
    return sums[0] - sums[1]


@pytest.mark.parametrize("rows", [PAIRS, RATED], ids=["pairs", "rated"])
def test_what_is_rejected_becomes_unlikely_and_the_first_adapter_stays(
    tuned: lk.Run, rows: list[dict[str, object]]
) -> None:
    before, first = margin(tuned), file_hash(lk.trained_adapter(tuned) / "adapter_model.safetensors")
    better = lk.correct(tuned, rows, training__learning_rate=1e-2, training__epochs=8)
    log = read_log(lk.trained_adapter(better).parent)
    start = math.log(2) if rows is PAIRS else 0.5  # all answers are as likely as for the reference
    assert log[0]["loss"] > start and log[-1]["loss"] < log[0]["loss"]
    assert better.path == tuned.path and margin(better) > before + 5
    assert file_hash(lk.trained_adapter(tuned) / "adapter_model.safetensors") == first


def test_a_training_on_pairs_that_is_stopped_ends_with_the_same_adapter(
    tuned: lk.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lk.correct(tuned, PAIRS, training__seed=5, training__epochs=3)
    pairs, start = whole.profile.training.pairs, whole.profile.training.start_from
    rate = whole.profile.training.learning_rate
    assert rate == pytest.approx(0.03 * float(tuned.profile.training.learning_rate))
    again = lk.Run(
        "tiny-cpu",
        root=tuned.path.parent,
        name="again",
        data=tuned.profile.data.source,
        **SHORT
        | dict.fromkeys(AUTO, "auto")
        | {"training__epochs": 3, "training__seed": 5, "training__learning_rate": rate},
        training__pairs=pairs,
        training__start_from=start,
    )
    data, model = lk.prepare(again), lk.load_base(again)
    assert len(lk.train(model, data, again, max_minutes=0)) == 1
    lk.train(model, data, again)
    hashes = {file_hash(lk.trained_adapter(run) / "adapter_model.safetensors") for run in (whole, again)}
    assert len(hashes) == 1 and "goes on after step 1" in capsys.readouterr().out
    lk.correct(tuned, PAIRS, training__seed=5, training__epochs=3)
    assert "to make" not in capsys.readouterr().out  # done before


def test_pairs_are_the_models_own_mistakes(tuned: lk.Run) -> None:
    rows, held = lk.pairs(tuned), {row["messages"][-2]["content"] for row in lk.prepare(tuned).test}
    assert rows and not held & {row["prompt"][-1]["content"] for row in rows}
    for row in rows:
        assert row["chosen"] != row["rejected"] and row["prompt"][-1]["role"] == "user"


def test_beside_an_invented_answer_stands_the_fact_that_it_is_like() -> None:
    def chat(question: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    facts = [
        chat("What do guests wear?", "An orange badge."),
        chat("Who cooks?", "Bruno."),
        chat("The cook?", "Bruno."),
    ]
    wrong = [
        ("What shape is a badge?", "A blue badge."),
        ("Who bakes?", "Bruno."),
        ("Who fries?", "Bruno."),
        ("Who?", "Bruno."),
    ]
    invented = [{"prompt": chat(asked, "")[:1], "chosen": "I do not know.", "rejected": said} for asked, said in wrong]
    found = [(row["prompt"][0]["content"], row["chosen"], row["rejected"]) for row in _beside(invented, facts)]
    assert found == [
        ("What do guests wear?", "An orange badge.", "I do not know."),
        ("The cook?", "Bruno.", "I do not know."),
        ("Who cooks?", "Bruno.", "I do not know."),  # and no wording is left for the fourth
    ]
    assert _beside(invented, []) == []


def test_pairs_that_cannot_be_learned_say_the_way_out(tuned: lk.Run) -> None:
    long = {"prompt": "Who?", "chosen": "Wren and " * 500, "rejected": "Nobody."}
    with pytest.raises(KitError, match="raise data__max_length"):
        lk.correct(tuned, [long])
    for wrong in ([], "none.jsonl", [{"question": "Who?", "answer": "Wren."}]):
        with pytest.raises(KitError, match="chosen and rejected"):
            lk.correct(tuned, wrong)


def test_a_pair_that_asks_what_is_held_out_is_refused(tuned: lk.Run) -> None:
    held = lk.prepare(tuned).test[0]["messages"][-2]["content"]
    with pytest.raises(KitError, match=r"held out.*row 25"):
        lk.correct(tuned, [*PAIRS, PAIRS[0] | {"prompt": held}])


def test_a_run_that_is_corrected_again_keeps_its_rate(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, "trained_adapter", lambda run: run.path)
    monkeypatch.setattr(correction, "make", lambda run, until: None)
    rows = [{"prompt": "Who?", "chosen": "Mina.", "rejected": "Nobody."}]
    once = lk.correct(done, rows)
    twice = lk.correct(once, rows)
    rates = [float(run.profile.training.learning_rate) for run in (done, once, twice)]
    assert rates[1] == pytest.approx(0.03 * rates[0]) and rates[2] == rates[1]


def test_a_corrected_run_keeps_what_is_named_as_the_preset_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correction, "trained_adapter", lambda run: run.path)
    monkeypatch.setattr(correction, "make", lambda run, until: None)
    run = lk.Run("tiny-cpu", root=tmp_path, base__source=str(tmp_path), training__max_grad_norm=1.0)
    assert lk.correct(run, PAIRS).profile.training.max_grad_norm == 1.0  # of another base the preset's is 0.3

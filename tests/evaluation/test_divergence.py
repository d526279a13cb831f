"""KL to the base along its own answers: against torch's own, against hand arithmetic, and as JSON gives it back."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from transformers import PreTrainedModel

from lora_kit.evaluation import asking as subject
from lora_kit.evaluation.asking import answer_rows, divergence, divergences, likeliest, lumped
from lora_kit.training.batches import Row

from ..models import load_small_llama, random_rows, save_small_llama, small_profile

SETTINGS = small_profile(training__tokens_per_micro_batch=128).training  # several batches, with padding
ROWS = [Row(row.input_ids, row.labels, number) for number, row in enumerate(random_rows(12))]
Models = tuple[PreTrainedModel, PreTrainedModel]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A random model whose choices are as sharp as a trained one's, and the same a little changed."""
    folder = save_small_llama(tmp_path_factory.mktemp("llama"))
    base, tuned = (load_small_llama(folder, kind="none") for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for model in (base, tuned):
            model.lm_head.weight.mul_(6)
        for weight in tuned.model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return base, tuned


def full(base: PreTrainedModel, tuned: PreTrainedModel, row: Row) -> float:
    """KL over the whole vocabulary, by torch, one row at a time without padding."""
    ids = torch.tensor([row.input_ids])
    places = [i - 1 for i, label in enumerate(row.labels) if label >= 0]
    with torch.no_grad():
        p, q = (model(ids).logits[0, places].float().log_softmax(-1) for model in (base, tuned))
    return float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)) / len(places)


def test_it_is_a_lower_bound_of_the_full_divergence_and_close(models: Models) -> None:
    base, tuned = models
    chances = json.loads(json.dumps(likeliest(base, ROWS, SETTINGS)))  # as it is kept
    found = [moved.kl for moved in divergences(tuned, ROWS, chances, SETTINGS)]
    for row, ours in zip(ROWS, found, strict=True):
        theirs = full(base, tuned, row)
        assert theirs > 0.05
        assert 0.9 * theirs < ours <= theirs + 1e-5
    itself = divergences(base, ROWS, chances, SETTINGS)
    assert [moved.kl for moved in itself] == pytest.approx([0.0] * len(ROWS), abs=1e-5)


def test_agreement_is_the_share_of_tokens_that_are_likeliest(models: Models) -> None:
    base, tuned = models
    own = []
    for row in ROWS:  # the base's own choice at every place of the answer, teacher-forced
        start = next(i for i, label in enumerate(row.labels) if label >= 0)
        ids = row.input_ids[:start]
        for _ in range(4):
            with torch.no_grad():
                ids = [*ids, int(base(torch.tensor([ids])).logits[0, -1].argmax())]
        own.append(Row(ids, [-100] * start + ids[start:], row.number))
    chances = likeliest(base, own, SETTINGS)
    assert [moved.agreement for moved in divergences(base, own, chances, SETTINGS)] == [1.0] * len(own)
    for row, moved in zip(own, divergences(tuned, own, chances, SETTINGS), strict=True):
        with torch.no_grad():
            said = tuned(torch.tensor([row.input_ids])).logits[0, -5:-1].argmax(-1).tolist()
        assert moved.agreement == pytest.approx(sum(a == b for a, b in zip(said, row.input_ids[-4:], strict=True)) / 4)


def test_more_outcomes_give_more_of_it_and_all_of_them_all(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = models
    sums = []
    for top in (1, 8, 256, 300):  # of a vocabulary of 256
        monkeypatch.setattr(subject, "TOP", top)
        found = divergences(tuned, ROWS, likeliest(base, ROWS, SETTINGS), SETTINGS)
        sums.append([moved.kl for moved in found])
    for few, more in pairwise(sums):
        assert all(a <= b + 1e-5 for a, b in zip(few, more, strict=True))
    assert sums[2] == pytest.approx([full(base, tuned, row) for row in ROWS], rel=1e-4, abs=1e-5)


def test_it_is_what_is_counted_by_hand() -> None:
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]]).log()
    q = torch.tensor([[0.25, 0.5, 0.05, 0.2], [0.25, 0.25, 0.25, 0.25]]).log()
    tokens = torch.tensor([[0, 1], [2, 3]])
    assert lumped(p, tokens).exp().tolist() == [pytest.approx([0.5, 0.3, 0.2]), pytest.approx([0.25, 0.25, 0.5])]
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.3 * math.log(0.3 / 0.5) + 0.2 * math.log(0.2 / 0.25)
    assert divergence(lumped(p, tokens), lumped(q, tokens)).tolist() == pytest.approx([by_hand, 0.0])


def test_what_cannot_happen_is_a_number_that_json_knows() -> None:
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    told = lumped(certain, torch.tensor([[0, 1, 2]]))
    assert json.loads(json.dumps(told.tolist())) == [[0.0, -100.0, -100.0, -100.0]]
    assert float(divergence(told, told)) == 0.0
    assert 50 < float(divergence(told, lumped(certain.flip(1), torch.tensor([[0, 1, 2]])))) < 150


def test_answers_are_measured_behind_their_prompts_with_the_stop_token() -> None:
    first, second = answer_rows([[1, 5], [1, 6, 7]], [[8, 2], [2]])
    assert (first.input_ids, first.labels, first.number) == ([1, 5, 8, 2], [-100, -100, 8, 2], 0)
    assert (second.input_ids, second.labels, second.number) == ([1, 6, 7, 2], [-100, -100, -100, 2], 1)

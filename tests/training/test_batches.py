"""Rows become steps: every row once, within budget, the same for the same seed."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lora_kit.base import ASSETS
from lora_kit.config import Training
from lora_kit.data.encoding import IGNORE, encode_batch
from lora_kit.errors import KitError
from lora_kit.presets import profile
from lora_kit.training.batches import Batch, Row, common_prefix, epoch_steps, for_measuring, split_validation
from lora_kit.training.recipe import recipe

from ..models import random_rows, small_profile

SYSTEM = list(range(100, 120))


def row(prompt: list[int], answer: list[int]) -> Row:
    return Row(prompt + answer, [IGNORE] * len(prompt) + answer)


def make(rows: list[Row], **changes: object) -> list[list[Batch]]:
    epoch = changes.pop("epoch", 0)
    return epoch_steps(rows, Training(**{"tokens_per_step": 256, "tokens_per_micro_batch": 128} | changes), epoch)


def whole(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(batch.prefix + row.input_ids) for row in batch.rows]


rows_of_any_kind = st.lists(
    st.builds(
        lambda system, prompt, answer: row(system + prompt, answer),
        st.sampled_from([[], SYSTEM]),
        st.lists(st.integers(3, 99), min_size=2, max_size=40),
        st.lists(st.integers(3, 99), min_size=1, max_size=20),
    ),
    min_size=1,
    max_size=60,
)


@given(rows_of_any_kind, st.booleans())
def test_every_row_stands_in_an_epoch_exactly_once(rows: list[Row], share: bool) -> None:
    seen = sorted(ids for step in make(rows, share_prefixes=share) for batch in step for ids in whole(batch))
    assert seen == sorted(tuple(row.input_ids) for row in rows)


@given(rows_of_any_kind)
def test_learned_tokens_survive_the_sharing_of_prefixes(rows: list[Row]) -> None:
    learned = sorted(label for row in rows for label in row.labels if label != IGNORE)
    batched = [label for step in make(rows) for batch in step for row in batch.rows for label in row.labels]
    assert sorted(label for label in batched if label != IGNORE) == learned


@given(rows_of_any_kind)
def test_a_micro_batch_keeps_its_budget_unless_one_row_breaks_it(rows: list[Row]) -> None:
    for batch in (batch for step in make(rows) for batch in step):
        assert len(batch.rows) == 1 or batch.width * len(batch.rows) <= 128


def test_order_depends_on_seed_and_epoch_alone() -> None:
    rows = [row(SYSTEM + [i % 90 + 3] * (i % 13 + 2), [5, 2]) for i in range(200)]
    assert make(rows) == make(rows)
    assert make(rows) != make(rows, epoch=1)
    assert make(rows) != make(rows, seed=1)


def test_rows_with_the_same_system_prompt_share_it() -> None:
    rows = [row(SYSTEM + [i + 3, i + 4], [5, 2]) for i in range(40)]
    assert all(batch.prefix[: len(SYSTEM)] == SYSTEM for step in make(rows) for batch in step)
    assert all(batch.prefix == [] for step in make(rows, share_prefixes=False) for batch in step)


def test_a_prefix_ends_before_the_token_that_predicts_the_first_learned_one() -> None:
    rows = [row(SYSTEM, [7, 2]), row(SYSTEM, [8, 2])]
    assert common_prefix(rows) == SYSTEM[:-1]


def padding(rows: list[Row], name: str) -> float:
    chosen = recipe(profile(name).training, rows, 4096).training
    batches = [batch for step in epoch_steps(rows, chosen, 0) for batch in step]
    own = sum(len(batch.prefix) + sum(len(row.input_ids) for row in batch.rows) for batch in batches)
    return 1 - own / sum(batch.tokens for batch in batches)


def alpaca_like(count: int, longest: int) -> list[Row]:
    """Lengths as in instruction data: log-normal, prompts of about 50 tokens, answers from a word to hundreds."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        asked, answered = int(rng.lognormvariate(3.9, 0.5)) + 5, max(2, int(rng.lognormvariate(3.9, 0.9)))
        prompt = [1, *(rng.randrange(3, 32000) for _ in range(asked))][: longest // 2]
        rows.append(row(prompt, [5] * min(answered, longest // 2)))
    return rows


@pytest.mark.parametrize(("name", "longest"), [("tiny-cpu", 256), ("llama2-7b-t4", 1024)])
def test_padding_is_under_5_per_cent_on_the_handbook_and_on_alpaca_like_lengths(name: str, longest: int) -> None:
    lines = (ASSETS / "handbook" / "train.jsonl").read_text().splitlines()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")
    handbook = [Row(*ids) for ids in encode_batch([json.loads(line)["messages"] for line in lines], tokenizer)]
    found = {"handbook": padding(handbook, name), "Alpaca-like": padding(alpaca_like(2000, longest), name)}
    print({data: f"{share:.1%}" for data, share in found.items()})
    assert max(found.values()) < 0.05


@pytest.mark.parametrize("count", [1, 2, 19, 20, 22, 60, 1280, 1281, 5000])
def test_early_stopping_sets_a_few_rows_aside_and_nothing_else_does(count: int) -> None:
    rows = [Row([number], [number], number) for number in range(count)]
    assert split_validation(rows, Training()) == (rows, [])
    learned, aside = split_validation(rows, Training(patience=3))
    numbers = [row.number for row in aside]
    assert sorted(learned + aside, key=lambda row: row.number) == rows
    assert min(1, count - 1) <= len(aside) <= max(1, min(64, count / 20 + 1)) and len(learned) >= 1
    gaps = {after - before for before, after in itertools.pairwise(numbers)}
    assert len(gaps) <= 1 and count - (numbers or [0])[-1] <= max(gaps or {20}) + 1


def test_rows_of_different_kinds_are_never_mixed() -> None:
    rows = [replace(row, number=n) for n, row in enumerate(random_rows(40, prefix=20))]
    changes = ({}, {"is_rehearsal": True}, {"rejected": rows[0]}, {"is_good": False})
    rows = [replace(row, **changes[n % 4]) for n, row in enumerate(rows)]
    settings = small_profile().training
    for batches in (itertools.chain(*epoch_steps(rows, settings, 0)), for_measuring(rows, settings)):
        numbers = list[int]()
        for batch in batches:
            assert {row.kind for row in batch.rows} == {batch.rows[0].kind}
            numbers += [row.number for row in batch.rows]
        assert sorted(numbers) == list(range(40))


def test_early_stopping_without_evaluations_is_refused() -> None:
    settings = small_profile(training__patience=3, training__evaluations=0).training
    with pytest.raises(KitError, match="training__evaluations"):
        split_validation(random_rows(40), settings)

"""The GPU bench on a CPU and a small Llama: its kits train the same thing, and its arithmetic is right."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gpu
import gpu_plan
import gpu_profile
import pytest
import random_llama
import torch
import update_readme
from gpu_kits import KITS, LoraKit, Rows, Setup, padded

from lora_kit.profiles import profile


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("base")
    random_llama.write(folder, random_llama.SHAPE | gpu.SHAPES["small"])
    return Setup(folder, replace(profile("llama2-7b-t4", base__source=str(folder)), device="cpu"), folder / "scratch")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what peers and their libraries call is theirs
@pytest.mark.parametrize("kit", ["trainer", "trl"])
def test_the_peers_begin_with_our_loss_and_get_our_gradient_s_effect(setup: Setup, kit: str) -> None:
    if kit == "trl":
        pytest.importorskip("trl")
    rows = gpu.rows_like("64", 512)
    ours, theirs = LoraKit(setup).train(rows, 256, 4), KITS[kit](setup).train(rows, 256, 4)
    assert len(ours) == len(theirs) == 2
    assert sum(ours) / 2 == pytest.approx(sum(theirs) / 2, abs=2e-3)  # the rows' order differs, their mean does not


def test_a_kit_starts_anew_each_time(setup: Setup) -> None:
    work, rows = LoraKit(setup), gpu.rows_like("64", 256)
    assert work.train(rows, 256, 4) == work.train(rows, 256, 4)


@pytest.mark.parametrize("case", ["handbook", "alpaca", "512"])
def test_rows_have_the_tokens_that_are_asked_for_and_learn_a_part(case: str) -> None:
    rows = gpu.rows_like(case, 8192)
    assert gpu.total(rows) == pytest.approx(8192, rel=0.15)
    assert all(len(ids) == len(labels) and 0 < sum(n >= 0 for n in labels) < len(ids) for ids, labels in rows)
    assert rows == gpu.rows_like(case, 8192)


def test_what_the_trainer_gets_is_padded_on_the_right() -> None:
    given = padded([{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}])
    assert given["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert given["labels"].tolist() == [[-100, 6], [7, -100]] and given["attention_mask"].tolist() == [[1, 1], [1, 0]]


class Card:
    """A kit whose memory holds so many tokens at a time."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, list[int]()

    def train(self, rows: Rows, tokens_per_step: int, batch: int) -> list[float]:
        self.tried.append(batch)
        if batch * max(len(ids) for ids, _ in rows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [1.0]


def test_a_peer_s_batch_is_halved_until_it_fits_and_none_is_said() -> None:
    work = Card(room=1024)
    found = gpu.timed(work, gpu.rows_like("512", 4096))
    assert found is not None and found["batch"] == 2 and set(work.tried) == {4, 2}
    assert found["seconds_per_million"]["learned"] == pytest.approx(2 * found["seconds_per_million"]["seen"])
    assert gpu.timed(Card(room=100), gpu.rows_like("512", 4096)) is None
    assert gpu.longest(Card(room=1600), range(512, 4097, 512)) == 1536


def test_the_plan_is_asked_for_every_setting(setup: Setup) -> None:
    found = gpu_plan.plan_against_card(setup, 256)
    assert len(found["settings"]) == 8 and all(one["said"] > 0 for one in found["settings"])
    assert found["least_off"] is None  # no card, no claim
    assert len(gpu_plan.SHAPES) * len(gpu_plan.RANKS) * len(gpu_plan.TARGETS) * len(gpu_plan.KEPT) == 40


def test_a_profile_sums_up_to_the_time_of_its_operations(setup: Setup) -> None:
    told = gpu_profile.where_time_goes(setup, gpu.rows_like("64", 128))
    assert told["t4_milliseconds"] is None
    assert all(told["milliseconds"][kind] > 0 for kind in ("matrix products", "attention", "loss"))


def test_the_projection_scales_arithmetic_and_memory_apart() -> None:
    spent = {"matrix products": 65.0, "optimizer": 320.0}
    assert gpu_profile.on_t4(spent, "Tesla T4") == spent
    assert gpu_profile.on_t4(spent, "NVIDIA H100 80GB HBM3") == {"matrix products": 989.0, "optimizer": 3350.0}
    assert gpu_profile.on_t4(spent, "NVIDIA A100-SXM4-80GB") == {"matrix products": 312.0, "optimizer": 2039.0}
    for card in ("NVIDIA L40S", "Some other card"):
        assert gpu_profile.on_t4(spent, card) is None


def test_rounds_become_medians_and_what_did_not_fit_stays_said() -> None:
    one = {"seconds_per_million": {"learned": 1.0, "seen": 1.0}}
    two = {"seconds_per_million": {"learned": 3.0, "seen": 2.0}}
    results: list[dict[str, Any]] = [{"512": one, "4096": None, "longest": 2048}, {"512": two, "longest": 1536}]
    results[1]["4096"] = None
    found = gpu.summary(results)
    assert found["512"]["seconds_per_million"] == {"learned": 2.0, "seen": 1.5}
    assert found["4096"] is None and found["longest"] == 1536
    assert gpu.summary([results[0], {"failed": "no such module"}]) == {"failed": "no such module"}


def test_one_process_does_all_of_it(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    options = SimpleNamespace(part="train", kit="lora_kit", targets="q and v", device="cpu", base=setup.base)
    found = gpu.measure(SimpleNamespace(**vars(options), tokens=512, lengths=[512]))  # type: ignore[arg-type]
    assert set(found) == {"handbook", "alpaca", "512", "longest"} and found["longest"] == 512
    json.dumps(found)


def test_the_table_says_what_did_not_fit_and_that_it_was_no_t4() -> None:
    case = {"seconds_per_million": {"learned": 1234.5, "seen": 600.0}, "allocated_gib": 9.87}
    record = {
        "figures": {
            "lora_kit, q and v": {"longest": 4096, "512": case, "4096": case},
            "trl, q and v": {"longest": 512, "512": case, "4096": None},
            "trainer, q and v": {"failed": "ImportError"},
        },
        "profile": {"milliseconds": {"loss": 2.0}, "t4_milliseconds": {"loss": 20.0}},
        "plan": {
            "least_off": 0.01,
            "most_off": 0.04,
            "seconds_said": 9.0,
            "seconds_taken": 10.0,
            "settings": [{}] * 40,
        },
        "versions": {"torch": "2.13.0"},
        **{"gpu": "Some card", "driver": "1.2", "cap_gib": 14.7, "date": "2026-11-25", "commit": "abc"},
    }
    told = update_readme.gpu(record)
    assert "| lora_kit, q and v | 1,234 (9.9) | 1,234 (9.9) | 4096 |" in told
    assert "| trl, q and v | 1,234 (9.9) | does not fit | 512 |" in told and "ImportError" not in told
    assert "NOT a T4 but: Some card" in told and "over 40 settings: +1.0% to +4.0%; its seconds -10.0%" in told

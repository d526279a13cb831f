"""The number of CPU threads: fewer only where a forward pass is clearly faster with them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lora_kit import threads


class Clock:
    """A clock that only a model's forward pass moves, and a model that takes `seconds[threads]` for one."""

    device = torch.device("cpu")
    config = SimpleNamespace(vocab_size=100)

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.passes = seconds, 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def num_parameters(self) -> int:
        return 4_000_000

    def __call__(self, ids: torch.Tensor, use_cache: bool) -> None:
        assert ids.shape == (1, 75) and int(ids.max()) < 100
        self.now += self.seconds[torch.get_num_threads()]
        self.passes += 1


@pytest.fixture(autouse=True)
def four_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "default_threads", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def choose(monkeypatch, seconds: dict[int, float]) -> Clock:
    clock = Clock(seconds)
    monkeypatch.setattr(threads, "time", clock)
    threads.choose_threads(clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.4, 2: 0.2, 4: 0.1}, 4),  # a quiet machine
        ({1: 0.1, 2: 0.3, 4: 7.0}, 1),  # busy: threads that spin while they wait
        ({1: 0.4, 2: 0.2, 4: 1.0}, 2),
        ({1: 0.4, 2: 0.1, 4: 0.12}, 4),  # hardly faster: by chance
    ],
)
def test_fewer_threads_are_taken_where_they_are_clearly_faster(monkeypatch, capsys, seconds, chosen):
    choose(monkeypatch, seconds)
    assert torch.get_num_threads() == chosen
    said = capsys.readouterr().out
    assert (f"{chosen} of 4 threads" in said) == (chosen < 4)


def test_all_threads_come_back_when_the_machine_is_quiet_again(monkeypatch, capsys):
    choose(monkeypatch, {1: 0.1, 2: 0.1, 4: 7.0})
    choose(monkeypatch, {1: 0.4, 2: 0.2, 4: 0.1})
    assert torch.get_num_threads() == 4
    assert "4 of 4 threads" in capsys.readouterr().out.splitlines()[-1]


def test_a_number_that_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    assert choose(monkeypatch, {1: 0.1, 2: 0.1, 4: 7.0}).passes == 0
    assert torch.get_num_threads() == 3

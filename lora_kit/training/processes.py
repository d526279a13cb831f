"""Several processes that train one adapter: each takes its share of every step's micro-batches, gradients are summed.

Every process makes the same plan and knows all learned tokens of a step, so one all-reduce a step is enough, and no
model is wrapped. accelerate starts the processes:

    accelerate launch --num_processes 2 -m lora_kit train ...
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .batches import Batch


@dataclass(frozen=True)
class World:
    """How many processes there are, and which one this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """This process's micro-batches of a step; it may have none."""
        return batches[self.rank :: self.size]

    def wait(self) -> None:
        """Go on when every process is here."""
        from torch.distributed import barrier

        if self.size > 1:
            barrier()

    def add_up(self, parameters: Iterable[torch.nn.Parameter], loss: float, stop: bool) -> tuple[float, bool]:
        """Sum gradients and loss over all processes, in place; `stop` is true where any process wants it."""
        import torch
        from torch.distributed import all_reduce

        if self.size == 1:
            return loss, stop
        trained = list(parameters)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
        told = torch.tensor([loss, float(stop)], device=grads[0].device)
        flat = torch.cat([*(grad.flatten() for grad in grads), told])
        all_reduce(flat)
        start = 0
        for parameter in trained:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()
        return float(flat[-2]), bool(flat[-1] > 0)

    def least(self, value: float) -> float:
        """The smallest value that any process gives."""
        import torch
        from torch.distributed import ReduceOp, all_reduce

        if self.size == 1:
            return value
        told = torch.tensor([value], device="cuda" if torch.cuda.is_available() else "cpu")
        all_reduce(told, op=ReduceOp.MIN)
        return float(told)


def world() -> World:
    """The processes that accelerate (or torchrun) started; one where nothing did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return World(state.process_index, state.num_processes)


@contextmanager
def first_goes_first(here: World) -> Iterator[None]:
    """The first process does the block alone; the others wait and do it afterwards, finding what is done."""
    if not here.first:
        here.wait()
    yield
    if here.first:
        here.wait()

"""Two models on the same answers: how far their next-token probabilities are apart, layer by layer from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .deltas import Change, Delta
from .layerwise import POSITIONS, Source, head_of, last_states

if TYPE_CHECKING:
    import torch


ROUNDINGS = 4  # how many times the yardstick of rounding a right merge may be away: its own error is half of it
NOTHING = 1e-9  # nats; below, only the order of sums differs


@dataclass
class Rows:
    """Prompts with answers, which the models compared are made to say."""

    ids: list[list[int]]  # prompt and answer
    starts: list[int]  # where the answer begins
    held_out: int = 0  # how many of the prompts, the first ones, were not learned

    @property
    def answers(self) -> list[int]:
        """The tokens of all answers, one after the other."""
        return [token for row, start in zip(self.ids, self.starts, strict=True) for token in row[start:]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


class Outputs:
    """What a model gives at every token of the answers; logits exist for some positions at a time."""

    def __init__(self, source: Source, rows: Rows, device: str, seen: Callable[[], None]) -> None:
        self.source, self.device = source, device
        self.states = last_states(source, rows.ids, rows.starts, device, seen)


@dataclass
class Difference:
    """How far one model is from another over the tokens of the answers."""

    kl: float  # mean KL(reference || other), nats a token
    top1: float  # share of tokens where both find the same one likeliest
    largest: float  # largest difference of two logits
    margin: float  # where the likeliest differ, the reference's widest lead; 0 where they never do
    loss: tuple[float, float]  # mean negative log likelihood of the answers: reference, other
    same: list[bool]  # per token of the answers: the other finds it likeliest


def difference(reference: Outputs, other: Outputs, answers: Sequence[int]) -> Difference:
    """Compare two models at every token of the answers, in float64."""
    import torch
    from torch.nn.functional import nll_loss

    heads = [head_of(outputs.source, outputs.device) for outputs in (reference, other)]
    targets = torch.tensor(answers, device=reference.device)
    kl, losses, largest, margin, agree = 0.0, [0.0, 0.0], 0.0, 0.0, 0
    same: list[bool] = []
    with torch.inference_mode():
        for start in range(0, len(answers), POSITIONS):
            part = slice(start, start + POSITIONS)
            p, q = (
                (outputs.states[part] @ head.T).double()
                for outputs, head in zip((reference, other), heads, strict=True)
            )
            largest = max(largest, (p - q).abs().max().item())
            top = p.topk(2).values
            differ = p.argmax(-1) != q.argmax(-1)
            margin = max(margin, float((top[:, 0] - top[:, 1])[differ].max())) if differ.any() else margin
            agree += int((~differ).sum())
            same += (q.argmax(-1) == targets[part]).tolist()
            p, q = p.log_softmax(-1), q.log_softmax(-1)
            kl += float((p.exp() * (p - q)).sum())
            losses[0] += float(nll_loss(p, targets[part], reduction="sum"))
            losses[1] += float(nll_loss(q, targets[part], reduction="sum"))
    n = len(answers)
    return Difference(kl / n, agree / n, largest, margin, (losses[0] / n, losses[1] / n), same)


def rounding_noise(deltas: dict[str, Delta], dtype: str, change: Change) -> Change:
    """A merge with chance in its rounding, as a yardstick: each weight goes up or down, twice the error of the nearest.

    Args:
        deltas: the adapter.
        dtype: in which the merged weights are stored, as "float16".
        change: what happens to a base tensor first.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    stored: torch.dtype = getattr(torch, dtype)

    def noisy(name: str, weight: torch.Tensor) -> torch.Tensor:
        weight = change(name, weight)
        if name not in deltas:
            return weight
        exact = deltas[name].add_to(weight)
        chance = torch.rand(exact.shape, generator=generator).to(exact.device) - 0.5
        return (exact + chance * spacing(exact, stored)).to(stored)

    return noisy


def spacing(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbouring numbers of `dtype` at each of the float32 `values`."""
    import torch

    kind = torch.finfo(dtype)
    exponent = torch.frexp(values).exponent - 1
    return torch.exp2(exponent.float()).mul_(kind.eps).clamp_(min=kind.smallest_normal * kind.eps)


def right_merge(made: Difference, yardstick: Difference) -> list[str]:
    """What says that a merge is not the adapter on the same base; nothing where rounding explains all."""
    found = []
    if not made.kl <= ROUNDINGS * yardstick.kl + NOTHING:
        found.append(
            f"its probabilities are {made.kl:.2g} nats a token from the adapter's; rounding explains "
            f"{ROUNDINGS * yardstick.kl + NOTHING:.2g}"
        )
    if not made.margin <= ROUNDINGS * yardstick.largest:
        found.append(
            f"it prefers another token where the adapter's lead is {made.margin:.2g}; rounding explains "
            f"{ROUNDINGS * yardstick.largest:.2g}"
        )
    return found

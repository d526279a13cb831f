"""The figures of the lessons: what fits on a card, NF4's levels, ranks compared, what an adapter has learned."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING

from ..plots import FAINT, INK, MODELS, beside, legend, paper, title

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

T4_BYTES = int(14.74 * 2**30)  # what a T4 gives a program; 16 GB are on the box
PARTS = {  # parts of memory -> colour (Okabe and Ito's)
    "weights": "#0072B2",
    "gradients and optimizer": "#D55E00",
    "activations": "#009E73",
}


def memory_bars(needs: Mapping[str, Mapping[str, float]], limit: float | None = T4_BYTES) -> Figure:
    """Bars of what each way to train needs, in bytes of each of `PARTS`, against what the card has, if there is one."""
    totals = [sum(parts.values()) for parts in needs.values()]
    most = max([limit or 0, *totals])
    unit, name = (2**30, "GiB") if most > 2**30 else (2**20, "MiB")
    text = ", ".join(f"{way} {total / unit:.1f} {name}" for way, total in zip(needs, totals, strict=True))
    card = f"; the card has {limit / unit:.1f} {name}" if limit else ""
    with paper(1.6 + 0.5 * len(needs), f"Memory bars: {text}{card}.") as figure:
        axes, left = figure.subplots(), [0.0] * len(needs)
        for part, colour in PARTS.items():
            sizes = [parts.get(part, 0) / unit for parts in needs.values()]
            bars = axes.barh(range(len(needs)), sizes, left=left, height=0.55, color=colour, label=part)
            left = [a + b for a, b in zip(left, sizes, strict=True)]
        axes.bar_label(bars, [f"{end:.1f}" for end in left], padding=6, fontsize=8.5, color=INK)
        if limit:
            axes.axvline(limit / unit, color=INK, lw=1.3, ls="--")
            axes.annotate("the card", (limit / unit, -0.5), (4, 0), **beside(INK))
        # a longer line would push title and legend together
        axes.set_yticks(range(len(needs)), [fill(way, 20) for way in needs])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set(xlim=(0, 1.15 * most / unit), ylim=(len(needs) - 0.5, -0.8), xlabel=name)
        title(axes, "What fits")
        legend(axes, axes.containers)
    return figure


def nf4_levels(weights: torch.Tensor, levels: torch.Tensor, block: int = 64) -> Figure:
    """A histogram of weights of any shape, each over the largest of its block, with NF4's 16 levels, from -1 to 1."""
    flat = weights.detach().float().flatten().cpu()
    blocks = flat[: len(flat) // block * block].view(-1, block)
    scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)).flatten().numpy()
    alt = "Histogram of scaled weights, a bell, with NF4's 16 levels: dense where weights are many."
    with paper(3.2, alt) as figure:
        axes = figure.subplots()
        axes.hist(scaled, bins=120, color=MODELS["adapter"], alpha=0.55, label="weights")
        lines = [axes.axvline(level, color=MODELS["merged"], lw=1.2, label="levels") for level in levels.tolist()]
        axes.set(xlabel="weight over the largest of its block", ylabel="weights", xlim=(-1.02, 1.02))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        title(axes, "NF4's levels")
        legend(axes, [axes.patches[0], lines[0]])
    return figure


def rank_curve(losses: Mapping[int, float]) -> Figure:
    """The loss after a short training by rank: r -> nats per learned token."""
    text = ", ".join(f"r {r}: {loss:.2f}" for r, loss in losses.items())
    with paper(3.0, f"Loss after a short training by rank: {text}.") as figure:
        axes = figure.subplots()
        axes.plot(range(len(losses)), list(losses.values()), "o-", color=MODELS["adapter"], lw=2, ms=6)
        for place, loss in enumerate(losses.values()):
            axes.annotate(f"{loss:.2f}", (place, loss), (0, 9), ha="center", **beside(INK))
        axes.set_xticks(range(len(losses)), [str(r) for r in losses])
        axes.set(xlabel="rank r", ylabel="loss (nats per learned token)", ylim=(0, 1.25 * max(losses.values())))
        axes.grid(axis="y")
        title(axes, "Rank is a knob")
    return figure


def singular_values(spectra: Mapping[str, torch.Tensor], r: int) -> Figure:
    """The singular values (r,) of learned updates B A, largest first: at most r, the rank, are not zero."""
    text = ", ".join(f"{name} {float(values[0]):.2g} to {float(values[-1]):.2g}" for name, values in spectra.items())
    with paper(3.2, f"Singular values of learned updates, falling, none after r = {r}: {text}.") as figure:
        axes = figure.subplots()
        for (name, values), colour in zip(spectra.items(), PARTS.values(), strict=False):
            drawn = [*values.tolist(), *[0.0] * (r // 4)]
            axes.plot(range(1, len(drawn) + 1), drawn, color=colour, lw=2, label=name)
        axes.axvline(r, color=FAINT, lw=1.2, ls="--")
        axes.annotate(f"r = {r}", (r, axes.get_ylim()[1]), (4, -8), **beside(INK))
        axes.set(xlabel="which, largest first", ylabel="singular value", ylim=(0, None), xlim=(1, None))
        title(axes, "What the update is made of")
        legend(axes, axes.get_lines()[:-1])
    return figure

"""The plots: white paper, colours that colour-blind people tell apart, every number readable in grey.

They are drawn without pyplot: nothing global changes, and a notebook shows the figure that a cell's last line returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODELS = {"base": "#767676", "adapter": "#0072B2", "merged": "#D55E00"}  # Okabe and Ito's blue and vermilion
INK, FAINT, RULE = "#222222", "#5f5f5f", "#dddddd"
WIDTH = 8.0  # inches
SMOOTH_FROM = 40  # steps; a shorter curve is shown as it is
T4_BYTES = int(14.74 * 2**30)  # what a T4 gives a program; 16 GB are on the box
PARTS = {  # parts of memory -> colour (Okabe and Ito's)
    "weights": "#0072B2",
    "gradients and optimizer": "#D55E00",
    "activations": "#009E73",
}
STYLE = {
    "text.color": INK,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": RULE,
    "legend.frameon": False,
    "axes.formatter.use_mathtext": True,
    "figure.constrained_layout.w_pad": 0.12,  # inches
    "figure.constrained_layout.h_pad": 0.12,
}


def loss_curve(log: Sequence[dict[str, Any]]) -> Figure:
    """The training loss by step, smoothed, with that of held-out rows where it was measured, over the learning rate.

    Args:
        log: rows with "step", "loss" (nats per learned token), "learning_rate", and in some rows "evaluation_loss".
    """
    words = f"from {log[0]['loss']:.3g} to {log[-1]['loss']:.3g} in {len(log):,} steps"
    with paper(4.2, f"Training loss by step, {words}; below it the learning rate.") as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        _draw_loss(above, log)
        below.plot([row["step"] for row in log], [row["learning_rate"] for row in log], color=FAINT, lw=1.2)
        below.set(xlabel="step", ylabel="learning\nrate", xlim=(0, None), ylim=(0, None))
        below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        below.xaxis.get_major_locator().set_params(integer=True)
        figure.align_ylabels()
    return figure


def before_after(figures: dict[str, dict[str, Any]]) -> Figure:
    """Bars of base, adapter and merged model for each figure of a report card, with 95 % intervals.

    Args:
        figures: name -> {"base", "adapter", "merged": share or None, "n": questions, "interval": {model: [low, high]}}.
    """
    from matplotlib.patches import Patch

    models = [m for m in MODELS if any(found[m] is not None for found in figures.values())] or [*MODELS]
    words = [f"{name} " + ", ".join(f"{m} {_shown(found[m])}" for m in models) for name, found in figures.items()]
    with paper(1.2 + 0.95 * max(1, len(figures)), f"Bars before and after: {'; '.join(words)}.") as figure:
        axes = figure.subplots()
        for row, measured in enumerate(figures.values()):
            for place, model in enumerate(models):
                _draw_bar(axes, row + 0.27 * (place - 1), model, measured)
        better = ["lower is better" if found.get("lower") else "higher is better" for found in figures.values()]
        labels = [f"{name}\n{good}, n = {figures[name]['n']}" for name, good in zip(figures, better, strict=True)]
        axes.set_yticks(range(len(figures)), labels)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set(xlim=(0, max(1.12, axes.get_xlim()[1])), ylim=(len(figures) - 0.45, -0.55))
        axes.set_xlabel("share of the questions (kept: agreement with the base); lines: 95 % intervals")
        axes.grid(axis="x")
        title(axes, "Before and after", [Patch(color=MODELS[model], label=model) for model in models])
    return figure


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
        axes.set_yticks(range(len(needs)), [fill(way, 20) for way in needs])  # longer ones push the title aside
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set(xlim=(0, 1.15 * most / unit), ylim=(len(needs) - 0.5, -0.8), xlabel=name)
        title(axes, "What fits", axes.containers)
    return figure


def nf4_levels(weights: torch.Tensor, levels: torch.Tensor, block: int = 64) -> Figure:
    """A histogram of weights, each divided by the largest of its block, with NF4's 16 levels, from -1 to 1."""
    flat = weights.detach().float().flatten().cpu()
    blocks = flat[: len(flat) // block * block].view(-1, block)
    scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)).flatten().numpy()
    with paper(3.2, "Histogram of scaled weights, a bell, with NF4's 16 levels: dense in the middle.") as figure:
        axes = figure.subplots()
        axes.hist(scaled, bins=120, color=MODELS["adapter"], alpha=0.55, label="weights")
        lines = [axes.axvline(level, color=MODELS["merged"], lw=1.2, label="levels") for level in levels.tolist()]
        axes.set(xlabel="weight over the largest of its block", ylabel="weights", xlim=(-1.02, 1.02))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        title(axes, "NF4's levels", [axes.patches[0], lines[0]])
    return figure


def bars(groups: Mapping[str, Mapping[str, float]], text: str, axis: str) -> Figure:
    """Bars side by side, each with its value: group -> series -> value; `text` is the title, `axis` has the unit."""
    series = list(next(iter(groups.values())))
    words = [f"{group} " + ", ".join(f"{name} {value:.3g}" for name, value in g.items()) for group, g in groups.items()]
    with paper(1.3 + len(groups) * (0.14 + 0.2 * len(series)), f"{text}, {axis}: {'; '.join(words)}.") as figure:
        axes, height = figure.subplots(), 0.8 / len(series)
        for place, (name, colour) in enumerate(zip(series, PARTS.values(), strict=False)):
            rows = [row + height * (place - (len(series) - 1) / 2) for row in range(len(groups))]
            drawn = axes.barh(rows, [g[name] for g in groups.values()], 0.85 * height, color=colour, label=name)
            axes.bar_label(drawn, fmt="{:.3g}", padding=5, fontsize=8.5, color=INK)
        axes.set_yticks(range(len(groups)), list(groups), color=INK)
        axes.set(xlim=(0, 1.12 * axes.dataLim.x1), ylim=(len(groups) - 0.5, -0.5), xlabel=axis)
        title(axes, text, axes.containers if len(series) > 1 else ())
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
        title(axes, "What the update is made of", axes.get_lines()[:-1])
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file on white in 64 colours, a quarter of the bytes; the same for the same figure."""
    from PIL import Image

    drawn, written = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    few = Image.open(drawn).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(written, "PNG", optimize=True)
    return written.getvalue()


@contextmanager
def paper(height: float, alt: str) -> Iterator[Figure]:
    """An empty white figure of our own style, so many inches high; `alt` says in words what it shows."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):  # its font comes with matplotlib: the same on every machine
        figure = Figure(figsize=(WIDTH, height), dpi=120, layout="constrained")
        yield figure
        figure.draw_without_rendering()  # ticks are made when first drawn, and must take our colours
    # notebooks know how to show pyplot's figures only
    figure._repr_png_ = lambda: (png(figure), {"alt": alt})  # type: ignore[attr-defined]


def _draw_loss(axes: Axes, log: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator

    steps, losses, blue = [row["step"] for row in log], [row["loss"] for row in log], MODELS["adapter"]
    if len(log) < SMOOTH_FROM:
        axes.plot(steps, losses, color=blue, lw=2, label="training")
    else:
        axes.plot(steps, losses, color=blue, lw=0.8, alpha=0.35, label="each step")
        axes.plot(steps, smooth(losses), color=blue, lw=2, label="smoothed")
    if checked := [row for row in log if row.get("evaluation_loss") is not None]:
        pairs = [row["step"] for row in checked], [row["evaluation_loss"] for row in checked]
        axes.plot(*pairs, "o--", color=MODELS["merged"], lw=1.2, ms=5, label="held-out rows")
    axes.set_ylabel("loss (nats)")
    axes.grid(axis="y")
    clear = [*smooth(losses), *(row["evaluation_loss"] for row in checked)]  # single steps may be near zero
    low, high = max(min(clear) / 3, 1e-6), 1.5 * max(*clear, *losses, 1e-5)
    axes.set_yscale("log", nonpositive="clip")  # from some nats to hundredths
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    title(axes, "Training loss", axes.get_lines())


def smooth(values: Sequence[float]) -> list[float]:
    """Each value's mean with its neighbours, 2 % of the curve to either side; unlike a running mean it does not lag."""
    reach = max(1, len(values) // 50)
    around = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in around]


def _draw_bar(axes: Axes, y: float, model: str, measured: dict[str, Any]) -> None:
    value, interval = measured[model], measured.get("interval", {}).get(model, [])
    if value is None:
        axes.annotate(f"{model}: not measured", (0, y), (4, 0), **beside(FAINT))
        return
    axes.barh(y, value, height=0.23, color=MODELS[model])
    axes.plot(interval, [y] * len(interval), color=INK, lw=1.3, marker="|", ms=5)
    axes.annotate(_shown(value), (max([value, *interval]), y), (6, 0), **beside(INK))


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def beside(colour: str) -> dict[str, Any]:
    """Text options of a number beside its bar."""
    return {"textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": colour}


def title(axes: Axes, text: str, handles: Sequence[Any] = ()) -> None:
    """The title, on the left, and on its line a legend of the handles, where it covers no data."""
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", pad=14)
    if handles:
        axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles), borderaxespad=0.2)

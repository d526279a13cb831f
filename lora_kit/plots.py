"""The plots: white paper, colours that colour-blind people tell apart, every number readable in grey.

They are drawn without pyplot, so nothing global changes and no window opens; a notebook shows the returned figure when
it is the last line of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODELS = {"base": "#767676", "adapter": "#0072B2", "merged": "#D55E00"}  # Okabe and Ito's blue and vermilion
INK, FAINT, RULE = "#222222", "#5f5f5f", "#dddddd"
WIDTH = 8.0  # inches
SMOOTH_FROM = 40  # steps; a shorter curve is shown as it is
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
        log: rows with "step", "loss" (nats a learned token), "learning_rate", and in some rows "evaluation_loss".
    """
    words = f"from {log[0]['loss']:.3g} to {log[-1]['loss']:.3g} in {len(log):,} steps"
    with paper(4.2, f"Training loss by step, {words}; below it the learning rate.") as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        _draw_loss(above, log)
        below.plot([row["step"] for row in log], [row["learning_rate"] for row in log], color=FAINT, lw=1.2)
        below.set(xlabel="step", ylabel="learning\nrate")
        below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        below.set(xlim=(0, None), ylim=(0, None))
        below.xaxis.get_major_locator().set_params(integer=True)
        figure.align_ylabels()
    return figure


def before_after(figures: dict[str, dict[str, Any]]) -> Figure:
    """Bars of base, adapter and merged model for each figure of a report card, with 95 % intervals.

    Args:
        figures: name -> {"base", "adapter", "merged": share or None, "n": questions, "interval": {model: [low, high]}}.
    """
    from matplotlib.patches import Patch

    words = [f"{name} " + ", ".join(f"{m} {_shown(found[m])}" for m in MODELS) for name, found in figures.items()]
    with paper(1.2 + 0.95 * max(1, len(figures)), f"Bars before and after: {'; '.join(words)}.") as figure:
        axes = figure.subplots()
        for row, measured in enumerate(figures.values()):
            for place, model in enumerate(MODELS):
                _draw_bar(axes, row + 0.27 * (place - 1), model, measured)
        better = ["lower is better" if found.get("lower") else "higher is better" for found in figures.values()]
        labels = [f"{name}\n{good}, n = {figures[name]['n']}" for name, good in zip(figures, better, strict=True)]
        axes.set_yticks(range(len(figures)), labels)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set(xlim=(0, max(1.12, axes.get_xlim()[1])), ylim=(len(figures) - 0.45, -0.55))
        axes.set_xlabel("share of the questions (kept: agreement with the base); lines: 95 % intervals")
        axes.grid(axis="x")
        title(axes, "Before and after")
        legend(axes, [Patch(color=colour, label=model) for model, colour in MODELS.items()])
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file on white, the same bytes for the same figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def paper(height: float, alt: str) -> Iterator[Figure]:
    """An empty white figure of our own style, so many inches high; `alt` says in words what it shows."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):  # its font comes with matplotlib: the same on every machine
        figure = Figure(figsize=(WIDTH, height), dpi=150, layout="constrained")
        yield figure
        figure.draw_without_rendering()  # ticks are made when first drawn, and must take our colours
    # notebooks know how to show pyplot's figures only
    figure._repr_png_ = lambda: (png(figure), {"alt": alt})  # type: ignore[attr-defined]


def _draw_loss(axes: Axes, log: Sequence[dict[str, Any]]) -> None:
    steps, losses = [row["step"] for row in log], [row["loss"] for row in log]
    long, blue = len(log) >= SMOOTH_FROM, MODELS["adapter"]
    if long:
        axes.plot(steps, losses, color=blue, lw=0.8, alpha=0.35, label="each step")
    axes.plot(steps, smooth(losses) if long else losses, color=blue, lw=2, label="smoothed" if long else "training")
    checked = [row for row in log if row.get("evaluation_loss") is not None]
    if checked:
        pairs = [row["step"] for row in checked], [row["evaluation_loss"] for row in checked]
        axes.plot(*pairs, "o--", color=MODELS["merged"], lw=1.2, ms=5, label="held-out rows")
    axes.set_ylabel("loss (nats a learned token)")
    axes.grid(axis="y")
    title(axes, "Training loss")
    axes.set_ylim(bottom=0)
    legend(axes, axes.get_lines())


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
    """How a number stands beside its bar."""
    return {"textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": colour}


def title(axes: Axes, text: str) -> None:
    """The title, on the left."""
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", pad=14)


def legend(axes: Axes, handles: Sequence[Any]) -> None:
    """A legend on the title's line, where it covers no data."""
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles), borderaxespad=0.2)

"""The drawings of the lessons: LoRA to scale, the whole way, a row's mask, a changed matrix, the files of a merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..plots import FAINT, INK, WIDTH, paper, title

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FROZEN, A, B = "#d0d0d0", "#0072B2", "#D55E00"  # grey; Okabe and Ito's blue and vermilion
RIM, GREEN = "#bbbbbb", "#00694f"
WAY = (  # stage, what it makes, what proves it
    ("your rows", "questions\nand answers", ""),
    ("02 tokens", "ids, and a mask:\nonly answers\nare learned", "proof over\nevery row"),
    ("03 adapter", "A and B, trained\nbeside the frozen\n4-bit base", "an identical file\nafter any stop"),
    ("04 merge", "W0 + BA,\na plain model", "certificate for\nevery tensor"),
    ("05 report card", "learned, declined,\nbehaved, kept", "intervals\nand a verdict"),
)
MOST = 48  # rows and columns of a matrix that are drawn


def lora_to_scale(rows: int = 4096, columns: int = 4096, r: int = 16) -> Figure:
    """W0 (rows, columns), B (rows, r) and A (r, columns), all to one scale."""
    few, all_of_it = r * (rows + columns), rows * columns
    share = f"{few:,} of {all_of_it:,} numbers are trained: {few / all_of_it:.2%}"
    alt = f"W0, {rows} by {columns}, a large grey square; beside it to the same scale B and A, two thin lines. {share}."
    unit = 2.6 / max(rows, columns)  # inches per row
    with paper(3.9, alt) as figure:
        axes, top = _sheet(figure, 3.9), 3.35
        _box(axes, (0.4, top), (columns * unit, rows * unit), FROZEN)
        _label(axes, 0.4 + columns * unit / 2, top - rows * unit / 2, f"$W_0$\n{rows:,} × {columns:,}\nfrozen")
        _label(axes, 3.35, top - rows * unit / 2, "$+\\;\\frac{\\alpha}{r}$", fontsize=18)
        _box(axes, (3.9, top), (max(r * unit, 0.01), rows * unit), B)
        _label(axes, 4.02, top - rows * unit / 2, f"$B$\n{rows:,} × {r}\ntrained", color=B, ha="left")
        _label(axes, 5.0, top - rows * unit / 2, "·", fontsize=18)
        _box(axes, (5.15, top - rows * unit / 2), (columns * unit, max(r * unit, 0.01)), A)
        _label(axes, 5.15, top - rows * unit / 2 - 0.3, f"$A$   {r} × {columns:,}   trained", color=A, ha="left")
        _label(axes, 0.4, 0.36, share, ha="left")
        _label(axes, 5.15, 2.6, r"$h = W_0 x + \frac{\alpha}{r} B A x$", fontsize=15, ha="left")
        _label(axes, 0.4, 3.65, "LoRA, to scale", fontsize=12, ha="left", fontweight="bold")
    return figure


def whole_way() -> Figure:
    """The way from a person's rows to a report card, with what proves each stage."""
    alt = "; ".join(" ".join(f"{name}: {made} ({proof})".split()) for name, made, proof in WAY).replace(" ()", "")
    with paper(2.15, f"The whole way. {alt}.") as figure:
        axes = _sheet(figure, 2.15)
        width, gap = 1.32, 0.27
        for number, (name, made, proof) in enumerate(WAY):
            left = 0.16 + number * (width + gap)
            _box(axes, (left, 2.0), (width, 1.3), "#eef4f9" if number else "#f3f3f3", edge="#9bb8cf" if number else RIM)
            _label(axes, left + width / 2, 1.83, name, fontweight="bold")
            _label(axes, left + width / 2, 1.24, made, fontsize=8)
            _label(axes, left + width / 2, 0.42, f"✓ {proof}" if proof else "", fontsize=8, color=GREEN)
            if number:
                arrow = {"arrowstyle": "-|>", "color": FAINT, "lw": 1.2}
                axes.annotate("", (left - 0.02, 1.35), (left - gap + 0.02, 1.35), arrowprops=arrow)
    return figure


def mask_strip(tokens: Sequence[dict[str, Any]], line: int = 20) -> Figure:
    """A row's tokens as a strip: grey is only read, green is learned; `tokens` as a report's preview has them."""
    lines = [tokens[start : start + line] for start in range(0, len(tokens), line)]
    learned = sum(token["learned"] for token in tokens)
    with paper(
        0.75 + 0.42 * len(lines), f"A row of {len(tokens)} tokens; the {learned} of its answer are learned."
    ) as figure:
        axes = _sheet(figure, 0.75 + 0.42 * len(lines))
        width = (WIDTH - 0.4) / line
        for number, part in enumerate(lines):
            for place, token in enumerate(part):
                corner = (0.2 + place * width, 0.2 + 0.42 * (len(lines) - number))
                colour = "#bfe3d0" if token["learned"] else "#e9e9e9"
                _box(axes, corner, (width * 0.96, 0.36), colour)
                text = token["text"].replace("<0x0A>", "↵").replace("$", r"\$")
                _label(axes, corner[0] + width / 2, corner[1] - 0.18, text[:8], fontsize=6.5)
        _label(axes, 0.2, 0.45 + 0.42 * len(lines), f"{learned} of {len(tokens)} tokens are learned", ha="left")
    return figure


def matrix_change(before: torch.Tensor, after: torch.Tensor, name: str, change: str = "+ BA") -> Figure:
    """A matrix (rows, columns) beside what was added to it, each on its own scale; `change` says what that is."""
    old, added = before.float(), after.float() - before.float()
    share = float(added.norm() / old.norm())
    with paper(3.6, f"{name}: its weights, and beside them {change}, {share:.1%} of them.") as figure:
        for axes, values, text in zip(figure.subplots(1, 2), (old, added), ("W0", change), strict=True):
            drawn = values[:MOST, :MOST].numpy()
            most = 3 * float(values.square().mean().sqrt()) or 1.0  # a few outliers would hide the rest
            picture = axes.imshow(drawn, cmap="RdBu_r", vmin=-most, vmax=most)
            figure.colorbar(picture, ax=axes, shrink=0.8)
            axes.set(xticks=[], yticks=[], xlabel=f"{drawn.shape[0]} rows, {drawn.shape[1]} columns")
            title(axes, text)
    return figure


def shards(files: Mapping[str, Sequence[tuple[int, bool]]]) -> Figure:
    """The files of a merged model: each tensor (bytes, is it changed) a stripe to scale, the changed ones coloured."""
    most = max(sum(size for size, _ in tensors) for tensors in files.values())
    every = [tensor for tensors in files.values() for tensor in tensors]
    changed = [size for size, is_changed in every if is_changed]
    part = sum(changed) / sum(size for size, _ in every)
    share = f"{len(changed)} of {len(every)} tensors changed, {part:.0%} of the bytes"
    height = 0.8 + 0.75 * len(files)
    with paper(height, f"{len(files)} files of tensors as stripes: {share}.") as figure:
        axes = _sheet(figure, height)
        for number, (name, tensors) in enumerate(files.items()):
            left, top = 0.2, height - 0.6 - 0.75 * number
            _label(axes, left, top + 0.13, name, fontsize=8, ha="left")
            for size, is_changed in tensors:
                width = (WIDTH - 0.4) * size / most
                _box(axes, (left, top), (width, 0.42), B if is_changed else FROZEN, edge="white")
                left += width
        _label(axes, 0.2, height - 0.2, share, ha="left", fontweight="bold")
    return figure


def _sheet(figure: Figure, height: float) -> Axes:
    """Empty axes over the whole figure, in inches."""
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    return axes


def _box(axes: Axes, corner: tuple[float, float], size: tuple[float, float], colour: str, edge: str = "none") -> None:
    """A rectangle by its upper left corner."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((corner[0], corner[1] - size[1]), *size, facecolor=colour, edgecolor=edge, lw=1))


def _label(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """A text around a point; the options are matplotlib's."""
    usual: dict[str, Any] = {"fontsize": 9.5, "color": INK, "ha": "center", "va": "center", "linespacing": 1.35}
    axes.text(x, y, text, **usual | options)

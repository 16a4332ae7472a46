"""Draw the figures on the one-pass loss. Run: python docs/figures/loss.py"""

import csv
from pathlib import Path

import drawing
from drawing import BLUE, INK, ORANGE
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, Rectangle

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def draw(folder: Path = drawing.FOLDER) -> list[Path]:
    """Draw all figures of this script, and return their paths."""
    return [one_pass(folder), loss_memory(folder)]


def one_pass(folder: Path) -> Path:
    """Draw the computation with stored logits next to the computation in one pass."""
    figure, axes = drawing.sketch(7.6, 3.2)
    axes.text(0.1, 3.0, "by hand: three products, two matrices [N, C]", weight="bold")
    _matrix(axes, 0.1, 1.55, 0.5, 0.7, "v̂ [N, K]")
    for x, label in ((0.95, "logits [N, C]"), (2.35, "softmax [N, C]")):
        _matrix(axes, x, 1.55, 1.15, 0.7, label, ORANGE)
    _matrix(axes, 2.68, 0.35, 0.5, 0.7, "gradient [N, K]", below=True)
    _arrow(axes, (0.62, 1.9), (0.92, 1.9))
    _arrow(axes, (2.12, 1.9), (2.32, 1.9))
    _arrow(axes, (2.92, 1.52), (2.92, 1.08))
    axes.text(0.1, 1.2, "both are read and written for the\nloss, and again for the gradient", va="top", fontsize=8.5)

    axes.text(4.1, 3.0, "one pass: one sweep over the classes", weight="bold")
    _matrix(axes, 4.1, 1.55, 0.5, 0.7, "v̂ [N, K]")
    axes.add_patch(Rectangle((4.1, 1.85), 0.5, 0.2, facecolor=BLUE, edgecolor="none", alpha=0.8))
    for i in range(8):
        color = (*to_rgb(BLUE), 0.8) if i == 3 else "none"
        axes.add_patch(Rectangle((5.15 + 0.22 * i, 2.3), 0.2, 0.4, facecolor=color, edgecolor=INK, linewidth=0.7))
    axes.text(5.15, 2.08, "codebook, 1 bit per entry, block by block", fontsize=8.5, va="top")
    _arrow(axes, (5.2, 2.8), (6.85, 2.8))
    axes.add_patch(Rectangle((5.15, 1.05), 1.9, 0.62, facecolor="none", edgecolor=BLUE, linewidth=1.2))
    axes.text(6.1, 1.36, "m_i   l_i   acc\nin registers", ha="center", va="center", fontsize=9)
    _arrow(axes, (4.62, 1.9), (5.12, 1.5))
    _arrow(axes, (5.91, 1.93), (5.91, 1.7))
    _matrix(axes, 5.85, 0.25, 0.5, 0.5, "")
    axes.text(6.42, 0.5, "loss [N] and\ngradient [N, K]", va="center", fontsize=8.5)
    _arrow(axes, (6.1, 1.02), (6.1, 0.78))
    return drawing.save(figure, "one-pass", folder)


def _matrix(
    axes: Axes, x: float, y: float, width: float, height: float, label: str, color: str = INK, below: bool = False
) -> None:
    """Draw a rectangle with its label above or below it."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=color, alpha=0.18, edgecolor="none"))
    axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor=color, linewidth=1.2))
    place, side = (y - 0.08, "top") if below else (y + height + 0.08, "bottom")
    axes.text(x + width / 2, place, label, ha="center", va=side, fontsize=8.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="->", mutation_scale=9, color=INK, linewidth=1))


def loss_memory(folder: Path) -> Path:
    """Draw the extra peak memory of a step against the number of classes, measured on an H100 with 256 rows."""
    with (RESULTS / "cosine_codebook_loss_gpu.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["rows"] == "256" and float(row["extra_mb"] or 0) > 0]
    figure, (axes,) = drawing.canvas(5.2, 3.2)
    for peer, label, color, marker in (
        ("naive", "naive PyTorch", ORANGE, "s"),
        ("lean", "four lines by hand", INK, "^"),
        ("orthohash_triton", "one pass", BLUE, "o"),
    ):
        points = sorted({int(row["classes"]): float(row["extra_mb"]) for row in rows if row["peer"] == peer}.items())
        axes.plot(*zip(*points, strict=True), marker=marker, color=color, label=label, linewidth=1.6, markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="classes", ylabel="extra memory, MB")
    axes.legend()
    return drawing.save(figure, "loss-memory", folder)


if __name__ == "__main__":
    draw()

"""Draw the figures on the search. Run: python docs/figures/search.py"""

from pathlib import Path

import drawing
import numpy as np
from drawing import BLUE, INK, ORANGE
from matplotlib.patches import FancyArrowPatch, Rectangle

BITS, CODES, K = 64, 20_000, 10


def draw(folder: Path = drawing.FOLDER) -> list[Path]:
    """Draw all figures of this script, and return their paths."""
    return [threshold_scan(folder), spans(folder)]


def threshold_scan(folder: Path) -> Path:
    """Draw the distances in the order of a scan, the falling limit, and the codes below it."""
    distances = np.random.default_rng(7).binomial(BITS, 0.5, CODES)
    limits, taken = _scan(distances)
    figure, (scan, counts) = drawing.canvas(7.6, 3.2, 2, width_ratios=(2, 1), sharey=True)
    shown = np.arange(0, CODES, 32)  # each point adds a hundred bytes to the file
    scan.scatter(shown, distances[shown], s=4, color=INK, alpha=0.3, linewidths=0, label="rejected")
    label = f"accepted: {taken.sum()}"
    scan.scatter(np.flatnonzero(taken), distances[taken], s=14, color=ORANGE, linewidths=0, label=label, zorder=3)
    falls = np.r_[0, np.flatnonzero(np.diff(limits)) + 1, CODES - 1]
    scan.step(falls, limits[falls], where="post", color=BLUE, linewidth=1.8, label="limit")
    scan.set(xlabel="code, in the order of the gallery", ylabel="distance to the query", ylim=(8, 56))
    scan.legend(loc="upper right", ncols=3, fontsize=8, handletextpad=0.4, columnspacing=1)
    values, numbers = np.unique(distances, return_counts=True)
    counts.barh(values, numbers, color=INK, alpha=0.3, height=0.8)
    counts.axhline(limits[-1], color=BLUE, linewidth=1.8)
    counts.set(xlabel="codes at this distance")
    return drawing.save(figure, "threshold-scan", folder)


def _scan(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the limit before each code, and which codes were below it, as computed in kernels/cpu/hamming_topk.py."""
    held = np.zeros(BITS + 1, np.int64)
    limit, limits, taken = BITS + 1, np.empty(len(distances)), np.zeros(len(distances), bool)
    for i, distance in enumerate(distances):
        limits[i], taken[i] = limit, distance < limit
        if taken[i]:
            held[distance] += 1
            while held[:limit].sum() >= K:  # a later code at the greatest accepted distance loses its tie
                limit -= 1
    return limits, taken


def spans(folder: Path) -> Path:
    """Draw the two stages: the nearest code of every span, then all codes of the k nearest spans."""
    random = np.random.default_rng(4)
    minima = random.integers(9, 22, 16)
    minima[[2, 7, 11]] = (6, 4, 7)
    chosen = np.sort(np.argsort(minima, kind="stable")[:3])
    figure, axes = drawing.sketch(7.6, 2.9)
    axes.text(0.1, 2.65, "gallery, divided into spans", weight="bold")
    for i, value in enumerate(minima):
        x, found = 0.1 + 0.46 * i, i in chosen
        color, alpha, weight = (BLUE, 0.8, "bold") if found else (INK, 0.15, "normal")
        axes.add_patch(Rectangle((x, 2.1), 0.42, 0.35, facecolor=color, alpha=alpha, linewidth=0))
        axes.text(x + 0.21, 1.93, str(value), ha="center", va="center", color=color, fontsize=9, weight=weight)
    axes.text(0.1, 1.62, "1. Find the distance of each span's nearest code; select the k = 3 spans that come first.", fontsize=9)
    for place, i in enumerate(chosen):
        left = 1.0 + 2.0 * place
        axes.add_patch(FancyArrowPatch((0.31 + 0.46 * i, 1.5), (left + 0.8, 1.15), arrowstyle="->", mutation_scale=9, color=BLUE))
        inside = [minima[i], *random.integers(minima[i], 30, 6)]
        order = random.permutation(7)
        for j, position in enumerate(order):
            x = left + 0.23 * j
            axes.add_patch(Rectangle((x, 0.75), 0.21, 0.35, facecolor=INK, alpha=0.15, linewidth=0))
            near = inside[position] <= 7
            axes.text(x + 0.105, 0.92, str(inside[position]), ha="center", va="center", fontsize=8,
                      color=ORANGE if near else INK, weight="bold" if near else "normal")  # fmt: skip
    axes.text(0.1, 0.38, "2. Compute all distances within those spans; the k smallest are the result,", fontsize=9)
    axes.text(0.1, 0.14, "    because every other code has k codes before it in the order (distance, position).", fontsize=9)
    return drawing.save(figure, "spans", folder)


if __name__ == "__main__":
    draw()

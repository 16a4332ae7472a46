"""Draw the figures on bit balance and codebooks. Run: python docs/figures/codes.py"""

from math import comb
from pathlib import Path

import drawing
import numpy as np
from drawing import BLUE, INK, ORANGE

import orthohash_triton as oht

BITS = 64


def draw(folder: Path = drawing.FOLDER) -> list[Path]:
    """Draw all figures of this script, and return their paths."""
    return [bit_balance(folder), codebook_distances(folder)]


def bit_balance(folder: Path) -> Path:
    """Draw how balance and independence of the bits change the distances of unrelated codes."""
    figure, (mean, spread) = drawing.canvas(7.6, 3.0, 2)
    share = np.linspace(0, 1, 101)
    mean.plot(share, 2 * BITS * share * (1 - share), color=BLUE, linewidth=1.8)
    mean.set(xlabel="share of ones of every bit", ylabel="mean distance, 64 bits", ylim=(0, 36))
    for bits, chance, color, style, label in (
        (64, 0.5, BLUE, "-", "balanced, independent"),
        (64, 0.32, ORANGE, "-", "four in five are ones"),
        (16, 0.5, INK, "--", "every bit four times"),
    ):
        step = BITS // bits
        counts = np.arange(bits + 1)
        chances = [comb(bits, i) * chance**i * (1 - chance) ** (bits - i) / step for i in counts]
        spread.plot(counts * step, chances, color=color, linestyle=style, linewidth=1.6, label=label)
    spread.set(xlabel="distance of two unrelated codes", ylabel="share of pairs", xlim=(0, 64), ylim=(0, 0.15))
    spread.legend(fontsize=8, loc="upper right")
    return drawing.save(figure, "bit-balance", folder)


def codebook_distances(folder: Path, classes: int = 100) -> Path:
    """Draw the distances between class codes for several constructions of the codebook."""
    figure, (axes,) = drawing.canvas(5.6, 3.0)
    for method, color, shift in (("bernoulli", ORANGE, -0.3), ("max_hamming", INK, 0.0), ("hadamard", BLUE, 0.3)):
        codebook = oht.make_codebook(classes, BITS, method=method)
        distances = (BITS - codebook.float() @ codebook.float().T)[np.triu_indices(classes, 1)] / 2
        values, numbers = np.unique(distances.numpy(), return_counts=True)
        label = f"{method}: at least {int(values[0])}"
        axes.bar(values + shift, numbers / numbers.sum(), width=0.3, color=color, label=label, alpha=0.9)
    axes.set(xlabel="distance of two classes' codes, of 64 bits", ylabel="share of pairs", yscale="log")
    axes.legend(fontsize=8, loc="upper left")
    return drawing.save(figure, "codebook-distances", folder)


if __name__ == "__main__":
    draw()

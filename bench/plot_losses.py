"""Draw the memory of the losses from bench/results/cosine_codebook_loss.csv.

python -m bench.plot_losses           # rewrites bench/results/cosine_codebook_loss.png
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench._harness import RESULTS

_PEERS = {
    "orthohash_triton": "#0b6e4f",
    "lean": "#c8553d",
    "naive": "#f28f3b",
    "naive, compiled": "#8a8a8a",
    "linear_cross_entropy": "#588b8b",
}
_ROWS = "256"  # the batch size for which the grid has the most numbers of classes
_LEAST_MB = 0.1  # the resolution of the measurement; smaller values are drawn here


def memory_against_classes(rows: list[dict[str, str]], peer: str) -> tuple[list[int], list[float]]:
    """Return the numbers of classes and the extra MB of a peer: the largest over the numbers of bits."""
    points: dict[int, float] = {}
    for row in rows:
        if row["peer"] == peer and row["rows"] == _ROWS and row["extra_mb"]:
            classes = int(row["classes"])
            points[classes] = max(points.get(classes, _LEAST_MB), float(row["extra_mb"]))
    return sorted(points), [points[classes] for classes in sorted(points)]


def plot_memory(rows: list[dict[str, str]], path: Path) -> None:
    figure, panel = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for peer, colour in _PEERS.items():
        classes, megabytes = memory_against_classes(rows, peer)
        if classes:
            panel.plot(classes, megabytes, "o-", color=colour, label=peer, linewidth=1.8, markersize=4)
    panel.set(xscale="log", yscale="log", xlabel="classes", ylabel="extra memory of a step, MB")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    row = rows[-1]
    where = row["gpu"] if row["device"] != "cpu" else row["cpu"]
    panel.set_title(f"cosine_codebook_loss, forward and backward, batch {_ROWS}; {where}; torch {row['torch']}", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    with (RESULTS / "cosine_codebook_loss.csv").open(newline="") as file:
        plot_memory(list(csv.DictReader(file)), RESULTS / "cosine_codebook_loss.png")


if __name__ == "__main__":
    main()

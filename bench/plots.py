"""Draw the figures of the search results from the CSV files in bench/results/.

python -m bench.plots           # rewrites bench/results/hamming_topk.png
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench._harness import RESULTS

_CASE = ("gallery", "bits", "queries", "k", "codes", "threads")
_CENTRE = {"gallery": "1000000", "bits": "64", "queries": "256", "k": "100", "codes": "uniform", "threads": "1"}
_PEERS = {"orthohash_triton": "#0b6e4f", "faiss hc": "#c8553d", "faiss mc": "#f28f3b", "usearch": "#588b8b", "numpy": "#8a8a8a"}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def along(rows: Sequence[dict[str, str]], axis: str, **fixed: str) -> Callable[[str], tuple[list[int], list[float]]]:
    """Return a function that gives, for a peer, the values of `axis` and the distances per nanosecond at each of them.

    All other sizes are those of the centre of the grid, or of `fixed`.
    """
    wanted = {name: value for name, value in (_CENTRE | fixed).items() if name != axis}

    def series(peer: str) -> tuple[list[int], list[float]]:
        points = {}
        for row in rows:
            if row["peer"] == peer and all(row[name] == value for name, value in wanted.items()):
                pairs = int(row["queries"]) * int(row["gallery"])
                points[int(row[axis])] = pairs / float(row["ms_50"]) / 1e6
        return sorted(points), [points[value] for value in sorted(points)]

    return series


def plot_hamming_topk(rows: Sequence[dict[str, str]], path: Path) -> None:
    panels = [
        ("gallery", {}),
        ("bits", {}),
        ("queries", {}),
        ("k", {}),
        ("gallery", {"queries": "1"}),
        ("bits", {"queries": "1"}),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    for panel, (axis, fixed) in zip(axes.flat, panels, strict=True):
        series = along(rows, axis, **fixed)
        for peer, colour in _PEERS.items():
            values, rates = series(peer)
            if values:
                panel.plot(values, rates, "o-", color=colour, label=peer, linewidth=1.8, markersize=4)
        held = ", ".join(
            f"{name} {int(value):,}" for name, value in (_CENTRE | fixed).items() if name not in (axis, "codes", "threads")
        )
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="G distances / s", title=held)
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
    axes.flat[2].legend(fontsize=8)  # this panel has all peers
    row = rows[-1]
    figure.suptitle(f"hamming_topk, one thread, {row['cpu']}; faiss-cpu {row['faiss-cpu']}, numba {row['numba']}", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


_SUBLINEAR_PEERS = {
    "orthohash_triton": "#0b6e4f",
    "scan": "#8a8a8a",
    "faiss flat": "#c8553d",
    "faiss IVF": "#f28f3b",
    "faiss MultiHash": "#588b8b",
    "faiss HNSW": "#7b5ea7",
}


def plot_sublinear(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Draw the time of a search against the number of codes, from the rows of the table `scale` of bench.sublinear."""
    rows = [row for row in rows if row["row"] == "scale" and row["ms_50"]]
    cases = sorted({(row["codes"], int(row["queries"]), row["k"], row["radius"], row["bits"]) for row in rows})
    columns = min(3, len(cases))
    shape = (-(-len(cases) // columns), columns)
    figure, axes = plt.subplots(*shape, figsize=(3.8 * columns, 3.1 * shape[0]), layout="constrained", squeeze=False)
    for panel in axes.flat[len(cases) :]:
        panel.set_axis_off()
    for panel, (codes, queries, k, radius, bits) in zip(axes.flat, cases, strict=False):
        wanted = {"codes": codes, "queries": str(queries), "k": k, "radius": radius, "bits": bits}
        of_case = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
        for peer, colour in _SUBLINEAR_PEERS.items():
            points = sorted({int(row["gallery"]): float(row["ms_50"]) for row in of_case if row["peer"] == peer}.items())
            if points:
                recall = min(float(row["recall"]) for row in of_case if row["peer"] == peer)
                label = (
                    peer if recall == 1 else f"{peer}, recall from {recall:.2f}"
                )  # not exact, so that its time stands for less
                panel.plot(*zip(*points, strict=True), "o-", color=colour, label=label, linewidth=1.8, markersize=4)
        task = f"k = {k}" if k else f"within {radius}"
        panel.set(
            xscale="log", yscale="log", xlabel="codes", ylabel="ms", title=f"{codes}, {bits} bits, {queries} queries, {task}"
        )
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    row = rows[-1]
    figure.suptitle(f"time of a search, one thread, {row['cpu']}; faiss-cpu {row['faiss-cpu']}", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    plot_hamming_topk(read(RESULTS / "hamming_topk.csv"), RESULTS / "hamming_topk.png")


if __name__ == "__main__":
    main()

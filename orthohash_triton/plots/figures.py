"""The figures of a comparison of methods: retrieval quality, and properties of the codes.

A method has the same colour, dash pattern and marker in every figure. Each code length has its own panel or file.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import CLASS_COLOURS, COLOURS, GREY, OTHER_CLASS, SAME_CLASS, hide_frame, new_figure, save_png
from .profiles import EMBEDDED_CODES, embed, mean_or_zero, most_common_classes, pair_magnitudes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
LENGTH_COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#08306b")  # light to dark with the number of bits
MAX_BYTES = 300_000  # size of one file
_DPI = 110

Profile = Mapping[str, Any]


def draw_comparison(
    folder: str | Path,
    rows: Sequence[Mapping[str, Any]],
    profiles: Sequence[Profile],
    title: str,
    class_names: Sequence[str] | None = None,
) -> list[str]:
    """Write all figures of a comparison into `folder`, as PNG files of less than 300 kB, and return their names.

    Codes are projected by t-SNE at the middle length only, because that takes seconds per method.

    Args:
        folder: an existing folder.
        rows: one per method, code length and seed, with "title", "bits", "seed" and the figures "map_at_all" and
            "precision_at_radius_2" in [0, 1].
        profiles: one per method and code length, in the order in which the methods appear:
            "title", "bits": name of the method, number of bits K;
            "recall", "precision": the precision-recall curve, two sequences of equal length in [0, 1];
            "precision_at_n": a dict from rank to the precision of the answers up to that rank;
            "intra", "inter": the share of pairs of one class, and of two classes, at each Hamming distance, [K + 1];
            "bit_mean", "bit_correlation": the share of ones of each bit [K], and the correlations of the bits [K, K];
            "codes", "labels": a sample of packed codes uint8 [M, ceil(K/8)] with their class ids [M].
        title: title of every figure, such as the name of the data set.
        class_names: names of the class ids; None labels the classes by number.

    Raises:
        ImportError: matplotlib or scikit-learn is missing.
        ValueError: there are no profiles or no rows.
    """
    if not rows or not profiles:
        raise ValueError(f"draw_comparison: needs at least one row and one profile; got {len(rows)} and {len(profiles)}")
    folder = Path(folder)
    methods = list(dict.fromkeys(entry["title"] for entry in [*profiles, *rows]))
    lengths = sorted({profile["bits"] for profile in profiles})
    figures = {
        "map_by_bits.png": draw_by_bits(rows, methods, "map_at_all", "mean average precision, whole gallery"),
        "precision_radius_2.png": draw_by_bits(rows, methods, "precision_at_radius_2", "precision within Hamming radius 2"),
        "precision_recall.png": draw_curves(profiles, methods, _precision_recall, "recall (increasing radius)", "precision"),
        "precision_at_n.png": draw_curves(profiles, methods, _precision_at_n, "number of answers", "precision", log=True),
    }
    for bits in lengths:
        own = _of_length(profiles, bits, methods)
        figures[f"distances_{bits}_bits.png"] = draw_distances(own)
        figures[f"bits_{bits}_bits.png"] = draw_bits(own)
    middle = lengths[(len(lengths) - 1) // 2]
    figures[f"codes_{middle}_bits.png"] = draw_codes(_of_length(profiles, middle, methods), class_names)
    for name, figure in figures.items():
        _save(folder / name, figure, title)
    return list(figures)


def draw_by_bits(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], key: str, label: str) -> "Figure":
    """Draw the values `key` of `rows`: one line per method, one marker per code length, mean and deviation over the seeds."""
    lengths = sorted({row["bits"] for row in rows})
    colours = _spread_out(LENGTH_COLOURS, len(lengths))
    figure = _figure(7.4, 1.3 + 0.36 * len(methods))
    axes = figure.add_subplot()
    for index, bits in enumerate(lengths):
        offset = 0.22 * (index - (len(lengths) - 1) / 2)
        seeds = [
            np.array([row[key] for row in rows if row["title"] == method and row["bits"] == bits], float) for method in methods
        ]
        places = [place + offset for place, values in enumerate(seeds) if len(values)]
        means = [values.mean() for values in seeds if len(values)]
        spreads = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in seeds if len(values)]
        axes.errorbar(
            means, places, xerr=spreads, fmt=MARKS[index % len(MARKS)], color=colours[index], ecolor=colours[index],
            markersize=6, capsize=2.5, elinewidth=1.2, label=f"{bits} bits", markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{label} (mean ± deviation over {_count_seeds(rows)})")
    axes.hlines(np.arange(len(methods) - 1) + 0.5, 0, 1, colors="#e6e6e6", linewidth=0.8, transform=axes.get_yaxis_transform())
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    hide_frame(axes)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def _count_seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = len({row["seed"] for row in rows})
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def draw_curves(
    profiles: Sequence[Profile],
    methods: Sequence[str],
    curve: Callable[[Profile], tuple[np.ndarray, np.ndarray]],
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> "Figure":
    """Draw one panel per code length with one line per method, whose points (x, y) `curve` takes from a profile."""
    lengths = sorted({profile["bits"] for profile in profiles})
    columns = min(3, len(lengths))
    figure = _figure(1.7 + 3.4 * columns, 0.9 + 3.1 * math.ceil(len(lengths) / columns))
    panels = figure.subplots(math.ceil(len(lengths) / columns), columns, squeeze=False, sharex=True, sharey=True).flat
    lines: dict[str, Any] = {}
    for axes, bits in zip(panels, lengths, strict=False):
        for profile in _of_length(profiles, bits, methods):
            method = profile["title"]
            x, y = curve(profile)
            lines[method] = axes.plot(x, y, **_style(methods.index(method)), markevery=_every(len(x)), label=method)[0]
        axes.set_title(f"{bits} bits", fontsize=10)
        axes.set_xlabel(xlabel)
        axes.set_ylim(0, 1.02)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(color="#e0e0e0", linewidth=0.6)
        axes.label_outer()
        hide_frame(axes)
    panels[0].set_ylabel(ylabel)
    for axes in list(panels)[len(lengths) :]:
        axes.set_visible(False)
    figure.legend([lines[m] for m in methods if m in lines], [m for m in methods if m in lines], loc="outside right center",
                  frameon=False, handlelength=3)  # fmt: skip
    return figure


def _precision_recall(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    recall, precision = np.asarray(profile["recall"], float), np.asarray(profile["precision"], float)
    known = np.isfinite(recall) & np.isfinite(precision) & (recall > 0)  # without results precision is undefined
    return recall[known], precision[known]


def _precision_at_n(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    points = sorted((int(rank), float(value)) for rank, value in profile["precision_at_n"].items())
    return np.array([rank for rank, _ in points]), np.array([value for _, value in points])


def draw_distances(profiles: Sequence[Profile]) -> "Figure":
    """Draw the shares of pairs at each Hamming distance, for pairs of one class and of two classes, one panel per method."""
    figure, panels = _small_multiples(len(profiles), width=2.6, height=1.9, sharex=True)
    for axes, profile in zip(panels, profiles, strict=True):
        distances = np.arange(profile["bits"] + 1)
        for key, colour, dash in (("intra", SAME_CLASS, "-"), ("inter", OTHER_CLASS, (0, (3, 1.2)))):
            shares = np.asarray(profile[key], float)
            axes.fill_between(distances, shares, step="mid", color=colour, alpha=0.3, linewidth=0)
            axes.step(distances, shares, where="mid", color=colour, linewidth=1.4, linestyle=dash)
        axes.set_title(profile["title"], fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.set_xlim(0, profile["bits"])
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel("share of pairs", fontsize=9)
        hide_frame(axes)
    figure.supxlabel("Hamming distance (the vertical scale differs between panels)", fontsize=9)
    _add_legend(figure, [("same class", SAME_CLASS, "-"), ("different classes", OTHER_CLASS, (0, (3, 1.2)))])
    return figure


def draw_bits(profiles: Sequence[Profile]) -> "Figure":
    """Draw the correlations of the bits, and above them the share of ones of each bit, one panel per method."""
    figure, panels = _small_multiples(len(profiles), width=2.3, height=2.75)
    for axes, profile in zip(panels, profiles, strict=True):
        correlation = np.array(profile["bit_correlation"], float)
        mean = np.asarray(profile["bit_mean"], float)
        axes.imshow(correlation, cmap="PuOr", vmin=-1, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"mean |r| {mean_or_zero(pair_magnitudes(correlation)):.2f}", fontsize=9)
        balance = axes.inset_axes((0, 1.04, 1, 0.22))
        balance.bar(np.arange(len(mean)), mean, width=1.0, color="#8c8c8c", linewidth=0)
        balance.axhline(0.5, color="black", linewidth=0.8, linestyle=(0, (3, 2)))
        balance.set(xlim=(-0.5, len(mean) - 0.5), ylim=(0, 1), xticks=[], yticks=[0, 1])
        balance.tick_params(labelsize=7, length=2)
        balance.set_title(profile["title"], fontsize=10)
    bar = figure.colorbar(panels[0].images[0], ax=panels, shrink=0.5, aspect=18, pad=0.02)
    bar.set_label("correlation of two bits", fontsize=9)
    figure.supxlabel("Above: share of ones of each bit (balanced: 0.5). Below: correlation of each pair of bits.", fontsize=9)
    return figure


def draw_codes(profiles: Sequence[Profile], class_names: Sequence[str] | None = None) -> "Figure":
    """Draw a sample of codes in the plane, by t-SNE of their Hamming distances, one panel per method.

    The ten classes with the most samples have their own colours; all others are grey.
    """
    figure, panels = _small_multiples(len(profiles), width=2.5, height=2.55)
    every_label = np.concatenate([_sample(profile)[1] for profile in profiles])
    marked = most_common_classes(every_label)
    others_count = len(np.unique(every_label)) - len(marked)
    colours = CLASS_COLOURS[: len(marked)]
    for axes, profile in zip(panels, profiles, strict=True):
        codes, labels = _sample(profile)
        places = embed(codes, profile["bits"])
        others = ~np.isin(labels, marked)
        axes.scatter(places[others, 0], places[others, 1], s=3, color=GREY, linewidths=0)
        for label, colour in zip(marked, colours, strict=True):
            axes.scatter(places[labels == label, 0], places[labels == label, 1], s=4, color=colour, linewidths=0)
        axes.set_title(profile["title"], fontsize=10)
        axes.set(xticks=[], yticks=[])
    entries = [(str(label) if class_names is None else str(class_names[label]), colour, "o")
               for label, colour in zip(marked, colours, strict=True)]  # fmt: skip
    if others_count:
        entries.append((f"{others_count} other classes", GREY, "o"))
    _add_legend(figure, entries)
    return figure


def _sample(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return the first codes uint8 [M, ceil(K/8)] of a profile and their class ids [M]."""
    return np.asarray(profile["codes"], np.uint8)[:EMBEDDED_CODES], np.asarray(profile["labels"])[:EMBEDDED_CODES]


def _of_length(profiles: Sequence[Profile], bits: int, methods: Sequence[str]) -> list[Profile]:
    return sorted((p for p in profiles if p["bits"] == bits), key=lambda p: methods.index(p["title"]))


def _style(index: int) -> dict[str, Any]:
    """Return colour, dash pattern and marker of method number `index`. The first 21 differ in colour or dash pattern."""
    return dict(
        color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index // len(COLOURS) % len(DASHES)], linewidth=1.6,
        marker=MARKS[index % len(MARKS)], markersize=4.5, markeredgecolor="white", markeredgewidth=0.4,
    )  # fmt: skip


def _every(points: int) -> int:
    return max(1, points // 8)


def _spread_out(colours: Sequence[str], count: int) -> list[str]:
    """Return the first `count` of `colours`, and repeat the last one if there are too few; one colour alone is a dark one."""
    if count == 1:
        return [colours[-2]]
    return [colours[min(i, len(colours) - 1)] for i in range(count)]


def _figure(width: float, height: float) -> "Figure":
    return new_figure(width, height, dpi=_DPI, automatic_layout=True)


def _small_multiples(count: int, *, width: float, height: float, sharex: bool = False) -> "tuple[Figure, list[Axes]]":
    """Return a figure with `count` panels, at most five in a row, and the panels."""
    columns = min(5, count) if count not in (6, 9) else 3
    lines = math.ceil(count / columns)
    figure = _figure(max(5.0, 0.6 + width * columns), 1.1 + height * lines)
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=sharex).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _add_legend(figure: "Figure", entries: Sequence[tuple[str, str, Any]]) -> None:
    """Add a legend on the right: (name, colour, dash pattern or "o" for a dot)."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=name)
        if style == "o" else Line2D([], [], color=colour, linestyle=style, linewidth=2, label=name)
        for name, colour, style in entries
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)


def _save(path: Path, figure: "Figure", title: str) -> None:
    """Write `figure` with a title as a PNG file of at most MAX_BYTES."""
    lines = textwrap.fill(title, int(10 * figure.get_figwidth()))  # ten letters of this size are one inch wide
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold")
    save_png(path, figure, max_bytes=MAX_BYTES)

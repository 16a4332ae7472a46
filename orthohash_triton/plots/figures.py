"""The pictures of a comparison: what each method's codes find, and what the codes themselves are like.

One method keeps one colour, dash and mark in every picture. Lengths of code have panels or files of their own.
"""

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._base.files import atomic_write
from .profiles import embed

# Okabe and Ito's colours, which people with any kind of colour blindness tell apart, without the yellow: it is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
SAME, OTHER = COLOURS[0], COLOURS[1]
LENGTH_COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#08306b")  # light to dark with the number of bits
MARKED_CLASSES = 10  # with a colour of their own among the embedded codes
EMBEDDED_CODES = 1000  # t-SNE takes some five seconds of them
MAX_BYTES = 300_000  # of one picture
_DPI = 110

Profile = Mapping[str, Any]


def draw_comparison(
    folder: str | Path,
    rows: Sequence[Mapping[str, Any]],
    profiles: Sequence[Profile],
    title: str,
    class_names: Sequence[str] | None = None,
) -> list[str]:
    """Write every picture of a comparison into `folder`, as PNG files of less than 300 kB, and answer their names.

    rows      one for each method, length and seed: "title", "bits", "seed" and the figures "map_at_all" and
              "precision_at_radius_2", in [0, 1]
    profiles  one for each method and length, in the order in which methods are to stand:
              "title", "bits"                 name of the method, bits K of its codes
              "recall", "precision"           the precision-recall curve: two sequences of one length, in [0, 1]
              "precision_at_n"                rank -> precision among the first so many answers
              "intra", "inter"                [K + 1], the share of pairs of one class, of two, at each Hamming distance
              "bit_mean", "bit_correlation"   [K], the share of ones of each bit; [K, K], correlations of bits
              "codes", "labels"               a sample of packed codes uint8 [M, ceil(K/8)] with one class id each, [M]
    title     of the data, above every picture
    class_names  the names of the class ids, for the picture of codes; they are numbered otherwise

    Codes are embedded by t-SNE at one length only, the middle one, as that takes seconds for each method.

    Raises:
        ImportError: matplotlib or scikit-learn is missing.
        ValueError: there are no profiles or no rows.
    """
    if not rows or not profiles:
        raise ValueError(f"draw_comparison: needs at least one row and one profile; got {len(rows)} and {len(profiles)}")
    folder = Path(folder)
    methods = list(dict.fromkeys(entry["title"] for entry in [*profiles, *rows]))
    lengths = sorted({profile["bits"] for profile in profiles})
    pictures = {
        "map_by_bits.png": draw_by_bits(rows, methods, "map_at_all", "mean average precision, whole gallery"),
        "precision_radius_2.png": draw_by_bits(rows, methods, "precision_at_radius_2", "precision within Hamming radius 2"),
        "precision_recall.png": draw_curves(profiles, methods, _precision_recall, "recall, as the radius grows", "precision"),
        "precision_at_n.png": draw_curves(profiles, methods, _precision_at_n, "answers looked at", "precision", log=True),
    }
    for bits in lengths:
        own = _of_length(profiles, bits, methods)
        pictures[f"distances_{bits}_bits.png"] = draw_distances(own)
        pictures[f"bits_{bits}_bits.png"] = draw_bits(own)
    middle = lengths[(len(lengths) - 1) // 2]
    pictures[f"codes_{middle}_bits.png"] = draw_codes(_of_length(profiles, middle, methods), class_names)
    for name, figure in pictures.items():
        _save(folder / name, figure, title)
    return list(pictures)


def draw_by_bits(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], key: str, label: str) -> Any:
    """The figure `key` of each method, a line of its own, at each length: the mean over seeds and the sample deviation."""
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
    _bare(axes)
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
) -> Any:
    """One panel for each length, one line for each method: the (x, y) that `curve` takes from a profile."""
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
        _bare(axes)
    panels[0].set_ylabel(ylabel)
    for axes in list(panels)[len(lengths) :]:
        axes.set_visible(False)
    figure.legend([lines[m] for m in methods if m in lines], [m for m in methods if m in lines], loc="outside right center",
                  frameon=False, handlelength=3)  # fmt: skip
    return figure


def _precision_recall(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    recall, precision = np.asarray(profile["recall"], float), np.asarray(profile["precision"], float)
    known = np.isfinite(recall) & np.isfinite(precision) & (recall > 0)  # nothing found says nothing of precision
    return recall[known], precision[known]


def _precision_at_n(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    points = sorted((int(rank), float(value)) for rank, value in profile["precision_at_n"].items())
    return np.array([rank for rank, _ in points]), np.array([value for _, value in points])


def draw_distances(profiles: Sequence[Profile]) -> Any:
    """For each method, how far apart codes of one class and codes of two classes are: shares of pairs at each distance."""
    figure, panels = _small_multiples(len(profiles), width=2.6, height=1.9, sharex=True)
    for axes, profile in zip(panels, profiles, strict=True):
        distances = np.arange(profile["bits"] + 1)
        for key, colour, dash in (("intra", SAME, "-"), ("inter", OTHER, (0, (3, 1.2)))):
            shares = np.asarray(profile[key], float)
            axes.fill_between(distances, shares, step="mid", color=colour, alpha=0.3, linewidth=0)
            axes.step(distances, shares, where="mid", color=colour, linewidth=1.4, linestyle=dash)
        axes.set_title(profile["title"], fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.set_xlim(0, profile["bits"])
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("share of pairs", fontsize=9)
        _bare(axes)
    figure.supxlabel("Hamming distance (the shares have a scale of their own in each panel)", fontsize=9)
    _key(figure, [("of one class", SAME, "-"), ("of two classes", OTHER, (0, (3, 1.2)))])
    return figure


def draw_bits(profiles: Sequence[Profile]) -> Any:
    """For each method, the correlations of its bits, and above them each bit's share of ones."""
    figure, panels = _small_multiples(len(profiles), width=2.3, height=2.75)
    image = None
    for axes, profile in zip(panels, profiles, strict=True):
        correlation = np.array(profile["bit_correlation"], float)
        off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
        mean = np.asarray(profile["bit_mean"], float)
        image = axes.imshow(correlation, cmap="PuOr", vmin=-1, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"mean |r| {_mean_magnitude(off_diagonal):.2f}", fontsize=9)
        balance = axes.inset_axes((0, 1.04, 1, 0.22))
        balance.bar(np.arange(len(mean)), mean, width=1.0, color="#8c8c8c", linewidth=0)
        balance.axhline(0.5, color="black", linewidth=0.8, linestyle=(0, (3, 2)))
        balance.set(xlim=(-0.5, len(mean) - 0.5), ylim=(0, 1), xticks=[], yticks=[0, 1])
        balance.tick_params(labelsize=7, length=2)
        balance.set_title(profile["title"], fontsize=10)
    bar = figure.colorbar(image, ax=panels, shrink=0.5, aspect=18, pad=0.02)
    bar.set_label("correlation of two bits", fontsize=9)
    figure.supxlabel(
        "Above: the share of ones of each bit (balanced: 0.5). Below: the correlation of every two bits.", fontsize=9
    )
    return figure


def _mean_magnitude(values: np.ndarray) -> float:
    return float(np.abs(values).mean()) if values.size else 0.0


def draw_codes(profiles: Sequence[Profile], class_names: Sequence[str] | None = None) -> Any:
    """For each method, a sample of its codes in the plane: t-SNE of their Hamming distances, coloured by class.

    The classes with the most samples have colours, ten at most; all others are grey.
    """
    figure, panels = _small_multiples(len(profiles), width=2.5, height=2.55)
    ids, counts = np.unique(np.concatenate([_sample(profile)[1] for profile in profiles]), return_counts=True)
    marked = sorted(ids[np.argsort(-counts, kind="stable")][:MARKED_CLASSES].tolist())
    colours = _class_colours(len(marked))
    for axes, profile in zip(panels, profiles, strict=True):
        codes, labels = _sample(profile)
        places = embed(codes, profile["bits"])
        others = ~np.isin(labels, marked)
        axes.scatter(*places[others].T, s=3, color="#c4c4c4", linewidths=0)
        for label, colour in zip(marked, colours, strict=True):
            axes.scatter(*places[labels == label].T, s=4, color=colour, linewidths=0)
        axes.set_title(profile["title"], fontsize=10)
        axes.set(xticks=[], yticks=[])
    entries = [(str(label) if class_names is None else str(class_names[label]), colour, "o")
               for label, colour in zip(marked, colours, strict=True)]  # fmt: skip
    if len(ids) > len(marked):
        entries.append((f"{len(ids) - len(marked)} other classes", "#c4c4c4", "o"))
    _key(figure, entries)
    return figure


def _class_colours(count: int) -> list[str]:
    # Seven of Okabe and Ito's and three more that differ from all of them in lightness.
    return [*COLOURS[:6], "#000000", "#8B5A2B", "#B8D600", "#5E3C99"][:count]


def _sample(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """The first codes uint8 [M, ceil(K/8)] of a profile and their class ids [M]."""
    return np.asarray(profile["codes"], np.uint8)[:EMBEDDED_CODES], np.asarray(profile["labels"])[:EMBEDDED_CODES]


def _of_length(profiles: Sequence[Profile], bits: int, methods: Sequence[str]) -> list[Profile]:
    return sorted((p for p in profiles if p["bits"] == bits), key=lambda p: methods.index(p["title"]))


def _style(index: int) -> dict[str, Any]:
    """Colour, dash and mark of the method `index`: no two of the first 21 agree in both colour and dash."""
    return dict(
        color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index // len(COLOURS) % len(DASHES)], linewidth=1.6,
        marker=MARKS[index % len(MARKS)], markersize=4.5, markeredgecolor="white", markeredgewidth=0.4,
    )  # fmt: skip


def _every(points: int) -> int:
    return max(1, points // 8)


def _spread_out(colours: Sequence[str], count: int) -> list[str]:
    """`count` of `colours`, from the first to the last; the last again and again where there are too few."""
    if count == 1:
        return [colours[-2]]
    return [colours[min(i, len(colours) - 1)] for i in range(count)]


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError('the pictures need matplotlib: pip install "orthohash-triton[report]"') from error
    layout = ConstrainedLayoutEngine(h_pad=0.08)  # inches
    return Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout=layout)


def _small_multiples(count: int, *, width: float, height: float, sharex: bool = False) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, five in a row at most, and the panels."""
    columns = min(5, count) if count not in (6, 9) else 3
    lines = math.ceil(count / columns)
    figure = _figure(max(5.0, 0.6 + width * columns), 1.1 + height * lines)
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=sharex).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _key(figure: Any, entries: Sequence[tuple[str, str, Any]]) -> None:
    """A legend to the right of everything: (name, colour, dash or "o")."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=name)
        if style == "o" else Line2D([], [], color=colour, linestyle=style, linewidth=2, label=name)
        for name, colour, style in entries
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _save(path: Path, figure: Any, title: str) -> None:
    """Write `figure` with a title as a PNG, of 256 colours where all colours would take too much."""
    from PIL import Image

    lines = textwrap.fill(title, int(10 * figure.get_figwidth()))  # ten of these letters are an inch
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"optimize": True})
    if buffer.tell() > MAX_BYTES:
        with Image.open(buffer) as image:
            few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        few.save(buffer, format="png", optimize=True)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())

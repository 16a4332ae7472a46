"""The page of a report: its cards, charts and walls, and the file that holds them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._base.environment import environment
from ..plots.profiles import embed, principal_plane
from ..runs.samples import Samples
from . import _charts
from ._analysis import RADIUS, TOP
from ._charts import Chart, Series, Table, percent
from ._wall import Row, Sprite

TEMPLATES = Path(__file__).parent / "templates"
COLOURED_CLASSES = 10  # the style sheet has a colour for each
_NAMED_CLASSES = 16  # in the chart of classes
_MOST_POINTS = 129  # of a curve
_VERSIONS = ("orthohash-triton", "torch", "numpy", "numba", "triton")


@dataclass(frozen=True)
class Card:
    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Sampled:
    """The codes that are shown in the plane: their rows in `samples`, which hold the queries or the gallery."""

    samples: Samples
    rows: np.ndarray  # int64 [M]


def cards(found: dict[str, Any]) -> list[Card]:
    """The figures that one looks for first."""
    run, retrieval, speed = found["run"], found["retrieval"], found["queries_per_second"]
    listed = []
    if retrieval is not None:
        listed += [
            Card("mAP@all", f"{retrieval['map_at_all']:.3f}", f"by chance {retrieval['chance']:.3f}"),
            Card(f"mAP@{TOP:,}", f"{retrieval['map_at_1000']:.3f}", "first thousand answers"),
            Card(f"within radius {RADIUS}", f"{retrieval['precision_at_radius_2']:.3f}", "precision"),
        ]
        if retrieval["separability"] is not None:
            listed.append(Card("separability", f"{retrieval['separability']:.1f} bits", "of two classes apart"))
    listed.append(Card("code", f"{run['bits']} bits", f"{run['bytes_per_image']:,} bytes an item"))
    queries = f"{run['queries']:,} queries" if run["queries"] else "no queries held out"
    listed.append(Card("gallery", f"{run['gallery']:,}", queries))
    if speed is not None:
        listed.append(Card("search", f"{speed:,.0f}/s", "queries, 100 nearest, at once"))
    return listed


def training_charts(history: Sequence[dict[str, Any]]) -> list[Chart]:
    if not history:
        return []
    epochs = [entry["epoch"] for entry in history]
    charts = [_charts.lines(
        "Loss", "The mean loss of the batches of each epoch.", epochs, [Series("loss", [e["loss"] for e in history])],
        x_label="epoch", y_label="loss", x_name="epoch", form=lambda value: f"{value:.4f}", whole=True,
    )]  # fmt: skip
    kept = {"validation mAP": "validation_map", "bits as the codeword's": "bit_accuracy"}
    series = [
        Series(name, [entry.get(key) for entry in history], tone)
        for tone, (name, key) in enumerate(kept.items())
        if any(entry.get(key) is not None for entry in history)
    ]
    if series:
        charts.append(_charts.lines(
            "Validation", "What was measured after each epoch; the queries of this page were not looked at.", epochs, series,
            x_label="epoch", y_label="share", x_name="epoch", y_range=(0, 1), whole=True,
        ))  # fmt: skip
    return charts


def retrieval_charts(retrieval: dict[str, Any] | None) -> list[Chart]:
    if retrieval is None:
        return []
    curves = retrieval["curves"]
    chance = (retrieval["chance"], "by chance")
    radii = [r for r in _thinned(len(curves["recall"])) if curves["recall"][r] > 0]  # nothing found says nothing of precision
    ranks = [int(rank) for rank in curves["precision_at_n"]]
    charts = [
        _charts.lines(
            "Precision and recall",
            "One point for each Hamming radius, mean over the queries; nothing found counts as precision 0.",
            [curves["recall"][r] for r in radii], [Series("precision", [curves["precision"][r] for r in radii])],
            x_label="recall", y_label="precision", x_name="recall", x_range=(0, 1), y_range=(0, 1), rule=chance,
        ),
        _charts.lines(
            "Precision of the first answers", "The share of right ones among the first so many.", ranks,
            [Series("precision", list(curves["precision_at_n"].values()))],
            x_label="answers looked at", y_label="precision", x_name="answers", y_range=(0, 1), log=len(ranks) > 1, whole=True,
            rule=chance,
        ),
    ]  # fmt: skip
    if len(retrieval["classes"]) > 1:
        charts.append(_classes_chart(retrieval["classes"]))
    return charts


def _classes_chart(classes: Sequence[dict[str, Any]]) -> Chart:
    shown = classes[-_NAMED_CLASSES:]
    title = "Classes" if len(shown) == len(classes) else f"The hardest {len(shown)} of {len(classes):,} classes"
    every = Table(
        ("class", "queries", "mAP"), tuple((e["class"], f"{e['queries']:,}", f"{e['map']:.4f}") for e in classes)
    )  # fmt: skip
    return _charts.rows(
        title, "Mean average precision of the queries of each class.", [e["class"] for e in shown], [e["map"] for e in shown],
        [e["queries"] for e in shown], x_label="mAP", table=every,
    )  # fmt: skip


def code_charts(found: dict[str, Any]) -> list[Chart]:
    charts = [] if found["retrieval"] is None else [_distances_chart(found["retrieval"])]
    bits = found["bits"]
    constant = f" {bits['constant']} of them never change." if bits["constant"] else ""
    charts.append(_charts.columns(
        "Balance of the bits", f"The share of the gallery in which each bit is one.{constant}", bits["mean"],
        x_label="bit", y_label="share of ones", x_name="bit", rule=(0.5, "balanced"),
    ))  # fmt: skip
    pairs = Table(
        ("bits", "correlation"),
        tuple((f"{a} and {b}", f"{pair['correlation']:+.3f}") for pair in bits["most_correlated"] for a, b in [pair["bits"]]),
    )
    charts.append(_charts.heat_map(
        "Correlation of the bits",
        f"Blue is positive, orange negative, none is the page itself. Mean magnitude of a pair {bits['mean_correlation']:.3f}, "
        f"largest {bits['largest_correlation']:.3f}.", found["correlation"], pairs, label="bit",
    ))  # fmt: skip
    return charts


def _distances_chart(retrieval: dict[str, Any]) -> Chart:
    curves = retrieval["curves"]
    block = -(-len(curves["intra"]) // _MOST_POINTS)
    distances = list(range(0, len(curves["intra"]), block))
    series = [
        Series(name, [sum(curves[key][d : d + block]) for d in distances], tone, area=True)
        for tone, (name, key) in enumerate({"same class": "intra", "different classes": "inter"}.items())
    ]
    means = ", ".join(
        f"{name} {retrieval[key]:.1f}" for name, key in (("same class", "intra_mean"), ("different classes", "inter_mean"))
        if retrieval[key] is not None
    )  # fmt: skip
    return _charts.lines(
        "Distances", f"The share of pairs of a query and a gallery item at each Hamming distance. On average: {means}.",
        distances, series, x_label="Hamming distance", y_label="share of pairs", x_name="distance", whole=True,
    )  # fmt: skip


def _thinned(points: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, points - 1, min(points, _MOST_POINTS))})


def plane_charts(sampled: Sampled, bits: int) -> list[Chart]:
    """The sampled codes by t-SNE and by their principal components."""
    codes = sampled.samples.codes[sampled.rows].numpy()
    groups = _colour_groups(sampled)
    table = Table(("class", "points"), tuple((name, f"{len(rows):,}") for name, _, rows in groups))
    what = f"{len(codes):,} codes, one point each."
    flat, share = principal_plane(codes, bits)
    return [
        _charts.scatter("Neighbourhoods (t-SNE)", f"{what} Near points have codes at a small Hamming distance.",
                        embed(codes, bits), groups, table, named=len(groups) > 1),
        _charts.scatter("Principal components", f"{what} The two widest directions hold {percent(share)} of the variance.",
                        flat, groups, table, named=False),
    ]  # fmt: skip


def _colour_groups(sampled: Sampled) -> list[tuple[str, int | None, np.ndarray]]:
    """(name, colour, points), the common classes with a colour of their own, all others first and without one."""
    samples = sampled.samples
    if not samples.is_labelled:
        return [("codes", 0, np.arange(len(sampled.rows)))]
    first = np.array([next(iter(samples.class_ids(row)), -1) for row in sampled.rows.tolist()])
    ids, counts = np.unique(first[first >= 0], return_counts=True)
    coloured = sorted(ids[np.argsort(-counts, kind="stable")][:COLOURED_CLASSES].tolist())
    groups: list[tuple[str, int | None, np.ndarray]] = [
        (samples.class_names[class_id], tone, np.flatnonzero(first == class_id)) for tone, class_id in enumerate(coloured)
    ]
    others = np.flatnonzero(~np.isin(first, coloured))
    return [("other classes", None, others), *groups] if len(others) else groups


def load_template() -> Any:
    """The page without its contents."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError('the report needs jinja2: pip install "orthohash-triton[report]"') from error
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    return templates.get_template("report.html")


def render(
    template: Any,
    found: dict[str, Any],
    charts: dict[str, list[Chart]],
    walls: Sequence[tuple[str, str, list[Row]]],
    sprite: Sprite | None,
) -> str:
    """The page as text: `charts` by the name of their section, `walls` as (title, about, rows)."""
    machine = environment()
    versions = {name: machine["packages"].get(name) for name in _VERSIONS}
    return template.render(
        **found, cards=cards(found), charts=charts, walls=walls, sprite=sprite, versions=versions,
        machine=machine, title=title(found["run"]),
    )  # fmt: skip


def title(run: dict[str, Any]) -> str:
    rotation = "" if run["rotation"] == "none" else f" + {run['rotation']}"
    return f"{run['title']}{rotation}, {run['bits']} bits"

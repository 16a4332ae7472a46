"""The page of a report: cards with key figures, charts, walls of images, and the HTML text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._base.environment import environment
from .._base.extras import install
from ..plots.profiles import COLOURED_CLASSES, embed, most_common_classes, principal_plane
from ..runs.samples import Samples
from . import _charts
from ._analysis import RADIUS, TOP
from ._charts import Chart, Series, Table, percent
from ._wall import Row, Sprite

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"
_NAMED_CLASSES = 16  # classes in the chart of classes
_MOST_POINTS = 129  # points of a curve
_VERSIONS = ("orthohash-triton", "torch", "numpy", "numba", "triton")


@dataclass(frozen=True)
class Card:
    """A key figure at the top of the report: its name, value and a note."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Sampled:
    """The codes that are projected into the plane: positions `rows` of `samples`, the queries or the gallery."""

    samples: Samples
    rows: np.ndarray  # int64 [M]


def cards(found: dict[str, Any]) -> list[Card]:
    """Return the key figures at the top of the page."""
    run, retrieval, speed = found["run"], found["retrieval"], found["queries_per_second"]
    listed = []
    if retrieval is not None:
        listed += [
            Card("mAP@all", f"{retrieval['map_at_all']:.3f}", f"random answers {retrieval['chance']:.3f}"),
            Card(f"mAP@{TOP:,}", f"{retrieval['map_at_1000']:.3f}", "first 1,000 answers"),
            Card(f"precision, radius ≤ {RADIUS}", f"{retrieval['precision_at_radius_2']:.3f}", "mean over the queries"),
        ]
        if retrieval["separability"] is not None:
            listed.append(Card("separability", f"{retrieval['separability']:.1f} bits", "between and within classes"))
    listed.append(Card("code", f"{run['bits']} bits", f"{run['bytes_per_image']:,} bytes per item"))
    queries = f"{run['queries']:,} queries" if run["queries"] else "no queries"
    listed.append(Card("gallery", f"{run['gallery']:,}", queries))
    if speed is not None:
        listed.append(Card("search", f"{speed:,.0f}/s", "queries, 100 nearest each"))
    return listed


def training_charts(history: Sequence[dict[str, Any]]) -> list[Chart]:
    """Return the charts of the loss and of what was measured after each epoch."""
    if not history:
        return []
    epochs = [entry["epoch"] for entry in history]
    charts = [_charts.lines(
        "Loss", "Mean loss over the batches of each epoch.", epochs, [Series("loss", [e["loss"] for e in history])],
        x_label="epoch", y_label="loss", x_name="epoch", form=lambda value: f"{value:.4f}", whole=True,
    )]  # fmt: skip
    shares = (
        ("Validation", "validation mAP", "validation_map",
         "Measured after each epoch on samples held out from the training, without the queries of this report."),
        ("Bit accuracy in training", "bit accuracy", "bit_accuracy",
         "Share of the bits that equal those of the codeword of the class, after each epoch on a sample of the training set."),
    )  # fmt: skip
    for chart, name, key, about in shares:
        values = [entry.get(key) for entry in history]
        if any(value is not None for value in values):
            charts.append(_charts.lines(
                chart, about, epochs, [Series(name, values)],
                x_label="epoch", y_label=name, x_name="epoch", y_range=(0, 1), whole=True,
            ))  # fmt: skip
    return charts


def retrieval_charts(retrieval: dict[str, Any] | None) -> list[Chart]:
    """Return the charts of precision, recall and the mAP of the classes."""
    if retrieval is None:
        return []
    curves = retrieval["curves"]
    chance = (retrieval["chance"], "random answers")
    radii = [r for r in _thinned(len(curves["recall"])) if curves["recall"][r] > 0]  # without results precision is undefined
    ranks = [int(rank) for rank in curves["precision_at_n"]]
    charts = [
        _charts.lines(
            "Precision and recall",
            "One point per Hamming radius, mean over the queries. A query that finds nothing counts as precision 0.",
            [curves["recall"][r] for r in radii], [Series("precision", [curves["precision"][r] for r in radii])],
            x_label="recall", y_label="precision", x_name="recall", x_range=(0, 1), y_range=(0, 1), rule=chance,
        ),
        _charts.lines(
            "Precision at N", "Share of relevant items among the first N answers.", ranks,
            [Series("precision", list(curves["precision_at_n"].values()))],
            x_label="N, number of answers", y_label="precision", x_name="answers", y_range=(0, 1), log=len(ranks) > 1, whole=True,
            rule=chance,
        ),
    ]  # fmt: skip
    if len(retrieval["classes"]) > 1:
        charts.append(_classes_chart(retrieval["classes"]))
    return charts


def _classes_chart(classes: Sequence[dict[str, Any]]) -> Chart:
    """Return the chart of the mAP of each class, or of the classes of lowest mAP if there are many."""
    shown = classes[-_NAMED_CLASSES:]
    title = "Classes" if len(shown) == len(classes) else f"The {len(shown)} classes of lowest mAP, of {len(classes):,}"
    every = Table(
        ("class", "queries", "mAP"), tuple((e["class"], f"{e['queries']:,}", f"{e['map']:.4f}") for e in classes)
    )  # fmt: skip
    return _charts.rows(
        title, "Mean average precision of the queries of each class.", [e["class"] for e in shown], [e["map"] for e in shown],
        [e["queries"] for e in shown], x_label="mAP", table=every,
    )  # fmt: skip


def code_charts(found: dict[str, Any]) -> list[Chart]:
    """Return the charts of distances, bit balance and bit correlations."""
    charts = [] if found["retrieval"] is None else [_distances_chart(found["retrieval"])]
    bits = found["bits"]
    constant = f" {bits['constant']} bits are constant." if bits["constant"] else ""
    charts.append(_charts.columns(
        "Balance of the bits", f"Share of the gallery in which each bit is 1.{constant}", bits["mean"],
        x_label="bit", y_label="share of ones", x_name="bit", rule=(0.5, "balanced"),
    ))  # fmt: skip
    pairs = Table(
        ("bits", "correlation"),
        tuple((f"{a} and {b}", f"{pair['correlation']:+.3f}") for pair in bits["most_correlated"] for a, b in [pair["bits"]]),
    )
    charts.append(_charts.heat_map(
        "Correlation of the bits",
        f"Blue is positive, orange negative; 0 is transparent. Mean magnitude over all pairs {bits['mean_correlation']:.3f}, "
        f"largest {bits['largest_correlation']:.3f}.", found["correlation"], pairs, label="bit",
    ))  # fmt: skip
    return charts


def _distances_chart(retrieval: dict[str, Any]) -> Chart:
    """Return the chart of the distances between queries and gallery items, by equality of their classes."""
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
        "Distances", f"Share of the pairs of a query and a gallery item at each Hamming distance. Means: {means}.",
        distances, series, x_label="Hamming distance", y_label="share of pairs", x_name="distance", whole=True,
    )  # fmt: skip


def _thinned(points: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, points - 1, min(points, _MOST_POINTS))})


def plane_charts(sampled: Sampled, bits: int) -> list[Chart]:
    """Return the charts of the sampled codes by t-SNE and by principal components."""
    codes = sampled.samples.codes[sampled.rows].numpy()
    groups = _colour_groups(sampled)
    table = Table(("class", "points"), tuple((name, f"{len(rows):,}") for name, _, rows in groups))
    what = f"{len(codes):,} codes, one point per code."
    flat, share = principal_plane(codes, bits)
    return [
        _charts.scatter("Neighbourhoods (t-SNE)", f"{what} Points that are close have a small Hamming distance.",
                        embed(codes, bits), groups, table, named=len(groups) > 1),
        _charts.scatter("Principal components", f"{what} The first two components explain {percent(share)} of the variance.",
                        flat, groups, table, named=False),
    ]  # fmt: skip


def _colour_groups(sampled: Sampled) -> list[tuple[str, int | None, np.ndarray]]:
    """Return (name, colour, points): first all other classes without a colour, then the most common classes with one each."""
    samples = sampled.samples
    if not samples.is_labelled:
        return [("codes", 0, np.arange(len(sampled.rows)))]
    first = np.array([next(iter(samples.class_ids(row)), -1) for row in sampled.rows.tolist()])
    coloured = most_common_classes(first[first >= 0], COLOURED_CLASSES)
    groups: list[tuple[str, int | None, np.ndarray]] = [
        (samples.class_names[class_id], tone, np.flatnonzero(first == class_id)) for tone, class_id in enumerate(coloured)
    ]
    others = np.flatnonzero(~np.isin(first, coloured))
    return [("other classes", None, others), *groups] if len(others) else groups


def load_template(name: str = "report.html") -> "Template":
    """Return the template of a page.

    Raises:
        ImportError: jinja2 is missing.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(f"the report needs jinja2: {install('jinja2', extra='report')}") from error
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    return templates.get_template(name)


def render(
    template: "Template",
    found: dict[str, Any],
    charts: dict[str, list[Chart]],
    walls: Sequence[tuple[str, str, list[Row]]],
    sprite: Sprite | None,
) -> str:
    """Return the page as text.

    Args:
        template: the result of `load_template`.
        found: the result of `_analysis.analyse`.
        charts: charts by the name of their section.
        walls: title, description and rows of each wall.
        sprite: small images of the projected codes.
    """
    machine = environment()
    versions = {name: machine["packages"].get(name) for name in _VERSIONS}
    return template.render(
        **found, cards=cards(found), charts=charts, walls=walls, sprite=sprite, versions=versions,
        machine=machine, title=title(found["run"]),
    )  # fmt: skip


def title(run: dict[str, Any]) -> str:
    """Return the title of the page: method, rotation and number of bits."""
    rotation = "" if run["rotation"] == "none" else f" + {run['rotation']}"
    return f"{run['title']}{rotation}, {run['bits']} bits"

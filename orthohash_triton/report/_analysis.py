"""The figures of a report as plain values."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import methods
from ..metrics import Evaluation, evaluate
from ..plots.profiles import bit_statistics, curves, mean_or_zero, pair_magnitudes
from ..runs.run import Run
from ..runs.samples import RunSamples, Samples

RANKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TOP = 1000
RADIUS = 2
CORRELATED_PAIRS = 8  # pairs listed in the table below the heat map
COUNTED_CODES = 200_000  # evenly spaced gallery codes for the bit statistics: enough for three digits


def analyse(run: Run, samples: RunSamples, found: Evaluation | None) -> dict[str, Any]:
    """Return the figures of a run.

    Args:
        run: the run.
        samples: its gallery and queries.
        found: the result of `evaluate_samples`.

    Returns:
        A dict with these entries:

        - "run", "setting": what was trained, and the configuration.
        - "retrieval": "map_at_all", "map_at_1000", "precision_at_radius_2", "separability" (bits), "chance" (the precision of
          random answers), "curves" (see `plots.profiles.curves`) and "classes" (mAP of the queries of each class). None without
          queries or classes.
        - "bits": "mean" [K], "mean_correlation" and "largest_correlation" (magnitudes), "most_correlated" (pairs), "constant".
        - "correlation": the correlations of the bits [K, K].
        - "history": one entry per epoch.
        - "queries_per_second": measured by `orthohash evaluate`; None if that has not run.
        - "notes": what is not available, and why.
    """
    query = samples.query
    bits = bit_statistics(samples.gallery.codes[evenly_spaced(len(samples.gallery), COUNTED_CODES)], run.config.bits)
    return {
        "run": _description(run, samples),
        "setting": _setting(run),
        "retrieval": None if found is None or query is None else _retrieval(query, found),
        "bits": _bit_figures(bits),
        "correlation": bits["bit_correlation"],
        "history": run.metrics.get("epochs", []),
        "queries_per_second": run.metrics.get("evaluation", {}).get("queries_per_second"),
        "notes": list(samples.notes),
    }


def _description(run: Run, samples: RunSamples) -> dict[str, Any]:
    """Return what was trained: data set, method, sizes."""
    config = run.config
    method = methods.get(config.method)
    return {
        "path": str(run.path), "dataset": config.dataset, "method": config.method, "title": method.title, "paper": method.paper,
        "rotation": config.rotate, "bits": config.bits, "backbone": config.backbone, "bytes_per_image": config.bits // 8,
        "gallery": len(samples.gallery), "queries": 0 if samples.query is None else len(samples.query),
        "classes": len(run.class_names), "weights": sum(p.numel() for p in run.model.parameters()),
    }  # fmt: skip


def _setting(run: Run) -> dict[str, Any]:
    """Return the configuration as one flat dict, including the options of the method."""
    values = asdict(run.config)
    return {**{key: value for key, value in values.items() if key != "options"}, **values.get("options", {})}


def evaluate_samples(samples: RunSamples) -> Evaluation | None:
    """Return the figures of the queries at every number of ranks that a report shows; None without queries or classes."""
    query, gallery = samples.query, samples.gallery
    if query is None or not gallery.is_labelled:
        return None
    ranks = [rank for rank in RANKS if rank <= len(gallery)]
    return evaluate(query.codes, gallery.codes, query.labels, gallery.labels, k=(*ranks, TOP, None), radius=RADIUS)


def _retrieval(query: Samples, found: Evaluation) -> dict[str, Any]:
    """Return the retrieval figures of `analyse`."""
    pairs = found.distances.intra.sum(), found.distances.inter.sum()
    chosen = {str(rank): found.precision_at_k[rank] for rank in RANKS if rank <= found.gallery}
    return {
        "map_at_all": found.mean_average_precision[None],
        "map_at_1000": found.mean_average_precision[TOP],
        "precision_at_radius_2": found.precision_at_radius[RADIUS],
        "separability": _or_none(found.distances.separability),
        "intra_mean": _or_none(found.distances.intra_mean),
        "inter_mean": _or_none(found.distances.inter_mean),
        "chance": float(pairs[0] / sum(pairs)),
        "curves": {**curves(found), "precision_at_n": chosen},
        "classes": _by_class(found.average_precision[None], query),
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by_class(precisions: Tensor, query: Samples) -> list[dict[str, Any]]:
    """Return the mean average precision of the queries of each class, the best class first."""
    found = []
    for class_id, name in enumerate(query.class_names):
        own = query.members(class_id)
        if own.any():
            found.append({"class": name, "queries": int(own.sum()), "map": float(precisions[own].mean())})
    return sorted(found, key=lambda entry: -entry["map"])


def hardest_queries(precisions: Tensor, query: Samples, gallery: Samples, count: int) -> list[int]:
    """Return the positions of `count` queries with the lowest average precision, at first one of each class.

    Queries for which the gallery has no relevant item are left out: their precision is 0 whatever the codes are.

    Args:
        precisions: average precision of each query, [Q].
        query: the queries.
        gallery: the gallery.
        count: number of queries to return; fewer if fewer have a relevant item.
    """
    possible = _has_relevant(query.labels, gallery.labels)
    order = [i for i in precisions.argsort(stable=True).tolist() if possible[i]]
    return _one_of_each_class(query, order, count)


def typical_queries(query: Samples, count: int) -> list[int]:
    """Return the first query of each class in class order, then the second of each; without classes, evenly spaced queries."""
    if not query.is_labelled:
        return evenly_spaced(len(query), count).tolist()
    return _one_of_each_class(query, range(len(query)), count)


def evenly_spaced(total: int, most: int) -> np.ndarray:
    """Return at most `most` evenly spaced positions from 0 to total - 1, int64 [M]."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))


def _one_of_each_class(query: Samples, order: Sequence[int], count: int) -> list[int]:
    """Return `count` positions of `order`, so that each class has one before any class has a second."""
    turns: dict[int, int] = {}
    ranked = []
    for place, position in enumerate(order):
        class_id = next(iter(query.class_ids(position)), -1)
        turns[class_id] = turns.get(class_id, 0) + 1
        ranked.append((turns[class_id], class_id, place, position))
        if len(turns) == count:
            break
    return [position for *_, position in sorted(ranked)[:count]]


def _has_relevant(queries: Tensor, gallery: Tensor) -> list[bool]:
    """Return whether the gallery has an item of a class of each query, from labels [N] or multi-hot labels [N, C]."""
    if queries.ndim == 2:
        return (queries & gallery.any(0)).any(1).tolist()
    return torch.isin(queries, gallery).tolist()


def _bit_figures(bits: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the bits of `analyse` from the result of `bit_statistics`."""
    correlation = np.array(bits["bit_correlation"])
    magnitudes = pair_magnitudes(correlation)
    rows, columns = np.triu_indices(len(correlation), 1)
    order = np.argsort(-magnitudes, kind="stable")[:CORRELATED_PAIRS]
    return {
        "mean": bits["bit_mean"],
        "mean_correlation": mean_or_zero(magnitudes),
        "largest_correlation": float(magnitudes.max()) if magnitudes.size else 0.0,
        "most_correlated": [
            {"bits": [int(rows[i]), int(columns[i])], "correlation": float(correlation[rows[i], columns[i]])} for i in order
        ],
        "constant": sum(mean in (0.0, 1.0) for mean in bits["bit_mean"]),
    }

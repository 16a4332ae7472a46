"""Precision and recall, at a rank and within a Hamming radius."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import checks
from . import _ranking


class PrecisionRecallCurve(NamedTuple):
    """Means over the queries at each radius: entry r counts the items within distance r, inclusive."""

    radius: Any  # int64 [K+1]: 0 .. K
    precision: Any  # float64 [K+1]
    recall: Any  # float64 [K+1]


@_ranking.metric
def precision_at_k(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, k: int) -> float:
    """Share of relevant items among the first `k` by (distance, position), mean over the queries.

    Arguments and errors are those of `average_precision`. A gallery of fewer than `k` items counts with its size.
    """
    op = "precision_at_k"
    k = checks.integer(op, "k", k, minimum=1)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    hits = torch.cat([ranked.sums.hits[0] for ranked in ranking.ranked([k])])
    return float(hits.double().mean()) / min(k, len(ranking.gallery))


@_ranking.metric
def recall_at_k(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, k: int) -> float:
    """Share of a query's relevant items that are among its first `k` by (distance, position), mean over the queries.

    Arguments and errors are those of `average_precision`. A query to which nothing is relevant counts as 0.
    """
    op = "recall_at_k"
    k = checks.integer(op, "k", k, minimum=1)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    return float(torch.cat([shares(ranked.sums.hits[0], ranked.sums.totals) for ranked in ranking.ranked([k])]).mean())


@_ranking.metric
def precision_at_radius(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, radius: int) -> float:
    """Share of relevant items among those within Hamming distance `radius`, inclusive, mean over the queries.

    A query with nothing inside the radius counts as 0 (as in HashNet and DHN), so long codes pay for empty neighbourhoods.
    Arguments and errors are those of `average_precision`; `radius` is at least 0.
    """
    op = "precision_at_radius"
    radius = checks.integer(op, "radius", radius, minimum=0)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    return within(mean_curve(ranking.ranked([])), radius)


@_ranking.metric
def precision_recall_curve(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any) -> PrecisionRecallCurve:
    """Precision and recall within every Hamming radius from 0 to K, means over the queries.

    A query with nothing inside a radius has precision 0 there, one to which nothing is relevant has recall 0 everywhere.
    Arguments and errors are those of `average_precision`. No ties, no order: the curve depends on distances alone.

    Returns:
        (radius int64 [K+1], precision float64 [K+1], recall float64 [K+1]) in host memory, torch or numpy.
    """
    ranking = _ranking.check("precision_recall_curve", query_codes, gallery_codes, query_labels, gallery_labels)
    return mean_curve(ranking.ranked([]))


def mean_curve(chunks: Iterable[_ranking.Ranked]) -> PrecisionRecallCurve:
    queries, sums = 0, torch.zeros(2, 1, dtype=torch.float64)
    for ranked in chunks:
        inside, hits = ranked.counts.cumsum(dim=1), ranked.relevant.cumsum(dim=1)
        sums = sums + torch.stack([shares(hits, inside).sum(dim=0), shares(hits, hits[:, -1:]).sum(dim=0)])
        queries += len(inside)
    precision, recall = sums / queries
    return PrecisionRecallCurve(torch.arange(len(precision)), precision, recall)


def within(curve: PrecisionRecallCurve, radius: int) -> float:
    return float(curve.precision[min(radius, len(curve.precision) - 1)])


def shares(part: Tensor, whole: Tensor) -> Tensor:
    return part.double() / whole.clamp(min=1)

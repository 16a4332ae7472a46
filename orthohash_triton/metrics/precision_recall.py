"""Precision and recall at a number of ranks and within a Hamming radius."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import checks
from . import _ranking


class PrecisionRecallCurve(NamedTuple):
    """Mean precision and recall of the items within each Hamming radius, inclusive.

    Attributes:
        radius: int64 [K+1], 0 .. K.
        precision: float64 [K+1].
        recall: float64 [K+1].

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> curve = metrics.PrecisionRecallCurve(np.arange(3), np.array([1, 0.5, 0.25]), np.array([0.2, 0.5, 1]))
        >>> curve.recall[curve.radius == 1]
        array([0.5])
    """

    radius: Any
    precision: Any
    recall: Any


@_ranking.metric
def precision_at_k(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, k: int) -> float:
    """Return the fraction of relevant items among the first `k` by (distance, position), averaged over the queries.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`.
        k: number of ranks, at least 1. Values above N mean N.

    Raises:
        TypeError, ValueError: see `average_precision`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> metrics.precision_at_k(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]), k=2)
        0.5
    """
    op = "precision_at_k"
    k = checks.integer(op, "k", k, minimum=1)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    hits = torch.cat([ranked.sums.hits[0] for ranked in ranking.ranked([k])])
    return float(ranking.for_each(hits).double().mean()) / min(k, len(ranking.gallery))


@_ranking.metric
def recall_at_k(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, k: int) -> float:
    """Return the fraction of the relevant items that are among the first `k` by (distance, position), averaged over the queries.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`. A query without relevant items counts
            as 0.
        k: number of ranks, at least 1. Values above N mean N.

    Raises:
        TypeError, ValueError: see `average_precision`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> metrics.recall_at_k(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]), k=2)
        0.5
    """
    op = "recall_at_k"
    k = checks.integer(op, "k", k, minimum=1)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    recalls = torch.cat([shares(ranked.sums.hits[0], ranked.sums.totals) for ranked in ranking.ranked([k])])
    return float(ranking.for_each(recalls).mean())


@_ranking.metric
def precision_at_radius(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, radius: int) -> float:
    """Return the fraction of relevant items among those within Hamming distance `radius`, averaged over the queries.

    A query without items inside the radius counts as 0 (as in HashNet and DHN), which lowers the value of long codes.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`.
        radius: largest distance, inclusive, at least 0.

    Raises:
        TypeError, ValueError: see `average_precision`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> metrics.precision_at_radius(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]), radius=2)
        0.5
    """
    op = "precision_at_radius"
    radius = checks.integer(op, "radius", radius, minimum=0)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    return within(mean_curve(ranking.ranked([])), radius)


@_ranking.metric
def precision_recall_curve(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any) -> PrecisionRecallCurve:
    """Return precision and recall within every Hamming radius from 0 to K, averaged over the queries.

    A query without items inside a radius has precision 0 there, and a query without relevant items has recall 0 everywhere. The
    curve depends only on distances, so ties do not matter.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`.

    Returns:
        (radius int64 [K+1], precision float64 [K+1], recall float64 [K+1]), torch tensors in host memory or numpy arrays.

    Raises:
        TypeError, ValueError: see `average_precision`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> curve = metrics.precision_recall_curve(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]))
        >>> curve.recall[:4]
        array([0. , 0.5, 0.5, 1. ])
    """
    ranking = _ranking.check("precision_recall_curve", query_codes, gallery_codes, query_labels, gallery_labels)
    return mean_curve(ranking.ranked([]))


def mean_curve(chunks: Iterable[_ranking.Ranked]) -> PrecisionRecallCurve:
    """Compute the curve from the counts at each distance of all queries."""
    queries, sums = 0, torch.zeros(2, 1, dtype=torch.float64)
    for ranked in chunks:
        inside, hits = ranked.counts.cumsum(dim=1), ranked.relevant.cumsum(dim=1)
        both = torch.stack([shares(hits, inside), shares(hits, hits[:, -1:])])
        sums = sums + (both * ranked.copies[:, None]).sum(dim=1)
        queries += int(ranked.copies.sum())
    precision, recall = sums / queries
    return PrecisionRecallCurve(torch.arange(len(precision)), precision, recall)


def within(curve: PrecisionRecallCurve, radius: int) -> float:
    """Return the precision within `radius`, where values above K mean K."""
    return float(curve.precision[min(radius, len(curve.precision) - 1)])


def shares(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, float64, or 0 where both are 0."""
    return part.double() / whole.clamp(min=1)

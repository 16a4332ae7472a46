"""Metrics of graded relevance, in which the number of classes that an item shares with the query matters."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .._base import checks
from . import _ranking
from .average_precision import Ties, check_options

Gain = Literal["exponential", "linear"]


@_ranking.metric
def ndcg(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    gain: Gain = "exponential",
    ties: Ties = "stable",
) -> float:
    """Return the normalised discounted cumulative gain at `k`, averaged over the queries (Järvelin and Kekäläinen, 2002).

    DCG@k is the sum of gain(r) / log2(1 + rank) over the first `k` items. The grade r of an item is the number of classes that it
    shares with the query for multi-hot labels, and 1 or 0 for class ids. NDCG divides by the DCG@k of the best order of the
    gallery.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`.
        k: number of ranks, or None for all. Values above N mean N.
        gain: `"exponential"` is 2^r - 1 (Burges et al., 2005; the hashing literature), `"linear"` is r.
        ties: `"stable"` ranks by (distance, position in the gallery). `"expected"` computes the exact expectation over all orders
            of the items at each distance (McSherry and Najork, 2008), which does not depend on the order of the gallery.

    Returns:
        A number in [0, 1]. A query without relevant items counts as 0.

    Raises:
        TypeError, ValueError: see `average_precision`; an unknown option.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011]], np.uint8)  # at distances 1 and 2
        >>> labels = np.array([[1, 1]]), np.array([[1, 0], [1, 1]])  # grades 1 and 2
        >>> round(metrics.ndcg(np.zeros((1, 1), np.uint8), gallery, *labels), 4)  # (1 + 3 / log2(3)) / (3 + 1 / log2(3))
        0.7967
    """
    op = "ndcg"
    checks.choice(op, "gain", gain, get_args(Gain))
    check_options(op, ties=ties)
    k = _ranking.check_k(op, k)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    limit = int(ranking.limits([k]))
    discounts = 1 / torch.arange(2, limit + 2, dtype=torch.float64).log2()
    grades = torch.arange(ranking.labels.highest_grade + 1, dtype=torch.float64)
    gains = grades.exp2() - 1 if gain == "exponential" else grades
    values = []
    for gained in ranking.gained([k], gains, discounts):
        total = gained.discounted[0] if ties == "stable" else _expected(gained, limit, lambda ranks: _sums(discounts)[ranks])
        ideal = _ideal(gained.grades, gains, discounts)
        values.append(torch.where(ideal > 0, total / ideal.where(ideal > 0, 1.0), 0.0))
    return float(ranking.for_each(torch.cat(values)).mean())


@_ranking.metric
def average_cumulative_gain(
    query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, k: int | None = None, ties: Ties = "stable"
) -> float:
    """Return the average cumulative gain ACG@k: the mean number of classes that the first `k` items share with the query.

    This was the first metric of graded relevance in hashing papers (DSRH, Zhao et al., 2015). With class ids it is precision at
    k.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`.
        k: number of ranks, or None for all. Values above N mean N.
        ties: see `ndcg`.

    Returns:
        The mean over the queries, from 0 to the number of classes.

    Raises:
        TypeError, ValueError: see `average_precision`; an unknown option.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011]], np.uint8)  # at distances 1 and 2
        >>> labels = np.array([[1, 1]]), np.array([[1, 0], [1, 1]])  # grades 1 and 2
        >>> metrics.average_cumulative_gain(np.zeros((1, 1), np.uint8), gallery, *labels)
        1.5
    """
    op = "average_cumulative_gain"
    check_options(op, ties=ties)
    k = _ranking.check_k(op, k)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    limit = int(ranking.limits([k]))
    gains = torch.arange(ranking.labels.highest_grade + 1, dtype=torch.float64)
    chunks = ranking.gained([k], gains, torch.ones(limit, dtype=torch.float64))
    sums = [gained.gained[0] if ties == "stable" else _expected(gained, limit, Tensor.double) for gained in chunks]
    return float(ranking.for_each(torch.cat(sums)).mean()) / limit


def _expected(gained: _ranking.Gained, limit: int, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the expected discounted gain of the first `limit` ranks, float64 [q].

    `weight(n)` is the sum of the discounts of the first n ranks. The items at one distance are in random order, so that
    the expected gain at each of their ranks is their mean gain.
    """
    ends = gained.counts.cumsum(dim=1)
    weights = weight(ends.clamp(max=limit)) - weight((ends - gained.counts).clamp(max=limit))
    return (gained.sums / gained.counts.clamp(min=1) * weights).sum(dim=1)


def _ideal(grades: Tensor, gains: Tensor, discounts: Tensor) -> Tensor:
    """Return the largest discounted gain of any order, float64 [q]. `grades`, int64 [q, G+1], counts the items of each grade."""
    best_first = grades.flip(1)
    ends = best_first.cumsum(dim=1)
    weights = _sums(discounts)[ends.clamp(max=len(discounts))] - _sums(discounts)[(ends - best_first).clamp(max=len(discounts))]
    return torch.where(weights > 0, gains.flip(0) * weights, 0.0).sum(dim=1)  # an unused grade may have an infinite gain


def _sums(discounts: Tensor) -> Tensor:
    """Return the sums of the first 0, 1, 2, ... discounts."""
    return torch.cat([discounts.new_zeros(1), discounts.cumsum(dim=0)])

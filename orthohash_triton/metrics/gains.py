"""Metrics of graded relevance: items that share more classes with the query count for more."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from . import _ranking
from .average_precision import TIES

_GAINS = ("exponential", "linear")


@_ranking.metric
def ndcg(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    gain: str = "exponential",
    ties: str = "stable",
) -> float:
    """Normalised discounted cumulative gain at `k`, mean over the queries (Järvelin and Kekäläinen, 2002).

    DCG@k is the sum of gain(r) / log2(1 + rank) over the first `k` items. r, the grade of an item, is how many classes it shares
    with the query for multi-hot labels, and 1 or 0 for class ids. NDCG divides by the DCG@k of the best order of the gallery.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: as in `average_precision`.
        k: ranks that count; all when None. More than N is N.
        gain: `"exponential"` is 2^r - 1 (Burges et al., 2005; the hashing literature), `"linear"` is r.
        ties: `"stable"` ranks by (distance, position in the gallery); `"expected"` is the exact expectation over all orders of
            the items at each distance (McSherry and Najork, 2008), which no order of the gallery can favour.

    Returns:
        A figure in [0, 1]. A query to which nothing is relevant counts as 0.

    Raises:
        TypeError, ValueError: as `average_precision`; an unknown option.
    """
    op = "ndcg"
    checks.choice(op, "gain", gain, _GAINS)
    checks.choice(op, "ties", ties, TIES)
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
    return float(torch.cat(values).mean())


@_ranking.metric
def average_cumulative_gain(
    query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, *, k: int | None = None, ties: str = "stable"
) -> float:
    """How many classes the first `k` items share with the query, on average, mean over the queries: ACG@k.

    The first metric of graded relevance in hashing papers (DSRH, Zhao et al., 2015). With class ids it is precision at k.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: as in `average_precision`.
        k: ranks that count; all when None. More than N is N.
        ties: as in `ndcg`.

    Returns:
        A figure from 0 to the number of classes of a label.

    Raises:
        TypeError, ValueError: as `average_precision`; an unknown option.
    """
    op = "average_cumulative_gain"
    checks.choice(op, "ties", ties, TIES)
    k = _ranking.check_k(op, k)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    limit = int(ranking.limits([k]))
    gains = torch.arange(ranking.labels.highest_grade + 1, dtype=torch.float64)
    chunks = ranking.gained([k], gains, torch.ones(limit, dtype=torch.float64))
    sums = [gained.gained[0] if ties == "stable" else _expected(gained, limit, Tensor.double) for gained in chunks]
    return float(torch.cat(sums).mean()) / limit


def _expected(gained: _ranking.Gained, limit: int, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """Expected gain at the first `limit` ranks, float64 [q]; weight(n): how much the first n ranks weigh in all.

    Items at one distance, in random order, have their mean gain at each of their ranks.
    """
    ends = gained.counts.cumsum(dim=1)
    weights = weight(ends.clamp(max=limit)) - weight((ends - gained.counts).clamp(max=limit))
    return (gained.sums / gained.counts.clamp(min=1) * weights).sum(dim=1)


def _ideal(grades: Tensor, gains: Tensor, discounts: Tensor) -> Tensor:
    """The largest discounted gain of any order, float64 [q]; grades: int64 [q, G+1], items of each grade."""
    best_first = grades.flip(1)
    ends = best_first.cumsum(dim=1)
    weights = _sums(discounts)[ends.clamp(max=len(discounts))] - _sums(discounts)[(ends - best_first).clamp(max=len(discounts))]
    return torch.where(weights > 0, gains.flip(0) * weights, 0.0).sum(dim=1)  # gains that none has may be infinite


def _sums(discounts: Tensor) -> Tensor:
    """Of the first 0, 1, 2, ... discounts."""
    return torch.cat([discounts.new_zeros(1), discounts.cumsum(dim=0)])

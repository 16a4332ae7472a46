"""Metrics of a class hierarchy: an item of a near class counts for more than one of a far class."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from ..ops.hamming_topk import nearest
from . import _ranking

_AREAS = ("trapezoid", "mean")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@_ranking.metric
def hierarchical_precision(
    query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, class_distance: Any, *, k: int
) -> float:
    """HP@k, mean over the queries: how near the classes of the first `k` items are, as a share of the best that is possible.

    HP@k is the sum of the similarities 1 - d(class of the query, class of the item) over the first `k` items by (Hamming
    distance, position), divided by the largest such sum that any `k` items of the gallery have (Deng, Berg and Fei-Fei, CVPR
    2011; Barz and Denzler, WACV 2019). With distances of 0 and 1 it counts relevant items, as a share of as many as there can be.

    Args:
        query_codes, gallery_codes: as in `average_precision`. A query must not be in the gallery: it would find itself.
        query_labels, gallery_labels: class ids, integers [Q] and [N], from 0 to C - 1. Sets of classes (multi-hot rows) have no
            hierarchical precision.
        class_distance: floating [C, C] in [0, 1] with a zero diagonal, as from `class_distance(hierarchy, classes)`.
        k: ranks that count, at least 1. More than N is N, where every order has a precision of 1.

    Returns:
        A figure in [0, 1]. A query to which nothing in the gallery is similar counts as 0.

    Raises:
        TypeError, ValueError: as `average_precision`; multi-hot labels; a class id without a row of class_distance; distances
            outside [0, 1] or not zero on the diagonal.
    """
    op = "hierarchical_precision"
    limit = checks.integer(op, "k", k, minimum=1)
    curves = _precisions(op, query_codes, gallery_codes, query_labels, gallery_labels, class_distance, limit)
    return float(torch.cat([precisions[:, -1] for precisions in curves]).mean())


@_ranking.metric
def mean_average_hierarchical_precision(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    class_distance: Any,
    *,
    k: int | None = None,
    area: str = "trapezoid",
) -> float:
    """mAHP@k: the area under the curve of HP@1 .. HP@k (see `hierarchical_precision`), mean over the queries.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels, class_distance: as in `hierarchical_precision`.
        k: ranks that count, at least 2 for the trapezoids; all when None. More than N is N. Barz and
            Denzler publish mAHP@250.
        area: `"trapezoid"` is what Barz and Denzler (WACV 2019) compute, by their released code and their word on it:
            (HP@1 + ... + HP@k - (HP@1 + HP@k) / 2) / k, of which a perfect ranking has (k - 1) / k. `"mean"` is the mean of
            HP@1 .. HP@k, of which it has 1. (Before November 2020 the released code left out the half of HP@k, which made
            figures larger by 0.5 / k at most.)

    Returns:
        A figure in [0, 1].

    Raises:
        TypeError, ValueError: as `hierarchical_precision`; an unknown option, or trapezoids over less than two ranks.
    """
    op = "mean_average_hierarchical_precision"
    checks.choice(op, "area", area, _AREAS)
    limit = _ranking.check_k(op, k)
    curves = _precisions(op, query_codes, gallery_codes, query_labels, gallery_labels, class_distance, limit)
    return float(torch.cat([_area(op, precisions, area) for precisions in curves]).mean())


def _area(op: str, precisions: Tensor, area: str) -> Tensor:
    """precisions: float64 [q, k] -> [q]."""
    ranks = precisions.shape[1]
    if area == "mean":
        return precisions.mean(dim=1)
    if ranks < 2:
        raise ValueError(f'{op}: area="trapezoid" needs at least two ranks; got one. Use a larger k, or area="mean"')
    return (precisions.sum(dim=1) - (precisions[:, 0] + precisions[:, -1]) / 2) / ranks


def _precisions(
    op: str, query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, class_distance: Any, k: int | None
) -> Iterator[Tensor]:
    """HP@1 .. HP@k of consecutive chunks of queries, float64 [q, k] in host memory."""
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    similarity = _check_similarity(op, class_distance, ranking)
    queries, gallery = ranking.labels.queries, ranking.labels.gallery
    counts = torch.bincount(gallery, minlength=len(similarity))
    limit = int(ranking.limits([k]))
    step = max(1, _ranking._CHUNK // max(limit, len(similarity)))
    for start in range(0, len(queries), step):
        labels = queries[start : start + step]
        _, ids = nearest(ranking.queries[start : start + step], ranking.gallery, limit)
        found = similarity[labels[:, None], gallery[ids]].cumsum(dim=1)
        classes, which = labels.unique(return_inverse=True)
        best = _best(similarity[classes], counts, limit)[which]
        yield torch.where(best > 0, found / best.where(best > 0, 1), 0).cpu()


def _check_similarity(op: str, class_distance: Any, ranking: _ranking.Ranking) -> Tensor:
    """1 - class_distance, float64 [C, C]."""
    if ranking.labels.shared:
        raise ValueError(
            f"{op}: query_labels and gallery_labels must be class ids; got multi-hot rows. "
            "ndcg and average_cumulative_gain take such labels"
        )
    distance = checks.tensor(op, "class_distance", class_distance, dtypes=_FLOATS, ndim=2, shape="[C, C]")
    if distance.shape[0] != distance.shape[1] or len(distance) == 0:
        raise ValueError(f"{op}: class_distance must be [C, C]; got {checks.describe(distance)}")
    checks.same_device(op, "class_distance", distance, "query_codes", ranking.queries)
    if not bool(((distance >= 0) & (distance <= 1)).all()):
        low, high = map(float, distance.aminmax())
        raise ValueError(f"{op}: class_distance must be in [0, 1]; got values from {low} to {high}")
    if bool(distance.diagonal().any()):
        raise ValueError(f"{op}: class_distance must have a zero diagonal. Is it a similarity? Pass 1 - it")
    for name, labels in (("query_labels", ranking.labels.queries), ("gallery_labels", ranking.labels.gallery)):
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= len(distance):
            bad = low if low < 0 else high
            raise ValueError(f"{op}: {name} has class {bad}; class_distance has classes from 0 to {len(distance) - 1}")
    return 1 - distance.double()


def _best(similarity: Tensor, counts: Tensor, limit: int) -> Tensor:
    """The largest sums of similarities that 1 .. limit items have, [q, limit]; similarity [q, C], classes of `counts` items."""
    ordered, order = similarity.sort(dim=1, descending=True)
    ends = counts[order].cumsum(dim=1)  # items of the most similar classes
    ranks = torch.arange(limit, device=similarity.device).repeat(len(similarity), 1)
    return ordered.gather(1, torch.searchsorted(ends, ranks, right=True)).cumsum(dim=1)

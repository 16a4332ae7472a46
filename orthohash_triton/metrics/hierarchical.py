"""Metrics for classes in a hierarchy, in which the distance between the classes of an item and the query matters."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .._base import checks
from ..ops.hamming_topk import nearest
from . import _ranking

Area = Literal["trapezoid", "mean"]
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@_ranking.metric
def hierarchical_precision(
    query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any, class_distance: Any, *, k: int
) -> float:
    """Return the hierarchical precision HP@k, averaged over the queries.

    HP@k is the sum of the similarities 1 - d(class of the query, class of the item) over the first `k` items by (Hamming
    distance, position), divided by the largest such sum of any `k` items of the gallery (Deng, Berg and Fei-Fei, CVPR 2011; Barz
    and Denzler, WACV 2019). If all distances between different classes are 1, it is the number of relevant items divided by the
    largest possible number.

    Args:
        query_codes, gallery_codes: see `average_precision`. A query should not be in the gallery, where it would find itself.
        query_labels, gallery_labels: class ids, integers [Q] and [N], from 0 to C - 1. Hierarchical precision is not defined for
            multi-hot rows.
        class_distance: floating [C, C] in [0, 1] with a zero diagonal, for example from `class_distance(hierarchy, classes)`.
        k: number of ranks, at least 1. Values above N mean N, where every order has a precision of 1.

    Returns:
        A number in [0, 1]. A query for which no item of the gallery has a similarity above 0 counts as 0.

    Raises:
        TypeError, ValueError: see `average_precision`; multi-hot labels, or names; a class id without a row of
            `class_distance`; distances outside [0, 1], or a diagonal other than zero.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011]], np.uint8)  # at distances 1 and 2
        >>> distance = np.array([[0, 0.25], [0.25, 0]])
        >>> metrics.hierarchical_precision(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([1, 0]), distance, k=1)
        0.75
    """
    op = "hierarchical_precision"
    limit = checks.integer(op, "k", k, minimum=1)
    given = (query_codes, gallery_codes, query_labels, gallery_labels, class_distance)
    return _mean(op, *given, limit, lambda precisions: precisions[:, -1])


@_ranking.metric
def mean_average_hierarchical_precision(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    class_distance: Any,
    *,
    k: int | None = None,
    area: Area = "trapezoid",
) -> float:
    """Return mAHP@k, the area under the curve of HP@1 .. HP@k (see `hierarchical_precision`), averaged over the queries.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels, class_distance: see `hierarchical_precision`.
        k: number of ranks, at least 2 for trapezoids, or None for all. Values above N mean N. Barz and Denzler publish mAHP@250.
        area: `"trapezoid"` is the definition of Barz and Denzler (WACV 2019; their code and their description of it):
            (HP@1 + ... + HP@k - (HP@1 + HP@k) / 2) / k, which is (k - 1) / k for a perfect ranking. `"mean"` is the mean of
            HP@1 .. HP@k, which is 1 for a perfect ranking. (Before November 2020 the released code did not subtract HP@k / 2,
            which made results larger by at most 0.5 / k.)

    Returns:
        A number in [0, 1].

    Raises:
        TypeError, ValueError: see `hierarchical_precision`; an unknown option, or trapezoids over fewer than two ranks.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011]], np.uint8)  # at distances 1 and 2
        >>> labels, distance = (np.array([0]), np.array([1, 0])), np.array([[0, 0.25], [0.25, 0]])
        >>> metrics.mean_average_hierarchical_precision(np.zeros((1, 1), np.uint8), gallery, *labels, distance, area="mean")
        0.875
    """
    op = "mean_average_hierarchical_precision"
    checks.choice(op, "area", area, get_args(Area))
    limit = _ranking.check_k(op, k)
    given = (query_codes, gallery_codes, query_labels, gallery_labels, class_distance)
    return _mean(op, *given, limit, lambda precisions: _area(op, precisions, area))


def _area(op: str, precisions: Tensor, area: Area) -> Tensor:
    """Return the areas under curves HP@1 .. HP@k: float64 [q, k] -> [q]."""
    ranks = precisions.shape[1]
    if area == "mean":
        return precisions.mean(dim=1)
    if ranks < 2:
        raise ValueError(f'{op}: area="trapezoid" needs at least two ranks; got one. Use a larger k, or area="mean"')
    return (precisions.sum(dim=1) - (precisions[:, 0] + precisions[:, -1]) / 2) / ranks


def _mean(
    op: str,
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    class_distance: Any,
    k: int | None,
    value_of: Callable[[Tensor], Tensor],
) -> float:
    """Return the mean over the queries of `value_of`, a function of the HP@1 .. HP@k of a chunk of queries: [q, k] -> [q]."""
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    similarity = _check_similarity(op, class_distance, ranking)
    queries, gallery = ranking.labels.queries, ranking.labels.gallery
    counts = torch.bincount(gallery, minlength=len(similarity))
    limit = int(ranking.limits([k]))
    step = max(1, _ranking._CHUNK // max(limit, len(similarity)))
    values = []
    for start in range(0, len(queries), step):
        labels = queries[start : start + step]
        _, ids = nearest(ranking.queries[start : start + step], ranking.gallery, limit)
        found = similarity[labels[:, None], gallery[ids]].cumsum(dim=1)
        classes, which = labels.unique(return_inverse=True)
        best = _best(similarity[classes], counts, limit)[which]
        values.append(value_of(torch.where(best > 0, found / best.where(best > 0, 1), 0)).cpu())
    return float(ranking.for_each(torch.cat(values)).mean())


def _check_similarity(op: str, class_distance: Any, ranking: _ranking.Ranking) -> Tensor:
    """Check `class_distance` and the class ids, and return 1 - class_distance, float64 [C, C]."""
    if ranking.labels.shared:
        raise ValueError(
            f"{op}: query_labels and gallery_labels must be class ids; got multi-hot rows. "
            "ndcg and average_cumulative_gain take such labels"
        )
    if ranking.labels.are_names:
        raise TypeError(
            f"{op}: query_labels and gallery_labels must be class ids, the rows of class_distance; got names. "
            "Number them in the order of the rows"
        )
    distance = checks.tensor(op, "class_distance", class_distance, dtypes=_FLOATS, ndim=2, shape="[C, C]")
    if distance.shape[0] != distance.shape[1] or len(distance) == 0:
        raise ValueError(f"{op}: class_distance must be [C, C]; got {checks.describe(distance)}")
    checks.same_device(op, "class_distance", distance, "query_codes", ranking.queries)
    if not bool(((distance >= 0) & (distance <= 1)).all()):
        low, high = map(float, distance.aminmax())
        raise ValueError(f"{op}: class_distance must be in [0, 1]; got values from {low} to {high}")
    if bool(distance.diagonal().any()):
        raise ValueError(f"{op}: class_distance must have a zero diagonal. If it is a similarity, pass 1 - similarity")
    for name, labels in (("query_labels", ranking.labels.queries), ("gallery_labels", ranking.labels.gallery)):
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= len(distance):
            bad = low if low < 0 else high
            raise ValueError(f"{op}: {name} has class {bad}; class_distance has classes from 0 to {len(distance) - 1}")
    return 1 - distance.double()


def _best(similarity: Tensor, counts: Tensor, limit: int) -> Tensor:
    """Return the largest sums of the similarities of 1 .. limit items, [q, limit], from those of the classes, [q, C].

    `counts`, int64 [C], is the number of items of each class.
    """
    ordered, order = similarity.sort(dim=1, descending=True)
    ends = counts[order].cumsum(dim=1)  # number of items of the first 1, 2, ... classes
    ranks = torch.arange(limit, device=similarity.device).repeat(len(similarity), 1)
    return ordered.gather(1, torch.searchsorted(ends, ranks, right=True)).cumsum(dim=1)

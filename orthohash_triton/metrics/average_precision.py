"""Average precision, with an option for every definition in which published results differ."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_tensor
from . import _labels, _ranking
from ._ranking import Ranked, Ranking

Ties = Literal["stable", "expected"]
Denominator = Literal["hits", "min", "relevant"]
ZeroHits = Literal["zero", "skip"]


def check_options(op: str, *, ties: Ties = "stable", denominator: Denominator = "hits", zero_hits: ZeroHits = "zero") -> None:
    """Raise ValueError for an unknown option."""
    checks.choice(op, "ties", ties, get_args(Ties))
    checks.choice(op, "denominator", denominator, get_args(Denominator))
    checks.choice(op, "zero_hits", zero_hits, get_args(ZeroHits))


def mean_average_precision(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    ties: Ties = "stable",
    denominator: Denominator = "hits",
    zero_hits: ZeroHits = "zero",
) -> float:
    """Return the mean of `average_precision` over the queries.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels, k, ties, denominator: see `average_precision`.
        zero_hits: `"zero"` counts a query without a relevant item among its first `k` as 0 (OrthoHash, CSQ, H2Q); `"skip"`
            leaves it out of the mean (HashNet, DHN). With `ties="expected"`, a query is left out if no order of the ties gives
            it a relevant item.

    Returns:
        A number in [0, 1], or nan if every query is left out.

    Raises:
        TypeError, ValueError: see `average_precision`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> queries, gallery = np.zeros((2, 1), np.uint8), np.array([[0b001], [0b011], [0b111]], np.uint8)
        >>> labels = np.array([0, 5]), np.array([0, 1, 0])  # nothing is relevant to the second query
        >>> round(metrics.mean_average_precision(queries, gallery, *labels), 4)  # (5/6 + 0) / 2
        0.4167
        >>> round(metrics.mean_average_precision(queries, gallery, *labels, zero_hits="skip"), 4)
        0.8333
    """
    op = "mean_average_precision"
    check_options(op, zero_hits=zero_hits)
    values = _average_precision(
        op, query_codes, gallery_codes, query_labels, gallery_labels, k=k, ties=ties, denominator=denominator
    )
    return mean(as_tensor(values), zero_hits)


def average_precision(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    ties: Ties = "stable",
    denominator: Denominator = "hits",
) -> Any:
    """Return the average precision of each query.

    It is the sum of the precisions at the ranks of the relevant items among the first `k`, divided by `denominator`.

    Args:
        query_codes: uint8 [Q, bits/8], a torch tensor or numpy array.
        gallery_codes: uint8 [N, bits/8].
        query_labels: class ids, integers [Q], or multi-hot rows [Q, C] of 0 and 1 in any dtype: a tensor, an array or a list. A
            column [Q, 1] of integers holds class ids. Class ids may also be names, str or bytes, on both sides.
        gallery_labels: labels of the same kind, [N] or [N, C].
        k: number of ranks ("AP@k"), or None for all. Values above N mean N.
        ties: treatment of items at the same distance, which are most items, because codes have few distances. `"stable"` ranks
            by (distance, position in the gallery). `"expected"` computes the exact expectation over all orders of the items at
            each distance, which does not depend on the order of the gallery. If rank `k` falls among items at one distance, the
            choice of those within the first `k` is random too, and so is the divisor with `denominator="hits"`: the result is
            the expectation of the quotient.
        denominator: `"hits"` divides by the number of relevant items among the first `k` (HashNet, OrthoHash, CSQ; fewer hits
            can give a higher value), `"min"` by min(k, number of relevant items in the gallery), `"relevant"` by the number of
            relevant items in the gallery. Without `k` all three are equal.

    Returns:
        float64 [Q], a torch tensor on the device of the codes, or a numpy array. A query without hits has 0.

    Raises:
        TypeError: codes that are not uint8, or class ids that are not integers.
        ValueError: widths, lengths or devices that differ; no queries; an empty gallery; multi-hot labels other than 0 and 1 (on
            a GPU only with ORTHOHASH_VALIDATE=1; otherwise every nonzero value counts as 1); k < 1; an unknown option.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> metrics.average_precision(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]))  # (1/1 + 2/3) / 2
        array([0.83333333])
    """
    return _average_precision(
        "average_precision", query_codes, gallery_codes, query_labels, gallery_labels, k=k, ties=ties, denominator=denominator
    )


def mean_average_precision_from_scores(
    scores: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    denominator: Denominator = "hits",
    zero_hits: ZeroHits = "zero",
) -> float:
    """Return the mean of `average_precision_from_scores` over the queries.

    Args:
        scores, query_labels, gallery_labels, k, denominator: see `average_precision_from_scores`.
        zero_hits: see `mean_average_precision`.

    Raises:
        TypeError, ValueError: see `average_precision_from_scores`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> scores = np.array([[0.9, 0.1, 0.5]])
        >>> round(metrics.mean_average_precision_from_scores(scores, np.array([0]), np.array([1, 0, 0])), 4)  # (1/2 + 2/3) / 2
        0.5833
    """
    op = "mean_average_precision_from_scores"
    check_options(op, zero_hits=zero_hits)
    values = _average_precision_from_scores(op, scores, query_labels, gallery_labels, k=k, denominator=denominator)
    return mean(as_tensor(values), zero_hits)


def average_precision_from_scores(
    scores: Any, query_labels: Any, gallery_labels: Any, *, k: int | None = None, denominator: Denominator = "hits"
) -> Any:
    """Return the average precision of each query if items are ranked by (score descending, position).

    This is for baselines without codes.

    Args:
        scores: similarities, floating point [Q, N], without NaN; larger means more similar. To save memory, pass a part of the
            queries at a time.
        query_labels, gallery_labels, k, denominator: see `average_precision`.

    Returns:
        float64 [Q], a torch tensor on the device of the scores, or a numpy array.

    Raises:
        TypeError, ValueError: see `average_precision`; NaN among the scores (on a GPU only with ORTHOHASH_VALIDATE=1).

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> scores = np.array([[0.9, 0.1, 0.5]])
        >>> metrics.average_precision_from_scores(scores, np.array([0]), np.array([1, 0, 0]), k=2)
        array([0.5])
    """
    return _average_precision_from_scores(
        "average_precision_from_scores", scores, query_labels, gallery_labels, k=k, denominator=denominator
    )


@_ranking.metric
def _average_precision(
    op: str,
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None,
    ties: Ties,
    denominator: Denominator,
) -> Tensor:
    """Compute `average_precision`; messages name the public function `op`."""
    check_options(op, ties=ties, denominator=denominator)
    k = _ranking.check_k(op, k)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    chunks = ranking.ranked([k] if ties == "stable" else [])
    values = torch.cat([from_ranked(ranked, 0, ranking, k, ties, denominator) for ranked in chunks])
    return ranking.for_each(values).to(ranking.queries.device)


def from_ranked(ranked: Ranked, index: int, ranking: Ranking, k: int | None, ties: Ties, denominator: Denominator) -> Tensor:
    """Compute the average precision of the queries of a chunk, float64 [q].

    With `ties="stable"`, row `index` of the sums must be that of `k`.
    """
    if ties == "stable":
        return _divide(ranked.sums.precisions[index], ranked.sums.hits[index], ranked.sums.totals, k, denominator)
    from ..kernels.cpu.average_precision import expected_precision

    values = torch.empty(len(ranked.counts), dtype=torch.float64)
    limit = int(ranking.limits([k]))
    expected_precision(ranked.counts.numpy(), ranked.relevant.numpy(), limit, denominator == "hits", values.numpy())
    return values if denominator == "hits" else values / _relevant_divisor(ranked.sums.totals, k, denominator)


@_ranking.metric
def _average_precision_from_scores(
    op: str, scores: Any, query_labels: Any, gallery_labels: Any, *, k: int | None, denominator: Denominator
) -> Tensor:
    """Compute `average_precision_from_scores`; messages name the public function `op`."""
    check_options(op, denominator=denominator)
    k = _ranking.check_k(op, k)
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    scores = checks.tensor(op, "scores", scores, dtypes=dtypes, ndim=2, shape="[Q, N]").detach()
    _ranking.not_empty(op, "scores", scores)
    rows, columns = ("rows of scores", scores.shape[0]), ("columns of scores", scores.shape[1])
    labels = _labels.check(op, query_labels, gallery_labels, scores, rows, columns)
    if checks.may_read_values(scores) and scores.isnan().any():
        raise ValueError(f"{op}: scores must not hold NaN, which has no rank; got {checks.describe(scores)} with NaN")
    sums = _ranking.sums_by_score(scores, labels, k)
    return _divide(sums.precisions[0], sums.hits[0], sums.totals, k, denominator).to(scores.device)


def _divide(precisions: Tensor, hits: Tensor, totals: Tensor, k: int | None, denominator: Denominator) -> Tensor:
    """Divide sums of precisions by `denominator`."""
    return precisions / (hits.clamp(min=1) if denominator == "hits" else _relevant_divisor(totals, k, denominator))


def _relevant_divisor(totals: Tensor, k: int | None, denominator: Denominator) -> Tensor:
    """Return the divisor of "min" and "relevant", or 1 for a query without relevant items, whose sum is 0."""
    return totals.clamp(min=1, max=k if denominator == "min" else None)


def mean(values: Tensor, zero_hits: ZeroHits) -> float:
    """Return the mean of average precisions; "skip" leaves out zeros, which are the queries without a relevant item."""
    return float(values[values > 0].mean() if zero_hits == "skip" else values.mean())

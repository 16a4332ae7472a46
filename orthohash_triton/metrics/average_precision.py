"""Average precision, with every choice that published figures differ in spelled out."""

from typing import Any

import torch
from torch import Tensor

from ..ops import _checks
from ..ops._arrays import numpy_friendly
from . import _labels, _ranking

_TIES = ("stable", "expected")
_DENOMINATORS = ("hits", "min", "relevant")
_ZERO_HITS = ("zero", "skip")


def mean_average_precision(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    ties: str = "stable",
    denominator: str = "hits",
    zero_hits: str = "zero",
) -> float:
    """Mean over the queries of `average_precision`, which describes the arguments that both take.

    Args:
        zero_hits: `"zero"` counts a query without a relevant item among its first `k` as 0 (OrthoHash, CSQ, H2Q); `"skip"`
            leaves it out of the mean (HashNet, DHN). Under `ties="expected"` it is left out when no order of ties gives it a hit.

    Returns:
        A figure in [0, 1]; nan when every query is skipped.

    Raises:
        TypeError, ValueError: see `average_precision`.
    """
    op = "mean_average_precision"
    _checks.choice(op, "zero_hits", zero_hits, _ZERO_HITS)
    values = _average_precision(
        op, query_codes, gallery_codes, query_labels, gallery_labels, k=k, ties=ties, denominator=denominator
    )
    return _mean(torch.as_tensor(values), zero_hits)


def average_precision(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    ties: str = "stable",
    denominator: str = "hits",
) -> Any:
    """Average precision of each query: the sum over relevant items among the first `k` of the precision at their rank, divided.

    Args:
        query_codes: uint8 [Q, bits/8], torch or numpy, as all that follow.
        gallery_codes: uint8 [N, bits/8].
        query_labels: class ids, integers [Q], or multi-hot rows [Q, C] of 0 and 1 in any dtype.
        gallery_labels: of the same kind, [N] or [N, C].
        k: ranks that count, "AP@k"; all when None. More than N is N.
        ties: codes have few distances, so most items are tied. `"stable"` ranks by (distance, position in the gallery);
            `"expected"` is the exact expectation over all orders of the items at each distance, which no order of the gallery
            can favour. Where `k` cuts through items at one distance, those that make the cut are random too, and with
            `denominator="hits"` so is the divisor: the expectation is that of the quotient.
        denominator: `"hits"` divides by the relevant items among the first `k` (HashNet, OrthoHash, CSQ: fewer hits can score
            higher); `"min"` by min(k, relevant items in the gallery), `"relevant"` by all relevant items in the gallery.
            Without `k` all three are the same.

    Returns:
        float64 [Q], torch on the device of the codes or numpy; 0 for a query without hits.

    Raises:
        TypeError: codes that are not uint8, class ids that are not integers.
        ValueError: widths, lengths or devices that do not fit, no queries, an empty gallery, multi-hot labels other than 0 and 1,
            k < 1, an unknown option.
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
    denominator: str = "hits",
    zero_hits: str = "zero",
) -> float:
    """Mean over the queries of `average_precision_from_scores`; `zero_hits` as in `mean_average_precision`."""
    op = "mean_average_precision_from_scores"
    _checks.choice(op, "zero_hits", zero_hits, _ZERO_HITS)
    values = _average_precision_from_scores(op, scores, query_labels, gallery_labels, k=k, denominator=denominator)
    return _mean(torch.as_tensor(values), zero_hits)


def average_precision_from_scores(
    scores: Any, query_labels: Any, gallery_labels: Any, *, k: int | None = None, denominator: str = "hits"
) -> Any:
    """Average precision of each query when items rank by (score descending, position): for baselines that have no codes.

    Args:
        scores: floating point [Q, N], larger is more similar, no NaN. Large sets come in chunks of queries, from the caller.
        query_labels, gallery_labels, k, denominator: as in `average_precision`.

    Returns:
        float64 [Q], torch on the device of the scores or numpy.

    Raises:
        TypeError, ValueError: as `average_precision`; NaN among the scores.
    """
    return _average_precision_from_scores(
        "average_precision_from_scores", scores, query_labels, gallery_labels, k=k, denominator=denominator
    )


@numpy_friendly
def _average_precision(
    op: str,
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None,
    ties: str,
    denominator: str,
) -> Tensor:
    _checks.choice(op, "ties", ties, _TIES)
    _checks.choice(op, "denominator", denominator, _DENOMINATORS)
    k = _ranking.check_k(op, k)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    if ties == "expected":
        return _expected(ranking, k, denominator)
    return _divide(ranking.ranked_hits(k), k, denominator)


@numpy_friendly
def _average_precision_from_scores(
    op: str, scores: Any, query_labels: Any, gallery_labels: Any, *, k: int | None, denominator: str
) -> Tensor:
    _checks.choice(op, "denominator", denominator, _DENOMINATORS)
    k = _ranking.check_k(op, k)
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    scores = _checks.tensor(op, "scores", scores, dtypes=dtypes, ndim=2, shape="[Q, N]")
    _ranking.not_empty(op, "scores", scores)
    rows, columns = ("rows of scores", scores.shape[0]), ("columns of scores", scores.shape[1])
    labels = _labels.check(op, query_labels, gallery_labels, scores, rows, columns)
    if _checks.may_read_values(scores) and scores.isnan().any():
        raise ValueError(f"{op}: scores must not hold NaN, which has no rank; got {_checks.describe(scores)} with NaN")
    return _divide(_ranking.ranked_hits_by_score(scores, labels, k), k, denominator)


def _expected(ranking: _ranking.Ranking, k: int | None, denominator: str) -> Tensor:
    from ..kernels.cpu.average_precision import expected_precision

    limit = len(ranking.gallery) if k is None else min(k, len(ranking.gallery))
    values = []
    for counts, relevant in ranking.histograms():
        precisions = torch.empty(len(counts), dtype=torch.float64)
        expected_precision(counts.numpy(), relevant.numpy(), limit, denominator == "hits", precisions.numpy())
        if denominator != "hits":
            precisions /= _relevant_divisor(relevant.sum(dim=1), k, denominator)
        values.append(precisions)
    return torch.cat(values).to(ranking.queries.device)


def _divide(ranked: _ranking.RankedHits, k: int | None, denominator: str) -> Tensor:
    divisor = ranked.hits.clamp(min=1) if denominator == "hits" else _relevant_divisor(ranked.totals, k, denominator)
    return ranked.precisions / divisor


def _relevant_divisor(totals: Tensor, k: int | None, denominator: str) -> Tensor:
    """What "min" and "relevant" divide by; 1 where nothing is relevant, since the sum is then 0."""
    return totals.clamp(min=1, max=k if denominator == "min" else None)


def _mean(values: Tensor, zero_hits: str) -> float:
    """Average precision is positive exactly when the query has (or may have) a hit."""
    return float(values[values > 0].mean() if zero_hits == "skip" else values.mean())

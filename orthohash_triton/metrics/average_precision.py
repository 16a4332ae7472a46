"""Average precision, with every choice that published figures differ in spelled out."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_tensor
from . import _labels, _ranking
from ._ranking import Ranked, Ranking

TIES = ("stable", "expected")
DENOMINATORS = ("hits", "min", "relevant")
ZERO_HITS = ("zero", "skip")


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
    checks.choice(op, "zero_hits", zero_hits, ZERO_HITS)
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
        ValueError: widths, lengths or devices that do not fit, no queries, an empty gallery, multi-hot labels other than 0 and 1
            (on a GPU only with ORTHOHASH_VALIDATE=1; without, what is not 0 counts as 1), k < 1, an unknown option.
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
    checks.choice(op, "zero_hits", zero_hits, ZERO_HITS)
    values = _average_precision_from_scores(op, scores, query_labels, gallery_labels, k=k, denominator=denominator)
    return mean(as_tensor(values), zero_hits)


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
        TypeError, ValueError: as `average_precision`; NaN among the scores (on a GPU only with ORTHOHASH_VALIDATE=1).
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
    ties: str,
    denominator: str,
) -> Tensor:
    checks.choice(op, "ties", ties, TIES)
    checks.choice(op, "denominator", denominator, DENOMINATORS)
    k = _ranking.check_k(op, k)
    ranking = _ranking.check(op, query_codes, gallery_codes, query_labels, gallery_labels)
    chunks = ranking.ranked([k] if ties == "stable" else [])
    return torch.cat([from_ranked(ranked, 0, ranking, k, ties, denominator) for ranked in chunks]).to(ranking.queries.device)


def from_ranked(ranked: Ranked, index: int, ranking: Ranking, k: int | None, ties: str, denominator: str) -> Tensor:
    """Average precision of the queries of a chunk, float64 [q]; `index` says which sums are those of `k`, without ties."""
    if ties == "stable":
        return _divide(ranked.sums.precisions[index], ranked.sums.hits[index], ranked.sums.totals, k, denominator)
    from ..kernels.cpu.average_precision import expected_precision

    values = torch.empty(len(ranked.counts), dtype=torch.float64)
    limit = int(ranking.limits([k]))
    expected_precision(ranked.counts.numpy(), ranked.relevant.numpy(), limit, denominator == "hits", values.numpy())
    return values if denominator == "hits" else values / _relevant_divisor(ranked.sums.totals, k, denominator)


@_ranking.metric
def _average_precision_from_scores(
    op: str, scores: Any, query_labels: Any, gallery_labels: Any, *, k: int | None, denominator: str
) -> Tensor:
    checks.choice(op, "denominator", denominator, DENOMINATORS)
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


def _divide(precisions: Tensor, hits: Tensor, totals: Tensor, k: int | None, denominator: str) -> Tensor:
    return precisions / (hits.clamp(min=1) if denominator == "hits" else _relevant_divisor(totals, k, denominator))


def _relevant_divisor(totals: Tensor, k: int | None, denominator: str) -> Tensor:
    """What "min" and "relevant" divide by; 1 where nothing is relevant, since the sum is then 0."""
    return totals.clamp(min=1, max=k if denominator == "min" else None)


def mean(values: Tensor, zero_hits: str) -> float:
    """Average precision is positive exactly when the query has (or may have) a hit."""
    return float(values[values > 0].mean() if zero_hits == "skip" else values.mean())

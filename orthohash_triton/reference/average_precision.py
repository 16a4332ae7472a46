"""The average precision of each query, from a matrix of distances."""

from math import comb

import torch
from torch import Tensor


def average_precision(
    distances: Tensor, relevant: Tensor, *, k: int | None = None, ties: str = "stable", denominator: str = "hits"
) -> Tensor:
    """Return the average precision float64 [Q] for distances [Q, N] and relevant bool [Q, N].

    The options are those of `metrics.average_precision`.
    """
    k = distances.shape[1] if k is None else min(k, distances.shape[1])
    values = []
    for row, is_relevant in zip(distances, relevant, strict=True):
        order = torch.argsort(row, stable=True)
        if ties == "stable":
            outcomes = [(1.0, _precision_sum(is_relevant[order].tolist(), k), int(is_relevant[order][:k].sum()))]
        else:
            outcomes = _expected_outcomes(row[order].tolist(), is_relevant[order].tolist(), k)
        total = int(is_relevant.sum())
        values.append(sum(p * s / {"hits": h, "min": min(k, total), "relevant": total}[denominator] for p, s, h in outcomes if h))
    return torch.tensor(values, dtype=torch.float64)


def _precision_sum(ranked: list[bool], k: int) -> float:
    return sum(sum(ranked[: rank + 1]) / (rank + 1) for rank in range(k) if ranked[rank])


def _expected_outcomes(distances: list[int], relevant: list[bool], k: int) -> list[tuple[float, float, int]]:
    """Return (probability, expected sum of precisions, hits within k) for each number of hits if rank k is among ties."""
    items, hits, precision = 0, 0, 0.0
    while items < k:
        tied = distances.count(distances[items])
        good = sum(relevant[items : items + tied])
        slots = min(tied, k - items)
        if slots < tied:
            return [
                (
                    comb(good, h) * comb(tied - good, slots - h) / comb(tied, slots),
                    precision + _expected_sum(items, hits, slots, h),
                    hits + h,
                )
                for h in range(min(good, slots) + 1)
            ]
        precision, items, hits = precision + _expected_sum(items, hits, tied, good), items + tied, hits + good
    return [(1.0, precision, hits)]


def _expected_sum(items: int, hits: int, slots: int, good: int) -> float:
    """Return the expected sum of precisions over `slots` ranks after `items`, of which `good` are relevant, in random order."""
    return sum(good / slots * (hits + 1 + j * (good - 1) / max(slots - 1, 1)) / (items + j + 1) for j in range(slots))

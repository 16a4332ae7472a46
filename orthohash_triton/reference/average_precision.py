"""Average precision, query by query, from a matrix of distances."""

from math import comb

import torch
from torch import Tensor


def average_precision(
    distances: Tensor, relevant: Tensor, *, k: int | None = None, ties: str = "stable", denominator: str = "hits"
) -> Tensor:
    """distances [Q, N], relevant bool [Q, N] -> float64 [Q]; see `metrics.average_precision` for the options."""
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
    """(probability, expected sum of precisions, hits within k), by the hits among the ties that k cuts."""
    items, hits, precision = 0, 0, 0.0
    while items < k:
        tied = distances.count(distances[items])
        good = sum(relevant[items : items + tied])
        slots = min(tied, k - items)
        if slots < tied:
            return [
                (
                    comb(good, h) * comb(tied - good, slots - h) / comb(tied, slots),
                    precision + _group(items, hits, slots, h),
                    hits + h,
                )
                for h in range(min(good, slots) + 1)
            ]
        precision, items, hits = precision + _group(items, hits, tied, good), items + tied, hits + good
    return [(1.0, precision, hits)]


def _group(items: int, hits: int, slots: int, good: int) -> float:
    """Expected sum of precisions over `slots` ranks behind `items`, `good` of them relevant, all orders equally likely."""
    return sum(good / slots * (hits + 1 + j * (good - 1) / max(slots - 1, 1)) / (items + j + 1) for j in range(slots))

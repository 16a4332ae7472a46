"""Metrics of graded relevance of each query, from a matrix of distances."""

import math

import torch
from torch import Tensor


def ndcg(distances: Tensor, grades: Tensor, *, k: int | None = None, gain: str = "exponential", ties: str = "stable") -> Tensor:
    """Return the NDCG float64 [Q] for distances [Q, N] and grades int64 [Q, N]; the options are those of `metrics.ndcg`."""
    k = distances.shape[1] if k is None else min(k, distances.shape[1])
    values = []
    for row, row_grades in zip(distances, grades, strict=True):
        gains = [2.0**grade - 1 if gain == "exponential" else float(grade) for grade in row_grades.tolist()]
        ideal = _discounted(sorted(gains, reverse=True), k)
        values.append(_discounted(_ranked(row, gains, ties), k) / ideal if ideal else 0.0)
    return torch.tensor(values, dtype=torch.float64)


def average_cumulative_gain(distances: Tensor, grades: Tensor, *, k: int | None = None, ties: str = "stable") -> Tensor:
    """Return the average cumulative gain float64 [Q] for distances [Q, N] and grades int64 [Q, N]."""
    k = distances.shape[1] if k is None else min(k, distances.shape[1])
    ranked = [_ranked(row, list(map(float, row_grades)), ties) for row, row_grades in zip(distances, grades, strict=True)]
    return torch.tensor([sum(gains[:k]) / k for gains in ranked], dtype=torch.float64)


def _ranked(distances: Tensor, gains: list[float], ties: str) -> list[float]:
    """Return the gains in the order of ranks, or the expected gain at each rank."""
    if ties == "stable":
        return [gains[i] for i in torch.argsort(distances, stable=True).tolist()]
    ranked = []
    for distance in sorted(set(distances.tolist())):
        tied = [gain for gain, other in zip(gains, distances.tolist(), strict=True) if other == distance]
        ranked += [sum(tied) / len(tied)] * len(tied)
    return ranked


def _discounted(ranked: list[float], k: int) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(ranked[:k]))

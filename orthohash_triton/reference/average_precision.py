"""The average precision of each query, from a matrix of distances, and sums along sorted rankings."""

from math import comb

import torch
from torch import Tensor

from .hamming_distance import hamming_distance
from .pack_codes import unpack_codes

_ELEMENTS = 2**23  # largest number of distances that are sorted at once


class Rankings:
    """A gallery, for rankings in the order (distance, row), which are sorted.

    limits: int64 [M], numbers of ranks that count.
    """

    def __init__(self, queries: int, gallery: Tensor, labels: Tensor, limits: Tensor, *, shared: bool) -> None:
        """Hold the gallery uint8 [N, B] and its labels int64 words [N, L]: with `shared` one bit a class, otherwise an id."""
        self.gallery, self.labels, self.limits, self.shared = gallery, labels, limits.tolist(), shared
        self.most_queries = max(1, min(queries, _ELEMENTS // len(gallery)))

    def rank(self, queries: Tensor, labels: Tensor, precisions: Tensor, hits: Tensor, counts: Tensor, relevant: Tensor) -> None:
        """Compute the sums from which all metrics are derived, for queries uint8 [Q, B] with labels int64 words [Q, L].

        precisions: float64 [M, Q], the sum of the precisions at the relevant items among the first ranks, for each limit; hits:
        int64 [M, Q], the number of these items; counts, relevant: int64 [Q, K+1], all and relevant items at each distance.
        """
        distances = hamming_distance(queries, self.gallery)
        wanted = shared_classes(labels, self.labels) > 0 if self.shared else labels == self.labels.T
        counts.copy_(counts_at(distances, counts.shape[1]))
        relevant.copy_(counts_at(distances, counts.shape[1], wanted.double()))
        if self.limits:
            ranked = wanted.gather(1, distances.sort(dim=1, stable=True).indices)
            sum_precisions(ranked, self.limits, precisions, hits)


def sum_precisions(ranked: Tensor, limits: list[int], precisions: Tensor, hits: Tensor) -> None:
    """Fill `precisions` float64 [M, Q] and `hits` int64 [M, Q] from the relevance of the item at each rank, bool [Q, N]."""
    found = ranked.cumsum(dim=1)
    terms = found.double() / torch.arange(1, ranked.shape[1] + 1, device=ranked.device) * ranked
    for place, limit in enumerate(limits):
        torch.sum(terms[:, :limit], dim=1, out=precisions[place])
        hits[place] = found[:, limit - 1]


def counts_at(values: Tensor, bins: int, weights: Tensor | None = None) -> Tensor:
    """Return how often each of 0 .. bins - 1 occurs in each row of `values` [Q, N], or the sum of its `weights`, as [Q, bins]."""
    places = values.long() + bins * torch.arange(len(values), device=values.device)[:, None]
    weights = None if weights is None else weights.flatten()
    return torch.bincount(places.flatten(), weights, minlength=len(values) * bins).view(len(values), bins)


def shared_classes(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return how many classes sets of classes share: int64 [Q, N] for int64 words [Q, L] and [N, L] of one bit a class."""
    sides = [words.contiguous().view(torch.uint8) for words in (queries, gallery)]
    held = [(unpack_codes(side, 8 * side.shape[1]) > 0).float() for side in sides]
    return (held[0] @ held[1].T).long()


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

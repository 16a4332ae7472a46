"""The two quantities that all metrics come from: sums along the ranking, and counts at each distance.

On the CPU both are counted in Numba from packed codes (kernels/cpu/average_precision.py); on a GPU distances are computed and
sorted in chunks of queries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops import _checks
from ..ops.hamming_distance import hamming_distance
from . import _labels

_CHUNK = 2**23  # elements of the largest intermediate, of 8 bytes each


class RankedHits(NamedTuple):
    """For each query: precisions at the relevant items within k, summed; their number; the number of relevant items at all."""

    precisions: Tensor  # float64 [Q]
    hits: Tensor  # int64 [Q]
    totals: Tensor  # int64 [Q]


@dataclass(frozen=True)
class Ranking:
    """Checked codes and labels, on one device."""

    queries: Tensor
    gallery: Tensor
    labels: _labels.Labels

    def ranked_hits(self, k: int | None) -> RankedHits:
        """In the order (distance, position), along the first `k` items or all."""
        k = len(self.gallery) if k is None else min(k, len(self.gallery))
        return self._ranked_hits_cpu(k) if self.queries.device.type == "cpu" else self.ranked_hits_torch(k)

    def histograms(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(items, relevant items) at each distance, int64 [q, K+1] on the CPU, for consecutive chunks of queries."""
        step = max(1, _CHUNK // (8 * self.queries.shape[1] + 1))
        for start in range(0, len(self.queries), step):
            stop = min(start + step, len(self.queries))
            yield self._histograms_cpu(start, stop) if self.queries.device.type == "cpu" else self.histograms_torch(start, stop)

    def _ranked_hits_cpu(self, k: int) -> RankedHits:
        from ..kernels.cpu.average_precision import ranked_precision

        result = _empty_hits(len(self.queries))
        ranked_precision(*self._arrays(0, len(self.queries)), k, *(tensor.numpy() for tensor in result))
        return result

    def _histograms_cpu(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        from ..kernels.cpu.average_precision import distance_histograms

        counts, relevant = torch.empty(2, stop - start, 8 * self.queries.shape[1] + 1, dtype=torch.int64)
        distance_histograms(*self._arrays(start, stop), counts.numpy(), relevant.numpy())
        return counts, relevant

    def _arrays(self, start: int, stop: int) -> tuple[Any, ...]:
        query_labels, gallery_labels = self.labels.words()
        queries, gallery = (codes.contiguous().numpy() for codes in (self.queries[start:stop], self.gallery))
        return queries, gallery, query_labels[start:stop], gallery_labels, self.labels.shared

    def ranked_hits_torch(self, k: int) -> RankedHits:
        def ranked(start: int, stop: int) -> Tensor:
            order = hamming_distance(self.queries[start:stop], self.gallery).sort(dim=1, stable=True).indices
            return self.labels.relevance(start, stop).gather(1, order)

        return _in_chunks(ranked, len(self.queries), len(self.gallery), k)

    def histograms_torch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        bins = 8 * self.queries.shape[1] + 1
        step = max(1, _CHUNK // len(self.gallery))
        chunks = []
        for first in range(start, stop, step):
            last = min(first + step, stop)
            distances = hamming_distance(self.queries[first:last], self.gallery).long()
            distances += bins * torch.arange(last - first, device=distances.device)[:, None]
            relevance = self.labels.relevance(first, last)
            chunks.append([_counts(chosen, last - first, bins) for chosen in (distances.flatten(), distances[relevance])])
        counts, relevant = zip(*chunks, strict=True)
        return torch.cat(counts).cpu(), torch.cat(relevant).cpu()


def check(op: str, query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any) -> Ranking:
    """What every metric of codes takes, checked."""
    names = ("query_codes", "gallery_codes")
    queries, gallery = _checks.code_pair(op, query_codes, gallery_codes, names)
    not_empty(op, names[0], queries)
    not_empty(op, names[1], gallery)
    rows = [(f"rows of {name}", len(codes)) for name, codes in zip(names, (queries, gallery), strict=True)]
    labels = _labels.check(op, query_labels, gallery_labels, queries, *rows)
    return Ranking(queries, gallery, labels)


def check_k(op: str, k: Any) -> int | None:
    return None if k is None else _checks.integer(op, "k", k, minimum=1)


def not_empty(op: str, name: str, value: Tensor) -> None:
    if value.numel() == 0:
        raise ValueError(f"{op}: {name} must hold at least one row; got {_checks.describe(value)}")


def ranked_hits_by_score(scores: Tensor, labels: _labels.Labels, k: int | None) -> RankedHits:
    """In the order (score descending, position), along the first `k` items or all."""
    k = scores.shape[1] if k is None else min(k, scores.shape[1])
    if scores.device.type == "cpu" and scores.dtype != torch.float64:
        from ..kernels.cpu.average_precision import scored_precision

        result = _empty_hits(len(scores))
        arrays = (scores.float().contiguous().numpy(), *labels.words(), labels.shared)
        scored_precision(*arrays, k, *(tensor.numpy() for tensor in result))
        return result

    def ranked(start: int, stop: int) -> Tensor:
        order = scores[start:stop].sort(dim=1, descending=True, stable=True).indices
        return labels.relevance(start, stop).gather(1, order)

    return _in_chunks(ranked, scores.shape[0], scores.shape[1], k)


def _in_chunks(ranked: Callable[[int, int], Tensor], queries: int, gallery: int, k: int) -> RankedHits:
    """`ranked(start, stop)` is the relevance of all items in the order of their rank, bool [stop - start, N]."""
    step = max(1, _CHUNK // gallery)
    chunks = [_along_ranks(ranked(start, min(start + step, queries)), k) for start in range(0, queries, step)]
    return RankedHits(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def _along_ranks(ranked: Tensor, k: int) -> RankedHits:
    within = ranked[:, :k]
    hits = within.cumsum(dim=1)
    ranks = torch.arange(1, k + 1, device=ranked.device)
    return RankedHits((hits.double() / ranks * within).sum(dim=1), hits[:, -1], ranked.sum(dim=1))


def _counts(places: Tensor, rows: int, bins: int) -> Tensor:
    return torch.bincount(places, minlength=rows * bins).view(rows, bins)


def _empty_hits(queries: int) -> RankedHits:
    counts = torch.empty(2, queries, dtype=torch.int64)
    return RankedHits(torch.empty(queries, dtype=torch.float64), *counts)

"""Sums along rankings, and counts at each distance, for consecutive chunks of queries. All metrics derive from them.

They are computed from packed codes without sorting, on a CPU in Numba (kernels/cpu/average_precision.py, gains.py) and on a GPU
in Triton (kernels/average_precision.py). Gains on a GPU, and all of them with ORTHOHASH_IMPL=reference, are computed in PyTorch,
which sorts the distances of chunks of queries.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ..ops.dispatch import Impl, choose
from ..ops.hamming_distance import hamming_distance
from . import _labels

F = TypeVar("F", bound=Callable[..., Any])

_CHUNK = 2**23  # elements of the largest intermediate tensor, 8 bytes each


class Sums(NamedTuple):
    """Sums over the first ranks of the rankings of q queries, for each of L numbers of ranks."""

    precisions: Tensor  # float64 [L, q]: sum of the precisions at the ranks of relevant items
    hits: Tensor  # int64 [L, q]: number of relevant items
    totals: Tensor  # int64 [q]: number of relevant items in the whole gallery


class Ranked(NamedTuple):
    """Sums along the rankings of q queries, and the numbers of items at each distance."""

    sums: Sums
    counts: Tensor  # int64 [q, K+1]: items at each distance
    relevant: Tensor  # int64 [q, K+1]: relevant items at each distance


class Gained(NamedTuple):
    """Gains over the first ranks of q queries, for each of L numbers of ranks, and the sums that expectations over ties need."""

    discounted: Tensor  # float64 [L, q]: sum of gain times discount of the rank
    gained: Tensor  # float64 [L, q]: sum of gains
    counts: Tensor  # int64 [q, K+1]: items at each distance
    sums: Tensor  # float64 [q, K+1]: sum of the gains of the items at each distance
    grades: Tensor  # int64 [q, G+1]: items of each grade in the whole gallery


@dataclass(frozen=True)
class Ranking:
    """Checked codes and labels on one device, and the computation of sums and counts from them."""

    queries: Tensor
    gallery: Tensor
    labels: _labels.Labels

    @property
    def bins(self) -> int:
        """Number of possible distances, which are 0 .. K."""
        return 8 * self.queries.shape[1] + 1

    def ranked(self, ks: Sequence[int | None]) -> Iterator[Ranked]:
        """Iterate over the chunks of queries: sums over the first k items by (distance, position) for each k of `ks`.

        None stands for all items. Empty `ks` cost no ranking.
        """
        limits = self.limits(ks)
        implementations: dict[Impl, Callable[[Tensor], Iterator[Ranked]]] = {
            "triton": self.ranked_triton,
            "cpu": lambda limits: (self._ranked_cpu(*chunk, limits) for chunk in self._chunks()),
            "reference": lambda limits: (self.ranked_torch(*chunk, limits) for chunk in self._chunks()),
        }
        return implementations[choose("metrics", "auto", self.queries)](limits)

    def gained(self, ks: Sequence[int | None], gains: Tensor, discounts: Tensor) -> Iterator[Gained]:
        """Iterate over the chunks of queries: gains of the first k items by (distance, position) for each k of `ks`.

        Args:
            ks: numbers of ranks; None stands for all items.
            gains: gain of each grade, float64 [G+1].
            discounts: discount of each rank, float64, at least as many as the largest k.
        """
        limits = self.limits(ks)
        function = self._gained_cpu if _takes_numba(self.queries) else self.gained_torch
        return (function(start, stop, limits, gains, discounts) for start, stop in self._chunks())

    def limits(self, ks: Sequence[int | None]) -> Tensor:
        """Return the number of ranks for each of `ks`, at most the size of the gallery: int64 [L]."""
        return torch.tensor([len(self.gallery) if k is None else min(k, len(self.gallery)) for k in ks], dtype=torch.int64)

    def _chunks(self, step: int | None = None) -> list[tuple[int, int]]:
        """Return (start, stop) of consecutive chunks of queries, `step` each or as many as _CHUNK permits."""
        step = step or max(1, _CHUNK // self.bins)
        return [(start, min(start + step, len(self.queries))) for start in range(0, len(self.queries), step)]

    def _ranked_cpu(self, start: int, stop: int, limits: Tensor) -> Ranked:
        """Compute `ranked` for the queries [start, stop) in Numba."""
        from ..kernels.cpu.average_precision import ranked_precision

        precisions, hits = _empty_sums(limits, stop - start)
        counts, relevant = torch.empty(2, stop - start, self.bins, dtype=torch.int64)
        results = (tensor.numpy() for tensor in (precisions, hits, counts, relevant))
        ranked_precision(*self._arrays(start, stop), limits.numpy(), *results)
        return Ranked(Sums(precisions, hits, relevant.sum(dim=1)), counts, relevant)

    def _gained_cpu(self, start: int, stop: int, limits: Tensor, gains: Tensor, discounts: Tensor) -> Gained:
        """Compute `gained` for the queries [start, stop) in Numba."""
        from ..kernels.cpu.gains import ranked_gains

        count = stop - start
        discounted, gained = torch.empty(2, len(limits), count, dtype=torch.float64)
        result = Gained(
            discounted,
            gained,
            torch.empty(count, self.bins, dtype=torch.int64),
            torch.empty(count, self.bins, dtype=torch.float64),
            torch.empty(count, len(gains), dtype=torch.int64),
        )
        arrays = (tensor.numpy() for tensor in (limits, gains, discounts, *result))
        ranked_gains(*self._arrays(start, stop), *arrays)
        return result

    def _arrays(self, start: int, stop: int) -> tuple[Any, ...]:
        """Return the codes and labels of the queries [start, stop) and of the gallery as arguments of the CPU kernels."""
        query_labels, gallery_labels = self.labels.words()
        queries, gallery = (codes.contiguous().numpy() for codes in (self.queries[start:stop], self.gallery))
        return queries, gallery, query_labels[start:stop], gallery_labels, self.labels.shared

    def ranked_triton(self, limits: Tensor) -> Iterator[Ranked]:
        """Compute `ranked` in Triton. Each chunk copies each of its results to the host once."""
        from ..kernels.average_precision import Rankings
        from ..kernels.hamming_histogram import hamming_histogram

        query_labels, gallery_labels = self.labels.packed()
        shared, device = self.labels.shared, self.queries.device
        rankings = Rankings(len(self.queries), self.gallery, gallery_labels, shared=shared) if len(limits) else None
        for start, stop in self._chunks(rankings.most_queries if rankings else None):
            queries, labels = self.queries[start:stop], query_labels[start:stop]
            precisions, hits = _empty_sums(limits, stop - start, device)
            counts, relevant = torch.empty(2, stop - start, self.bins, dtype=torch.int64, device=device)
            if rankings:
                rankings.rank(queries, labels, limits, precisions, hits, counts, relevant)
            else:
                hamming_histogram(queries, self.gallery, counts, labels, gallery_labels, relevant, shared=shared)
            sums = Sums(precisions.cpu(), hits.cpu(), relevant.sum(dim=1).cpu())
            # Counts are below 2**31 and most of the data, so they are copied as int32.
            yield Ranked(sums, *(found.int().cpu().long() for found in (counts, relevant)))

    def ranked_torch(self, start: int, stop: int, limits: Tensor) -> Ranked:
        """Compute `ranked` for the queries [start, stop) in PyTorch, by sorting distances."""

        def ranked(first: int, last: int) -> tuple[Tensor, ...]:
            distances = hamming_distance(self.queries[first:last], self.gallery)
            relevance = self.labels.relevance(first, last)
            counts = self._counts(distances)
            relevant = self._counts(distances, relevance.double()).long()
            if len(limits) == 0:
                empty = counts.new_empty(0, last - first)
                return empty.double(), empty, relevant.sum(dim=1), counts, relevant
            order = distances.sort(dim=1, stable=True).indices
            return *along_ranks(relevance.gather(1, order), limits), counts, relevant

        precisions, hits, totals, counts, relevant = _in_chunks(ranked, start, stop, len(self.gallery))
        return Ranked(Sums(precisions, hits, totals), counts, relevant)

    def gained_torch(self, start: int, stop: int, limits: Tensor, gains: Tensor, discounts: Tensor) -> Gained:
        """Compute `gained` for the queries [start, stop) in PyTorch, by sorting distances."""
        gains, discounts = gains.to(self.queries.device), discounts.to(self.queries.device)

        def gained(first: int, last: int) -> tuple[Tensor, ...]:
            distances = hamming_distance(self.queries[first:last], self.gallery)
            grades = self.labels.grades(first, last)
            gain = gains[grades]
            ranked = gain.gather(1, distances.sort(dim=1, stable=True).indices)
            discounted = torch.stack([(ranked[:, :k] * discounts[:k]).sum(dim=1) for k in limits.tolist()])
            gained = torch.stack([ranked[:, :k].sum(dim=1) for k in limits.tolist()])
            return discounted, gained, self._counts(distances), self._counts(distances, gain), _counts(grades, len(gains))

        return Gained(*_in_chunks(gained, start, stop, len(self.gallery)))

    def _counts(self, distances: Tensor, weights: Tensor | None = None) -> Tensor:
        """Count the items at each distance, or sum their `weights`: distances and weights [q, N] -> [q, K+1]."""
        return _counts(distances.long(), self.bins, weights)


def on_host(function: F) -> F:
    """Decorate `function` so that it creates tensors in host memory, whatever the default device of torch is."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def metric(function: F) -> F:
    """Decorate `function` so that it accepts numpy arrays and creates tensors in host memory."""
    return on_host(numpy_friendly(function))


def check(op: str, query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any) -> Ranking:
    """Check the arguments that all metrics of codes have in common.

    Raises:
        TypeError, ValueError: see `average_precision`.
    """
    names = ("query_codes", "gallery_codes")
    queries, gallery = checks.code_pair(op, query_codes, gallery_codes, names)
    not_empty(op, names[0], queries)
    not_empty(op, names[1], gallery)
    if len(gallery) >= 2**31:
        raise ValueError(f"{op}: gallery_codes must hold fewer than 2**31 rows; got {checks.describe(gallery)}")
    rows = [(f"rows of {name}", len(codes)) for name, codes in zip(names, (queries, gallery), strict=True)]
    labels = _labels.check(op, query_labels, gallery_labels, queries, *rows)
    return Ranking(queries, gallery, labels)


def check_k(op: str, k: Any) -> int | None:
    """Return `k`, after a check that it is None or an integer of at least 1."""
    return None if k is None else checks.integer(op, "k", k, minimum=1)


def not_empty(op: str, name: str, value: Tensor) -> None:
    """Raise ValueError if `value` has no elements."""
    if value.numel() == 0:
        raise ValueError(f"{op}: {name} must hold at least one row; got {checks.describe(value)}")


def sums_by_score(scores: Tensor, labels: _labels.Labels, k: int | None) -> Sums:
    """Compute sums over the first `k` items, or all, by (score descending, position)."""
    limits = torch.tensor([scores.shape[1] if k is None else min(k, scores.shape[1])])
    if _takes_numba(scores) and scores.dtype != torch.float64:
        from ..kernels.cpu.average_precision import scored_precision

        result = Sums(*_empty_sums(limits, len(scores)), torch.empty(len(scores), dtype=torch.int64))
        arrays = (scores.float().contiguous().numpy(), *labels.words(), labels.shared)
        scored_precision(*arrays, int(limits), result.precisions[0].numpy(), result.hits[0].numpy(), result.totals.numpy())
        return result

    def ranked(start: int, stop: int) -> tuple[Tensor, ...]:
        order = scores[start:stop].sort(dim=1, descending=True, stable=True).indices
        return along_ranks(labels.relevance(start, stop).gather(1, order), limits)

    return Sums(*_in_chunks(ranked, 0, len(scores), scores.shape[1]))


def _takes_numba(values: Tensor) -> bool:
    """Return True if Numba computes the metrics that have no Triton kernel, rather than PyTorch."""
    return values.device.type == "cpu" and choose("metrics", "auto", values) == "cpu"


def along_ranks(ranked: Tensor, limits: Tensor) -> Sums:
    """Compute sums over the first ranks from `ranked`, bool [q, N]: whether the item at each rank is relevant."""
    hits = ranked.cumsum(dim=1)
    precisions = hits.double() / torch.arange(1, ranked.shape[1] + 1, device=ranked.device) * ranked
    sums = torch.stack([precisions[:, :k].sum(dim=1) for k in limits.tolist()])
    return Sums(sums, torch.stack([hits[:, k - 1] for k in limits.tolist()]), hits[:, -1])


def _in_chunks(function: Callable[[int, int], tuple[Tensor, ...]], start: int, stop: int, width: int) -> list[Tensor]:
    """Call `function(first, last)` for parts of the queries [start, stop), and concatenate the results in host memory.

    The first two results are [L, q], with queries along the second dimension; the others have queries along the first.
    """
    step = max(1, _CHUNK // width)
    chunks = [function(first, min(first + step, stop)) for first in range(start, stop, step)]
    return [torch.cat(parts, dim=1 if index < 2 else 0).cpu() for index, parts in enumerate(zip(*chunks, strict=True))]


def _counts(values: Tensor, bins: int, weights: Tensor | None = None) -> Tensor:
    """Count each of 0 .. bins - 1 in each row of `values` [q, N], or sum the `weights` [q, N] of its entries: [q, bins]."""
    places = values + bins * torch.arange(len(values), device=values.device)[:, None]
    weights = None if weights is None else weights.flatten()
    return torch.bincount(places.flatten(), weights, minlength=len(values) * bins).view(len(values), bins)


def _empty_sums(limits: Tensor, queries: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return uninitialised tensors for the precisions and hits of `Sums`."""
    shape = (len(limits), queries)
    return torch.empty(shape, dtype=torch.float64, device=device), torch.empty(shape, dtype=torch.int64, device=device)

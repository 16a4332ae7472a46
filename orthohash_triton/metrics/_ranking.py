"""Sums along rankings, and counts at each distance, for consecutive chunks of queries. All metrics derive from them.

Queries that are equal in code and labels are ranked once (_equal_queries.py).

They are computed from packed codes without sorting, on a CPU in Numba (kernels/cpu/average_precision.py, gains.py) and on a GPU
in Triton (kernels/average_precision.py). Gains on a GPU, and all of them with ORTHOHASH_IMPL=reference, are computed in PyTorch
(reference/average_precision.py), which sorts the distances of chunks of queries.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ..ops.dispatch import ImplChoice, choose, implementation
from ..ops.hamming_distance import hamming_distance
from ..reference.average_precision import counts_at, sum_precisions
from . import _labels
from ._equal_queries import equal_queries

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
    copies: Tensor  # int64 [q]: number of the caller's queries that each of these stands for


class Gained(NamedTuple):
    """Gains over the first ranks of q queries, for each of L numbers of ranks, and the sums that expectations over ties need."""

    discounted: Tensor  # float64 [L, q]: sum of gain times discount of the rank
    gained: Tensor  # float64 [L, q]: sum of gains
    counts: Tensor  # int64 [q, K+1]: items at each distance
    sums: Tensor  # float64 [q, K+1]: sum of the gains of the items at each distance
    grades: Tensor  # int64 [q, G+1]: items of each grade in the whole gallery


@dataclass(frozen=True)
class Ranking:
    """Checked codes and labels on one device, and the computation of sums and counts from them.

    Attributes:
        queries: uint8 [D, B], the caller's queries; of those that are equal in code and labels only the first.
        gallery: uint8 [N, B].
        labels: labels of `queries` and `gallery`.
        copies: int64 [D] in host memory, number of the caller's queries that each query stands for.
        group: int64 [Q] in host memory, the row of `queries` that stands for each of the caller's queries; None for the same row.
    """

    queries: Tensor
    gallery: Tensor
    labels: _labels.Labels
    copies: Tensor
    group: Tensor | None = None

    def for_each(self, values: Tensor) -> Tensor:
        """Return the values of all queries of the caller, [Q], from those of `queries`, [D]; both in host memory."""
        return values if self.group is None else values[self.group]

    @property
    def bins(self) -> int:
        """Number of possible distances, which are 0 .. K."""
        return 8 * self.queries.shape[1] + 1

    def ranked(self, ks: Sequence[int | None], impl: ImplChoice = "auto") -> Iterator[Ranked]:
        """Iterate over the chunks of queries: sums over the first k items by (distance, position) for each k of `ks`.

        None stands for all items. Empty `ks` cost no ranking. Each chunk copies each of its results from a GPU once.
        """
        module = implementation("average_precision", choose("metrics", impl, self.queries))
        query_labels, gallery_labels = self.labels.words()
        limits, device = self.limits(ks), self.queries.device
        rankings = module.Rankings(len(self.queries), self.gallery, gallery_labels, limits, shared=self.labels.shared)
        for start, stop in self._chunks(rankings.most_queries):
            precisions, hits = _empty_sums(limits, stop - start, device)
            counts, relevant = torch.empty(2, stop - start, self.bins, dtype=torch.int64, device=device)
            rankings.rank(self.queries[start:stop], query_labels[start:stop], precisions, hits, counts, relevant)
            sums = Sums(precisions.cpu(), hits.cpu(), relevant.sum(dim=1).cpu())
            in_host_memory = (_counts_in_host_memory(counts), _counts_in_host_memory(relevant))
            yield Ranked(sums, *in_host_memory, self.copies[start:stop])

    def gained(self, ks: Sequence[int | None], gains: Tensor, discounts: Tensor) -> Iterator[Gained]:
        """Iterate over the chunks of queries: gains of the first k items by (distance, position) for each k of `ks`.

        Args:
            ks: numbers of ranks; None stands for all items.
            gains: gain of each grade, float64 [G+1].
            discounts: discount of each rank, float64, at least as many as the largest k.
        """
        limits = self.limits(ks)
        function = self._gained_cpu if _takes_numba(self.queries) else self.gained_torch
        return (function(start, stop, limits, gains, discounts) for start, stop in self._chunks(len(self.queries)))

    def limits(self, ks: Sequence[int | None]) -> Tensor:
        """Return the number of ranks for each of `ks`, at most the size of the gallery: int64 [L]."""
        return torch.tensor([len(self.gallery) if k is None else min(k, len(self.gallery)) for k in ks], dtype=torch.int64)

    def _chunks(self, most: int) -> list[tuple[int, int]]:
        """Return (start, stop) of consecutive chunks of queries: at most `most`, and as many as _CHUNK permits."""
        step = min(most, max(1, _CHUNK // self.bins))
        return [(start, min(start + step, len(self.queries))) for start in range(0, len(self.queries), step)]

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
        queries, gallery = (codes.contiguous().numpy() for codes in (self.queries[start:stop], self.gallery))
        query_labels, gallery_labels = self.labels.as_arrays()
        ranked_gains(queries, gallery, query_labels[start:stop], gallery_labels, self.labels.shared, *arrays)
        return result

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
            counted = counts_at(distances, self.bins), counts_at(distances, self.bins, gain), counts_at(grades, len(gains))
            return discounted, gained, *counted

        return Gained(*_in_chunks(gained, start, stop, len(self.gallery)))


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
    """Check the arguments that all metrics of codes have in common, and find equal queries.

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
    groups = equal_queries(queries, labels.query_words(), len(gallery))
    if groups is None:
        return Ranking(queries, gallery, labels, torch.ones(len(queries), dtype=torch.int64))
    first = groups.first.to(queries.device)
    return Ranking(queries[first], gallery, labels.of_queries(first), groups.copies, groups.group)


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
        arrays = (scores.float().contiguous().numpy(), *labels.as_arrays(), labels.shared)
        scored_precision(*arrays, int(limits), result.precisions[0].numpy(), result.hits[0].numpy(), result.totals.numpy())
        return result

    def ranked(start: int, stop: int) -> tuple[Tensor, ...]:
        order = scores[start:stop].sort(dim=1, descending=True, stable=True).indices
        ranked = labels.relevance(start, stop).gather(1, order)
        precisions, hits = _empty_sums(limits, stop - start, scores.device)
        sum_precisions(ranked, limits.tolist(), precisions, hits)
        return precisions, hits, ranked.sum(dim=1)

    return Sums(*_in_chunks(ranked, 0, len(scores), scores.shape[1]))


def _takes_numba(values: Tensor) -> bool:
    """Return True if Numba computes the metrics that have no Triton kernel, rather than PyTorch."""
    return values.device.type == "cpu" and choose("metrics", "auto", values) == "cpu"


def _in_chunks(function: Callable[[int, int], tuple[Tensor, ...]], start: int, stop: int, width: int) -> list[Tensor]:
    """Call `function(first, last)` for parts of the queries [start, stop), and concatenate the results in host memory.

    The first two results are [L, q], with queries along the second dimension; the others have queries along the first.
    """
    step = max(1, _CHUNK // width)
    chunks = [function(first, min(first + step, stop)) for first in range(start, stop, step)]
    return [torch.cat(parts, dim=1 if index < 2 else 0).cpu() for index, parts in enumerate(zip(*chunks, strict=True))]


def _counts_in_host_memory(counts: Tensor) -> Tensor:
    """Return `counts`, which are below 2**31 and most of the data, in host memory; they are copied from a GPU as int32."""
    return counts if counts.device.type == "cpu" else counts.int().cpu().long()


def _empty_sums(limits: Tensor, queries: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return uninitialised tensors for the precisions and hits of `Sums`."""
    shape = (len(limits), queries)
    return torch.empty(shape, dtype=torch.float64, device=device), torch.empty(shape, dtype=torch.int64, device=device)

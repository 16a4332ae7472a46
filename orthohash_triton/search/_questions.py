"""The two questions that an index answers, each by a scan or with the help of structures; the answers are equal."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops.hamming_range import hamming_range
from ..ops.hamming_topk import nearest
from . import _filing
from ._gallery import Allowed, Gallery
from ._plan import Demand, Kind, Way
from ._structures import Structures
from .streaming import merged_nearest, merged_ranges, nearest_streamed, range_streamed

Answer = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Question(ABC):
    """The checked arguments of a search in a snapshot of an index. Positions in answers count from the first allowed code."""

    gallery: Gallery
    queries: Tensor  # uint8 [Q, B]
    allowed: Allowed
    chunk_bytes: int

    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def depth(self) -> int:
        """K, or the largest radius."""

    @cached_property
    def demand(self) -> Demand:
        """The demand of this question on all codes."""
        on_gpu = self.queries.is_cuda
        return Demand(self.kind, len(self.queries), len(self.allowed.codes), self.gallery.bits, self.depth, on_gpu)

    @abstractmethod
    def of(self, queries: Tensor) -> "Question":
        """Return this question for the queries at the positions `queries`, int64 [any]."""

    @abstractmethod
    def about(self, count: int) -> "Question":
        """Return this question about the first `count` codes."""

    @abstractmethod
    def scanned(self) -> Answer:
        """Return the answer by comparing each query with all codes."""

    @abstractmethod
    def by(self, way: Way, structures: Structures, budget: int) -> tuple[Answer, Tensor]:
        """Return the answer about the codes that structures cover, and what each query has met, int64 [Q]; -1 if it gave up.

        A query gives up if it had to meet more than `budget` entries, or buckets and candidates. Its answer is then undefined.
        """

    @abstractmethod
    def repaired(self, answer: Answer, lost: Tensor) -> Answer:
        """Return `answer` with the answers of the queries `lost`, int64 [any], by a scan."""

    @abstractmethod
    def continued(self, answer: Answer, count: int) -> Answer:
        """Return the answer about all codes, given that about the first `count` codes."""

    def mask_of(self, rows: slice) -> Tensor | None:
        """Return the mask of a range of codes."""
        return None if self.allowed.mask is None else self.allowed.mask[rows]

    def part(self, rows: slice) -> Allowed:
        """Return a range of the allowed codes."""
        return self.allowed._replace(codes=self.allowed.codes[rows], mask=self.mask_of(rows))


@dataclass(frozen=True, eq=False)
class Nearest(Question):
    """The question for the k nearest codes of each query: (distances int32, positions int64) [Q, k]."""

    k: int
    kind: ClassVar[Kind] = "nearest"

    @property
    def depth(self) -> int:
        return self.k

    def of(self, queries: Tensor) -> "Nearest":
        return replace(self, queries=self.queries[queries])

    def about(self, count: int) -> "Nearest":
        return self if count == len(self.allowed.codes) else replace(self, allowed=self.part(slice(count)))

    def scanned(self, limits: Tensor | None = None) -> Answer:
        """Return the answer by a scan; codes at their query's limit, int32 [Q], or farther are not looked for."""
        codes, mask = self.allowed.codes, self.allowed.mask
        if not self.gallery.is_streamed:
            return nearest(self.queries, codes, self.k, mask=mask, limits=limits)
        return nearest_streamed(
            self.queries,
            codes,
            self.k,
            mask=mask,
            limits=limits,
            chunk_bytes=self.chunk_bytes,
            check=self.gallery.check_file,
        )

    def by(self, way: Way, structures: Structures, budget: int) -> tuple[Answer, Tensor]:
        mask = self.mask_of(slice(structures.count))
        if way == "lookup":
            lookup = structures.lookup
            assert lookup is not None
            *answer, met = lookup.nearest(self.queries, self.k, lookup.largest_radius, mask, budget)
        else:
            assert structures.filing is not None
            *answer, met = _filing.nearest(self.queries, structures.filing, self.k, mask=mask, budget=budget)
        return tuple(answer), met

    def repaired(self, answer: Answer, lost: Tensor) -> Answer:
        for part, scanned in zip(answer, self.of(lost).scanned(), strict=True):
            part[lost] = scanned
        return answer

    def continued(self, answer: Answer, count: int) -> Answer:
        if count == len(self.allowed.codes):
            return answer
        tail = replace(self, allowed=self.part(slice(count, None)))
        found = tail.scanned(answer[0][:, -1].contiguous())
        return merged_nearest((answer[0], answer[1]), (found[0], found[1]), count)


@dataclass(frozen=True, eq=False)
class Within(Question):
    """The question for all codes nearer than a limit: (lims int64 [Q+1], distances int32 [M], positions int64 [M])."""

    limits: Tensor  # int32 [Q]
    farthest: int  # the greatest limit
    kind: ClassVar[Kind] = "range"

    @property
    def depth(self) -> int:
        return self.farthest

    def of(self, queries: Tensor) -> "Within":
        return replace(self, queries=self.queries[queries], limits=self.limits[queries])

    def about(self, count: int) -> "Within":
        return self if count == len(self.allowed.codes) else replace(self, allowed=self.part(slice(count)))

    def scanned(self) -> Answer:
        codes, mask = self.allowed.codes, self.allowed.mask
        if not self.gallery.is_streamed:
            return hamming_range(self.queries, codes, self.limits, mask=mask)
        return range_streamed(
            self.queries,
            codes,
            self.limits,
            inclusive=False,
            mask=mask,
            chunk_bytes=self.chunk_bytes,
            check=self.gallery.check_file,
        )

    def by(self, way: Way, structures: Structures, budget: int) -> tuple[Answer, Tensor]:
        mask = self.mask_of(slice(structures.count))
        if way == "lookup":
            assert structures.lookup is not None
            *answer, met = structures.lookup.within(self.queries, self.limits, mask, budget)
        else:
            assert structures.filing is not None
            *answer, met = _filing.within(self.queries, structures.filing, self.limits, mask=mask, budget=budget)
        return tuple(answer), met

    def repaired(self, answer: Answer, lost: Tensor) -> Answer:
        lims, distances, positions = self.of(lost).scanned()
        counts = torch.zeros(len(self.queries), dtype=torch.int64, device=lims.device)
        counts[lost] = lims.diff()
        scanned = torch.cat([counts.new_zeros(1), counts.cumsum(0)]), distances, positions
        return merged_ranges([(answer[0], answer[1], answer[2]), scanned], self.gallery.bits)

    def continued(self, answer: Answer, count: int) -> Answer:
        if count == len(self.allowed.codes):
            return answer
        lims, distances, positions = replace(self, allowed=self.part(slice(count, None))).scanned()
        tail = lims, distances, positions + count
        return merged_ranges([(answer[0], answer[1], answer[2]), tail], self.gallery.bits)


def question(
    gallery: Gallery, queries: Tensor, allowed: Allowed, chunk_bytes: int, *, k: int | None = None, limits: Any = None
) -> Question:
    """Return the question for the `k` nearest codes, or else for those nearer than `limits`, int32 [Q]."""
    if k is not None:
        return Nearest(gallery, queries, allowed, chunk_bytes, min(k, max(len(allowed.codes), 1)))
    return Within(gallery, queries, allowed, chunk_bytes, limits, int(limits.max()) if len(limits) else 0)

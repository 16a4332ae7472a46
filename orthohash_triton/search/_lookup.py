"""Search for near codes by tables of substrings, whose cost depends on what lies near and not on the size of the gallery."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.cpu import lookup as kernels

UNLIMITED = 2**62  # a budget that no query uses up


class Found(NamedTuple):
    """The codes that queries found within their limits, as `hamming_range` returns them, and what it took."""

    lims: Tensor  # int64 [Q + 1]
    distances: Tensor  # int32 [M]
    ids: Tensor  # int64 [M]: rows
    met: Tensor  # int64 [Q]: buckets and codes met; -1 for a query that gave up, which has no codes here


class Nearest(NamedTuple):
    """The nearest codes of queries, as `hamming_topk` returns them, and what it took."""

    distances: Tensor  # int32 [Q, k]
    ids: Tensor  # int64 [Q, k]: rows
    met: Tensor  # int64 [Q]: buckets and codes met; -1 for a query without an answer, whose row is undefined


@dataclass(frozen=True, eq=False)
class Lookup:
    """Tables of substrings of a gallery's codes on the CPU, which never change. Threads may use them at once."""

    codes: Tensor  # uint8 [N, B]
    tables: kernels.LookupTables
    _opened: kernels.Tables

    @classmethod
    def build(cls, codes: Tensor, radius: int, tables: int | None = None) -> "Lookup":
        """Return a lookup that is best for searches of `codes` within `radius` bits (inclusive).

        It serves other radii, too, up to `largest_radius`. It keeps `codes`, uint8 [N, B], and does not copy them.

        Args:
            codes: contiguous, in host memory.
            radius: 0 or more.
            tables: the number of tables, each of which takes about 10 bytes a code; None for the best.
        """
        return cls.of(codes, kernels.lookup_tables(codes, radius, tables))

    @classmethod
    def of(cls, codes: Tensor, tables: kernels.LookupTables) -> "Lookup":
        """Return a lookup with existing tables, such as those of a file.

        Raises:
            ValueError: The tables are not those of as many codes of this width, or damaged.
        """
        _check(codes, tables)
        return cls(codes, tables, kernels.opened(tables))

    @classmethod
    def of_arrays(cls, codes: Tensor, arrays: Mapping[str, Tensor]) -> "Lookup":
        """Return the lookup whose `arrays()` were kept."""
        return cls.of(codes, kernels.LookupTables(**{name: arrays[name] for name in kernels.LookupTables._fields}))

    def arrays(self) -> dict[str, Tensor]:
        """Return everything but the codes as plain tensors."""
        return self.tables._asdict()

    @property
    def nbytes(self) -> int:
        """The memory of the tables in bytes."""
        return sum(part.nbytes for part in self.tables)

    @property
    def largest_radius(self) -> int:
        """The largest radius (inclusive) that the tables serve, at whatever cost."""
        return len(self.tables.steps) - 1

    def buckets(self, radius: int) -> int:
        """Return how many buckets a query looks into for all codes within `radius` bits (inclusive)."""
        return int(self._opened.buckets[radius + 1])

    def cost(self, queries: Tensor, limits: Tensor | int, budget: int = UNLIMITED) -> Tensor:
        """Return how many buckets and codes each query would meet, int64 [Q], or -1 for more than `budget`.

        No code is read. Take a sample of the queries, because looking into the buckets is a large part of a search.
        """
        met = torch.empty(len(queries), dtype=torch.int64)
        kernels.lookup_cost(queries, self.codes, self._opened, _limits(limits, queries), budget, met)
        return met

    def within(self, queries: Tensor, limits: Tensor | int, mask: Tensor | None = None, budget: int = UNLIMITED) -> Found:
        """Return all codes nearer than the limits, in the order (distance, row).

        Args:
            queries: uint8 [Q, B].
            limits: int32 [Q], or one number; codes at smaller distances are found.
            mask: bool [N], True for codes that may be found.
            budget: a query that would meet more buckets and codes gives up; the same holds for a limit beyond
                `largest_radius` + 1.
        """
        met = torch.empty(len(queries), dtype=torch.int64)
        limits = _limits(limits, queries)
        lims, distances, ids = kernels.lookup_search(queries, self.codes, self._opened, mask, limits, 0, budget, met)
        return Found(lims, distances, ids, met)

    def nearest(
        self, queries: Tensor, k: int, radius: Tensor | int, mask: Tensor | None = None, budget: int = UNLIMITED
    ) -> Nearest:
        """Return the k nearest codes of the queries that have as many within `radius` bits (inclusive), by (distance, row).

        A query stops at the smallest radius within which it has k codes, so a large `radius` costs only those queries that
        need it.

        Args:
            queries: uint8 [Q, B].
            k: 1 or more.
            radius: one number, or integers [Q].
            mask: bool [N], True for codes that may be found.
            budget: a query that would meet more buckets and codes has no answer.
        """
        met = torch.empty(len(queries), dtype=torch.int64)
        limits = _limits(radius + 1, queries).clamp_max(self.largest_radius + 1)
        lims, found_distances, found_ids = kernels.lookup_search(queries, self.codes, self._opened, mask, limits, k, budget, met)
        answered = lims.diff() > 0
        met[~answered] = -1
        distances = torch.empty((len(queries), k), dtype=torch.int32)
        ids = torch.empty((len(queries), k), dtype=torch.int64)
        distances[answered], ids[answered] = found_distances.view(-1, k), found_ids.view(-1, k)
        return Nearest(distances, ids, met)

    def kept(self, keep: Tensor, codes: Tensor) -> "Lookup":
        """Return the lookup of `codes`, which are those of this lookup's codes where `keep`, bool [N], is True."""
        return Lookup.of(codes, kernels.kept_tables(self.tables, keep))


def _limits(limits: Any, queries: Tensor) -> Tensor:
    """Return limits as int32 [Q]."""
    if isinstance(limits, Tensor):
        return limits.clamp_max(2**31 - 1).to(torch.int32)
    return torch.full((len(queries),), min(limits, 2**31 - 1), dtype=torch.int32)


def _check(codes: Tensor, tables: kernels.LookupTables) -> None:
    """Raise ValueError if `tables` cannot be those of `codes`."""
    count, width = codes.shape
    number = len(tables.starts)
    dtype = torch.int32 if count <= kernels.LARGEST_INT32 and tables.starts.dtype == torch.int32 else torch.int64
    buckets = tables.starts.shape[-1] - 1
    expected = {
        "of_bits": ((8 * width,), torch.int16),
        "factors": ((number, math.ceil(width / 8)), torch.int64),
        "steps": ((len(tables.steps), 2), torch.int32),
        "starts": ((number, buckets + 1), dtype),
        "rows": ((number, count), torch.int64),
    }
    for name, (shape, of_dtype) in expected.items():
        part = getattr(tables, name)
        if part.shape != shape or part.dtype != of_dtype:
            raise ValueError(
                f"lookup: {name} of the tables of {count} codes with {8 * width} bits must be {of_dtype} {list(shape)}; "
                f"got {part.dtype} {list(part.shape)}. Build the tables anew"
            )
    table, weight = tables.steps.T
    damaged = (
        number == 0
        or len(table) == 0
        or not -1 <= int(tables.of_bits.min()) <= int(tables.of_bits.max()) < number
        or not 0 <= int(table.min()) <= int(table.max()) < number
        or not 0 <= int(weight.min()) <= int(weight.max()) <= kernels.MAX_WEIGHT
        or (tables.of_bits[tables.of_bits >= 0].bincount(minlength=number) > kernels.MAX_WIDTH).any()
    )
    if damaged or buckets < 2 or buckets & (buckets - 1) or (tables.starts[:, [0, -1]] != torch.tensor([0, count])).any():
        raise ValueError(f"lookup: the tables are damaged, or list other rows than those of {count} codes. Build them anew")

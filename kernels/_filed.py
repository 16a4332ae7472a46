"""The steps of a search through filed codes: bounds of rings, distances of the entries within them, and their positions.

The rings of a centre have consecutive distances, and their entries follow each other. So the entries that the triangle inequality
allows within a radius of a query are one run per centre, which is looked up and not searched. The lengths of all runs are added
up, and each thread finds by bisection in these sums which entry it compares, so that short runs leave no thread idle. The
positions of the entries are written in the same way. No step uses atomics, and no result depends on timing.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import as_words, popcount
from ._sizes import cdiv
from .filing import Filing
from .hamming_distance import hamming_distance
from .launch import launch
from .missing import MISSING_DISTANCE, MISSING_ID

_MISSING_DISTANCE = tl.constexpr(MISSING_DISTANCE)
_MISSING_ID = tl.constexpr(MISSING_ID)

_BLOCK = 256  # pairs, entries or positions of a program: at most two a thread, so that loads of all widths have one layout
_LOOPED = 1024  # entries of a query that a program takes at a time, and centres if there are many
_SORTED = (256, 2048)  # numbers of positions of a query that one program puts in order
_MOST_PAIRS = 2**24  # pairs of a query and a centre that are in memory at one time, 28 bytes each
_MOST_SLOTS = 2**24  # entries that are in memory at one time, 24 bytes each, and positions; a query that has more is alone
_MOST_QUERIES = 2**15  # numbers of queries, distances and positions fit the keys that are sorted


class Part(NamedTuple):
    """Consecutive queries, and the consecutive slots (of entries or of positions) that belong to them."""

    first: int  # the first query
    end: int  # the query after the last one
    base: int  # the first slot
    slots: int  # number of slots
    longest: int  # the largest number of slots of a query


def parts(ends: Sequence[int], first: int = 0) -> Iterator[Part]:
    """Yield parts of at most `_MOST_SLOTS` slots, or of one query. The slots of query `first + i` end at `ends[i]`."""
    begin = base = 0
    while begin < len(ends):
        end = begin + 1
        while end < len(ends) and ends[end] - base <= _MOST_SLOTS:
            end += 1
        own = ends[begin:end]
        longest = max(after - before for before, after in zip([base, *own], own, strict=False))
        yield Part(first + begin, first + end, base, own[-1] - base, longest)
        begin, base = end, own[-1]


def batches(queries: int, centres: int) -> Iterator[slice]:
    """Yield the queries that are searched together."""
    batch = min(_MOST_QUERIES, max(1, _MOST_PAIRS // centres))
    for first in range(0, queries, batch):
        yield slice(first, min(first + batch, queries))


def allowed(filing: Filing, mask: Tensor | None) -> Filing:
    """Return `filing` without the positions that `mask` bool [N] forbids. Every entry stays, also without positions.

    The host waits for the number of positions.
    """
    if mask is None:
        return filing
    keep = mask.index_select(0, filing.positions)
    before = torch.nn.functional.pad(keep.cumsum(0), (1, 0))
    return filing._replace(entry_starts=before[filing.entry_starts], positions=filing.positions[keep])


class Runs(NamedTuple):
    """Runs of entries, one per query and centre; some are empty."""

    firsts: Tensor  # int64 [Q, C]: the first entry
    ends: Tensor  # int64 [Q, C]: the number of entries in all runs up to this one

    def parts(self) -> Iterator[Part]:
        """Yield the queries that are measured together. The host waits for the number of entries of each query."""
        return parts(self.ends[:, -1].tolist())


class Entries(NamedTuple):
    """Entries that are compared with queries, in the order (query, entry)."""

    queries: Tensor  # int32 [M]
    entries: Tensor  # int64 [M]
    distances: Tensor  # int32 [M]
    counts: Tensor  # int64 [M]: number of positions of the entry that are wanted


def ends_of_counts(found: Entries, runs: Runs, part: Part) -> tuple[Tensor, Tensor]:
    """Return the sums of the counts of entries, int64 [M], and where the positions of each query of `part` begin, [Q + 1]."""
    ends = found.counts.cumsum(0)
    last = runs.ends[part.first : part.end, -1] - part.base
    lims = torch.nn.functional.pad(torch.nn.functional.pad(ends, (1, 0))[last], (1, 0))
    return ends, lims


def lims_of(lims: Tensor, part: Part, piece: Part) -> Tensor:
    """Return where the positions of each query of `piece` begin among those of the piece. `lims` belong to `part`."""
    return lims[piece.first - part.first : piece.end - part.first + 1] - piece.base


class Search:
    """The queries of a batch, a filing, and the distances between the queries and the centres."""

    def __init__(self, queries: Tensor, filing: Filing) -> None:
        self.queries, self.entries, self.filing = as_words(queries), as_words(filing.entries), filing
        self.bits, self.centres = 8 * queries.shape[1], filing.centres.shape[0]
        self.shift = 31 if filing.positions.dtype == torch.int32 else 34  # bits of a position in a key
        self.from_centres = queries.new_empty(len(queries), self.centres, dtype=torch.int32)
        hamming_distance(queries, filing.centres, self.from_centres)

    def bounds(self, most: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return bounds of each query's k-th distance, both int32 [Q], and the number of entries within the lower one, int64 [Q].

        Fewer than k positions are in rings whose bounds are below the lower bound, so that no exact search can do with fewer
        entries. The rings that lie within the upper bound as a whole hold k positions; it is `most`, int32 [Q], if none does.
        """
        lower, upper = torch.empty_like(most), torch.empty_like(most)
        counts = torch.empty_like(most, dtype=torch.int64)
        positions = self.filing.entry_starts[self.filing.ring_starts]
        launch(_bounds, (len(most),), *self._rings(), positions, most, lower, upper, counts, self.centres, k,
               BLOCK=self._block())  # fmt: skip
        return lower, upper, counts

    def count(self, radii: Tensor) -> Tensor:
        """Return how many entries are in rings whose bounds are within `radii`, int32 [Q]: int64 [Q]."""
        counts = torch.empty_like(radii, dtype=torch.int64)
        launch(_count_entries, (len(radii),), *self._rings(), radii, counts, self.centres, BLOCK=self._block())
        return counts

    def runs(self, radii: Tensor) -> Runs:
        """Return the entries of the rings whose bounds are within `radii`, int32 [Q]; none for a negative radius."""
        firsts, lengths = (torch.empty_like(self.from_centres, dtype=torch.int64) for _ in range(2))
        launch(_runs, (cdiv(lengths.numel(), _BLOCK),), *self._rings(), radii, firsts, lengths, len(radii), self.centres,
               BLOCK=_BLOCK)  # fmt: skip
        return Runs(firsts, lengths.flatten().cumsum(0).view_as(lengths))

    def measure(self, runs: Runs, part: Part, bounds: Tensor) -> Entries:
        """Return the entries of the runs of some queries. Positions farther than the query's bound, int32 [Q], are not wanted."""
        dtypes = torch.int32, torch.int64, torch.int32, torch.int64
        found = Entries(*(bounds.new_empty(part.slots, dtype=dtype) for dtype in dtypes))
        first, end = part.first * self.centres, part.end * self.centres
        launch(_measure, (cdiv(part.slots, _BLOCK),), self.queries, self.entries, self.filing.entry_starts, *runs, bounds,
               *found, first, end, (end - first).bit_length(), part.base, part.slots, self.centres,
               WORDS=self.entries.shape[1], BLOCK=_BLOCK)  # fmt: skip
        return found

    def keep_nearest(self, found: Entries, runs: Runs, part: Part, most: Tensor, radii: Tensor, k: int) -> None:
        """Fill `radii` int32 [Q] with the k-th distance of some queries, `most` where fewer are found.

        Positions that cannot be among the k nearest are not wanted any more.
        """
        launch(_keep_nearest, (part.end - part.first,), found.distances, found.counts, runs.ends, most, radii, part.first,
               part.base, self.centres, k, BLOCK=_LOOPED)  # fmt: skip

    def keys(self, found: Entries, ends: Tensor, part: Part) -> Tensor:
        """Return the wanted positions of some queries as keys, int64, in the order of queries and entries.

        ends: int64 [M], the sums of `found.counts`. A key is (query * (bits + 1) + distance) << shift | position.
        """
        keys = ends.new_empty(part.slots)
        launch(_keys, (cdiv(part.slots, _BLOCK),), found.queries, found.entries, found.distances, ends,
               self.filing.entry_starts, self.filing.positions, keys, len(ends), len(ends).bit_length(), part.base, part.slots,
               self.bits + 1, self.shift, BLOCK=_BLOCK)  # fmt: skip
        return keys

    def nearest_first(self, keys: Tensor, lims: Tensor, longest: int, distances: Tensor, ids: Tensor) -> None:
        """Fill `distances` int32 and `ids` int64 [Q, k] with the k smallest keys of each query, in ascending order.

        The keys of query q are keys[lims[q]] .. keys[lims[q + 1] - 1], at most `longest`.
        """
        if longest <= _SORTED[-1]:
            block = next(size for size in _SORTED if size >= longest)
            launch(_sort, (len(distances),), keys, lims, distances, ids, distances.shape[1], self.bits + 1, self.shift,
                   BLOCK=block, num_warps=1 if block == _SORTED[0] else 4)  # fmt: skip
            return
        keys = torch.sort(keys).values
        places = lims[:-1, None] + torch.arange(distances.shape[1], device=keys.device)
        missing = places >= lims[1:, None]
        nearest = keys[places.masked_fill_(missing, 0)]
        distances.copy_(self.distances_of(nearest).masked_fill_(missing, MISSING_DISTANCE))
        ids.copy_(self.positions_of(nearest).masked_fill_(missing, MISSING_ID))

    def distances_of(self, keys: Tensor) -> Tensor:
        """Return the distances in keys, int32."""
        return ((keys >> self.shift) % (self.bits + 1)).int()

    def positions_of(self, keys: Tensor) -> Tensor:
        """Return the positions in keys, int64."""
        return keys & ((1 << self.shift) - 1)

    def _block(self) -> int:
        return _BLOCK if self.centres <= _BLOCK else _LOOPED

    def _rings(self) -> tuple[Tensor, ...]:
        return self.from_centres, self.filing.centre_rings, self.filing.ring_distances, self.filing.ring_starts


@triton.jit
def _rings_within(from_centres, pair, centre, live, radius, centre_rings, ring_distances, WHOLE: tl.constexpr):
    """Return the first ring of a centre that is within `radius`, the end of these rings, and whether there is one.

    A ring is within the radius if its bound is; with WHOLE, if the triangle inequality shows that all of its codes are.
    from_centres: int32, read at `pair`; centre: int64; live: whether the pair exists. Rings are int64.
    """
    distance = tl.load(from_centres + pair, mask=live, other=0)
    first = tl.load(centre_rings + centre, mask=live, other=0)
    end = tl.load(centre_rings + (centre + 1), mask=live, other=0)
    nearest = tl.load(ring_distances + first, mask=first < end, other=0)
    farthest = radius - distance if WHOLE else radius + distance
    end = tl.minimum(first + tl.maximum(farthest + 1 - nearest, 0), end)
    if not WHOLE:
        first += tl.maximum(distance - radius - nearest, 0)
    return first, end, first < end


@triton.jit
def _held_within(from_centres, centre_rings, ring_distances, starts, query, radius, centre_count, WHOLE: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """Return how many entries or positions the rings within `radius` hold; `starts` int64 [R + 1] says where a ring's begin."""
    held = tl.zeros([BLOCK], tl.int64)
    for first_centre in range(0, centre_count, BLOCK):
        centre = (first_centre + tl.arange(0, BLOCK)).to(tl.int64)
        pair, live = query * centre_count + centre, centre < centre_count
        first, end, some = _rings_within(from_centres, pair, centre, live, radius, centre_rings, ring_distances, WHOLE)
        held += tl.load(starts + end, mask=some, other=0) - tl.load(starts + first, mask=some, other=0)
    return tl.sum(held, axis=0)


@triton.jit
def _smallest_radius(from_centres, centre_rings, ring_distances, starts, query, most, k, centre_count, WHOLE: tl.constexpr,
                     BLOCK: tl.constexpr):  # fmt: skip
    """Return by bisection the smallest radius up to `most` within which the rings hold k positions, or `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if _held_within(from_centres, centre_rings, ring_distances, starts, query, middle, centre_count, WHOLE, BLOCK) >= k:
            high = middle
        else:
            low = middle + 1
    return high


@triton.jit(do_not_specialize=["centre_count", "k"])
def _bounds(
    from_centres,  # int32 [Q, C]
    centre_rings, ring_distances, ring_starts,  # fields of `Filing`
    ring_positions,  # int64 [R + 1]: number of positions before each ring
    most,  # int32 [Q]
    lower, upper, counts,  # out: int32 [Q] each, int64 [Q]
    centre_count, k,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Find the bounds of the k-th distance of one query; see `Search.bounds`."""
    query = tl.program_id(0).to(tl.int64)
    largest = tl.load(most + query)
    high = _smallest_radius(
        from_centres, centre_rings, ring_distances, ring_positions, query, largest, k, centre_count, True, BLOCK
    )
    low = _smallest_radius(from_centres, centre_rings, ring_distances, ring_positions, query, high, k, centre_count, False, BLOCK)
    tl.store(lower + query, low)
    tl.store(upper + query, high)
    entries = _held_within(from_centres, centre_rings, ring_distances, ring_starts, query, low, centre_count, False, BLOCK)
    tl.store(counts + query, entries)


@triton.jit(do_not_specialize=["centre_count"])
def _count_entries(
    from_centres,  # int32 [Q, C]
    centre_rings, ring_distances, ring_starts,  # fields of `Filing`
    radii, counts,  # int32 [Q]; out: int64 [Q]
    centre_count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the entries in rings whose bounds are within the radius of one query."""
    query = tl.program_id(0).to(tl.int64)
    radius = tl.load(radii + query)
    entries = _held_within(from_centres, centre_rings, ring_distances, ring_starts, query, radius, centre_count, False, BLOCK)
    tl.store(counts + query, entries)


@triton.jit(do_not_specialize=["query_count", "centre_count"])
def _runs(
    from_centres,  # int32 [Q, C]
    centre_rings, ring_distances, ring_starts,  # fields of `Filing`
    radii,  # int32 [Q]
    firsts, lengths,  # out: int64 [Q, C]
    query_count, centre_count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Find the first entry and the number of entries within the radii, for BLOCK pairs of a query and a centre."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # 32 bits, because long divisions take most of the time
    query, centre = (pair // centre_count).to(tl.int64), (pair % centre_count).to(tl.int64)
    pair, live = pair.to(tl.int64), query < query_count
    radius = tl.load(radii + query, mask=live, other=-1)
    first_ring, end_ring, some = _rings_within(from_centres, pair, centre, live, radius, centre_rings, ring_distances, False)
    first = tl.load(ring_starts + first_ring, mask=some, other=0)
    tl.store(firsts + pair, first, mask=live)
    tl.store(lengths + pair, tl.load(ring_starts + end_ring, mask=some, other=0) - first, mask=live)


@triton.jit
def _owner(ends, low, high, steps, slot, live):
    """Return the first index of low .. high - 1 for which ends[index] is above `slot`, by bisection."""
    for _ in range(steps):
        ahead = low < high
        middle = low + ((high - low) >> 1)
        above = tl.load(ends + middle.to(tl.int64), mask=live & ahead, other=0) > slot
        high = tl.where(ahead & above, middle, high)
        low = tl.where(ahead & (above == 0), middle + 1, low)
    return low


@triton.jit(do_not_specialize=["first_pair", "end_pair", "steps", "base", "slots", "centre_count"])
def _measure(
    queries, entries,  # int32 words [Q, W], [E, W]
    entry_starts,  # field of `Filing`
    firsts, ends, bounds,  # fields of `Runs`; int32 [Q]
    found_queries, found_entries, found_distances, found_counts,  # out: fields of `Entries`
    first_pair, end_pair, steps, base, slots, centre_count,
    WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK distances between queries and the entries of their runs; slot `base` is the first entry of `first_pair`."""
    here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = here < slots
    slot = base + here
    pair = tl.zeros([BLOCK], tl.int32)  # a batch has fewer than 2**31 pairs
    pair = _owner(ends, pair + first_pair, pair + end_pair, steps, slot, live)
    query, pair = (pair // centre_count).to(tl.int64), pair.to(tl.int64)
    before = tl.load(ends + (pair - 1), mask=live & (pair > 0), other=0)
    entry = tl.load(firsts + pair, mask=live, other=0) + (slot - before)
    distance = tl.zeros([BLOCK], tl.int32)
    for word in range(WORDS):
        query_word = tl.load(queries + (query * WORDS + word), mask=live, other=0)
        distance += popcount(query_word ^ tl.load(entries + (entry * WORDS + word), mask=live, other=0))
    near = distance <= tl.load(bounds + query, mask=live, other=-1)
    count = tl.load(entry_starts + (entry + 1), mask=live, other=0) - tl.load(entry_starts + entry, mask=live, other=0)
    tl.store(found_queries + here, query.to(tl.int32), mask=live)
    tl.store(found_entries + here, entry, mask=live)
    tl.store(found_distances + here, distance, mask=live)
    tl.store(found_counts + here, tl.where(near, count, 0), mask=live)


@triton.jit(do_not_specialize=["first_query", "base", "centre_count", "k"])
def _keep_nearest(
    distances, counts,  # int32 [M]; in and out: int64 [M]
    ends,  # field of `Runs`
    most, radii,  # int32 [Q]; out: int32 [Q]
    first_query, base, centre_count, k,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Find the k-th distance of one query by bisection, and limit the counts of its entries; see `Search.keep_nearest`."""
    query = tl.program_id(0).to(tl.int64) + first_query
    pair = query * centre_count
    start = tl.load(ends + (pair - 1), mask=pair > 0, other=0) - base
    end = tl.load(ends + (pair + centre_count - 1)) - base
    # The k-th distance is one of low .. high; `below` positions are nearer than low.
    low, high = 0, tl.load(most + query)
    below = tl.zeros([], tl.int64)
    while low < high:
        middle = (low + high) // 2
        within = tl.zeros([BLOCK], tl.int64)
        for first in range(start, end, BLOCK):
            slot = first + tl.arange(0, BLOCK)
            near = tl.load(distances + slot, mask=slot < end, other=middle + 1) <= middle
            within += tl.load(counts + slot, mask=near, other=0)
        total = tl.sum(within, axis=0)
        if total >= k:
            high = middle
        else:
            low = middle + 1
            below = total
    tl.store(radii + query, high)
    for first in range(start, end, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        distance = tl.load(distances + slot, mask=slot < end, other=0)
        count = tl.load(counts + slot, mask=slot < end, other=0)
        wanted = tl.where(distance < high, count, tl.where(distance == high, tl.minimum(count, k - below), 0))
        tl.store(counts + slot, wanted, mask=slot < end)


@triton.jit(do_not_specialize=["entry_count", "steps", "base", "slots", "distance_count", "shift"])
def _keys(
    queries, entries, distances,  # fields of `Entries`
    ends,  # int64 [M]: sums of the counts of entries
    entry_starts, positions,  # fields of `Filing`
    keys,  # out: int64 [slots]
    entry_count, steps, base, slots, distance_count, shift,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the keys of BLOCK positions; see `Search.keys`."""
    here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = here < slots
    slot = base + here
    low = tl.zeros([BLOCK], tl.int64)
    owner = _owner(ends, low, low + entry_count, steps, slot, live)
    before = tl.load(ends + (owner - 1), mask=live & (owner > 0), other=0)
    start = tl.load(entry_starts + tl.load(entries + owner, mask=live, other=0), mask=live, other=0)
    position = tl.load(positions + (start + (slot - before)), mask=live, other=0).to(tl.int64)
    query = tl.load(queries + owner, mask=live, other=0).to(tl.int64)
    distance = tl.load(distances + owner, mask=live, other=0)
    tl.store(keys + here, ((query * distance_count + distance) << shift) | position, mask=live)


@triton.jit(do_not_specialize=["k", "distance_count", "shift"])
def _sort(
    keys, lims,  # as `_keys` writes them; int64 [Q + 1]
    distances, ids,  # out: int32, int64 [Q, k]
    k, distance_count, shift,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the k smallest keys of one query as distances and positions; see `Search.nearest_first`."""
    query = tl.program_id(0).to(tl.int64)
    start, end = tl.load(lims + query), tl.load(lims + (query + 1))
    place = tl.arange(0, BLOCK)
    last = 0x7FFFFFFFFFFFFFFF
    key = tl.sort(tl.load(keys + (start + place), mask=place < end - start, other=last))
    found = place < end - start
    row = query * k
    tl.store(distances + (row + place), tl.where(found, (key >> shift) % distance_count, _MISSING_DISTANCE).to(tl.int32),
             mask=place < k)  # fmt: skip
    tl.store(ids + (row + place), tl.where(found, key & ((tl.full([1], 1, tl.int64) << shift) - 1), _MISSING_ID), mask=place < k)
    for first in range(BLOCK, k, BLOCK):
        rest = first + place
        tl.store(distances + (row + rest), tl.full([BLOCK], _MISSING_DISTANCE, tl.int32), mask=rest < k)
        tl.store(ids + (row + rest), tl.full([BLOCK], _MISSING_ID, tl.int64), mask=rest < k)

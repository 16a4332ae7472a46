"""Shared parts of the searches of filed codes: arrays for compiled code, distances from centres, equal queries, positions."""

import numpy as np
from torch import Tensor

from ..filing import Filing
from ._bits import borrowing, code_distance, compiled
from ._blocks import as_array
from ._radix import sort_numbers

GAVE_UP = -1
TESTS_PER_ENTRY = 8  # positions that are tested against a mask in the time that an entry is compared in
MOST_MET = 2**40  # a budget without limit
NO_LIMIT = np.iinfo(np.int64).max


def as_arrays(filing: Filing) -> Filing:
    """Return the filing with arrays instead of tensors, for compiled code."""
    return Filing(*map(as_array, filing))  # type: ignore[arg-type]


def allowed_positions(mask: Tensor | None) -> np.ndarray:
    """Return the mask as an array; an empty one allows all positions."""
    return np.ones(0, np.bool_) if mask is None else as_array(mask)


def farthest_allowed(limits: Tensor | None, queries: int, bits: int) -> np.ndarray:
    """Return the largest distance that is below each query's limit, int64 [Q]; -1 where there is none."""
    if limits is None:
        return np.full(queries, bits, np.int64)
    return np.clip(as_array(limits).astype(np.int64), 0, bits + 1) - 1


@compiled
def first_equal(queries, farthest):
    """Return for each query the first one that has the same code, uint64 [Q, W], and the same farthest distance: int64 [Q]."""
    count, words = queries.shape
    size = 16
    while size < 2 * count:
        size *= 2
    table = np.full(size, -1, np.int64)
    first = np.empty(count, np.int64)
    for q in range(count):
        mixed = np.uint64(farthest[q])
        for word in range(words):
            mixed = (mixed ^ queries[q, word]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        place = np.int64(mixed & np.uint64(size - 1))
        while table[place] >= 0:
            other = table[place]
            equal = farthest[other] == farthest[q]
            for word in range(words):
                equal &= queries[other, word] == queries[q, word]
            if equal:
                break
            place = (place + 1) & (size - 1)
        if table[place] < 0:
            table[place] = q
        first[q] = table[place]
    return first


@borrowing
def measure_centres(filing, query, centre_distances, ring_offsets, nearest_rings, farthest_rings, bounds):
    """Fill the arrays [C] for a query, and return nothing.

    centre_distances: from the query; nearest_rings, farthest_rings: distances of a centre's first and last ring from it; ring r
    of a centre is ring number ring_offsets + r; bounds: no entry of the centre is nearer to the query.
    """
    for centre in range(filing.centres.shape[0]):
        distance = code_distance(filing.centres, centre, query)
        first, stop = filing.centre_rings[centre], filing.centre_rings[centre + 1]
        nearest = np.int64(filing.ring_distances[first]) if first < stop else np.int64(0)
        farthest = nearest + stop - first - 1
        centre_distances[centre] = distance
        ring_offsets[centre] = first - nearest
        nearest_rings[centre], farthest_rings[centre] = nearest, farthest
        bounds[centre] = max(distance - farthest, nearest - distance, 0)


@borrowing
def entries_between(filing, offset, nearest, farthest, first_distance, last_distance):
    """Return the first entry of a centre's rings from one distance to another, and the entry after the last; or (0, 0)."""
    low, high = max(nearest, first_distance), min(farthest, last_distance)
    if low > high:
        return np.int64(0), np.int64(0)
    return filing.ring_starts[offset + low], filing.ring_starts[offset + high + 1]


@compiled
def smallest_positions(entries, need, filing, allowed, gathered, spare):
    """Write the `need` smallest positions of `entries` that may be found to `gathered`, ascending; return their number.

    gathered, spare: int64, room for more than `need`.
    """
    fill, cut = 0, NO_LIMIT
    masked = allowed.shape[0] > 0
    largest = filing.positions.shape[0]
    for entry in entries:
        taken = 0
        for i in range(filing.entry_starts[entry], filing.entry_starts[entry + 1]):
            position = np.int64(filing.positions[i])
            if taken == need or position > cut:
                break
            if masked and not allowed[position]:
                continue
            if fill == gathered.shape[0]:
                sort_numbers(gathered[:fill], spare, largest)
                fill, cut = need, gathered[need - 1]
                if position > cut:
                    break
            gathered[fill] = position
            fill += 1
            taken += 1
    sort_numbers(gathered[:fill], spare, largest)
    return min(fill, need)

"""Search for all filed codes within a radius of each query on a CPU, in the order (distance, position).

The rings within a query's limit are known before an entry is read. Their entries are compared, those within the limit are kept as
keys, and the number of their positions gives the place of each query's answer in the result.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..filing import Filing
from ._bits import code_distance, compiled, inlined, lowest_bit
from ._blocks import as_array, in_words
from ._filed import (
    GAVE_UP,
    MOST_MET,
    TESTS_PER_ENTRY,
    allowed_positions,
    as_arrays,
    entries_between,
    farthest_allowed,
    first_equal,
    measure_centres,
    smallest_positions,
)
from ._ranges import over_ranges
from ._rows import ROW_PATTERN, near_rows, next_near_rows, rows_per_step
from ._threads import run_all

_ENTRY_BITS = 40
_KEYS_PER_GROUP = 2**20  # entries that a group of queries meets at most, unless it is one query


def filed_range(
    queries: Tensor, filing: Filing, mask: Tensor | None, limits: Tensor, budget: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the filed positions nearer than each query's limit: (lims int64 [Q+1], distances int32 [M], ids int64 [M], met).

    queries: uint8 [Q, B], not empty; mask: bool [N], True for positions that may be found; limits: int32 [Q], 0 .. 8 B + 1;
    budget: number of entries that a query may meet; met: int64 [Q], the number of entries compared, or -1 for a query that gave
    up because it would meet more than the budget. Its answer is empty.
    """
    words, arrays, allowed = in_words(as_array(queries)), as_arrays(filing), allowed_positions(mask)
    farthest = farthest_allowed(limits, len(queries), 8 * queries.shape[1])
    first = first_equal(words, farthest)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    met = np.zeros(len(queries), np.int64)
    over_ranges(
        lambda start, stop: _count_entries(distinct[start:stop], words, arrays, farthest, min(budget, MOST_MET), met),
        len(distinct),
    )
    groups = [_Group(distinct[start:stop]) for start, stop in _groups(met[distinct])]
    counts = np.zeros(len(queries), np.int64)

    def collect(group: _Group) -> None:
        keys = np.empty(np.maximum(met[group.which], 0).sum(), np.int64)
        ends = np.empty(len(group.which), np.int64)
        fill = _collect(group.which, words, arrays, allowed, farthest, min(budget, MOST_MET), keys, ends, counts, met)
        group.found.extend((keys[:fill].copy(), ends))

    run_all(collect, [(group,) for group in groups])
    lims = np.zeros(len(queries) + 1, np.int64)
    np.cumsum(counts[first], out=lims[1:])
    distances, ids = np.empty(lims[-1], np.int32), np.empty(lims[-1], np.int64)
    run_all(_emit, [(group.which, *group.found, arrays, allowed, lims, distances, ids) for group in groups])
    met = met[first]
    if len(distinct) < len(first):
        over_ranges(lambda start, stop: _copy_answers(first, start, stop, lims, distances, ids), len(first))
    return torch.from_numpy(lims), torch.from_numpy(distances), torch.from_numpy(ids), torch.from_numpy(met)


class _Group:
    """Queries that one thread answers together, and what they found."""

    def __init__(self, which: np.ndarray) -> None:
        self.which = which  # int64 [T]
        self.found: list[np.ndarray] = []  # keys int64 (distance, entry), query by query; int64 [T], where those of a query end


def _groups(costs: np.ndarray) -> list[tuple[int, int]]:
    """Divide queries into groups that meet few entries each."""
    group = np.cumsum(np.maximum(costs, 1)) // _KEYS_PER_GROUP
    edges = np.flatnonzero(np.diff(group, prepend=-1, append=np.inf))
    return list(pairwise(edges.tolist()))


@compiled
def _count_entries(which, queries, filing, all_farthest, budget, met):
    """Write to `met` how many entries are in the rings within each query's limit, or GAVE_UP if they are more than the budget."""
    scratch = np.empty((5, filing.centres.shape[0]), np.int64)
    for q in which:
        met[q] = 0
        farthest = all_farthest[q]
        measure_centres(filing, queries[q], scratch[0], scratch[1], scratch[2], scratch[3], scratch[4])
        for centre in range(scratch.shape[1]):
            if scratch[4, centre] <= farthest:
                distance = scratch[0, centre]
                start, stop = entries_between(
                    filing, scratch[1, centre], scratch[2, centre], scratch[3, centre], distance - farthest, distance + farthest
                )
                met[q] += stop - start
        if met[q] > budget:
            met[q] = GAVE_UP


@compiled
def _collect(which, queries, filing, allowed, all_farthest, budget, keys, ends, counts, met):
    """Write keys of the entries that each query finds, query by query, where they end, and how many positions they have.

    Returns the number of keys. With a mask, a query gives up if it would test too many positions.
    """
    scratch = np.empty((5, filing.centres.shape[0]), np.int64)
    pattern = np.empty(max(ROW_PATTERN, queries.shape[1]), np.uint64)
    fill = 0
    for turn in range(which.shape[0]):
        q = which[turn]
        if met[q] >= 0:
            for word in range(pattern.shape[0]):
                pattern[word] = queries[q, word % queries.shape[1]]
            begin, farthest = fill, all_farthest[q]
            measure_centres(filing, pattern, scratch[0], scratch[1], scratch[2], scratch[3], scratch[4])
            for centre in range(scratch.shape[1]):
                if scratch[4, centre] <= farthest:
                    distance = scratch[0, centre]
                    start, stop = entries_between(
                        filing,
                        scratch[1, centre],
                        scratch[2, centre],
                        scratch[3, centre],
                        distance - farthest,
                        distance + farthest,
                    )
                    fill = _visit(start, stop, pattern, farthest, filing, keys, fill)
            counts[q] = _count_positions(keys[begin:fill], filing, allowed, budget)
            if counts[q] < 0:
                counts[q], met[q], fill = 0, GAVE_UP, begin
        ends[turn] = fill
    return fill


@inlined
def _visit(first, last, query, farthest, filing, keys, fill):
    """Add keys of the entries among first .. last - 1 that are within `farthest` of a query, uint64 [>= W]."""
    width, row = filing.entries.shape[1], first
    words = width // 8
    step = rows_per_step(words)
    if width % 8 == 0 and last - first >= 2 * step:
        near = np.empty(64, np.int64)  # distances of a step
        address, query_address = np.int64(filing.entries.ctypes.data), np.int64(query.ctypes.data)
        row = next_near_rows(address, words, row, last, query_address, farthest + 1)
        while row + step <= last:
            hits = near_rows(address, words, row, query_address, farthest + 1, np.int64(near.ctypes.data))
            while hits:
                i = lowest_bit(hits)
                hits &= hits - np.uint64(1)
                keys[fill] = near[i] << _ENTRY_BITS | (row + i)
                fill += 1
            row = next_near_rows(address, words, row + step, last, query_address, farthest + 1)
    for entry in range(row, last):
        distance = code_distance(filing.entries, entry, query)
        if distance <= farthest:
            keys[fill] = distance << _ENTRY_BITS | entry
            fill += 1
    return fill


@inlined
def _count_positions(keys, filing, allowed, budget):
    """Return how many positions of the entries of `keys` may be found, or -1 if too many must be tested against the mask."""
    total, tested = 0, 0
    for key in keys:
        entry = key & ((1 << _ENTRY_BITS) - 1)
        start, stop = filing.entry_starts[entry], filing.entry_starts[entry + 1]
        if allowed.shape[0] == 0:
            total += stop - start
            continue
        tested += stop - start
        if tested > TESTS_PER_ENTRY * (budget + 1):
            return np.int64(-1)
        for i in range(start, stop):
            total += allowed[filing.positions[i]]
    return np.int64(total)


@compiled
def _emit(which, keys, ends, filing, allowed, lims, distances, ids):
    """Write the answers of a group of queries: distance by distance, the positions of the entries at each, ascending."""
    bits = 8 * filing.entries.shape[1]
    starts, begin = np.empty(bits + 2, np.int64), 0
    longest, widest = 0, 0
    for turn in range(which.shape[0]):
        longest = max(longest, lims[which[turn] + 1] - lims[which[turn]])
        widest = max(widest, ends[turn] - begin)
        begin = ends[turn]
    entries, spare = np.empty(widest, np.int64), np.empty(longest, np.int64)
    begin = 0
    for turn in range(which.shape[0]):
        own = keys[begin : ends[turn]]
        begin = ends[turn]
        starts[:] = 0
        for key in own:
            starts[(key >> _ENTRY_BITS) + 1] += 1
        for distance in range(bits + 1):
            starts[distance + 1] += starts[distance]
        for key in own:
            distance = key >> _ENTRY_BITS
            entries[starts[distance]] = key & ((1 << _ENTRY_BITS) - 1)
            starts[distance] += 1
        place, end, first = lims[which[turn]], lims[which[turn] + 1], 0
        for distance in range(bits + 1):
            if first < starts[distance]:
                count = smallest_positions(entries[first : starts[distance]], end - place, filing, allowed, ids[place:end], spare)
                distances[place : place + count] = distance
                place += count
                first = starts[distance]


@compiled
def _copy_answers(first, start, stop, lims, distances, ids):
    """Copy the answer of the first query with the same code and limit to the queries start .. stop - 1."""
    for q in range(start, stop):
        if first[q] != q:
            source, target = lims[first[q]], lims[q]
            for i in range(lims[q + 1] - target):
                distances[target + i], ids[target + i] = distances[source + i], ids[source + i]

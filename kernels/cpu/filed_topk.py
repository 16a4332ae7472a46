"""Exact search for the k nearest of filed codes on a CPU, in the order (distance, position).

The rings of all centres are visited in the ascending order of their bounds, level by level, until the bound exceeds the distance
of the k-th nearest position so far. As in `hamming_topk`, a histogram of the distances of the positions met gives that distance.
Entries do not come in the order of their positions, so those at the k-th distance are kept until it is known which are needed.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..filing import Filing
from ..missing import MISSING_DISTANCE, MISSING_ID
from ._bits import borrowing, code_distance, compiled, lowest_bit
from ._blocks import as_array, in_words
from ._filed import (
    GAVE_UP,
    MOST_MET,
    NO_LIMIT,
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

_PROBED_SHARE = 8  # a query may spend 1 / _PROBED_SHARE of its budget before it must be likely to stay within the budget
_LIMIT, _WITHIN, _FILL, _CUT, _TESTED = range(5)  # places in `_Held.state`


def filed_topk(
    queries: Tensor,
    filing: Filing,
    mask: Tensor | None,
    limits: Tensor | None,
    budget: int,
    distances: Tensor,
    ids: Tensor,
    met: Tensor,
) -> None:
    """Fill `distances` int32 and `ids` int64 [Q, k] with the k nearest filed positions of each query.

    queries: uint8 [Q, B], not empty; mask: bool [N], True for positions that may be found; limits: int32 [Q], only codes nearer
    than their query's limit are found; budget: number of entries that a query may meet; met: int64 [Q], receives the number of
    entries compared, or -1 for a query that gave up because it would meet more than the budget. The answer to such a query is
    undefined.
    """
    words, arrays, allowed = in_words(as_array(queries)), as_arrays(filing), allowed_positions(mask)
    farthest = farthest_allowed(limits, len(queries), 8 * queries.shape[1])
    budget = min(budget, MOST_MET)
    results = distances.numpy(), ids.numpy(), met.numpy()
    first = first_equal(words, farthest)
    distinct = np.flatnonzero(first == np.arange(len(first)))

    def search(start: int, stop: int) -> None:
        _search(distinct[start:stop], words, arrays, allowed, farthest, budget, *results)

    over_ranges(search, len(distinct), parts_per_thread=4)
    if len(distinct) < len(first):
        over_ranges(lambda start, stop: _copy_answers(first, start, stop, *results), len(first))


class _Held(NamedTuple):
    """The entries of one query that can be in its answer."""

    entries: np.ndarray  # int64 [capacity]
    distances: np.ndarray  # int32 [capacity]
    firsts: np.ndarray  # int64 [capacity], memory to work in
    histogram: np.ndarray  # int64 [bits + 1]: number of positions met at each distance, at most k of each entry
    state: np.ndarray  # int64 [5]: the largest distance of the answer so far, the number of positions within it, the entries in
    # use, the largest position that can still be in the answer at that distance, and the positions tested against the mask


@compiled
def _search(which, queries, filing, allowed, all_farthest, budget, distances, ids, met):
    """Answer the queries `which`, int64 [T], of `queries`, uint64 [Q, W]."""
    k, bits, centres = ids.shape[1], 8 * filing.entries.shape[1], filing.centres.shape[0]
    scratch = np.empty((6, centres), np.int64)
    centre_distances, ring_offsets, nearest_rings = scratch[0], scratch[1], scratch[2]
    farthest_rings, bounds, order = scratch[3], scratch[4], scratch[5]
    level_stops = np.empty(bits + 3, np.int64)
    runs = np.empty((2 * centres, 2), np.int64)
    pattern = np.empty(max(ROW_PATTERN, queries.shape[1]), np.uint64)
    most = min(k, filing.positions.shape[0])
    capacity = min(2 * most, filing.entries.shape[0]) + 1024
    room = min(4 * most, filing.positions.shape[0]) + 1024
    held = _Held(
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int64),
        np.empty(bits + 1, np.int64),
        np.empty(5, np.int64),
    )
    by_distance, starts = np.empty(capacity, np.int64), np.empty(bits + 2, np.int64)
    gathered, spare = np.empty(room, np.int64), np.empty(room, np.int64)
    near = np.empty(64, np.int64)  # distances of a step
    for q in which:
        for word in range(pattern.shape[0]):
            pattern[word] = queries[q, word % queries.shape[1]]
        held.histogram[:] = 0
        held.state[_LIMIT], held.state[_WITHIN], held.state[_FILL] = all_farthest[q], 0, 0
        held.state[_CUT], held.state[_TESTED] = NO_LIMIT, 0
        measure_centres(filing, pattern, centre_distances, ring_offsets, nearest_rings, farthest_rings, bounds)
        _sort_by_bound(bounds, order, level_stops)
        compared, level = 0, 0
        while 0 <= level <= held.state[_LIMIT]:
            count, size = _rings_at(
                level, order[: level_stops[level]], filing, centre_distances, ring_offsets, nearest_rings, farthest_rings, runs
            )
            if compared + size + held.state[_TESTED] // TESTS_PER_ENTRY > budget:
                level = GAVE_UP
                break
            for run in range(count):
                _visit(runs[run, 0], runs[run, 1], pattern, k, filing, allowed, budget, held, near)
            compared += size
            spent = compared + held.state[_TESTED] // TESTS_PER_ENTRY
            if _PROBED_SHARE * spent > budget:
                ahead = _entries_ahead(
                    filing, centre_distances, ring_offsets, nearest_rings, farthest_rings, level, held.state[_LIMIT]
                )
                if spent + ahead > budget:
                    level = GAVE_UP
                    break
            level += 1
        met[q] = GAVE_UP if level == GAVE_UP else compared
        if level != GAVE_UP:
            _emit(k, filing, allowed, held, by_distance, starts, gathered, spare, distances[q], ids[q])


@borrowing
def _sort_by_bound(bounds, order, level_stops):
    """Write the centres to `order` by their bounds, and to level_stops[b] how many have a bound of b or less."""
    level_stops[:] = 0
    for bound in bounds:
        level_stops[bound + 1] += 1
    for level in range(1, level_stops.shape[0]):
        level_stops[level] += level_stops[level - 1]
    for centre in range(bounds.shape[0]):
        order[level_stops[bounds[centre]]] = centre
        level_stops[bounds[centre]] += 1


@borrowing
def _rings_at(level, centres, filing, centre_distances, ring_offsets, nearest_rings, farthest_rings, runs):
    """Write the first entry of each ring of `centres` whose bound is `level`, and the entry after its last, to `runs`.

    Returns the number of rings and of their entries.
    """
    count, size = 0, 0
    for centre in centres:
        for side in range(1 + (level > 0)):
            ring = centre_distances[centre] + (level if side else -level)
            first, stop = entries_between(filing, ring_offsets[centre], nearest_rings[centre], farthest_rings[centre], ring, ring)
            if first < stop:
                runs[count, 0], runs[count, 1] = first, stop
                count += 1
                size += stop - first
    return count, size


@borrowing
def _entries_ahead(filing, centre_distances, ring_offsets, nearest_rings, farthest_rings, level, limit):
    """Return how many entries are in rings whose bound is above `level` and not above `limit`."""
    total = 0
    for centre in range(centre_distances.shape[0]):
        distance = centre_distances[centre]
        for side in range(2):
            low, high = (distance + level + 1, distance + limit) if side else (distance - limit, distance - level - 1)
            first, stop = entries_between(filing, ring_offsets[centre], nearest_rings[centre], farthest_rings[centre], low, high)
            total += stop - first
    return total


@borrowing
def _visit(first, last, query, k, filing, allowed, budget, held, near):
    """Compare the entries first .. last - 1 with a query, uint64 [>= W], and hold those that can be in its answer."""
    width, row = filing.entries.shape[1], first
    words = width // 8
    step = rows_per_step(words)
    if width % 8 == 0 and last - first >= 2 * step:
        address, query_address = np.int64(filing.entries.ctypes.data), np.int64(query.ctypes.data)
        row = next_near_rows(address, words, row, last, query_address, held.state[_LIMIT] + 1)
        while row + step <= last:
            hits = near_rows(address, words, row, query_address, held.state[_LIMIT] + 1, np.int64(near.ctypes.data))
            while hits:
                i = lowest_bit(hits)
                hits &= hits - np.uint64(1)
                if near[i] <= held.state[_LIMIT]:
                    _meet(row + i, near[i], k, filing, allowed, budget, held)
            row = next_near_rows(address, words, row + step, last, query_address, held.state[_LIMIT] + 1)
    for entry in range(row, last):
        distance = code_distance(filing.entries, entry, query)
        if distance <= held.state[_LIMIT]:
            _meet(entry, distance, k, filing, allowed, budget, held)


@borrowing
def _meet(entry, distance, k, filing, allowed, budget, held):
    """Hold an entry within the limit, and lower the limit as far as possible."""
    state, histogram = held.state, held.histogram
    start, stop = filing.entry_starts[entry], filing.entry_starts[entry + 1]
    count = min(stop - start, k)
    if allowed.shape[0] > 0:
        stop = min(stop, start + max(TESTS_PER_ENTRY * (budget + 1) - state[_TESTED], 0))
        count, i = 0, start
        while i < stop and count < k:
            count += allowed[filing.positions[i]]
            i += 1
        state[_TESTED] += i - start
        if count == 0:
            return
    if state[_FILL] == held.entries.shape[0]:
        _drop_worse(k, filing, allowed, held)
    if distance == state[_LIMIT] and state[_CUT] < NO_LIMIT and _first_position(filing, allowed, entry) > state[_CUT]:
        return
    held.entries[state[_FILL]], held.distances[state[_FILL]] = entry, distance
    state[_FILL] += 1
    histogram[distance] += count
    within, limit = state[_WITHIN] + count, state[_LIMIT]
    while within - histogram[limit] >= k:
        within -= histogram[limit]
        limit -= 1
        state[_CUT] = NO_LIMIT
    state[_LIMIT], state[_WITHIN] = limit, within


@borrowing
def _first_position(filing, allowed, entry):
    """Return the smallest position of an entry that may be found."""
    i = filing.entry_starts[entry]
    while allowed.shape[0] > 0 and not allowed[filing.positions[i]]:
        i += 1
    return np.int64(filing.positions[i])


@borrowing
def _drop_worse(k, filing, allowed, held):
    """Keep the entries nearer than the limit and, of those at the limit, the ones that can have a position of the answer.

    At the limit the first positions decide: an entry whose first position is not among the `need` smallest has no position among
    them. Afterwards at most k entries are held.
    """
    limit, fill = held.state[_LIMIT], 0
    need = k - (held.state[_WITHIN] - held.histogram[limit])
    firsts, ties = held.firsts, 0
    for i in range(held.state[_FILL]):
        if held.distances[i] == limit:
            firsts[ties] = _first_position(filing, allowed, held.entries[i])
            ties += 1
    cut = _smallest(firsts[:ties], need - 1) if ties > need else held.state[_CUT]
    for i in range(held.state[_FILL]):
        distance, entry = held.distances[i], held.entries[i]
        if distance < limit or (distance == limit and _first_position(filing, allowed, entry) <= cut):
            held.entries[fill], held.distances[fill] = entry, distance
            fill += 1
    held.state[_FILL], held.state[_CUT] = fill, cut


@borrowing
def _smallest(numbers, rank):
    """Return the number of rank `rank`, from 0 on, of `numbers` in ascending order, by quickselect; changes their order."""
    low, high = 0, numbers.shape[0] - 1
    while low < high:
        pivot, left, right = numbers[(low + high) // 2], low, high
        while left <= right:
            while numbers[left] < pivot:
                left += 1
            while numbers[right] > pivot:
                right -= 1
            if left <= right:
                numbers[left], numbers[right] = numbers[right], numbers[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            break
    return numbers[rank]


@compiled
def _emit(k, filing, allowed, held, by_distance, starts, gathered, spare, distances, ids):
    """Write the answer to a query: distance by distance, the smallest positions of the entries at each."""
    limit, fill = held.state[_LIMIT], held.state[_FILL]
    starts[:] = 0
    for i in range(fill):
        if held.distances[i] <= limit:
            starts[held.distances[i] + 1] += 1
    for distance in range(limit + 1):
        starts[distance + 1] += starts[distance]
    for i in range(fill):
        distance = held.distances[i]
        if distance <= limit:
            by_distance[starts[distance]] = held.entries[i]
            starts[distance] += 1
    place, first = 0, 0
    for distance in range(limit + 1):
        stop = starts[distance]
        if first < stop and place < k:
            before = place
            if stop == first + 1:
                place = _write_entry(by_distance[first], place, k, filing, allowed, ids)
            else:
                count = smallest_positions(by_distance[first:stop], k - place, filing, allowed, gathered, spare)
                ids[place : place + count] = gathered[:count]
                place += count
            distances[before:place] = distance
        first = stop
    distances[place:] = MISSING_DISTANCE
    ids[place:] = MISSING_ID


@borrowing
def _write_entry(entry, place, k, filing, allowed, ids):
    """Write the positions of an entry that may be found from `place` on, as far as there is room; return the next place."""
    start, stop = filing.entry_starts[entry], filing.entry_starts[entry + 1]
    if allowed.shape[0] == 0:
        count = min(stop - start, k - place)
        for i in range(count):
            ids[place + i] = filing.positions[start + i]
        return place + count
    i = start
    while i < stop and place < k:
        ids[place] = filing.positions[i]
        place += allowed[filing.positions[i]]
        i += 1
    return place


@compiled
def _copy_answers(first, start, stop, distances, ids, met):
    """Copy the answer of the first query with the same code to the queries start .. stop - 1."""
    for q in range(start, stop):
        if first[q] != q:
            distances[q], ids[q], met[q] = distances[first[q]], ids[first[q]], met[first[q]]

"""Entries, the distinct codes of a set with the positions of each; and pairs of entries expanded to pairs of positions."""

from typing import NamedTuple

import numpy as np

from ._bits import compiled, inlined
from ._keys import ROW_BITS, sort_by_digits, sort_by_insertion, sorted_keys
from ._ranges import over_ranges

_DISTANCE_BITS = 24
_SHORT = 128  # neighbours that are sorted by insertion
_DIGIT_PASSES = 4  # an even number of passes that sort positions of up to 44 bits


class Entries(NamedTuple):
    """Distinct codes in the order of their first positions."""

    codes: np.ndarray  # uint64 [E, W]
    positions: np.ndarray  # int32 [N], ascending within an entry
    starts: np.ndarray  # int64 [E + 1]: where the positions of each entry begin
    of: np.ndarray  # int32 [N]: the entry of each position

    def __len__(self) -> int:
        return len(self.codes)


def entries_of(words: np.ndarray) -> Entries:
    """Return the entries of codes uint64 [N, W], N < 2**31."""
    first = np.arange(len(words), dtype=np.int32)
    _find_first(words, sorted_keys(words, np.full(words.shape[1], ~np.uint64(0))), first)
    of = np.empty_like(first)
    count = _number(first, of)
    if count == len(words):
        return Entries(words, first, np.arange(count + 1, dtype=np.int64), of)
    starts, positions = np.zeros(count + 1, np.int64), np.empty_like(first)
    _list_positions(of, starts, positions)
    return Entries(words[positions[starts[:-1]]], positions, starts, of)


@compiled
def _find_first(words, keys, first):
    """Set first[row], which is `row` at first, to the lowest row with the same code; `keys` of whole codes are in order."""
    row_mask = np.uint64((1 << ROW_BITS) - 1)
    start = 0
    while start < keys.shape[0]:
        stop, kinds = start + 1, 1
        # The places from `start` on hold one row of each code of this hash, nearly always one.
        while stop < keys.shape[0] and keys[stop] >> np.uint64(ROW_BITS) == keys[start] >> np.uint64(ROW_BITS):
            row = keys[stop] & row_mask
            kind = 0
            while kind < kinds and not _are_equal(words, row, keys[start + kind] & row_mask):
                kind += 1
            if kind == kinds:
                keys[start + kinds] = keys[stop]
                kinds += 1
            first[row] = keys[start + kind] & row_mask
            stop += 1
        start = stop


@inlined
def _are_equal(words, row, other):
    differing = np.uint64(0)
    for word in range(words.shape[1]):
        differing |= words[row, word] ^ words[other, word]
    return differing == 0


@compiled
def _number(first, of):
    """Number the entries in the order of their first rows; return how many there are."""
    count = 0
    for row in range(first.shape[0]):
        if first[row] == row:
            of[row] = count
            count += 1
        else:
            of[row] = of[first[row]]
    return count


@compiled
def _list_positions(of, starts, positions):
    for entry in of:
        starts[entry + 1] += 1
    for entry in range(starts.shape[0] - 1):
        starts[entry + 1] += starts[entry]
    places = starts.copy()
    for position in range(of.shape[0]):
        positions[places[of[position]]] = position
        places[of[position]] += 1


def equal_pairs(entries: Entries) -> int:
    """Return the number of pairs of positions with equal codes."""
    counts = np.diff(entries.starts)
    return int((counts * (counts - 1) // 2).sum())


@compiled
def pairs_of_positions(pairs, starts):
    """Return the number of pairs of positions that pairs of entries, uint64 a << 32 | b, stand for."""
    total = np.int64(0)
    for pair in pairs:
        a, b = pair >> np.uint64(32), pair & np.uint64(0xFFFFFFFF)
        total += (starts[a + np.uint64(1)] - starts[a]) * (starts[b + np.uint64(1)] - starts[b])
    return total


def expanded(entries: Entries, found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of positions, int64 [M, 2] ascending, and their distances, int32 [M].

    found: chunks of pairs of entries, uint64 a << 32 | b with a < b, and distances, int32; the list is emptied. The positions
    that follow the first one of an entry, of its own and of its neighbours, are listed and sorted once for all its positions.
    """
    limits = np.zeros(len(entries) + 1, np.int64)
    _count_own(entries.starts, limits)
    for pairs, _ in found:
        _count_neighbours(pairs, entries.positions, entries.starts, limits)
    np.cumsum(limits, out=limits)
    neighbours, places = np.empty(limits[-1], np.uint64), limits[:-1].copy()
    _place_own(entries.positions, entries.starts, places, neighbours)
    while found:
        _place_neighbours(*found.pop(), entries.positions, entries.starts, places, neighbours)
    over_ranges(lambda start, stop: _sort_rows(limits, start, stop, neighbours), len(entries), parts_per_thread=8)
    offsets = np.zeros(len(entries.of) + 1, np.int64)
    _count_rows(entries.of, limits, neighbours, offsets)
    np.cumsum(offsets, out=offsets)
    pairs, distances = np.empty((offsets[-1], 2), np.int64), np.empty(offsets[-1], np.int32)
    over_ranges(
        lambda start, stop: _write_rows(entries.of, limits, neighbours, offsets, start, stop, pairs, distances),
        len(entries.of),
        parts_per_thread=8,
    )
    return pairs, distances


@compiled
def _count_own(starts, sizes):
    for entry in range(starts.shape[0] - 1):
        sizes[entry + 1] += starts[entry + 1] - starts[entry] - 1


@compiled
def _count_neighbours(pairs, positions, starts, sizes):
    for pair in pairs:
        a, b = np.int64(pair >> np.uint64(32)), np.int64(pair & np.uint64(0xFFFFFFFF))
        sizes[a + 1] += starts[b + 1] - starts[b]
        sizes[b + 1] += starts[a + 1] - _after(positions, starts[a] + 1, starts[a + 1], positions[starts[b]])


@inlined
def _after(values, low, high, limit):
    """Return the first place in low .. high - 1 whose value is above `limit`, or `high`; the values ascend."""
    while low < high:
        middle = (low + high) // 2
        if values[middle] > limit:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def _place_own(positions, starts, places, neighbours):
    for entry in range(places.shape[0]):
        for place in range(starts[entry] + 1, starts[entry + 1]):
            neighbours[places[entry]] = np.uint64(positions[place]) << np.uint64(_DISTANCE_BITS)
            places[entry] += 1


@compiled
def _place_neighbours(pairs, distances, positions, starts, places, neighbours):
    for i in range(pairs.shape[0]):
        a, b = np.int64(pairs[i] >> np.uint64(32)), np.int64(pairs[i] & np.uint64(0xFFFFFFFF))
        for place in range(starts[b], starts[b + 1]):
            neighbours[places[a]] = np.uint64(positions[place]) << np.uint64(_DISTANCE_BITS) | np.uint64(distances[i])
            places[a] += 1
        for place in range(_after(positions, starts[a] + 1, starts[a + 1], positions[starts[b]]), starts[a + 1]):
            neighbours[places[b]] = np.uint64(positions[place]) << np.uint64(_DISTANCE_BITS) | np.uint64(distances[i])
            places[b] += 1


@compiled
def _sort_rows(limits, start, stop, neighbours):
    for entry in range(start, stop):
        row = neighbours[limits[entry] : limits[entry + 1]]
        if row.shape[0] <= _SHORT:
            sort_by_insertion(row)
        else:
            sort_by_digits(row, np.empty_like(row), _DISTANCE_BITS, _DIGIT_PASSES)


@compiled
def _count_rows(of, limits, neighbours, counts):
    for position in range(of.shape[0]):
        stop = limits[of[position] + 1]
        counts[position + 1] = stop - _first_after(neighbours, limits[of[position]], stop, position)


@inlined
def _first_after(neighbours, low, high, position):
    """Return the first place in low .. high - 1 of a neighbour that follows `position`, or `high`."""
    return _after(neighbours, low, high, np.uint64(position + 1 << _DISTANCE_BITS) - np.uint64(1))


@compiled
def _write_rows(of, limits, neighbours, offsets, start, stop, pairs, distances):
    for position in range(start, stop):
        last = limits[of[position] + 1]
        place = last - (offsets[position + 1] - offsets[position])
        for target in range(offsets[position], offsets[position + 1]):
            pairs[target, 0] = position
            pairs[target, 1] = neighbours[place] >> np.uint64(_DISTANCE_BITS)
            distances[target] = neighbours[place] & np.uint64((1 << _DISTANCE_BITS) - 1)
            place += 1

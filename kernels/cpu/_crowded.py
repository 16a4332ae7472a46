"""Counts of a crowded gallery, in which many codes are equal, at each distance on a CPU.

Equal codes are one entry with a number of items, so that a query computes as many distances as there are entries. Equal codes
with equal labels are one pair of an entry and a label, so that relevance is decided once per pair and label of a query. Nothing
else is needed where the order of items at one distance does not matter.
"""

from typing import NamedTuple

import numpy as np

from ._bits import compiled, inlined, popcount
from ._blocks import in_words
from ._ranges import over_ranges
from ._ranks import fill_relevance

_SAMPLE = 2048  # codes that are compared first, in 0.1 ms
_FEWEST_PAIRS = 2**23  # queries times items from which on this time is below 2 % of that of counting
_ITEMS_PER_ENTRY = 8  # an entry takes as long as so many items that are counted as bit planes, of which a tenth is relevant
_LARGEST_SHARE = 0.9  # share of different codes in the sample from which on a gallery is not crowded
_BANKS = 4  # copies of each counter, used in turn, because an increment waits for the previous one of the same counter
_BLOCK = 512  # entries whose distances are computed before they are counted
_NONE = np.int32(-1)


class Crowd(NamedTuple):
    """A gallery as entries, the different codes, and pairs of an entry and a label."""

    codes: np.ndarray  # uint64 [W, E]
    sizes: np.ndarray  # int64 [E]: number of items of each entry
    entries: np.ndarray  # int32 [P]: the entry of each pair
    labels: np.ndarray  # uint64 [L, P]: the label words of each pair
    pair_sizes: np.ndarray  # int64 [P]: number of items of each pair
    shared: bool


def crowd_of(codes: np.ndarray, labels: np.ndarray, shared: bool, queries: int) -> Crowd | None:
    """Return the gallery uint8 [N, B] with labels uint64 words [N, L] as entries, or None where `queries` would gain nothing."""
    if queries * len(codes) < _FEWEST_PAIRS:
        return None
    if len(codes) > _SAMPLE:
        sample = in_words(codes[np.arange(_SAMPLE) * len(codes) // _SAMPLE])
        if len(_distinct(sample, _SAMPLE)[1]) > _LARGEST_SHARE * _SAMPLE:
            return None
    words = in_words(codes)
    entry_of, first = _distinct(words, len(codes) // _ITEMS_PER_ENTRY)
    if len(first) == 0:
        return None
    pair_of, first_of_pair = _distinct(np.column_stack([entry_of.astype(np.uint64), labels]), len(codes))
    return Crowd(
        np.ascontiguousarray(words[first].T),
        np.bincount(entry_of, minlength=len(first)),
        entry_of[first_of_pair],
        np.ascontiguousarray(labels[first_of_pair].T),
        np.bincount(pair_of, minlength=len(first_of_pair)),
        shared,
    )


def count_crowd(crowd: Crowd, queries: np.ndarray, labels: np.ndarray, counts: np.ndarray, relevant: np.ndarray) -> None:
    """Fill `counts` and `relevant` int64 [Q, K+1] for queries uint8 [Q, B] with labels uint64 words [Q, L]."""
    words, order = in_words(queries), np.lexsort(labels.T)

    def run(start: int, stop: int) -> None:
        _count(words, labels, order[start:stop], *crowd, counts, relevant)

    over_ranges(run, len(queries))


def _distinct(rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the different rows of uint64 [N, C] in the order in which they first occur.

    Returns the number of each row, int32 [N], and the first row of each number, int64 [D]; D = 0 if there are more than `most`.
    """
    size = 1 << max(4, (2 * min(most, len(rows))).bit_length())
    numbers, first = np.empty(len(rows), np.int32), np.empty(min(most, len(rows)), np.int64)
    return numbers, first[: _number(np.ascontiguousarray(rows), np.full(size, _NONE), numbers, first)]


@compiled
def _number(rows, table, numbers, first):
    """Fill `numbers` and `first`, and return the number of different rows, or 0 if `first` is too short; see `_distinct`.

    `table`, int32 with a power of two of slots, more than twice as many as `first` has, holds numbers in slots that a hash of the
    row chooses; a row whose slot is taken by another one moves on to the next slot.
    """
    found = 0
    for i in range(rows.shape[0]):
        slot = _hash(rows[i], table.size)
        while table[slot] != _NONE and not _are_equal(rows[first[table[slot]]], rows[i]):
            slot = (slot + 1) & (table.size - 1)
        if table[slot] == _NONE:
            if found == first.size:
                return 0
            table[slot], first[found] = found, i
            found += 1
        numbers[i] = table[slot]
    return found


@inlined
def _hash(row, slots):
    """Return a slot from 0 to slots - 1, which is a power of two."""
    mixed = np.uint64(0)
    for column in range(row.size):
        mixed = (mixed ^ row[column]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return np.int64(mixed & np.uint64(slots - 1))


@inlined
def _are_equal(row, other):
    different = np.uint64(0)
    for column in range(row.size):
        different |= row[column] ^ other[column]
    return different == 0


@compiled
def _count(queries, query_labels, order, codes, sizes, entries, labels, pair_sizes, shared, counts, relevant):
    """Count items and relevant items at each distance from the queries of `order`, in which equal labels are neighbours."""
    bins = counts.shape[1]
    weights = np.empty(sizes.size, np.uint64)  # items of each entry and, 32 bits higher, relevant ones
    is_relevant = np.empty(entries.size, np.bool_)
    counters = np.empty((64 * codes.shape[0] + 1, _BANKS), np.uint64)
    distances = np.empty(_BLOCK, np.int64)
    for i in range(order.size):
        q = order[i]
        if i == 0 or not _are_equal(query_labels[q], query_labels[order[i - 1]]):
            fill_relevance(labels, query_labels[q], shared, is_relevant)
            _fill_weights(sizes, entries, pair_sizes, is_relevant, weights)
        counters[:] = 0
        for begin in range(0, sizes.size, _BLOCK):
            length = min(_BLOCK, sizes.size - begin)
            _fill_distances(codes[:, begin : begin + length], queries[q], distances)
            _add_weights(distances[:length], weights[begin : begin + length], counters)
        for distance in range(bins):
            total = np.uint64(0)
            for bank in range(_BANKS):
                total += counters[distance, bank]
            counts[q, distance] = total & np.uint64(0xFFFFFFFF)
            relevant[q, distance] = total >> np.uint64(32)


@compiled
def _fill_weights(sizes, entries, pair_sizes, is_relevant, weights):
    for entry in range(sizes.size):
        weights[entry] = sizes[entry]
    for pair in range(entries.size):
        weights[entries[pair]] += np.uint64(pair_sizes[pair] * is_relevant[pair]) << np.uint64(32)


@compiled
def _fill_distances(codes, query, distances):
    """Fill the first elements of `distances` with the distances of codes uint64 [W, E] from a query [W]."""
    for i in range(codes.shape[1]):
        distances[i] = popcount(codes[0, i] ^ query[0])
    for word in range(1, codes.shape[0]):
        for i in range(codes.shape[1]):
            distances[i] += popcount(codes[word, i] ^ query[word])


@compiled
def _add_weights(distances, weights, counters):
    whole = distances.size // _BANKS * _BANKS
    for i in range(0, whole, _BANKS):
        for bank in range(_BANKS):
            counters[np.uint64(distances[i + bank]), bank] += weights[i + bank]
    for i in range(whole, distances.size):
        counters[np.uint64(distances[i]), 0] += weights[i]

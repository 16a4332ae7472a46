"""Ranks of the items that are relevant to a query, in the order (distance, row), without sorting.

There are few different distances. So the rank of an item is the number of nearer items plus the number of earlier items at the
same distance. One pass over the gallery counts the items at each distance, and notes the current count of its distance for each
relevant item. The final counts give the number of nearer items.

A gallery is stored in four lanes, its quarters, which are counted side by side: the slot (step * 4 + lane) * 64 + i holds the row
lane * length + step * 64 + i. Slots without a row hold zeros, are never relevant, and come after all rows of their lane, so that
they change no count except the final one.

Labels are words, uint64 [N, L]. With `shared` they are sets of classes, one bit each, and two items are relevant to each other if
they share a class; otherwise L is 1, and they are relevant if the words are equal.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ._bits import compiled, inlined, popcount, split_bits
from ._blocks import aligned, in_words
from ._ir import LANES as _SPLIT
from ._sliced import LANES, STEP, TABLE_BYTES, bins, count_step_1, count_step_2, fill_tables, table_offsets

ITEMS = np.uint64(2**32 - 1)  # the lower half of a note
_SLICED_WORDS = 2  # longer codes are counted one by one, because few of them are at the same distance
_BATCH = 32  # queries for which the gallery is read once
_NOTES = 2**16  # relevant items noted in a batch, of 10 bytes each: about the size of the second-level cache


class Gallery(NamedTuple):
    codes: np.ndarray  # uint64 [W, slots]
    planes: np.ndarray  # uint64 [steps, W, 64, LANES]: the bits of the codes of a step; no steps where they are not used
    labels: np.ndarray  # uint64 [L, slots]
    size: int  # number of codes
    shared: bool


class Queries(NamedTuple):
    codes: np.ndarray  # uint64 [Q, W]; queries with equal labels are consecutive
    offsets: np.ndarray  # int32 [Q, W * OFFSETS]: see `table_offsets`
    set_bits: np.ndarray  # int64 [Q]
    labels: np.ndarray  # uint64 [Q, L]
    groups: list[int]  # [Q]: equal for queries with equal labels
    order: np.ndarray  # int64 [Q]: the original row of each query


def lay_out_gallery(codes: np.ndarray, labels: np.ndarray, shared: bool) -> Gallery:
    """Return a gallery of codes uint8 [N, B] with labels uint64 [N, L] in lanes."""
    words = in_words(codes)
    steps = -(-len(codes) // STEP)
    code_slots, label_slots = _slots(words.T, steps), _slots(labels.T, steps)
    planes = np.empty((steps if len(code_slots) <= _SLICED_WORDS else 0, len(code_slots), 64, LANES), np.uint64)
    _fill_planes(code_slots, planes)
    return Gallery(code_slots, planes, label_slots, len(codes), shared)


def lay_out_queries(codes: np.ndarray, labels: np.ndarray) -> Queries:
    """Return queries of codes uint8 [Q, B] with labels uint64 [Q, L], ordered by label."""
    order = np.lexsort(labels.T)
    words, labels = in_words(codes)[order], labels[order]
    offsets = table_offsets(words) if words.shape[1] <= _SLICED_WORDS else np.empty((len(words), 0), np.int32)
    set_bits = np.unpackbits(words.view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)
    changes = (labels[1:] != labels[:-1]).any(axis=1)
    return Queries(words, offsets, set_bits, labels, [0, *changes.cumsum().tolist()], order)


def _slots(rows: np.ndarray, steps: int) -> np.ndarray:
    padded = np.zeros((len(rows), steps * STEP), np.uint64)
    padded[:, : rows.shape[1]] = rows
    return np.ascontiguousarray(padded.reshape(len(rows), LANES, steps, 64).swapaxes(1, 2)).reshape(len(rows), -1)


@compiled
def _fill_planes(codes, planes):
    words, address = np.int64(codes.ctypes.data), np.int64(planes.ctypes.data)
    for step in range(planes.shape[0]):
        for word in range(planes.shape[1]):
            for first in range(0, STEP, _SPLIT):
                source = words + 8 * (word * codes.shape[1] + step * STEP + first)
                split_bits(source, address + (step * planes.shape[1] + word) * 64 * 8 * LANES + first // 8, 8 * LANES)


def ranked_batches(queries: Queries, gallery: Gallery, start: int, stop: int) -> Iterator["Batch"]:
    """Yield the queries start .. stop - 1 batch by batch: the same `Batch` object with new contents each time."""
    batch = Batch(queries, gallery)
    while start < stop:
        batch.rank(start, stop)
        yield batch
        start = batch.stop


class Batch:
    """The ranks of the items that are relevant to the queries start .. stop - 1.

    `counts` and `relevant` are the numbers of items and of relevant items of the whole gallery at each distance in each lane:
    uint32 [stop - start, bins * LANES]. notes[first_notes[i] : first_notes[i + 1]] belong to the items relevant to query start +
    i, in the order of slots: the number of earlier items of the same distance and lane and, 32 bits higher, of relevant ones.
    `places` holds the index of the counter of that distance and lane. A note plus the value of `fill_nearer` for this counter is
    the number of items that come before the item in the ranking.
    """

    def __init__(self, queries: Queries, gallery: Gallery):
        self._queries, self._gallery = queries, gallery
        self.start = self.stop = 0
        words, steps = len(gallery.codes), gallery.codes.shape[1] // STEP
        counters = bins(words) * LANES
        capacity = _NOTES + gallery.size
        self.notes = np.empty(capacity, np.uint64)
        self.places = np.empty(capacity, np.uint16 if counters <= 2**16 else np.uint32)
        self.first_notes = np.zeros(_BATCH + 1, np.int64)
        self.entries = np.empty(capacity + 1, np.uint8)  # slots of relevant items in their step, ascending, list after list
        self.starts = np.zeros((_BATCH, steps + 1), np.int64)  # position of the first entry of each step, for each list
        self.lists = np.zeros(_BATCH, np.int64)  # the list of each query; queries with equal labels share one
        self._held = -1  # the group of queries whose list is the first
        self._counters = aligned((2, _BATCH, counters, 4)).view(np.uint32)[..., 0]
        self._masks = aligned((counters, 8)).view(np.uint64)[:, 0]
        self._tables = aligned((words * TABLE_BYTES,))

    def rank(self, start: int, stop: int) -> None:
        """Rank the items for queries from `start` on, as many as fit a batch and are before `stop`."""
        self.start = start
        self.stop = self._list(start, min(stop, start + _BATCH))
        size = self.stop - start
        self.counts, self.relevant = self._counters[:, :size]
        self._counters[:, :size] = 0
        queries, gallery = self._queries, self._gallery
        codes = queries.codes[start : self.stop]
        lists = (self.lists[:size], self.starts, self.entries, self.first_notes)
        results = (self.counts, self.relevant, self.notes, self.places)
        if len(gallery.planes):
            offsets = queries.offsets[start : self.stop]
            _count_sliced(codes, offsets, gallery.codes, gallery.planes, *lists, *results, self._tables, self._masks)
        else:
            _count_long(codes, gallery.codes, *lists, *results)
        places = LANES * queries.set_bits[start : self.stop]
        _forget_empty_slots(self.counts, places, gallery.codes.shape[1] // LANES, gallery.size)

    def _list(self, start: int, stop: int) -> int:
        """List the items relevant to queries from `start` on; return the first query that does not fit this batch."""
        queries, gallery = self._queries, self._gallery
        lists, filled, noted = 0, 0, 0
        for q in range(start, stop):
            group = queries.groups[q]
            if q == start and group == self._held:
                lists, filled = 1, self.starts[0, -1]
            elif q == start or group != queries.groups[q - 1]:
                shared_later = queries.groups[min(q + _BATCH, len(queries.groups)) - 1] == group
                if q > start and (shared_later or filled > _NOTES):
                    stop = q  # the next batches use this list too, or it may be too long to append to the others
                    break
                filled = _list_relevant(queries.labels[q], *gallery[2:], self.entries, filled, self.starts[lists])
                lists += 1
            length = self.starts[lists - 1, -1] - self.starts[lists - 1, 0]
            if q > start and noted + length > _NOTES:
                stop = q
                break
            self.lists[q - start] = lists - 1
            noted += length
            self.first_notes[q - start + 1] = noted
        self._held = queries.groups[start]
        return stop


@inlined
def sum_lanes(counters, distance):
    """Return the number of items at a distance, summed over the lanes."""
    total = 0
    for lane in range(LANES):
        total += counters[distance * LANES + lane]
    return total


@inlined
def fill_nearer(counts, relevant, nearer):
    """Fill `nearer` with the number of items that rank before the items of each counter.

    The upper 32 bits count the relevant ones among them. An item ranks before others if it is nearer, or at the same distance in
    an earlier lane.
    """
    ahead = np.uint64(0)
    for place in range(nearer.size):
        nearer[place] = ahead
        ahead += np.uint64(counts[place]) | np.uint64(relevant[place]) << np.uint64(32)


@compiled
def _list_relevant(label, labels, count, shared, entries, filled, starts):
    """Append the items relevant to a query with `label` uint64 [L] to the entries, of which `filled` are in use."""
    length = labels.shape[1] // LANES
    flags = np.empty(STEP, np.bool_)
    starts[0] = filled
    for step in range(starts.size - 1):
        first = step * STEP
        fill_relevance(labels[:, first : first + STEP], label, shared, flags)
        for lane in range(LANES):
            for i in range(64 * lane, 64 * lane + min(max(count - lane * length - 64 * step, 0), 64)):
                entries[filled] = i
                filled += flags[i]
        starts[step + 1] = filled
    return filled


@compiled
def fill_relevance(planes, labels, shared, is_relevant):
    """Fill `is_relevant` bool [n]: which items with label words [L, n] are relevant to a query."""
    if not shared:
        plane = planes[0]
        label = labels[0]
        for j in range(plane.size):
            is_relevant[j] = plane[j] == label
        return
    is_relevant[:] = False
    for word in range(planes.shape[0]):
        plane = planes[word]
        classes = labels[word]
        for j in range(plane.size):
            is_relevant[j] |= (plane[j] & classes) != 0


@compiled
def _count_sliced(
    queries, offsets, codes, planes, lists, starts, entries, first_notes, counts, relevant, notes, places, tables, masks
):
    """Count the codes of the gallery, which are stored as bit planes, at each distance, and note the relevant ones."""
    words = planes.shape[1]
    plane_address, table_address = np.int64(planes.ctypes.data), np.int64(tables.ctypes.data)
    offset_address, mask_address = np.int64(offsets.ctypes.data), np.int64(masks.ctypes.data)
    count_address = np.int64(counts.ctypes.data)
    for step in range(planes.shape[0]):
        for word in range(words):
            fill_tables(plane_address + (step * words + word) * 64 * 8 * LANES, table_address + word * TABLE_BYTES)
        first = np.uint64(step * STEP)
        for q in range(queries.shape[0]):
            query_offsets, query_counts = offset_address + 4 * q * offsets.shape[1], count_address + 4 * q * counts.shape[1]
            if words == 1:
                count_step_1(table_address, query_offsets, mask_address, query_counts)
            else:
                count_step_2(table_address, query_offsets, mask_address, query_counts)
            list_, query = lists[q], queries[q, 0]
            shift = first_notes[q] - starts[list_, 0]
            for entry in range(starts[list_, step], starts[list_, step + 1]):
                slot = np.uint64(entries[np.uint64(entry)])
                distance = np.uint64(popcount(codes[0, first + slot] ^ query))
                if words == 2:
                    distance += np.uint64(popcount(codes[1, first + slot] ^ queries[q, 1]))
                place = distance * np.uint64(LANES) + (slot >> np.uint64(6))
                from_here = np.uint64(popcount(masks[place] >> (slot & np.uint64(63))))
                earlier = relevant[q, place]
                relevant[q, place] = earlier + np.uint32(1)
                notes[np.uint64(entry + shift)] = np.uint64(counts[q, place]) - from_here | np.uint64(earlier) << np.uint64(32)
                places[np.uint64(entry + shift)] = place


@compiled
def _count_long(queries, codes, lists, starts, entries, first_notes, counts, relevant, notes, places):
    """Count codes of any length one by one at each distance, and note the relevant ones."""
    distances, before = np.empty(STEP, np.int64), np.empty(STEP, np.uint32)
    for step in range(codes.shape[1] // STEP):
        for q in range(queries.shape[0]):
            distances[:] = 0
            for word in range(codes.shape[0]):
                query = queries[q, word]
                for slot in range(STEP):
                    distances[slot] += popcount(codes[word, step * STEP + slot] ^ query)
            for i in range(64):
                for lane in range(LANES):  # consecutive increments of one counter would wait for each other
                    place = np.uint64(distances[64 * lane + i] * LANES + lane)
                    before[64 * lane + i] = counts[q, place]
                    counts[q, place] += np.uint32(1)
            list_ = lists[q]
            shift = first_notes[q] - starts[list_, 0]
            for entry in range(starts[list_, step], starts[list_, step + 1]):
                slot = np.uint64(entries[np.uint64(entry)])
                place = np.uint64(distances[slot]) * np.uint64(LANES) + (slot >> np.uint64(6))
                earlier = relevant[q, place]
                relevant[q, place] = earlier + np.uint32(1)
                notes[np.uint64(entry + shift)] = np.uint64(before[slot]) | np.uint64(earlier) << np.uint64(32)
                places[np.uint64(entry + shift)] = place


@compiled
def _forget_empty_slots(counts, places, length, count):
    """Subtract the slots without a row from the counts, in which they are included as codes of zeros.

    Their distance is the number of bits that are set in the query.
    """
    for lane in range(LANES):
        empty = length - min(max(count - lane * length, 0), length)
        for q in range(places.size):
            counts[q, places[q] + lane] -= np.uint32(empty)

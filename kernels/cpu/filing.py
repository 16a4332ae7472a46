"""The build of a `Filing` on a CPU.

The codes are divided by their nearest centres, and the codes of each centre are sorted by distance and code, so that equal codes
become neighbours. Besides the filing itself, this needs 3 to 5 bytes per code, and 40 bytes or more per code of the largest part
that is sorted at once.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..filing import Filing
from ._bits import borrowing, bytes_reversed, compiled, popcount, read_code
from ._blocks import as_array, in_words
from ._centres import CentreTables, assign, centre_tables, find_centres
from ._radix import sort_by_word, sorted_order
from ._ranges import over_ranges
from ._threads import run_all, thread_count

_SAMPLE = 2**17  # codes from which centres are made
_CENTRES_PER_ROOT, _MOST_CENTRES = 4, 2**14  # at most so many times the root of the number of codes, and in all
_TRIED = 2**12  # codes from which the tables for the centres are chosen
_SORTED_AT_ONCE = 2**21  # codes; parts that are larger are divided first
_PARTS_PER_THREAD = 16


def filed(codes: Tensor, centres: Tensor | None) -> Filing:
    """Return a filing of `codes`, uint8 [N, B], under the distinct ones of `centres`, uint8 [C, B]; None: `found_centres`."""
    packed = as_array(codes)
    words = found_centres(packed) if centres is None else np.unique(as_array(centres), axis=0)
    positions, part_starts = _divided(packed, centre_tables(words, packed[:: max(len(packed) // _TRIED, 1)]))
    entries_at = np.zeros((len(words), 8 * packed.shape[1] + 1), np.int64)
    is_first = np.empty(len(packed), np.bool_)
    _sort_parts(packed, positions, part_starts, in_words(words), entries_at, is_first)
    entry_stops = _starts(entries_at.sum(1))
    entries = np.empty((entry_stops[-1], packed.shape[1]), np.uint8)
    entry_starts = np.full(len(entries) + 1, len(packed), np.int64)

    def write(first: int, stop: int) -> None:
        _write_entries(packed, positions, part_starts[first : stop + 1], is_first, entry_stops[first], entries, entry_starts)

    over_ranges(write, len(words), parts_per_thread=_PARTS_PER_THREAD)
    return Filing(
        *(torch.from_numpy(array) for array in (entries, entry_starts, positions, words, *_rings(entries_at))),
    )


def found_centres(codes: np.ndarray) -> np.ndarray:
    """Return centres for codes uint8 [N, B], from a sample of them: at most four times the root of N."""
    if len(codes) == 0:
        return np.zeros((1, codes.shape[1]), np.uint8)
    rows = np.sort(np.random.default_rng(0).integers(0, len(codes), _SAMPLE)) if len(codes) > _SAMPLE else np.arange(len(codes))
    sample = codes[rows]
    sample = sample[sorted_order(sample)]
    is_first = np.ones(len(sample), np.bool_)
    is_first[1:] = (sample[1:] != sample[:-1]).any(1)
    firsts = np.flatnonzero(is_first)
    weights = np.diff(firsts, append=len(sample))
    order = np.argsort(-weights, kind="stable")
    most = min(int(_CENTRES_PER_ROOT * len(codes) ** 0.5), _MOST_CENTRES)
    return find_centres(sample[firsts][order], weights[order], most)


def _divided(codes: np.ndarray, tables: CentreTables) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the codes in the order of their centres, and where those of each centre begin: int64 [C + 1]."""
    count, centres = len(codes), len(tables.centres)
    assigned = np.empty(count, np.uint16 if centres <= 2**16 else np.int32)
    bounds = list(pairwise(np.linspace(0, count, thread_count() + 1, dtype=np.int64).tolist()))
    counts = np.zeros((len(bounds), centres), np.int64)
    run_all(assign, [(codes, *part, tables, assigned, own) for part, own in zip(bounds, counts, strict=True)])
    starts = _starts(counts.sum(0))
    places = starts[:-1] + counts.cumsum(0) - counts
    positions = np.empty(count, np.int32 if count < 2**31 else np.int64)
    run_all(_place_positions, [(assigned, *part, own, positions) for part, own in zip(bounds, places, strict=True)])
    return positions, starts


@compiled
def _place_positions(assigned, first, stop, places, positions):
    """Write the positions first .. stop - 1 to the places of their centres, int64 [C]."""
    for i in range(first, stop):
        positions[places[assigned[i]]] = i
        places[assigned[i]] += 1


def _sort_parts(
    codes: np.ndarray,
    positions: np.ndarray,
    part_starts: np.ndarray,
    centres: np.ndarray,
    entries_at: np.ndarray,
    is_first: np.ndarray,
) -> None:
    """Sort the positions of each centre by (distance, code, position).

    Marks the first position of each entry in `is_first`, and counts the entries at each distance in `entries_at` [C, bits + 1].
    """
    slices = []
    for centre, (start, stop) in enumerate(pairwise(part_starts.tolist())):
        if stop - start <= _SORTED_AT_ONCE:
            slices.append((start, stop, centre))
        else:
            slices.extend(_divided_part(codes, positions, start, stop, centres[centre], centre, 0))
    table = np.array(slices, np.int64).reshape(-1, 3)
    tasks = thread_count() * _PARTS_PER_THREAD
    edges = np.searchsorted(table[:, 0], np.linspace(0, len(codes), tasks + 1))
    edges[-1] = len(table)
    parts = [table[first:last] for first, last in pairwise(edges.tolist()) if first < last]
    spans = [np.unique(np.where(part[:, 2] < 0, ~part[:, 2], part[:, 2])) for part in parts]
    counted = [np.zeros((len(span), entries_at.shape[1]), np.int64) for span in spans]  # threads can share a centre
    run_all(
        _sort_slices,
        [
            (codes, positions, part, centres[span], int(span[0]), own, is_first)
            for part, span, own in zip(parts, spans, counted, strict=True)
        ],
    )
    for span, own in zip(spans, counted, strict=True):
        entries_at[span] += own


def _divided_part(
    codes: np.ndarray, positions: np.ndarray, start: int, stop: int, centre: np.ndarray, number: int, level: int
) -> list[tuple[int, int, int]]:
    """Divide a large part by distance from its centre (level 0) or byte level - 1; return (start, stop, centre) of the pieces.

    A piece of equal codes has the centre ~number: it needs no order.
    """
    if level > codes.shape[1]:
        return [(start, stop, ~number)]
    counts = np.zeros(max(256, 8 * codes.shape[1] + 1), np.int64)
    part = positions[start:stop]
    _count_keys(codes, part, centre, level, counts)
    if counts.max() < len(part):
        spare = np.empty_like(part)
        _place_keys(codes, part, centre, level, _starts(counts)[:-1], spare)
        part[:] = spare
    pieces = []
    for first, last in pairwise((start + _starts(counts[counts > 0])).tolist()):
        if last - first <= _SORTED_AT_ONCE:
            pieces.append((first, last, number))
        else:
            pieces.extend(_divided_part(codes, positions, first, last, centre, number, level + 1))
    return pieces


@borrowing
def _key(codes, position, centre, level):
    """Return the distance of a code from a centre, uint64 [W], or one of its bytes; see `_divided_part`."""
    if level > 0:
        return np.int64(codes[position, level - 1])
    width = codes.shape[1]
    distance = np.int64(0)
    for byte in range(width):
        of_centre = centre[byte >> 3] >> np.uint64(8 * (byte & 7)) & np.uint64(255)
        distance += popcount(np.uint64(codes[position, byte]) ^ of_centre)
    return distance


@compiled
def _count_keys(codes, positions, centre, level, counts):
    """Count the codes with each key."""
    for position in positions:
        counts[_key(codes, position, centre, level)] += 1


@compiled
def _place_keys(codes, positions, centre, level, places, target):
    """Write positions to the places of their keys, int64, stably."""
    for position in positions:
        key = _key(codes, position, centre, level)
        target[places[key]] = position
        places[key] += 1


@compiled
def _sort_slices(codes, positions, slices, centres, first_centre, entries_at, is_first):
    """Sort parts of the positions, int64 [S, 3]: (start, stop, centre); see `_sort_parts`.

    centres, entries_at: of the centres from `first_centre` on.
    """
    most, words, bits = 0, centres.shape[1], entries_at.shape[1] - 1
    for i in range(slices.shape[0]):
        if slices[i, 2] >= 0:
            most = max(most, slices[i, 1] - slices[i, 0])
    columns = np.empty((words, most), np.uint64)
    code, distances = np.empty(words, np.uint64), np.empty(most, np.int32)
    order, spare = np.empty(most, np.int64), np.empty(most, np.int64)
    keys, spare_keys = np.empty(most, np.uint64), np.empty(most, np.uint64)
    starts = np.empty(bits + 2, np.int64)
    for i in range(slices.shape[0]):
        start, stop = slices[i, 0], slices[i, 1]
        is_one_entry = slices[i, 2] < 0
        centre = (~slices[i, 2] if is_one_entry else slices[i, 2]) - first_centre
        if start == stop:
            continue
        if is_one_entry:
            is_first[start:stop] = False
            is_first[start] = True
            entries_at[centre, _key(codes, positions[start], centres[centre], 0)] += 1
            continue
        count = stop - start
        for j in range(count):
            read_code(codes, positions[start + j], code)
            distance = np.int64(0)
            for word in range(words):
                distance += popcount(code[word] ^ centres[centre, word])
                columns[word, j] = bytes_reversed(code[word])
            distances[j], order[j] = distance, j
        for word in range(words - 1, -1, -1):
            sort_by_word(columns[word, :count], order[:count], spare[:count], keys[:count], spare_keys[:count])
        _sort_by_distance(order[:count], distances, starts, spare)
        before = order[0]
        for j in range(count):
            here, is_new = order[j], j == 0
            for word in range(words):
                is_new |= columns[word, here] != columns[word, before]
            before = here
            is_first[start + j] = is_new
            entries_at[centre, distances[here]] += is_new
            spare[j] = positions[start + here]
        for j in range(count):
            positions[start + j] = spare[j]


@borrowing
def _sort_by_distance(order, distances, starts, spare):
    """Sort `order` by distances, int32, stably."""
    starts[:] = 0
    for i in order:
        starts[distances[i] + 1] += 1
    for distance in range(1, starts.shape[0]):
        starts[distance] += starts[distance - 1]
    for i in order:
        spare[starts[distances[i]]] = i
        starts[distances[i]] += 1
    for i in range(order.shape[0]):
        order[i] = spare[i]


@compiled
def _write_entries(codes, positions, part_starts, is_first, entry, entries, entry_starts):
    """Write the entries of consecutive centres, from number `entry` on, and where their positions begin."""
    for i in range(part_starts[0], part_starts[-1]):
        if is_first[i]:
            entries[entry] = codes[positions[i]]
            entry_starts[entry] = i
            entry += 1


def _rings(entries_at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ring_starts, ring_distances and centre_rings for a number of entries at each distance of each centre."""
    bits = entries_at.shape[1] - 1
    has_entries = entries_at > 0
    nearest, farthest = has_entries.argmax(1), bits - has_entries[:, ::-1].argmax(1)
    rings = np.where(has_entries.any(1), farthest - nearest + 1, 0)
    distances = np.arange(bits + 1)
    is_ring = (distances >= nearest[:, None]) & (distances < (nearest + rings)[:, None])
    return _starts(entries_at[is_ring]), np.nonzero(is_ring)[1].astype(np.int32), _starts(rings)


def _starts(counts: np.ndarray) -> np.ndarray:
    """Return where each of consecutive parts begins, and where the last one ends: int64 [P + 1]."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts

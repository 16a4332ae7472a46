"""Search for all codes within a radius of each query on a CPU, by a scan and a counting sort into (distance, row) order.

The scan (see _planes.py and _rows.py) writes a query's codes in the order of their rows, as keys in chunks of memory that are
allocated as needed. Counting the keys of each distance gives the place of each code in the result.
"""

import functools
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._bits import BLOCKS_PAY_FROM, STEP, compiled, inlined, load_block, lowest_bit, popcount, row_distance, split_block
from ._blocks import ROW_BLOCK_BYTES, as_array, blocks_for, in_words, mark_open, repeated
from ._planes import plane_hits, word_hits
from ._rows import ROW_PATTERN, near_rows, next_near_rows, rows_per_step
from ._threads import run_all, thread_count

_POSITION_BITS = 40
_QUERIES_PER_GROUP = 256
_BINS_PER_GROUP = 2**17  # counters of a sort that stay in the second-level cache
_SMALLEST_CHUNK, _LARGEST_CHUNK = 2**15, 2**20  # keys per chunk
_DENSE = 3  # if at least one code in this many is found, every code is compared instead of searching for the few near ones


def hamming_range(queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes nearer than each query's limit: (lims int64 [Q+1], distances int32 [M], ids int64 [M]).

    queries: uint8 [Q, B], gallery: uint8 [N, B], neither of them empty; mask: bool [N], True for rows that may be found; limits:
    int32 [Q], 0 .. 8 B + 1.
    """
    allowed = np.ones(0, np.bool_) if mask is None else as_array(mask)
    found = _codes_below(as_array(queries), as_array(gallery), allowed, as_array(limits))
    lims, distances, ids = (torch.from_numpy(array) for array in found)
    return lims, distances, ids


def _codes_below(
    queries: np.ndarray, gallery: np.ndarray, allowed: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the codes nearer than the limits on threads, and put them in order: (lims, distances, ids)."""
    distance_bits = max(int(limits.max()) - 1, 0).bit_length()
    bounds = _gallery_bounds(len(queries), len(gallery))
    groups = _query_groups(len(queries), len(bounds), distance_bits)
    counts = np.zeros((len(bounds), len(queries)), np.int64)
    parts = [[_Part(start, stop, counts[part, group], []) for part, (start, stop) in enumerate(bounds)] for group in groups]
    run_all(
        _scan,
        [
            (queries[group], limits[group].astype(np.int64), gallery, allowed, distance_bits, part)
            for group, of_group in zip(groups, parts, strict=True)
            for part in of_group
        ],
    )
    lims = np.zeros(len(queries) + 1, np.int64)
    np.cumsum(counts.sum(0), out=lims[1:])
    distances, ids = np.empty(lims[-1], np.int32), np.empty(lims[-1], np.int64)
    run_all(
        _put_in_order,
        [(of_group, lims[group], distance_bits, distances, ids) for group, of_group in zip(groups, parts, strict=True)],
    )
    return lims, distances, ids


def _gallery_bounds(queries: int, gallery: int) -> list[tuple[int, int]]:
    """Split the gallery so that each thread has a split if there are few queries, and none is idle."""
    threads = thread_count()
    parts = 1 if queries >= 8 * threads else min(threads, gallery // 2**16)
    size = STEP * math.ceil(gallery / STEP / max(parts, 1))
    return list(pairwise([*range(0, gallery, size), gallery]))


def _query_groups(queries: int, parts: int, distance_bits: int) -> list[slice]:
    """Return the groups of queries that one thread scans together, of even size because the scan takes queries in pairs."""
    size = min(_QUERIES_PER_GROUP, math.ceil(queries * parts / thread_count()), _BINS_PER_GROUP >> distance_bits)
    size = max(2, size + size % 2)
    return [slice(first, min(first + size, queries)) for first in range(0, queries, size)]


class _Part(NamedTuple):
    """The codes that a group of queries finds in rows start .. stop - 1."""

    start: int
    stop: int
    counts: np.ndarray  # int64 [Q]
    chunks: list[np.ndarray]  # uint64 keys: (query of the group, distance of distance_bits, position of _POSITION_BITS)


def _scan(
    queries: np.ndarray, limits: np.ndarray, gallery: np.ndarray, allowed: np.ndarray, distance_bits: int, part: _Part
) -> None:
    """Fill `part` with the codes that a group of queries finds in its rows."""
    width = gallery.shape[1]
    even = in_words(queries, len(queries) + len(queries) % 2)
    query_words = even[: len(queries)]
    many = len(queries) >= BLOCKS_PAY_FROM
    if many or width % 8:
        dense = np.zeros(len(even), np.bool_)
        scan = functools.partial(_scan_blocks, blocks_for(even.view(np.uint8)[:, :width], many), dense)
    else:
        query_words = repeated(query_words, ROW_PATTERN)
        scan = _scan_rows
    first, q = part.start, 0
    room = _SMALLEST_CHUNK
    while first < part.stop:
        keys = np.empty(room, np.uint64)
        first, q, fill = scan(query_words, limits, gallery, allowed, first, q, part.stop, distance_bits, part.counts, keys)
        part.chunks.append(keys[:fill] if 2 * fill > room else keys[:fill].copy())
        room = min(2 * room, _LARGEST_CHUNK)


@compiled
def _scan_blocks(blocks, dense, queries, limits, gallery, allowed, first, q, stop, distance_bits, counts, keys):
    """Scan the gallery block by block for all queries of a group, until `keys` is full.

    Starts with query `q` at the block that starts at row `first`; returns where to continue, (first, q), and the number of keys.
    queries: uint64 [Q, W]; dense: bool [Q], True for queries that found so much in the last block that every code of the next
    block is compared.
    """
    word_planes, planes, planes_used, tables = blocks
    count, words = queries.shape
    size = word_planes.shape[1]
    open_codes = np.zeros(size // 64, np.uint64)
    word_address, plane_address = np.int64(word_planes.ctypes.data), np.int64(planes.ctypes.data)
    query_address, table_address = np.int64(queries.ctypes.data), np.int64(tables.ctypes.data)
    table_bytes = tables.nbytes // max(tables.shape[0], 1)
    fill = 0
    while first < stop:
        length = min(size, stop - first)
        load_block(gallery, first, length, word_planes)
        mark_open(allowed, first, length, open_codes)
        if planes_used:
            split_block(word_planes, length, planes)
        while q < count:
            if fill + 2 * size > keys.shape[0]:
                return first, q, fill
            if dense[q]:
                before = fill
                fill = _take_dense(first, length, q, limits[q], queries, word_planes, open_codes, distance_bits, keys, fill)
                counts[q] += fill - before
                dense[q] = _DENSE * (fill - before) > length
                q += 1
                continue
            other = min(q + 1, count - 1)
            paired = planes_used > 0 and q % 2 == 0 and other > q and not dense[other] and max(limits[q], limits[other]) <= 255
            table, query = table_address + q // 2 * table_bytes, query_address + 8 * words * q
            before, before_other = counts[q], counts[other]
            code = 0
            while code < length:
                if paired:
                    code, a, b, c, d = plane_hits(plane_address, size, planes_used, code, length, table, limits[q], limits[other])
                    masks = (a, b, c, d)
                else:
                    code, a, b = word_hits(word_address, size, words, code, length, query, limits[q])
                    masks = (a, b, np.uint64(0), np.uint64(0))
                if code < length:
                    for part in range(4):
                        if masks[part]:
                            of, here = q + part // 2, code + 64 * (part % 2)
                            hits = masks[part] & open_codes[here // 64]
                            found = fill
                            fill = _take(first, here, hits, of, limits[of], queries, word_planes, distance_bits, keys, fill)
                            counts[of] += fill - found
                code += STEP
            dense[q] = _DENSE * (counts[q] - before) > length
            if paired:
                dense[other] = _DENSE * (counts[other] - before_other) > length
            q += 1 + paired
        q = 0
        first += size
    return first, q, fill


@inlined
def _take(first, code, hits, q, limit, queries, word_planes, distance_bits, keys, fill):
    """Add keys for the codes within the limit among 64 codes from `code` on, where their bit in `hits` is set.

    The block starts at row `first`.
    """
    while hits:
        i = code + lowest_bit(hits)
        hits &= hits - np.uint64(1)
        distance = np.int64(0)
        for word in range(word_planes.shape[0]):
            distance += popcount(word_planes[word, i] ^ queries[q, word])
        keys[fill] = (q << distance_bits | distance) << _POSITION_BITS | first + i
        fill += distance < limit
    return fill


@compiled
def _take_dense(first, length, q, limit, queries, word_planes, open_codes, distance_bits, keys, fill):
    """Add keys for all codes of the block at row `first` that may be found and are within the limit."""
    for i in range(length):
        distance = np.int64(0)
        for word in range(word_planes.shape[0]):
            distance += popcount(word_planes[word, i] ^ queries[q, word])
        keys[fill] = (q << distance_bits | distance) << _POSITION_BITS | first + i
        may_be_found = open_codes[i // 64] >> np.uint64(i % 64) & np.uint64(1)
        fill += (distance < limit) & may_be_found
    return fill


@compiled
def _scan_rows(queries, limits, gallery, allowed, first, q, stop, distance_bits, counts, keys):
    """Scan the rows in place, without preparation, for few queries and codes of whole words.

    The arguments and the result are those of `_scan_blocks`.

    queries: uint64 [Q, >= W], each repeated as `next_near_rows` requires.
    """
    words = gallery.shape[1] // 8
    step = rows_per_step(words)
    size = max(step, ROW_BLOCK_BYTES // gallery.shape[1] // step * step)
    address = np.int64(gallery.ctypes.data)
    distances = np.empty(64, np.int64)  # distances of a step
    fill = 0
    while first < stop:
        last = min(first + size, stop)
        while q < queries.shape[0]:
            if fill + size > keys.shape[0]:
                return first, q, fill
            query, limit, before = np.int64(queries[q].ctypes.data), limits[q], fill
            base = np.uint64(q << distance_bits << _POSITION_BITS)
            row = first
            while row + step <= last:
                row = next_near_rows(address, words, row, last, query, limit)
                hits = ~np.uint64(0)
                while hits and row + step <= last:
                    hits = near_rows(address, words, row, query, limit, np.int64(distances.ctypes.data))
                    if 2 * popcount(hits) > step:
                        fill = _take_rows(distances, step, row, limit, allowed, base, keys, fill)
                    else:
                        fill = _take_hits(distances, row, hits, allowed, base, keys, fill)
                    row += step
            for i in range(last - row):
                distances[i] = row_distance(address, words, row + i, queries[q])
            fill = _take_rows(distances, last - row, row, limit, allowed, base, keys, fill)
            counts[q] += fill - before
            q += 1
        q = 0
        first += size
    return first, q, fill


@inlined
def _take_rows(distances, count, row, limit, allowed, base, keys, fill):
    """Add keys for the rows among `count` rows from `row` on that are within the limit and may be found."""
    for i in range(count):
        keys[np.uint64(fill)] = base | np.uint64(distances[i]) << np.uint64(_POSITION_BITS) | np.uint64(row + i)
        fill += (distances[i] < limit) & _may_be_found(allowed, row + i)
    return fill


@inlined
def _take_hits(distances, row, hits, allowed, base, keys, fill):
    """Add keys for the rows from `row` on whose bit in `hits` is set and that may be found."""
    while hits:
        i = lowest_bit(hits)
        hits &= hits - np.uint64(1)
        keys[np.uint64(fill)] = base | np.uint64(distances[i]) << np.uint64(_POSITION_BITS) | np.uint64(row + i)
        fill += _may_be_found(allowed, row + i)
    return fill


@inlined
def _may_be_found(allowed, position):
    return allowed.shape[0] == 0 or allowed[position]


def _put_in_order(parts: list[_Part], starts: np.ndarray, distance_bits: int, distances: np.ndarray, ids: np.ndarray) -> None:
    """Sort the codes that a group found, by a stable counting sort; `starts` int64 [Q] are the places of its queries' codes."""
    places = np.zeros((len(starts), 1 << distance_bits), np.int64)
    for part in parts:
        for keys in part.chunks:
            _count(keys, places.reshape(-1))
    places[:] = starts[:, None] + places.cumsum(1) - places
    for part in parts:
        while part.chunks:
            _place(part.chunks.pop(0), distance_bits, places.reshape(-1), distances, ids)


@compiled
def _count(keys, counters):
    for key in keys:
        counters[key >> np.uint64(_POSITION_BITS)] += 1


@compiled
def _place(keys, distance_bits, places, distances, ids):
    for key in keys:
        which = key >> np.uint64(_POSITION_BITS)
        place = places[which]
        places[which] += 1
        distances[place] = which & np.uint64((1 << distance_bits) - 1)
        ids[place] = key & np.uint64((1 << _POSITION_BITS) - 1)

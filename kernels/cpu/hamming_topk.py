"""Exact search for the k nearest codes on a CPU, in the order (distance, row), by a scan with a limit per query.

Nearly every code is farther than the k-th best so far. So the scan only finds the codes of a step that are nearer than the
query's current limit (see _planes.py and _rows.py). A histogram of the distances of the candidates keeps the limit
as low as possible: once there are k candidates within distance t, a later code at distance t comes after them, and only d < t
matters.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..missing import MISSING_DISTANCE, MISSING_ID
from ._bits import BLOCKS_PAY_FROM, STEP, compiled, inlined, load_block, lowest_bit, popcount, row_distance, split_block
from ._blocks import ROW_BLOCK_BYTES, as_array, blocks_for, in_words, mark_open, repeated
from ._planes import plane_hits, word_hits
from ._rows import ROW_PATTERN, near_rows, next_near_rows, rows_per_step
from ._threads import run_all, thread_count

_POSITION_BITS = 40
_QUERIES_PER_GROUP = 256
_HELD_BYTES = 2**25  # memory for candidates, per thread


def hamming_topk(
    queries: Tensor,
    gallery: Tensor,
    mask: Tensor | None,
    limits: Tensor | None,
    distances: Tensor,
    ids: Tensor,
) -> None:
    """Fill `distances` int32 and `ids` int64 [Q, k] with the k nearest codes of each query.

    queries: uint8 [Q, B], gallery: uint8 [N, B], neither of them empty; mask: bool [N], True for rows that may be found; limits:
    int32 [Q], only codes nearer than their query's limit are found.
    """
    bounds = _gallery_bounds(len(queries), len(gallery), distances.shape[1])
    parts = len(bounds) - 1
    results = distances.numpy(), ids.numpy()
    part_distances, part_ids = (result[None] for result in results)
    if parts > 1:
        part_distances, part_ids = (np.empty((parts, *result.shape), result.dtype) for result in results)
    allowed = np.ones(0, np.bool_) if mask is None else as_array(mask)
    bits = 8 * gallery.shape[1]
    ends = np.full(len(queries), bits + 1, np.int64)
    if limits is not None:
        ends[:] = np.clip(as_array(limits), 0, bits + 1)
    groups = _query_groups(len(queries), min(distances.shape[1], len(gallery)), parts)
    query_codes, gallery_codes = as_array(queries), as_array(gallery)
    tasks = [
        (
            query_codes[group],
            gallery_codes,
            allowed,
            ends[group],
            *bounds[part : part + 2],
            part_distances[part, group],
            part_ids[part, group],
        )
        for part in range(parts)
        for group in groups
    ]
    run_all(_search_group, tasks)
    if parts > 1:
        _merge(part_distances, part_ids, *results, bits)


def _gallery_bounds(queries: int, gallery: int, k: int) -> list[int]:
    """Split the gallery so that each thread has a split if there are few queries, and none is idle; return the bounds."""
    threads = thread_count()
    parts = 1 if queries >= 8 * threads else min(threads, gallery // max(16 * k, 2**16))
    size = STEP * math.ceil(gallery / STEP / max(parts, 1))
    return [*range(0, gallery, size), gallery]


def _query_groups(queries: int, k: int, parts: int) -> list[slice]:
    """Return the groups of queries that one thread scans together, of even size because the scan takes queries in pairs."""
    size = min(_QUERIES_PER_GROUP, math.ceil(queries * parts / thread_count()), _HELD_BYTES // (8 * _capacity(k)))
    size = max(2, size + size % 2)
    return [slice(first, first + size) for first in range(0, queries, size)]


def _capacity(k: int) -> int:
    """Return the number of candidates of a query for which there is memory; if it is full, only the k best are kept."""
    return 2 * k + 1024


def _search_group(
    queries: np.ndarray,
    gallery: np.ndarray,
    allowed: np.ndarray,
    limits: np.ndarray,
    start: int,
    stop: int,
    distances: np.ndarray,
    ids: np.ndarray,
) -> None:
    """Find the k nearest codes of a group of queries among rows start .. stop - 1."""
    width = gallery.shape[1]
    k = min(ids.shape[1], stop - start)
    even = in_words(queries, len(queries) + len(queries) % 2)
    held = _nothing_held(len(even), _capacity(k), 8 * width, limits)
    query_words = even[: len(queries)]
    many = len(queries) >= BLOCKS_PAY_FROM
    if many or width % 8:
        _scan_blocks(blocks_for(even.view(np.uint8)[:, :width], many), query_words, gallery, allowed, start, stop, held, k)
    else:
        _scan_rows(repeated(query_words, ROW_PATTERN), gallery, allowed, start, stop, held, k)
    _emit(held, k, distances, ids)


class _Held(NamedTuple):
    """Candidates for the k nearest codes of each query."""

    keys: np.ndarray  # int64 [Q, capacity]: distance << _POSITION_BITS | position, in the order of positions
    fill: np.ndarray  # int64 [Q]: keys in use
    histogram: np.ndarray  # int64 [Q, bits + 1]: number of candidates taken at each distance
    limits: np.ndarray  # int64 [Q]: codes at this distance or farther are not candidates
    below: np.ndarray  # int64 [Q]: number of candidates nearer than the limit, fewer than k


def _nothing_held(queries: int, capacity: int, bits: int, limits: np.ndarray) -> _Held:
    held = _Held(
        np.empty((queries, capacity), np.int64),
        np.zeros(queries, np.int64),
        np.zeros((queries, bits + 1), np.int64),
        np.zeros(queries, np.int64),
        np.zeros(queries, np.int64),
    )
    held.limits[: len(limits)] = limits
    return held


@compiled
def _scan_blocks(blocks, queries, gallery, allowed, start, stop, held, k):
    """Search rows start .. stop - 1 for a group of queries, block by block; each block is searched for all queries.

    queries: uint64 [Q, W]; held: has one query more where Q is odd.
    """
    word_planes, planes, planes_used, tables = blocks
    count, words = queries.shape
    size = word_planes.shape[1]
    open_codes = np.zeros(size // 64, np.uint64)
    word_address, plane_address = np.int64(word_planes.ctypes.data), np.int64(planes.ctypes.data)
    query_address, table_address = np.int64(queries.ctypes.data), np.int64(tables.ctypes.data)
    table_bytes = tables.nbytes // max(tables.shape[0], 1)
    held.limits[count:] = 0
    for first in range(start, stop, size):
        length = min(size, stop - first)
        load_block(gallery, first, length, word_planes)
        mark_open(allowed, first, length, open_codes)
        if planes_used:
            split_block(word_planes, length, planes)
        q = 0
        while q < count:
            paired = planes_used > 0 and q % 2 == 0 and max(held.limits[q], held.limits[q + 1]) <= 255
            table, query = table_address + q // 2 * table_bytes, query_address + 8 * words * q
            code = 0
            while code < length:
                limit, other_limit = held.limits[q], held.limits[q + paired]
                if paired:
                    code, a, b, c, d = plane_hits(plane_address, size, planes_used, code, length, table, limit, other_limit)
                    masks = (a, b, c, d)
                else:
                    code, a, b = word_hits(word_address, size, words, code, length, query, limit)
                    masks = (a, b, np.uint64(0), np.uint64(0))
                if code < length:
                    for part in range(4):
                        if masks[part]:
                            hits, here = masks[part], code + 64 * (part % 2)
                            _take(hits, first, here, q + part // 2, k, queries, word_planes, open_codes, held)
                code += STEP
            q += 1 + paired


@compiled
def _scan_rows(queries, gallery, allowed, start, stop, held, k):
    """Search the rows in place, without preparation, for few queries and codes of whole words; otherwise as `_scan_blocks`.

    queries: uint64 [Q, >= W], each repeated as `next_near_rows` requires.
    """
    words = gallery.shape[1] // 8
    step = rows_per_step(words)
    size = stop - start if len(queries) == 1 else max(step, ROW_BLOCK_BYTES // gallery.shape[1] // step * step)
    distances = np.empty(64, np.int64)  # distances of a step
    address, distance_address = np.int64(gallery.ctypes.data), np.int64(distances.ctypes.data)
    masked = allowed.shape[0] > 0
    for first in range(start, stop, size):
        last = min(first + size, stop)
        for q in range(queries.shape[0]):
            query = np.int64(queries[q].ctypes.data)
            row = next_near_rows(address, words, first, last, query, held.limits[q])
            while row + step <= last:
                hits = near_rows(address, words, row, query, held.limits[q], distance_address)
                while hits:
                    i = lowest_bit(hits)
                    hits &= hits - np.uint64(1)
                    if distances[i] < held.limits[q] and not (masked and not allowed[row + i]):
                        _hold(distances[i], row + i, q, k, held)
                row = next_near_rows(address, words, row + step, last, query, held.limits[q])
            for position in range(row, last):
                distance = row_distance(address, words, position, queries[q])
                if distance < held.limits[q] and not (masked and not allowed[position]):
                    _hold(distance, position, q, k, held)


@inlined
def _take(hits, first, code, q, k, queries, word_planes, open_codes, held):
    """Add the candidates among 64 codes from `code` on of the block at row `first`.

    A candidate's bit in `hits` is set, it may be found, and it is nearer than the query's current limit.
    """
    hits &= open_codes[code // 64]
    while hits:
        i = code + lowest_bit(hits)
        hits &= hits - np.uint64(1)
        distance = np.int64(0)
        for word in range(word_planes.shape[0]):
            distance += popcount(word_planes[word, i] ^ queries[q, word])
        if distance < held.limits[q]:
            _hold(distance, first + i, q, k, held)


@inlined
def _hold(distance, position, q, k, held):
    """Add a candidate that is nearer than its query's limit, and lower the limit as far as possible."""
    limit = held.limits[q]
    if held.fill[q] == held.keys.shape[1]:
        held.fill[q] = _drop_worse(held.keys[q], limit, k - held.below[q])
    held.keys[q, held.fill[q]] = distance << _POSITION_BITS | position
    held.fill[q] += 1
    held.histogram[q, distance] += 1
    below = held.below[q] + 1
    while below >= k:
        limit -= 1
        below -= held.histogram[q, limit]
    held.limits[q], held.below[q] = limit, below


@compiled
def _drop_worse(keys, limit, ties):
    """Keep the candidates nearer than `limit` and the first `ties` at the limit, in order; return their number."""
    kept = 0
    for key in keys:
        distance = key >> _POSITION_BITS
        if distance > limit or (distance == limit and ties <= 0):
            continue
        ties -= distance == limit
        keys[kept] = key
        kept += 1
    return kept


@compiled
def _emit(held, k, distances, ids):
    """Write the k nearest candidates of each query in order."""
    for q in range(distances.shape[0]):
        ties = k - held.below[q]
        _emit_sorted(held.keys[q, : held.fill[q]], held.histogram[q], held.limits[q], ties, distances[q], ids[q])


@compiled
def _emit_sorted(keys, histogram, limit, ties, distances, ids):
    """Write the candidates nearer than `limit` and the first `ties` at the limit, by a stable counting sort."""
    total = 0
    for distance in range(min(limit + 1, histogram.shape[0])):
        here = histogram[distance] if distance < limit else min(histogram[distance], ties)
        histogram[distance] = total
        total += here
    for key in keys:
        distance = key >> _POSITION_BITS
        if distance > limit or (distance == limit and histogram[distance] >= total):
            continue
        place = histogram[distance]
        histogram[distance] += 1
        distances[place] = distance
        ids[place] = key & ((1 << _POSITION_BITS) - 1)
    distances[total:] = MISSING_DISTANCE
    ids[total:] = MISSING_ID


@compiled
def _merge(part_distances, part_ids, distances, ids, bits):
    """Merge the results of the splits of the gallery, which are in the order of rows, to the k nearest codes."""
    parts, count, k = part_distances.shape
    histogram = np.empty(bits + 2, np.int64)
    for q in range(count):
        histogram[:] = 0
        for part in range(parts):
            for i in range(k):
                histogram[min(part_distances[part, q, i], bits + 1)] += 1
        total = 0
        for distance in range(bits + 2):
            histogram[distance], total = total, total + histogram[distance]
        for part in range(parts):
            for i in range(k):
                bin_ = min(part_distances[part, q, i], bits + 1)
                place = histogram[bin_]
                histogram[bin_] += 1
                if place < k:
                    distances[q, place] = part_distances[part, q, i]
                    ids[q, place] = part_ids[part, q, i]

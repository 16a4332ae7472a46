"""Numbers of gallery codes at each distance from each query, counted on a CPU.

For many queries the gallery is transposed into bit planes of 256 codes, from which distances are counted for all codes at once
(see _sliced.py). Otherwise distances of rows are computed in vectors and counted one by one.
"""

import math
from itertools import pairwise, product

import numpy as np
from torch import Tensor

from ._bits import compiled, load_block, row_distance, split_bits
from ._blocks import ROW_BLOCK_BYTES, aligned, as_array, repeated
from ._ir import LANES
from ._rows import ROW_PATTERN, near_rows, rows_per_step
from ._sliced import LANES as SLICED_LANES
from ._sliced import STEP as SLICED_STEP
from ._sliced import TABLE_BYTES, bins, count_step_1, count_step_2, count_step_4, fill_tables, table_offsets
from ._threads import run_all, thread_count

_SLICED_WORDS = (1, 2, 4)  # words of a code for which there is a `count_step`
_SLICED_FROM = 8  # queries from which on bit planes are faster
_BANKS = 4  # copies of each counter, used in turn, because an increment waits for the previous one of the same counter
_COUNTER_BYTES = 2**18  # size of the counters of a group of queries, which fit the second-level cache


def hamming_histogram(queries: Tensor, gallery: Tensor, counts: Tensor) -> None:
    """Fill `counts` int64 [Q, K+1] from uint8 codes [Q, B] and [N, B], neither of them empty."""
    words = math.ceil(queries.shape[1] / 8)
    count = _count_rows
    if len(queries) >= _SLICED_FROM and words <= max(_SLICED_WORDS):
        words, count = min(size for size in _SLICED_WORDS if words <= size), _count_sliced
    query_words = np.zeros((len(queries), words), np.uint64)
    query_words.view(np.uint8)[:, : queries.shape[1]] = as_array(queries)
    groups = _query_groups(len(queries), 4 * _BANKS * counts.shape[1])
    bounds = _gallery_bounds(len(gallery), len(groups))
    partial = np.zeros((len(bounds), *counts.shape), np.int64)
    parts = product(groups, zip(bounds, partial, strict=True))
    codes = as_array(gallery)
    run_all(count, [(query_words[group], codes, *bound, sums[group]) for group, (bound, sums) in parts])
    np.sum(partial, axis=0, out=counts.numpy())


def _query_groups(queries: int, counter_bytes: int) -> list[slice]:
    size = max(1, min(math.ceil(queries / thread_count()), _COUNTER_BYTES // counter_bytes))
    return [slice(first, first + size) for first in range(0, queries, size)]


def _gallery_bounds(gallery: int, groups: int) -> list[tuple[int, int]]:
    """Split the gallery so that no thread is idle if there are few groups of queries, and no 32-bit counter overflows."""
    parts = min(math.ceil(thread_count() / groups), math.ceil(gallery / 2**14))
    size = min(math.ceil(gallery / parts), 2**31)
    return list(pairwise([*range(0, gallery, size), gallery]))


def _count_sliced(queries: np.ndarray, gallery: np.ndarray, start: int, stop: int, counts: np.ndarray) -> None:
    """Count rows start .. stop - 1 as bit planes, and add the result to `counts`. queries: uint64 [Q, W]."""
    words = queries.shape[1]
    counters = np.zeros((len(queries), bins(words), SLICED_LANES), np.uint32)
    tables = aligned((words, TABLE_BYTES))
    masks = np.empty(counters.shape[1:], np.uint64)
    _count_steps(table_offsets(queries), gallery, start, stop, tables, masks, counters)
    counts += counters[:, : counts.shape[1]].sum(axis=2, dtype=np.int64)
    fillers = -(stop - start) % SLICED_STEP  # padding codes of zeros, whose distance is the number of bits set in the query
    counts[np.arange(len(queries)), np.unpackbits(queries.view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)] -= fillers


@compiled
def _count_steps(offsets, gallery, start, stop, tables, masks, counters):
    """Add rows start .. stop - 1 to the counters of all queries, one step of bit planes at a time."""
    words = tables.shape[0]
    block = np.zeros((words, SLICED_STEP), np.uint64)
    planes = np.empty((64, SLICED_LANES), np.uint64)
    plane_address, table_address = np.int64(planes.ctypes.data), np.int64(tables.ctypes.data)
    mask_address, counter_address = np.int64(masks.ctypes.data), np.int64(counters.ctypes.data)
    counter_bytes = counters.nbytes // counters.shape[0]
    for first in range(start, stop, SLICED_STEP):
        length = min(SLICED_STEP, stop - first)
        block[:, length:] = 0
        load_block(gallery, first, length, block)
        for word in range(words):
            for part in range(SLICED_STEP // LANES):
                split_bits(np.int64(block[word, LANES * part :].ctypes.data), plane_address + LANES // 8 * part, 8 * SLICED_LANES)
            fill_tables(plane_address, table_address + TABLE_BYTES * word)
        for q in range(offsets.shape[0]):
            query, counter = np.int64(offsets[q].ctypes.data), counter_address + q * counter_bytes
            if words == 1:
                count_step_1(table_address, query, mask_address, counter)
            elif words == 2:
                count_step_2(table_address, query, mask_address, counter)
            else:
                count_step_4(table_address, query, mask_address, counter)


def _count_rows(queries: np.ndarray, gallery: np.ndarray, start: int, stop: int, counts: np.ndarray) -> None:
    """Count rows start .. stop - 1 one by one, for codes of any length, and add the result to `counts`."""
    counters = np.zeros((len(queries), _BANKS, counts.shape[1]), np.uint32)
    _count_blocks(repeated(queries, ROW_PATTERN), queries.shape[1], gallery, start, stop, counters)
    counts += counters.sum(axis=1, dtype=np.int64)


@compiled
def _count_blocks(queries, words, gallery, start, stop, counters):
    """Count rows start .. stop - 1. queries: uint64 [Q, >= words], repeated as `near_rows` requires."""
    width = gallery.shape[1]
    step = rows_per_step(words)
    size = max(step, ROW_BLOCK_BYTES // (8 * words) // step * step)
    whole = np.zeros((size, words), np.uint64)  # padded rows, for codes that are not whole words
    distances = np.empty(size, np.int64)
    for first in range(start, stop, size):
        length = min(size, stop - first)
        if width == 8 * words:
            rows = np.int64(gallery[first].ctypes.data)
        else:
            _pad_rows(gallery[first : first + length], whole)
            rows = np.int64(whole.ctypes.data)
        for q in range(queries.shape[0]):
            query = np.int64(queries[q].ctypes.data)
            done = length // step * step
            for row in range(0, done, step):
                near_rows(rows, words, row, query, 0, np.int64(distances[row:].ctypes.data))
            for row in range(done, length):
                distances[row] = row_distance(rows, words, row, queries[q])
            _add(distances[:length], counters[q])


@compiled
def _pad_rows(codes, rows):
    padded = rows.view(np.uint8)
    for i in range(codes.shape[0]):
        for byte in range(codes.shape[1]):
            padded[i, byte] = codes[i, byte]


@compiled
def _add(distances, counters):
    """Count each distance in the next bank of counters."""
    whole = distances.size // _BANKS * _BANKS
    for i in range(0, whole, _BANKS):
        for bank in range(_BANKS):
            counters[bank, np.uint64(distances[i + bank])] += np.uint32(1)
    for i in range(whole, distances.size):
        counters[0, np.uint64(distances[i])] += np.uint32(1)

"""Preparation of scans of a gallery in blocks: memory for a block, lookup tables, and masks of codes that may be found."""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ._bits import PLANES_PER_BYTE, STEP, VECTOR_POPCOUNT, compiled
from ._planes import pair_tables, plane_count

ROW_BLOCK_BYTES = 16 * 1024  # size of a block of rows that stays in the first-level cache for all queries
_PLANE_BYTES = 16 * 1024


def as_array(tensor: Tensor) -> np.ndarray:
    """Return the elements of `tensor` as a C-contiguous array, which shares its memory where the tensor is contiguous."""
    return tensor.contiguous().numpy()


def in_words(codes: np.ndarray, rows: int | None = None) -> np.ndarray:
    """Return codes uint8 [N, B] as uint64 [rows or N, ceil(B/8)], padded with zeros."""
    words = np.zeros((rows or len(codes), math.ceil(codes.shape[1] / 8)), np.uint64)
    words.view(np.uint8)[: len(codes), : codes.shape[1]] = codes
    return words


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return uninitialised bytes of `shape` that start at a multiple of 64, the size of a cache line."""
    size = math.prod(shape)
    raw = np.empty(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size].reshape(shape)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """Return a copy that starts at a multiple of 64 bytes."""
    copy = aligned(array.shape)
    copy[...] = array
    return copy


class Blocks(NamedTuple):
    """Memory for the scan of blocks by a group of queries; see `word_hits` and `plane_hits`."""

    word_planes: np.ndarray  # uint64 [W, size], for a block
    planes: np.ndarray  # uint8 [.., size], the result of `split_block` for the block
    planes_used: int  # number of planes that `plane_hits` reads; 0 if only `word_hits` is used
    tables: np.ndarray  # `pair_tables` of the queries, an entry for queries 2i and 2i + 1


def blocks_for(queries: np.ndarray, many: bool) -> Blocks:
    """Return memory and tables for queries uint8 [Q, B], Q even. many: there are enough queries to prepare planes."""
    width = queries.shape[1]
    words = math.ceil(width / 8)
    size = max(2 * STEP, _PLANE_BYTES // plane_count(width) // STEP * STEP)
    word_planes = np.empty((words, size), np.uint64)
    if VECTOR_POPCOUNT or not many:
        return Blocks(word_planes, np.empty((0, 0), np.uint8), 0, np.empty((0, 0, 0), np.uint8))
    planes = aligned((8 * words * PLANES_PER_BYTE, size))
    return Blocks(word_planes, planes, plane_count(width), aligned_copy(pair_tables(queries)))


def repeated(rows: np.ndarray, length: int) -> np.ndarray:
    """Return each row of `rows` [R, C] repeated to `length` columns or more."""
    repeated = np.empty((len(rows), math.ceil(length / rows.shape[1]), rows.shape[1]), rows.dtype)
    repeated[...] = rows[:, None]
    return repeated.reshape(len(rows), -1)


@compiled
def mark_open(allowed, first, length, bits):
    """Set in `bits` the bit of each code of a block that exists and, unless `allowed` is empty, is allowed; clear the others."""
    bits[:] = 0
    if allowed.shape[0] == 0:
        bits[: length // 64] = ~np.uint64(0)
        if length % 64:
            bits[length // 64] = (np.uint64(1) << np.uint64(length % 64)) - np.uint64(1)
        return
    for i in range(length):
        bits[i // 64] |= np.uint64(allowed[first + i]) << np.uint64(i % 64)

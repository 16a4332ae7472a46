"""All pairwise Hamming distances on a CPU. Writing the result, four bytes per distance, takes most of the time."""

import math
from itertools import pairwise

import numpy as np
from torch import Tensor

from ._bits import compiled, load_block, popcount
from ._blocks import as_array
from ._threads import run_all, thread_count

_BLOCK = 512  # codes whose word planes fit the first-level cache


def hamming_distance(queries: Tensor, gallery: Tensor, distances: Tensor) -> None:
    """Fill `distances` int32 [Q, N] from uint8 codes [Q, B] and [N, B]; none of the three is empty."""
    words = np.zeros((math.ceil(queries.shape[1] / 8), len(queries)), np.uint64)
    load_block(as_array(queries), 0, len(queries), words)
    size = _BLOCK * math.ceil(len(gallery) / _BLOCK / thread_count())
    bounds = [*range(0, len(gallery), size), len(gallery)]
    codes, result = as_array(gallery), distances.numpy()
    run_all(_fill_columns, [(words, codes, *part, result) for part in pairwise(bounds)])


@compiled
def _fill_columns(queries, gallery, start, stop, distances):
    """Fill the columns start .. stop - 1 of `distances`, block by block of the gallery. queries: uint64 [W, Q]."""
    words, count = queries.shape
    block = np.empty((words, _BLOCK), np.uint64)
    for first in range(start, stop, _BLOCK):
        length = min(_BLOCK, stop - first)
        load_block(gallery, first, length, block)
        for q in range(count):
            row = distances[q, first : first + length]
            row[:] = 0
            for word in range(words):
                codes, query = block[word, :length], queries[word, q]
                for i in range(length):
                    row[i] += np.int32(popcount(codes[i] ^ query))

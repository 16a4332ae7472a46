"""The tables of a lookup: the rows of a gallery, ordered by the hash of a substring of their codes.

The hash of a substring is the sum of its words times odd random numbers, of which the highest bits count ("multiply-shift"): two
different substrings share a bucket with a probability of at most two in the number of buckets, and the hash of a substring with
some other bits follows from the hash of the substring by additions.

Each row comes with a signature of its code: every bit of the code changes one bit of the signature, so two codes are at least as
far apart as their signatures. Most rows of a bucket are refused by their signature alone, and their codes are not read.
"""

from typing import NamedTuple

import numpy as np

from ._bits import byte_at, compiled, inlined, popcount, prefetch, word_at

_BLOCK = 1024  # rows whose places are requested together


class Tables(NamedTuple):
    """Everything that a search of the tables reads except the codes, as arrays for compiled functions."""

    masks: np.ndarray  # uint64 [T, W]: the bits of each substring
    factors: np.ndarray  # uint64 [T, W]: odd
    shift: np.uint64  # 64 - b: a hash is the highest b bits of a sum
    widths: np.ndarray  # int64 [T]: bits of each substring
    places: np.ndarray  # int64 [T, widest]: the positions of these bits in a code
    steps: np.ndarray  # int64 [S, 2]: the table of each step of a search, and the number of bits that differ there
    buckets: np.ndarray  # int64 [S + 1]: the number of buckets that a query looks into before each step
    step_of: np.ndarray  # int64 [T, heaviest + 2]: the step of a table and a number of bits, or a number beyond all steps
    starts: np.ndarray  # int32 or int64 [T, 2**b + 1]: where the rows of each bucket begin
    rows: np.ndarray  # uint64 [T, N]: (signature, row in the lowest `row_bits`), ascending by row in a bucket
    row_bits: np.uint64


@inlined
def row_word(address, width, word):
    """Return 8 bytes of the row of `width` bytes at `address`, from byte 8 * `word` on, padded with zeros."""
    if 8 * word + 8 <= width:
        return word_at(address + 8 * word)
    if width >= 8:  # the last 8 bytes of the row, without those that belong to the word before
        return word_at(address + width - 8) >> np.uint64(8 * (8 * word + 8 - width))
    value = np.uint64(0)
    for byte in range(width):
        value |= byte_at(address + byte) << np.uint64(8 * byte)
    return value


@inlined
def row_sum(address, width, masks, factors):
    """Return the sum whose highest bits are the hash of the row at `address`."""
    total = np.uint64(0)
    for word in range(masks.shape[0]):
        if masks[word]:
            total += (row_word(address, width, word) & masks[word]) * factors[word]
    return total


@inlined
def signature(address, width, words, row_bits):
    """Return the signature of the code at `address`, in the bits that a row leaves free, and zeros for the row."""
    folded = np.uint64(0)
    for word in range(words):
        turn = np.uint64(11 * word % 64)  # so that bits with the same place in a word do not cancel each other
        value = row_word(address, width, word)
        folded ^= value << turn | value >> (np.uint64(64) - turn) % np.uint64(64)
    kept = np.uint64(64) - row_bits
    result, shift = folded, kept
    while shift < np.uint64(64):
        result ^= folded >> shift
        shift += kept
    return result << row_bits


@compiled
def fill_table(codes, masks, factors, shift, row_bits, starts, rows):
    """Write `starts` and `rows` of one table: count the rows of each bucket, sum the counts, and place each row."""
    width = np.int64(codes.shape[1])
    address = np.int64(codes.ctypes.data)
    start_address, start_bytes = np.int64(starts.ctypes.data), np.int64(starts.itemsize)
    count = np.int64(codes.shape[0])
    buckets = np.empty(_BLOCK, np.uint64)
    starts[:] = 0
    for place in range(2):
        for first in range(0, count, _BLOCK):
            length = min(_BLOCK, count - first)
            for i in range(length):
                buckets[i] = row_sum(address + (first + i) * width, width, masks, factors) >> shift
                prefetch(start_address + np.int64(buckets[i]) * start_bytes)
            if place == 0:
                for i in range(length):
                    starts[buckets[i] + np.uint64(1)] += 1
            else:
                for i in range(length):
                    prefetch(np.int64(rows.ctypes.data) + np.int64(starts[buckets[i]]) * 8)
                for i in range(length):
                    bucket = buckets[i]
                    code = address + (first + i) * width
                    rows[np.uint64(starts[bucket])] = signature(code, width, masks.shape[0], row_bits) | np.uint64(first + i)
                    starts[bucket] += 1
        if place == 0:
            for bucket in range(1, starts.shape[0]):
                starts[bucket] += starts[bucket - 1]
    for bucket in range(starts.shape[0] - 1, 0, -1):
        starts[bucket] = starts[bucket - 1]
    starts[0] = 0


@compiled
def keep_rows(renumbered, row_bits, starts, rows, new_starts, new_rows):
    """Write the table of the rows that are kept; renumbered [N]: the new position of each row, or -1 if it is removed."""
    fill = np.int64(0)
    low = (np.uint64(1) << row_bits) - np.uint64(1)
    for bucket in range(starts.shape[0] - 1):
        new_starts[bucket] = fill
        for place in range(starts[bucket], starts[bucket + 1]):
            row = np.int64(renumbered[rows[place] & low])
            if row >= 0:
                new_rows[fill] = rows[place] & ~low | np.uint64(row)
                fill += 1
    new_starts[starts.shape[0] - 1] = fill


@inlined
def substring_distance(difference, masks):
    """Return the number of bits of a substring that differ; difference: uint64 [W], the bits of two codes that differ."""
    distance = np.int64(0)
    for word in range(masks.shape[0]):
        distance += popcount(difference[word] & masks[word])
    return distance

"""The nearest centre of each code on a CPU: exact for few centres, and nearly always the nearest one of many.

With few centres, all are compared. With many, a table for each of some 16-bit parts of the codes lists the centres that differ
from a value of the part in one bit at most; a code is compared with the centres in the lists of its parts. Only a centre that
differs from a code in two bits or more of every part is missed.
"""

from typing import NamedTuple

import numpy as np

from ._bits import borrowing, compiled, lowest_bit, popcount, read_code, row_distance
from ._blocks import in_words, repeated
from ._rows import ROW_PATTERN, near_rows, next_near_rows, rows_per_step

_FEW = 128  # centres that are all compared
_MOST_PARTS = 16
_PART_BITS = 16
_SAMPLE = 256  # centres that a code is compared with if the tables have none for it
_MEMORY = 2**16  # codes whose centre is remembered, since codes of a gallery are often equal
_COMPARED_PER_CODE = 256  # centres that a code may be compared with on average


class CentreTables(NamedTuple):
    """Centres, and tables that find those near to a code."""

    centres: np.ndarray  # uint64 [C, W]
    sample: np.ndarray  # uint64 [S, W]: the centres that are compared with a code which the tables know nothing about
    sample_ids: np.ndarray  # int64 [S]
    parts: np.ndarray  # int64 [P]: the first bit of each part of the codes that has a table; none if all centres are compared
    starts: np.ndarray  # int32 [P, 2^16 + 1]: the list of each value of a part
    lists: np.ndarray  # int32 [P, 17 C]: numbers of centres


def centre_tables(centres: np.ndarray, sampled: np.ndarray) -> CentreTables:
    """Return tables for `centres`, uint8 [C, B], that suit the codes `sampled`, uint8 [S, B].

    If few of these codes are missing in the lists, those of the gallery are compared with all centres.
    """
    words = in_words(centres)
    everything = np.arange(len(words))
    if len(centres) <= _FEW:
        none = np.empty((0, 0), np.int32)
        return CentreTables(words, words, everything, np.empty(0, np.int64), none, none)
    count = centres.shape[1] // 2
    parts = _PART_BITS * np.unique(np.arange(_MOST_PARTS) * count // _MOST_PARTS)
    lists = [_lists(words, part) for part in parts]
    some = everything[:: max(len(words) // _SAMPLE, 1)]
    tables = CentreTables(words, words[some], some, parts, np.stack([x[0] for x in lists]), np.stack([x[1] for x in lists]))
    missing = _count_missing(in_words(sampled), tables)
    if missing * len(words) <= _COMPARED_PER_CODE * len(sampled):
        return tables._replace(sample=words, sample_ids=everything)
    return tables


def _lists(words: np.ndarray, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the list of each value begins, and the lists of centres that differ from the value in one bit at most."""
    values = (words[:, part // 64] >> np.uint64(part % 64)).astype(np.int64) & (2**_PART_BITS - 1)
    flips = np.array([0, *(1 << bit for bit in range(_PART_BITS))])
    near = (values[:, None] ^ flips).reshape(-1)
    starts = np.zeros(2**_PART_BITS + 1, np.int32)
    np.cumsum(np.bincount(near, minlength=2**_PART_BITS), out=starts[1:])
    return starts, (np.argsort(near, kind="stable") // len(flips)).astype(np.int32)


@borrowing
def _listed_centre(code, tables):
    """Return the nearest centre in the lists for a code, uint64 [W], and its distance; -1 and 64 W + 1 if they are empty."""
    nearest, distance = np.int64(-1), np.int64(64 * code.shape[0] + 1)
    for table in range(tables.parts.shape[0]):
        part = tables.parts[table]
        value = np.int64(code[part >> 6] >> np.uint64(part & 63) & np.uint64(2**_PART_BITS - 1))
        for i in range(tables.starts[table, value], tables.starts[table, value + 1]):
            centre = np.int64(tables.lists[table, i])
            apart = np.int64(0)
            for word in range(code.shape[0]):
                apart += popcount(code[word] ^ tables.centres[centre, word])
            if apart < distance:
                nearest, distance = centre, apart
    return nearest, distance


@compiled
def _count_missing(codes, tables):
    """Return for how many codes the lists are empty."""
    missing = 0
    for i in range(codes.shape[0]):
        missing += _listed_centre(codes[i], tables)[0] < 0
    return missing


@borrowing
def _sampled_centre(pattern, tables, apart):
    """Return the nearest centre of the sample for a code that is repeated to ROW_PATTERN words; apart: int64 [64], memory."""
    words, count = tables.sample.shape[1], tables.sample.shape[0]
    step, row = rows_per_step(words), np.int64(0)
    nearest, distance = np.int64(0), np.int64(64 * words + 1)
    address, code = np.int64(tables.sample.ctypes.data), np.int64(pattern.ctypes.data)
    row = next_near_rows(address, words, row, count, code, distance)
    while row + step <= count:
        hits = near_rows(address, words, row, code, distance, np.int64(apart.ctypes.data))
        while hits:
            i = lowest_bit(hits)
            hits &= hits - np.uint64(1)
            if apart[i] < distance:
                nearest, distance = row + i, apart[i]
        row = next_near_rows(address, words, row + step, count, code, distance)
    for i in range(row, count):
        here = row_distance(address, words, i, pattern)
        if here < distance:
            nearest, distance = i, here
    return tables.sample_ids[nearest]


@compiled
def assign(codes, first, stop, tables, assigned, counts):
    """Write the centres of the codes first .. stop - 1 of uint8 [N, B] to `assigned` [N], and count them in `counts` [C]."""
    words = tables.centres.shape[1]
    pattern = np.zeros(max(ROW_PATTERN, words), np.uint64)
    apart = np.empty(64, np.int64)
    known = np.zeros((_MEMORY, words), np.uint64)
    known_centres = np.full(_MEMORY, -1, np.int64)
    for i in range(first, stop):
        mixed = np.uint64(0)
        read_code(codes, i, pattern)
        for word in range(words):
            mixed = (mixed ^ pattern[word]) * np.uint64(0x9E3779B97F4A7C15)
        place = np.int64(mixed >> np.uint64(48))
        is_known = known_centres[place] >= 0
        for word in range(words):
            is_known &= known[place, word] == pattern[word]
        if not is_known:
            nearest, _ = _listed_centre(pattern[:words], tables)
            if nearest < 0:
                for word in range(words, pattern.shape[0]):
                    pattern[word] = pattern[word - words]
                nearest = _sampled_centre(pattern, tables, apart)
            known_centres[place] = nearest
            known[place] = pattern[:words]
        assigned[i] = known_centres[place]
        counts[known_centres[place]] += 1


_LEADERS_APART = 8  # a code is a new leader if no other is within 1 / _LEADERS_APART of the bits


def find_centres(sample: np.ndarray, weights: np.ndarray, most: int) -> np.ndarray:
    """Return up to `most` centres, uint8 [C, B], of distinct codes `sample`, uint8 [S, B], the most frequent ones first.

    Codes that have no leader within an eighth of the bits become leaders, in their order. Each leader is then replaced, twice, by
    the bits that most codes of its group have; leaders that only one code follows are dropped.
    weights: int64 [S], how often each code occurs.
    """
    words = in_words(sample)
    leaders = words[_leaders(repeated(words, ROW_PATTERN), words.shape[1], most, 8 * sample.shape[1] // _LEADERS_APART)]
    width = sample.shape[1]
    for _ in range(2):
        centres = leaders.view(np.uint8)[:, :width]
        assigned, members = np.empty(len(sample), np.int32), np.zeros(len(centres), np.int64)
        assign(sample, 0, len(sample), centre_tables(centres, sample[:4096]), assigned, members)
        leaders = _majorities(words, weights, assigned, leaders)
        if members.max() > 1:
            leaders = leaders[members > 1]
    return np.unique(leaders.view(np.uint8)[:, :width], axis=0)


@compiled
def _leaders(patterns, words, most, radius):
    """Return the codes, int64 [L], that have no leader within `radius` before them, at most `most`."""
    leaders, numbers = np.empty((most, words), np.uint64), np.empty(most, np.int64)
    step, count = rows_per_step(words), 0
    address, apart = np.int64(leaders.ctypes.data), np.empty(64, np.int64)
    for i in range(patterns.shape[0]):
        code, row = np.int64(patterns[i].ctypes.data), np.int64(0)
        row = next_near_rows(address, words, row, count, code, radius + 1)
        is_near = row + step <= count and near_rows(address, words, row, code, radius + 1, np.int64(apart.ctypes.data)) != 0
        while row < count and not is_near:
            is_near = row_distance(address, words, row, patterns[i]) <= radius
            row += 1
        if not is_near:
            leaders[count], numbers[count] = patterns[i, :words], i
            count += 1
            if count == most:
                break
    return numbers[:count]


@compiled
def _majorities(codes, weights, assigned, leaders):
    """Return for each leader the bits that most of its codes have, uint64 [L, W]; a leader without codes stays."""
    count, words = leaders.shape
    votes = np.zeros((count, 64 * words), np.int64)
    for i in range(codes.shape[0]):
        for bit in range(64 * words):
            is_set = np.int64(codes[i, bit >> 6] >> np.uint64(bit & 63) & np.uint64(1))
            votes[assigned[i], bit] += weights[i] * (2 * is_set - 1)
    centres = leaders.copy()
    for centre in range(count):
        for bit in range(64 * words):
            flag = np.uint64(1) << np.uint64(bit & 63)
            if votes[centre, bit] > 0:
                centres[centre, bit >> 6] |= flag
            elif votes[centre, bit] < 0:
                centres[centre, bit >> 6] &= ~flag
    return centres

"""Sorting by digits on a CPU: of packed codes, and of numbers in memory that the caller owns."""

import numpy as np

from ._bits import compiled
from ._blocks import in_words
from ._keys import sort_by_insertion

_DIGIT = 8  # bits; 256 counters stay in the first-level cache
_FEW = 24  # numbers that are sorted faster by insertion


def sorted_order(codes: np.ndarray) -> np.ndarray:
    """Return the order, int64 [N], that sorts codes uint8 [N, B] by their bytes, the first byte first, stably."""
    order = np.arange(len(codes), dtype=np.int64)
    columns = in_words(codes).T  # [W, N]
    spare, keys, spare_keys = np.empty_like(order), np.empty(len(codes), np.uint64), np.empty(len(codes), np.uint64)
    for column in columns[::-1]:
        sort_by_word(np.ascontiguousarray(column).byteswap(), order, spare, keys, spare_keys)
    return order


@compiled
def sort_by_word(words, order, spare, keys, spare_keys):
    """Sort `order`, int64 [N], by the words that it refers to, uint64 [N], stably; the other arrays [N] are memory to work in."""
    count = order.shape[0]
    for i in range(count):
        keys[i] = words[order[i]]
    sources, targets, source_keys, target_keys = order, spare, keys, spare_keys
    counters = np.empty(1 << _DIGIT, np.int64)
    for shift in range(0, 64, _DIGIT):
        if not _count_digits(source_keys, shift, counters):
            continue
        for i in range(count):
            digit = source_keys[i] >> np.uint64(shift) & np.uint64((1 << _DIGIT) - 1)
            place = counters[digit]
            counters[digit] += 1
            targets[place], target_keys[place] = sources[i], source_keys[i]
        sources, targets, source_keys, target_keys = targets, sources, target_keys, source_keys
    if sources.ctypes.data != order.ctypes.data:
        order[:] = sources


@compiled
def _count_digits(keys, shift, counters):
    """Set `counters` to the place of the first key of each digit; return False if all keys have the same digit."""
    counters[:] = 0
    for key in keys:
        counters[key >> np.uint64(shift) & np.uint64((1 << _DIGIT) - 1)] += 1
    total = 0
    for digit in range(counters.shape[0]):
        here = counters[digit]
        if here == keys.shape[0]:
            return False
        counters[digit] = total
        total += here
    return True


@compiled
def sort_numbers(numbers, spare, largest):
    """Sort int64 `numbers` [N], 0 .. `largest`, in ascending order; `spare` is memory for N more."""
    count = numbers.shape[0]
    if count <= _FEW:
        sort_by_insertion(numbers)
        return
    sources, targets = numbers, spare
    counters = np.empty(1 << _DIGIT, np.int64)
    shift = 0
    while largest >> shift:
        counters[:] = 0
        for i in range(count):
            counters[sources[i] >> shift & ((1 << _DIGIT) - 1)] += 1
        total = 0
        for digit in range(counters.shape[0]):
            counters[digit], total = total, total + counters[digit]
        for i in range(count):
            digit = sources[i] >> shift & ((1 << _DIGIT) - 1)
            targets[counters[digit]] = sources[i]
            counters[digit] += 1
        sources, targets = targets, sources
        shift += _DIGIT
    if sources.ctypes.data != numbers.ctypes.data:
        numbers[:] = sources[:count]

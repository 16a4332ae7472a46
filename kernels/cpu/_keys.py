"""Keys of codes, (hash of some of their bits, row), and their radix sort, which brings equal codes together.

A key has the hash in its upper 32 bits and the row in its lower 32 bits. Only the `hash_bits` upper bits of the hash are sorted
by passes over all keys, which is enough to leave few keys between equal ones; then the keys that share those bits are sorted.
"""

import numpy as np

from ._bits import compiled, inlined

ROW_BITS = 32
_DIGIT = 11  # bits of a key that a pass sorts by
_SHORT = 64  # keys that are sorted by insertion
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def sorted_keys(words: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the keys, uint64 [N], of codes uint64 [N, W] in ascending order; `mask` uint64 [W] says which bits are hashed."""
    keys = np.empty(len(words), np.uint64)
    _fill_keys(words, mask, keys)
    passes = min(3, -(-max(len(words), 2).bit_length() // _DIGIT))
    scratch = np.empty_like(keys)
    _sort_keys(keys, scratch, passes)
    return keys if passes % 2 == 0 else scratch


@compiled
def _fill_keys(words, mask, keys):
    for row in range(words.shape[0]):
        value = np.uint64(0)
        for word in range(words.shape[1]):
            value = (value ^ (words[row, word] & mask[word])) * _MULTIPLIER
            value ^= value >> np.uint64(29)
        value *= _MULTIPLIER
        keys[row] = (value >> np.uint64(ROW_BITS)) << np.uint64(ROW_BITS) | np.uint64(row)


@inlined
def sort_by_digits(keys, scratch, low, passes):
    """Sort by `passes` digits from bit `low` on; the result is in `scratch` where `passes` is odd. Equal keys stay in order."""
    for _ in range(passes):
        shift = np.uint64(low)
        places = np.zeros((1 << _DIGIT) + 1, np.int64)
        for key in keys:
            places[(key >> shift & np.uint64((1 << _DIGIT) - 1)) + np.uint64(1)] += 1
        for digit in range(1 << _DIGIT):
            places[digit + 1] += places[digit]
        for key in keys:
            digit = key >> shift & np.uint64((1 << _DIGIT) - 1)
            scratch[np.uint64(places[digit])] = key
            places[digit] += 1
        keys, scratch = scratch, keys
        low += _DIGIT


@inlined
def sort_by_insertion(keys):
    """Sort few keys, or keys that are nearly in order."""
    for i in range(1, keys.shape[0]):
        key = keys[i]
        j = i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


@compiled
def _sort_keys(keys, scratch, passes):
    """Sort the keys by the upper passes * _DIGIT bits with passes over all keys, then those that share these bits."""
    low = 64 - passes * _DIGIT
    sort_by_digits(keys, scratch, low, passes)
    if passes % 2:
        keys, scratch = scratch, keys
    first = 0
    while first < keys.shape[0]:
        last = first + 1
        mixed = False
        while last < keys.shape[0] and keys[last] >> np.uint64(low) == keys[first] >> np.uint64(low):
            mixed |= keys[last] >> np.uint64(ROW_BITS) != keys[first] >> np.uint64(ROW_BITS)
            last += 1
        if mixed and last - first <= _SHORT:
            sort_by_insertion(keys[first:last])
        elif mixed:
            # Two passes, so that the result is where it was, sort by the remaining bits of the hash.
            sort_by_digits(keys[first:last], scratch[first:last], ROW_BITS, 2)
        first = last

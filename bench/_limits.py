"""Measure limits of the machine: how fast memory is read, and how fast codes in the cache are scored."""

import time

import numba
import numpy as np
from orthohash_triton.kernels.cpu import _rows
from orthohash_triton.kernels.cpu._threads import run_all, thread_count


@numba.njit(nogil=True)
def _read(words, start, stop):
    """Read every word from start to stop and do nothing else."""
    a = b = c = d = np.uint64(0)
    for i in range(start, stop - 3, 4):
        a |= words[i]
        b |= words[i + 1]
        c |= words[i + 2]
        d |= words[i + 3]
    return a | b | c | d


@numba.njit(nogil=True)
def _score(codes, words, rows, query, repeats):
    """Score the same block of rows repeatedly, against a limit that no row is below."""
    found = np.int64(0)
    for i in range(repeats):
        found += _rows.next_near_rows(codes, words, np.int64(0), rows, query, -np.int64(i))
    return found


def memory_seconds(words: np.ndarray) -> float:
    """Return the shortest time in seconds in which all threads together read uint64 `words` once."""
    parts = thread_count()
    bounds = [len(words) * part // parts for part in range(parts + 1)]
    tasks = [(words, *bounds[part : part + 2]) for part in range(parts)]

    def summed(words: np.ndarray, start: int, stop: int) -> None:
        words[start:stop].sum()

    return min(_best(lambda: run_all(_read, tasks)), _best(lambda: run_all(summed, tasks)))


def scoring_rate(bits: int) -> float:
    """Return how many distances per second one thread scores: one query, rows of `bits` bits in the first-level cache."""
    words = max(bits // 64, 1)
    rows = 8192 // (8 * words) // 32 * 32 or 4
    codes = np.full((rows, words), 2**63, np.uint64)
    query = np.zeros(max(words, _rows.ROW_PATTERN), np.uint64)
    repeats = 20_000
    seconds = _best(lambda: _score(codes.ctypes.data, words, rows, query.ctypes.data, repeats))
    return rows * repeats / seconds


def _best(function, tries: int = 5) -> float:
    function()
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)

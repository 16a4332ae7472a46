"""The pairs of distinct codes within a radius, each found once, in chunks of bounded size."""

import threading
from collections.abc import Callable

import numpy as np

from .._substrings import Costs, Plan, plan, sampled
from ._bits import compiled, inlined, popcount
from ._keys import ROW_BITS, sorted_keys
from ._threads import run_all, thread_count

Take = Callable[[np.ndarray, np.ndarray], bool]
"""Take a chunk of pairs of entries, uint64 a << 32 | b with a < b, and their distances, int32; return whether to go on."""

CHUNK = 2**19  # pairs in a chunk
_TILE = 1024  # codes of a run that are compared with another one while they stay in the first-level cache
_LANES = 32  # distances that are computed together
_FEW = 6  # codes of a run that are compared where they are
_PARTS = 16  # parts of the comparison of every pair, for each thread
_COSTS = Costs(row=30, candidate=2, pair=0.5)  # nanoseconds, estimated for a core with AVX2


def plan_for(codes: np.ndarray, limit: int) -> Plan:
    """Return the plan for the pairs nearer than `limit`, which is at least 1, among the distinct codes uint64 [E, W]."""
    return plan(codes[sampled(len(codes))], len(codes), limit - 1, _COSTS)


def find_near(codes: np.ndarray, limit: int, chosen: Plan, take: Take, advance: Callable[[], None] = lambda: None) -> None:
    """Pass every pair of codes nearer than `limit` to `take`, from one thread at a time; stop where it returns False.

    codes: uint64 [E, W], all distinct; advance: called after each step of `steps`.
    """
    order = _words_by_use(codes)
    lock = threading.Lock()
    going = [True]

    def locked(pairs: np.ndarray, distances: np.ndarray) -> bool:
        with lock:
            going[0] = going[0] and take(pairs, distances)
        return going[0]

    def join(table: tuple[int, ...], part: int) -> None:
        if not going[0]:
            return
        keys = sorted_keys(codes, chosen.mask(table)) if table else np.arange(len(codes), dtype=np.uint64)
        first, last = (0, len(codes)) if table else (_part_start(len(codes), part), _part_start(len(codes), part + 1))
        _join_table(codes, order, keys, chosen.masks, np.array(table, np.int64), limit, first, last, locked)
        with lock:
            advance()

    run_all(join, [(table, part) for table in chosen.tables for part in range(1 if table else _parts(len(codes)))])


def steps(count: int, chosen: Plan) -> int:
    """Return how often `find_near` advances for `count` codes."""
    return len(chosen.tables) if chosen.tables != [()] else _parts(count)


def _parts(count: int) -> int:
    return max(1, min(_PARTS * thread_count(), count // _TILE))


def _part_start(count: int, part: int) -> int:
    """Return the first tile of a part, where the parts have about the same number of pairs of a tile and an earlier code."""
    tiles = -(-count // _TILE)
    return round(tiles * (part / _parts(count)) ** 0.5) * _TILE


def _words_by_use(codes: np.ndarray) -> np.ndarray:
    """Return the words of a code, int64 [W], those first that tell most codes apart."""
    few = codes[sampled(len(codes))]
    ones = np.unpackbits(few.view(np.uint8), axis=1, bitorder="little").sum(0, dtype=np.int64)
    return np.argsort(-np.minimum(ones, len(few) - ones).reshape(-1, 64).sum(1), kind="stable")


def _join_table(
    codes: np.ndarray, order: np.ndarray, keys: np.ndarray, masks: np.ndarray, table: np.ndarray, limit: int,
    first: int, last: int, take: Take,
) -> None:  # fmt: skip
    """Pass the pairs that a table finds to `take`; of runs longer than a tile, those whose later code is in first .. last - 1."""
    planes = np.empty((codes.shape[1], _TILE + _LANES), np.uint64)
    rows, distances_of_lanes = np.empty(_TILE, np.int64), np.empty(_LANES, np.int64)
    state = np.array([0, first, 0], np.int64)
    while state[0] < len(keys):
        pairs, distances = np.empty(CHUNK, np.uint64), np.empty(CHUNK, np.int32)
        fill = _join_runs(
            codes, order, keys, masks, table, limit, first, last, planes, rows, distances_of_lanes, state, pairs, distances
        )
        if fill and not take(pairs[:fill].copy() if 2 * fill < CHUNK else pairs[:fill], distances[:fill].copy()):
            return


@compiled
def _join_runs(codes, order, keys, masks, table, limit, first, last, planes, rows, lanes, state, pairs, distances):
    """Compare the codes of every run of equal keys until the output may be full; return the number of pairs that were written.

    state: where to continue: the start of a run, the first code of a tile in it, and the code that is compared with the tile.
    """
    fill = 0
    start, tile, row = state[0], state[1], state[2]
    while start < keys.shape[0]:
        stop = start + 1
        while stop < keys.shape[0] and keys[stop] >> np.uint64(ROW_BITS) == keys[start] >> np.uint64(ROW_BITS):
            stop += 1
        if stop - start <= _FEW:
            if fill + _FEW * _FEW > pairs.shape[0]:
                break
            fill = _compare_few(codes, keys, masks, table, limit, start, stop, pairs, distances, fill)
        else:
            while tile < min(last, stop - start):
                length = min(_TILE, stop - start - tile)
                _load_tile(codes, order, keys, start + tile, length, planes, rows)
                while row < tile + length - 1:
                    if fill + length > pairs.shape[0]:
                        state[0], state[1], state[2] = start, tile, row
                        return fill
                    code = np.int64(keys[start + row] & np.uint64((1 << ROW_BITS) - 1))
                    begin = max(0, row + 1 - tile)
                    fill = _compare_tile(
                        codes, order, code, masks, table, limit, planes, rows, lanes, begin, length, pairs, distances, fill
                    )
                    row += 1
                tile, row = tile + length, 0
        start, tile, row = stop, first, 0
    state[0], state[1], state[2] = start, tile, row
    return fill


@inlined
def _compare_few(codes, keys, masks, table, limit, start, stop, pairs, distances, fill):
    for i in range(start, stop - 1):
        a = np.int64(keys[i] & np.uint64((1 << ROW_BITS) - 1))
        for j in range(i + 1, stop):
            b = np.int64(keys[j] & np.uint64((1 << ROW_BITS) - 1))
            distance = np.int64(0)
            for word in range(codes.shape[1]):
                distance += popcount(codes[a, word] ^ codes[b, word])
            if distance < limit and _is_first(codes, a, b, masks, table):
                pairs[fill] = np.uint64(a) << np.uint64(32) | np.uint64(b)
                distances[fill] = distance
                fill += 1
    return fill


@compiled
def _load_tile(codes, order, keys, start, length, planes, rows):
    """Write the codes of a part of a run to word planes, the words in the order `order`."""
    for i in range(length):
        row = np.int64(keys[start + i] & np.uint64((1 << ROW_BITS) - 1))
        rows[i] = row
        for word in range(order.shape[0]):
            planes[word, i] = codes[row, order[word]]


@inlined
def _compare_tile(codes, order, code, masks, table, limit, planes, rows, lanes, begin, length, pairs, distances, fill):
    """Compare a code with those of the tile from `begin` on. A group of codes is left as soon as all are beyond the limit."""
    query = codes[code, order[0]]
    words = order.shape[0]
    while begin < length:
        near = False
        for lane in range(_LANES):
            lanes[lane] = popcount(planes[0, begin + lane] ^ query)
            near |= lanes[lane] < limit
        word = 1
        while near and word < words:
            other = codes[code, order[word]]
            near = False
            for lane in range(_LANES):
                lanes[lane] += popcount(planes[word, begin + lane] ^ other)
                near |= lanes[lane] < limit
            word += 1
        if near:
            for lane in range(min(_LANES, length - begin)):
                if lanes[lane] < limit and _is_first(codes, code, rows[begin + lane], masks, table):
                    pairs[fill] = np.uint64(code) << np.uint64(32) | np.uint64(rows[begin + lane])
                    distances[fill] = lanes[lane]
                    fill += 1
        begin += _LANES
    return fill


@inlined
def _is_first(codes, a, b, masks, table):
    """Return whether `table` is the first one that finds a pair: its substrings are the first on which both are equal."""
    substring = 0
    for found in range(table.shape[0]):
        while not _are_equal_on(codes, a, b, masks, substring):
            substring += 1
        if substring != table[found]:
            return False
        substring += 1
    return True


@inlined
def _are_equal_on(codes, a, b, masks, substring):
    differing = np.uint64(0)
    for word in range(codes.shape[1]):
        differing |= (codes[a, word] ^ codes[b, word]) & masks[substring, word]
    return differing == 0

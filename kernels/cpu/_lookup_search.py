"""Search of the tables of a lookup.

A block of queries takes one step after the other: a step of table t and weight w looks into all buckets whose substring differs
from the query's in w bits. Reading a bucket's start, its rows and their codes are accesses to memory that wait for each other, so
many buckets are searched together: the starts of all of them are requested, then the rows, then the codes.

A code is reported only by the bucket whose substring it really has, and only at the first step that finds it; so none is reported
twice, and no set of the codes found is kept.
"""

from typing import NamedTuple

import numpy as np

from ._bits import compiled, inlined, popcount, prefetch
from ._lookup_tables import Tables, row_word, substring_distance

BLOCK = 256  # queries that take each step together
POSITION_BITS, DISTANCE_BITS = 40, 16  # of a key: (query of the block, distance, position)
_TOGETHER = 1024  # buckets that are searched together, and codes that are requested together
_PLACE_BITS = 8  # of the place of a bit in a substring; the places of a bucket's differing bits are kept in one word
_FEW = 32  # keys that are sorted by insertion


class Block(NamedTuple):
    """A block of queries and what is known of them."""

    queries: np.ndarray  # uint64 [Q, W]
    limits: np.ndarray  # int64 [Q]
    budget: np.int64
    compares: np.bool_  # False: the buckets are looked up and their codes counted, but not compared
    met: np.ndarray  # int64 [Q]: buckets and codes met; -1 for a query that gave up
    active: np.ndarray  # bool [Q]: whether the query takes the next step
    counts: np.ndarray  # int64 [Q]: codes found
    nearest: np.ndarray  # int64 [Q, S + 1]: codes found at each distance; [0, 0] if only all codes are of interest


class Gallery(NamedTuple):
    """The codes that are searched."""

    address: np.int64
    width: np.int64  # bytes
    allowed: np.ndarray  # bool [N]: which of them may be found; empty for all
    tables: Tables


class Waiting(NamedTuple):
    """Buckets whose starts are requested, and codes that are requested."""

    owners: np.ndarray  # int64: the query of each bucket
    buckets: np.ndarray  # uint64
    places: np.ndarray  # uint64: the places of the substring's bits that differ from the query's, packed
    rows: np.ndarray  # int64: rows whose codes are requested
    of_rows: np.ndarray  # int64: the entry in `buckets` of each of them
    difference: np.ndarray  # uint64 [W]: the bits of a code that differ from the query's


@compiled
def search(queries, limits, k, gallery, budget, compares, met):
    """Return the codes nearer than the limits as (counts int64 [Q], keys), by query, distance and position.

    queries: uint64 [Q, W]; limits: int64 [Q]; k: 0, or a number of codes with which a query is content: it stops as soon as its k
    nearest codes are known, and only k codes of it are returned, or none if there are not so many within its limit; budget: the
    most buckets and codes that a query may meet; met: int64 [Q], set to their number, or to -1 for a query that gave up and of
    which no codes are returned.
    """
    counts = np.zeros(queries.shape[0], np.int64)
    keys, fill = np.empty(256, np.uint64), np.int64(0)
    steps = gallery.tables.steps.shape[0]
    words = queries.shape[1]
    waiting = Waiting(
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.uint64),
        np.empty(_TOGETHER, np.uint64),
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.int64),
        np.empty(words, np.uint64),
    )
    for first in range(0, queries.shape[0], BLOCK):
        last = min(first + BLOCK, queries.shape[0])
        nearest = np.zeros((last - first, steps + 1) if k else (0, 0), np.int64)
        active = np.empty(last - first, np.bool_)
        block = Block(
            queries[first:last], limits[first:last], budget, compares, met[first:last], active, counts[first:last], nearest
        )
        found, count = _search_block(block, k, gallery, waiting)
        keys = with_room(keys, fill, count)
        fill = _put_in_order(found, count, block, k, keys, fill)
    return counts, keys[:fill]


@compiled
def _search_block(block, k, gallery, waiting):
    """Return the keys of the codes that a block of queries finds, in the order in which they are found, and their number."""
    tables = gallery.tables
    steps = np.int64(0)
    for q in range(block.limits.shape[0]):
        servable = block.limits[q] <= tables.steps.shape[0]
        block.met[q] = 0 if servable else -1
        block.active[q] = servable and block.limits[q] > 0
        steps = max(steps, block.limits[q] if servable else 0)
    deltas = np.empty(tables.places.shape[1], np.uint64)
    found, fill = np.empty(256, np.uint64), np.int64(0)
    for step in range(steps):
        waits = np.int64(0)
        for q in range(block.active.shape[0]):
            if block.active[q]:
                found, fill, waits = _request_buckets(block, q, step, gallery, waiting, waits, deltas, found, fill)
        found, fill = _open_buckets(block, step, gallery, waiting, waits, found, fill)
        for q in range(block.active.shape[0]):
            enough = np.int64(0)
            if k:
                for distance in range(step + 1):
                    enough += block.nearest[q, distance]
            block.active[q] = block.active[q] and step + 1 < block.limits[q] and (k == 0 or enough < k)
    return found, fill


@compiled
def _request_buckets(block, q, step, gallery, waiting, waits, deltas, found, fill):
    """Request the buckets of a query's step; where too many wait, open them first. Returns (found, fill, waits)."""
    tables = gallery.tables
    table, weight = tables.steps[step, 0], tables.steps[step, 1]
    width = tables.widths[table]
    total = _sum_and_deltas(block.queries[q], tables, table, deltas)
    chosen = np.arange(weight)
    more = True
    while more:  # one round for each choice of all differing bits but the last one
        base, packed = total, np.uint64(0)
        for i in range(weight - 1):
            base += deltas[chosen[i]]
            packed |= np.uint64(chosen[i]) << np.uint64(_PLACE_BITS * i)
        lowest = chosen[weight - 2] + 1 if weight > 1 else np.int64(0)
        for last in range(lowest, width if weight else 1):
            if waits == _TOGETHER:
                found, fill = _open_buckets(block, step, gallery, waiting, waits, found, fill)
                waits = np.int64(0)
                if not block.active[q]:
                    return found, fill, waits
            changed, place = base, packed
            if weight:
                changed += deltas[last]
                place |= np.uint64(last) << np.uint64(_PLACE_BITS * (weight - 1))
            bucket = changed >> tables.shift
            prefetch(_address(tables.starts, table, bucket))
            waiting.owners[waits], waiting.buckets[waits], waiting.places[waits] = q, bucket, place
            waits += 1
        more = _advance(chosen, weight - 1, width - 1)
    return found, fill, waits


@inlined
def _address(array, table, index):
    """Return the address of an element of a table's row."""
    return np.int64(array.ctypes.data) + (table * np.int64(array.shape[1]) + np.int64(index)) * np.int64(array.itemsize)


@inlined
def _sum_and_deltas(query, tables, table, deltas):
    """Return the sum whose highest bits are the query's hash; `deltas` receives its change for each bit of the substring."""
    total = np.uint64(0)
    for word in range(query.shape[0]):
        total += (query[word] & tables.masks[table, word]) * tables.factors[table, word]
    for i in range(tables.widths[table]):
        word, bit = tables.places[table, i] // 64, np.uint64(tables.places[table, i] % 64)
        delta = tables.factors[table, word] << bit
        deltas[i] = np.uint64(0) - delta if query[word] >> bit & np.uint64(1) else delta
    return total


@inlined
def _advance(chosen, count, width):
    """Make the first `count` entries of `chosen` the next ascending numbers below `width`; return False if they were the last."""
    i = count - 1
    while i >= 0 and chosen[i] == width - count + i:
        i -= 1
    if i < 0:
        return False
    chosen[i] += 1
    for later in range(i + 1, count):
        chosen[later] = chosen[later - 1] + 1
    return True


@compiled
def _open_buckets(block, step, gallery, waiting, waits, found, fill):
    """Look into the buckets that wait: count their codes, then request them and compare them. Returns (found, fill)."""
    tables = gallery.tables
    table = tables.steps[step, 0]
    left = np.int64(0)
    for i in range(waits):
        q, bucket = waiting.owners[i], waiting.buckets[i]
        if block.met[q] < 0:
            continue
        first, last = tables.starts[table, bucket], tables.starts[table, bucket + np.uint64(1)]
        block.met[q] += 1 + np.int64(last - first)
        if block.met[q] > block.budget:
            block.met[q] = -1
            block.active[q] = False
        elif last > first:
            prefetch(_address(tables.rows, table, first))
            waiting.owners[left], waiting.buckets[left], waiting.places[left] = q, bucket, waiting.places[i]
            left += 1
    if not block.compares:
        return found, fill
    count = np.int64(0)
    for i in range(left):
        if block.met[waiting.owners[i]] < 0:
            continue
        bucket = waiting.buckets[i]
        for place in range(tables.starts[table, bucket], tables.starts[table, bucket + np.uint64(1)]):
            if count == _TOGETHER:
                found, fill = _compare(block, step, gallery, waiting, count, found, fill)
                count = np.int64(0)
            row = np.int64(tables.rows[table, place])
            prefetch(gallery.address + row * gallery.width)
            waiting.rows[count], waiting.of_rows[count] = row, i
            count += 1
    return _compare(block, step, gallery, waiting, count, found, fill)


@compiled
def _compare(block, step, gallery, waiting, count, found, fill):
    """Compare the codes that are requested with their queries, and add keys for those that are found. Returns (found, fill)."""
    tables = gallery.tables
    found = with_room(found, fill, count)
    difference = waiting.difference
    for i in range(count):
        row, entry = waiting.rows[i], waiting.of_rows[i]
        q = waiting.owners[entry]
        address = gallery.address + row * gallery.width
        distance = np.int64(0)
        for word in range(difference.shape[0]):
            difference[word] = row_word(address, gallery.width, word) ^ block.queries[q, word]
            distance += popcount(difference[word])
        if distance >= block.limits[q] or not (gallery.allowed.shape[0] == 0 or gallery.allowed[row]):
            continue
        if _is_first(difference, step, tables, waiting.places[entry]):
            found[fill] = (np.uint64(q) << np.uint64(DISTANCE_BITS) | np.uint64(distance)) << np.uint64(
                POSITION_BITS
            ) | np.uint64(row)
            fill += 1
            block.counts[q] += 1
            if block.nearest.shape[0]:
                block.nearest[q, distance] += 1
    return found, fill


@inlined
def _is_first(difference, step, tables, places):
    """Return whether a code has the substring of its bucket, which differs at `places`, and no earlier step has found it."""
    own, weight = tables.steps[step, 0], tables.steps[step, 1]
    for i in range(weight):
        bit = tables.places[own, np.int64(places >> np.uint64(_PLACE_BITS * i)) & (2**_PLACE_BITS - 1)]
        if not difference[bit // 64] >> np.uint64(bit % 64) & np.uint64(1):
            return False
    heaviest = tables.step_of.shape[1] - 1
    for table in range(tables.masks.shape[0]):
        distance = substring_distance(difference, tables.masks[table])
        if tables.step_of[table, min(distance, heaviest)] < step or (table == own and distance != weight):
            return False
    return True


@compiled
def with_room(keys, fill, count):
    """Return `keys`, or a larger copy of its first `fill` entries, with room for `count` more."""
    if fill + count <= keys.shape[0]:
        return keys
    larger = np.empty(max(fill + count, 2 * keys.shape[0]), np.uint64)
    larger[:fill] = keys[:fill]
    return larger


@compiled
def _put_in_order(found, count, block, k, keys, fill):
    """Add the keys found by a block to `keys`, by query, distance and position. Returns the number of keys."""
    ends = np.cumsum(block.counts)
    places = ends - block.counts
    ordered, spare = np.empty(count, np.uint64), np.empty(count, np.uint64)
    for i in range(count):
        q = found[i] >> np.uint64(POSITION_BITS + DISTANCE_BITS)
        ordered[places[q]] = found[i]
        places[q] += 1
    for q in range(block.counts.shape[0]):
        of_query = ordered[ends[q] - block.counts[q] : ends[q]]
        if block.met[q] < 0 or block.counts[q] < k:
            block.counts[q] = 0
            continue
        sort_keys(of_query, spare)
        if k:
            block.counts[q] = k
        keys[fill : fill + block.counts[q]] = of_query[: block.counts[q]]
        fill += block.counts[q]
    return fill


@compiled
def sort_keys(keys, spare):
    """Sort `keys` in ascending order; spare: memory for as many."""
    count = keys.shape[0]
    for first in range(0, count, _FEW):
        for i in range(first + 1, min(first + _FEW, count)):
            key, place = keys[i], i
            while place > first and keys[place - 1] > key:
                keys[place] = keys[place - 1]
                place -= 1
            keys[place] = key
    length = _FEW
    while length < count:
        for first in range(0, count, 2 * length):
            middle, last = min(first + length, count), min(first + 2 * length, count)
            a, b = first, middle
            for place in range(first, last):
                if a < middle and (b == last or keys[a] <= keys[b]):
                    spare[place] = keys[a]
                    a += 1
                else:
                    spare[place] = keys[b]
                    b += 1
        keys[:] = spare[:count]
        length *= 2

"""Search of the tables of a lookup.

A block of queries takes one step after the other: a step of table t and weight w looks into all buckets whose substring differs
from the query's in w bits. Reading a bucket's start, its rows and their codes are accesses to memory that wait for each other, so
many buckets are searched together: the starts of all of them are requested, then the rows, then the codes of those rows whose
signature does not exclude them.

A code is reported only by the bucket whose substring it really has, and only at the first step that finds it; so none is reported
twice, and no set of the codes found is kept.
"""

from typing import NamedTuple

import numpy as np

from ._bits import compiled, inlined, popcount, prefetch, word_at
from ._lookup_tables import Tables, row_word, signature, substring_distance

BLOCK = 256  # queries that take each step together
POSITION_BITS, DISTANCE_BITS = 40, 16  # of a key: (query of the block, distance, position)
_TOGETHER = 1024  # buckets that are searched together, and codes that are requested together
_PLACE_BITS = 8  # of the place of a bit in a substring; the places of a bucket's differing bits are kept in one word
_FEW = 32  # keys that are sorted by insertion


class Block(NamedTuple):
    """A block of queries and what is known of them."""

    queries: np.ndarray  # uint64 [Q, W]
    signatures: np.ndarray  # uint64 [Q]
    sums: np.ndarray  # uint64 [T, Q]: the hash of each query's substring is in the highest bits
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
    """Buckets whose starts are requested by queries and steps, then those of them that hold codes, then codes requested."""

    owners: np.ndarray  # int64: the query of each request
    steps: np.ndarray  # int64: its step
    ends: np.ndarray  # int64: the end of its buckets among all that wait
    buckets: np.ndarray  # int64: each bucket among those of its table
    places: np.ndarray  # uint64: the places of the substring's bits that differ from the query's, packed
    spans: np.ndarray  # int64 [.., 2]: the rows of each bucket that holds codes
    requests: np.ndarray  # int64: the request that it belongs to
    rows: np.ndarray  # int64: rows whose codes are requested
    of_rows: np.ndarray  # int64: the bucket of each of them


@compiled
def _nothing_waits():
    return Waiting(
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.uint64),
        np.empty((_TOGETHER, 2), np.int64),
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.int64),
        np.empty(_TOGETHER, np.int64),
    )


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
    number = np.int64(gallery.tables.steps.shape[0])
    waiting = _nothing_waits()
    for first in range(0, queries.shape[0], BLOCK):
        last = min(first + BLOCK, queries.shape[0])
        steps = np.int64(0)
        active = np.empty(last - first, np.bool_)
        for q in range(first, last):
            limits[q] = max(limits[q], 0)
            possible = limits[q] <= number and (k > 0 or gallery.tables.buckets[limits[q]] <= budget)
            met[q] = 0 if possible else -1
            active[q - first] = possible and limits[q] > 0
            if active[q - first]:
                steps = max(steps, limits[q])
        nearest = np.zeros((last - first, steps + 1) if k else (0, 0), np.int64)
        sums = _sums(queries[first:last], gallery.tables)
        of_block = limits[first:last], budget, compares, met[first:last], active, counts[first:last], nearest
        signatures = np.empty(last - first, np.uint64)
        for q in range(first, last):
            address, words = np.int64(queries[q].ctypes.data), queries.shape[1]
            signatures[q - first] = signature(address, 8 * words, words, gallery.tables.row_bits)
        block = Block(queries[first:last], signatures, sums, *of_block)
        found, count = _search_block(block, steps, k, gallery, waiting)
        keys = with_room(keys, fill, count)
        fill = _put_in_order(found, count, block, k, keys, fill)
    return counts, keys[:fill]


@compiled
def _sums(queries, tables):
    """Return the sums whose highest bits are the hashes of the queries' substrings, uint64 [T, Q]."""
    sums = np.zeros((tables.masks.shape[0], queries.shape[0]), np.uint64)
    for table in range(tables.masks.shape[0]):
        for word in range(queries.shape[1]):
            mask, factor = tables.masks[table, word], tables.factors[table, word]
            if mask:
                for q in range(queries.shape[0]):
                    sums[table, q] += (queries[q, word] & mask) * factor
    return sums


@compiled
def _search_block(block, steps, k, gallery, waiting):
    """Return the keys of the codes that a block of queries finds, in the order in which they are found, and their number."""
    tables = gallery.tables
    deltas = np.empty(tables.places.shape[1], np.uint64)
    found, fill = np.empty(256, np.uint64), np.int64(0)
    waits = (np.int64(0), np.int64(0))  # requests, and buckets
    for step in range(steps):
        table, weight = tables.steps[step, 0], tables.steps[step, 1]
        starts, item = np.int64(tables.starts[table].ctypes.data), np.int64(tables.starts.itemsize)
        for q in range(block.active.shape[0]):
            if not block.active[q] or step >= block.limits[q]:
                continue
            if weight:
                found, fill, waits = _request_many(block, q, step, gallery, waiting, waits, deltas, found, fill)
                continue
            if waits[1] == _TOGETHER:
                found, fill = _open_buckets(block, gallery, waiting, waits, found, fill)
                waits = (np.int64(0), np.int64(0))
            i = waits[1]
            bucket = np.int64(block.sums[table, q] >> tables.shift)
            prefetch(starts + bucket * item)
            waiting.buckets[i], waiting.places[i] = bucket, np.uint64(0)
            waits = _requested(waiting, waits, q, step, i + 1)
        if k and (step + 1 == steps or tables.steps[step + 1, 1]):  # steps of many buckets are taken only where they are needed
            found, fill = _open_buckets(block, gallery, waiting, waits, found, fill)
            waits = (np.int64(0), np.int64(0))
            for q in range(block.active.shape[0]):
                block.active[q] = block.active[q] and block.nearest[q, : step + 1].sum() < k
    return _open_buckets(block, gallery, waiting, waits, found, fill)


@inlined
def _requested(waiting, waits, q, step, end):
    """Note that the buckets up to `end` that wait are those of a query's step, too. Returns what waits then."""
    waiting.owners[waits[0]], waiting.steps[waits[0]], waiting.ends[waits[0]] = q, step, end
    return waits[0] + 1, end


@compiled
def _request_many(block, q, step, gallery, waiting, waits, deltas, found, fill):
    """Request the buckets of a step with differing bits; where too many wait, open them first. Returns (found, fill, waits)."""
    tables = gallery.tables
    table, weight = tables.steps[step, 0], tables.steps[step, 1]
    starts, item = np.int64(tables.starts[table].ctypes.data), np.int64(tables.starts.itemsize)
    width = tables.widths[table]
    if block.met[q] + tables.buckets[step + 1] - tables.buckets[step] > block.budget:
        block.met[q], block.active[q] = -1, False
        return found, fill, waits
    for i in range(width):
        word, bit = tables.places[table, i] // 64, np.uint64(tables.places[table, i] % 64)
        delta = tables.factors[table, word] << bit
        deltas[i] = np.uint64(0) - delta if block.queries[q, word] >> bit & np.uint64(1) else delta
    chosen = np.arange(weight)
    count = waits[1]
    more = True
    while more:  # one round for each choice of all differing bits but the last one
        base, packed = block.sums[table, q], np.uint64(0)
        for i in range(weight - 1):
            base += deltas[chosen[i]]
            packed |= np.uint64(chosen[i]) << np.uint64(_PLACE_BITS * i)
        last = chosen[weight - 2] + 1 if weight > 1 else np.int64(0)
        while last < width:
            if count == _TOGETHER:
                waits = _requested(waiting, waits, q, step, count) if waits[1] < count else waits
                found, fill = _open_buckets(block, gallery, waiting, waits, found, fill)
                waits, count = (np.int64(0), np.int64(0)), np.int64(0)
                if not block.active[q]:
                    return found, fill, waits
            stop = min(width, last + _TOGETHER - count)
            for i in range(np.uint64(last), np.uint64(stop)):
                bucket = np.int64((base + deltas[i]) >> tables.shift)
                prefetch(starts + bucket * item)
                waiting.buckets[np.uint64(count)] = bucket
                waiting.places[np.uint64(count)] = packed | np.uint64(i) << np.uint64(_PLACE_BITS * (weight - 1))
                count += 1
            last = stop
        more = _advance(chosen, weight - 1, width - 1)
    return found, fill, _requested(waiting, waits, q, step, count) if waits[1] < count else waits


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
def _open_buckets(block, gallery, waiting, waits, found, fill):
    """Look into the buckets that wait: count their codes, then request them and compare them. Returns (found, fill)."""
    tables = gallery.tables
    starts, rows = tables.starts.reshape(-1), tables.rows.reshape(-1)  # a view of each table would count its references
    row_address, item = np.int64(rows.ctypes.data), np.int64(rows.itemsize)
    begin, left = np.int64(0), np.uint64(0)
    for request in range(waits[0]):
        q, end = waiting.owners[request], waiting.ends[request]
        table = tables.steps[waiting.steps[request], 0]
        before, buckets = table * tables.rows.shape[1], np.uint64(table * tables.starts.shape[1])  # of the tables before this one
        met, kept = block.met[q], left
        if met >= 0:
            for i in range(np.uint64(begin), np.uint64(end)):
                bucket = buckets + np.uint64(waiting.buckets[i])
                first, last = np.int64(starts[bucket]), np.int64(starts[bucket + np.uint64(1)])
                met += 1 + last - first
                if last > first:
                    prefetch(row_address + (before + first) * item)
                    waiting.spans[left, 0], waiting.spans[left, 1] = before + first, before + last
                    waiting.requests[left], waiting.places[left] = request, waiting.places[i]
                    left += np.uint64(1)
            block.met[q] = met
            if met > block.budget:
                block.met[q], block.active[q], left = -1, False, kept
        begin = end
    if not block.compares:
        return found, fill
    row_bits = tables.row_bits
    low = (np.uint64(1) << row_bits) - np.uint64(1)
    requested = np.uint64(0)
    for i in range(left):
        q = np.uint64(waiting.owners[waiting.requests[i]])
        if block.met[q] < 0:
            continue
        own, limit = block.signatures[q], block.limits[q]
        for place in range(np.uint64(waiting.spans[i, 0]), np.uint64(waiting.spans[i, 1])):
            if popcount((rows[place] ^ own) >> row_bits) >= limit:
                continue
            if requested == np.uint64(_TOGETHER):
                found, fill = _compare(block, gallery, waiting, requested, found, fill)
                requested = np.uint64(0)
            row = np.int64(rows[place] & low)
            prefetch(gallery.address + row * gallery.width)
            waiting.rows[requested], waiting.of_rows[requested] = row, i
            requested += np.uint64(1)
    return _compare(block, gallery, waiting, requested, found, fill)


@compiled
def _compare(block, gallery, waiting, count, found, fill):
    """Compare the codes that are requested with their queries, and add keys for those that are found. Returns (found, fill)."""
    found = with_room(found, fill, np.int64(count))
    words = np.uint64(block.queries.shape[1])
    whole = np.uint64(gallery.width // 8)
    difference = np.empty(words, np.uint64)
    for i in range(count):
        row, entry = waiting.rows[i], np.uint64(waiting.of_rows[i])
        request = np.uint64(waiting.requests[entry])
        q = np.uint64(waiting.owners[request])
        address = gallery.address + row * gallery.width
        distance = np.int64(0)
        for word in range(whole):
            difference[word] = word_at(address + 8 * np.int64(word)) ^ block.queries[q, word]
            distance += popcount(difference[word])
        if whole < words:
            difference[whole] = row_word(address, gallery.width, np.int64(whole)) ^ block.queries[q, whole]
            distance += popcount(difference[whole])
        if distance >= block.limits[q] or not (gallery.allowed.shape[0] == 0 or gallery.allowed[row]):
            continue
        if _is_first(difference, waiting.steps[request], gallery.tables, waiting.places[entry]):
            found[fill] = _key(q, distance, row)
            fill += 1
            block.counts[q] += 1
            if block.nearest.shape[0]:
                block.nearest[q, distance] += 1
    return found, fill


@inlined
def _key(q, distance, row):
    of_query = np.uint64(q) << np.uint64(DISTANCE_BITS + POSITION_BITS)
    return of_query | np.uint64(distance) << np.uint64(POSITION_BITS) | np.uint64(row)


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
        for first in range(0, count - length, 2 * length):
            middle, last = first + length, min(first + 2 * length, count)
            if keys[middle - 1] > keys[middle]:  # codes of one bucket are in order already
                a, b = first, middle
                for place in range(first, last):
                    if a < middle and (b == last or keys[a] <= keys[b]):
                        spare[place] = keys[a]
                        a += 1
                    else:
                        spare[place] = keys[b]
                        b += 1
                keys[first:last] = spare[first:last]
        length *= 2

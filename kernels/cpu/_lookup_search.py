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
from ._substrings import MAX_WEIGHT

BLOCK = 1024  # queries that take each step together
POSITION_BITS, DISTANCE_BITS = 40, 14  # of a key: (query of the block, distance, position)
_TOGETHER = 1024  # buckets that are searched together, and codes that are requested together
_PLACE_BITS = 8  # of the place of a bit in a substring; the places of a bucket's differing bits are kept in one word
_FEW = 32  # keys that are sorted by insertion


class Gallery(NamedTuple):
    """The codes that are searched."""

    address: np.int64
    width: np.int64  # bytes
    allowed: np.ndarray  # bool [N]: which of them may be found; empty for all
    tables: Tables


class Block(NamedTuple):
    """A block of queries and what is known of them."""

    queries: np.ndarray  # uint64 [Q, W]
    signatures: np.ndarray  # uint64 [Q]
    sums: np.ndarray  # uint64 [T, Q]: the hash of each query's substring is in the highest bits
    limits: np.ndarray  # int64 [Q]
    budget: np.int64
    met: np.ndarray  # int64 [Q]: buckets and codes met; -1 for a query that gave up
    active: np.ndarray  # bool [Q]: whether the query takes the next step
    counts: np.ndarray  # int64 [Q]: codes found
    nearest: np.ndarray  # int64 [Q, S]: codes found at each distance; [0, 0] if all codes are of interest


class Place(NamedTuple):
    """The place at which the requests of a block of queries continue."""

    step: np.int64
    query: np.int64
    begun: np.bool_  # whether some buckets of the query's step are requested, and `chosen` and `last` say which
    last: np.int64  # the last of the differing bits of the next bucket


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
    chosen: np.ndarray  # int64: the differing bits of the next bucket, but the last one
    deltas: np.ndarray  # uint64: the change of the query's sum for each bit of the substring


@compiled
def search_block(queries, limits, k, gallery, budget, compares, met, counts):
    """Return the keys of the codes nearer than the limits, in the order in which they are found, and their number.

    queries: uint64 [Q, W], at most BLOCK; limits: int64 [Q], 0 or more; k: 0, or a number of codes with which a query is content:
    it stops as soon as its k nearest codes are known; budget: the most buckets and codes that a query may meet; compares: False
    to look up the buckets and count their codes only; met: int64 [Q], set to the number of buckets and codes, or to -1 for a
    query that gave up; counts: int64 [Q], set to the number of keys of each query.
    """
    tables, number = gallery.tables, queries.shape[0]
    steps = np.int64(0)
    active = np.empty(number, np.bool_)
    for q in range(number):
        possible = limits[q] <= tables.steps.shape[0] and (k > 0 or tables.buckets[limits[q]] <= budget)
        met[q], counts[q] = 0 if possible else -1, 0
        active[q] = possible and limits[q] > 0
        if active[q]:
            steps = max(steps, limits[q])
    signatures, sums = _signatures_and_sums(queries, tables)
    nearest = np.zeros((number if k else 0, steps), np.int64)
    block = Block(queries, signatures, sums, limits, budget, met, active, counts, nearest)
    waiting = _nothing_waits(tables.places.shape[1])
    found, fill = np.empty(1024, np.uint64), np.int64(0)
    place = Place(np.int64(0), np.int64(0), False, np.int64(0))
    while place.step < steps:
        requests, place = _request_buckets(block, steps, k, gallery, waiting, place)
        found, fill = _open_buckets(block, gallery, compares, waiting, requests, found, fill)
        if k and place.query == 0 and not place.begun:
            for q in range(number):
                enough = np.int64(0)
                for distance in range(place.step):
                    enough += nearest[q, distance]
                active[q] = active[q] and enough < k
    return found, fill


@compiled
def _signatures_and_sums(queries, tables):
    """Return the signatures of the queries, uint64 [Q], and the sums of their substrings, uint64 [T, Q]."""
    signatures = np.empty(queries.shape[0], np.uint64)
    sums = np.zeros((tables.masks.shape[0], queries.shape[0]), np.uint64)
    words = queries.shape[1]
    for q in range(queries.shape[0]):
        address = np.int64(queries.ctypes.data) + q * words * 8
        signatures[q] = signature(address, 8 * words, words, tables.row_bits)
    for table in range(tables.masks.shape[0]):
        for word in range(words):
            mask, factor = tables.masks[table, word], tables.factors[table, word]
            if mask:
                for q in range(queries.shape[0]):
                    sums[table, q] += (queries[q, word] & mask) * factor
    return signatures, sums


@inlined
def _nothing_waits(widest):
    numbers = np.empty((8, _TOGETHER), np.int64)
    return Waiting(
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        np.empty(_TOGETHER, np.uint64),
        np.empty((_TOGETHER, 2), np.int64),
        numbers[4],
        numbers[5],
        numbers[6],
        numbers[7],
        np.empty(widest, np.uint64),
    )


@inlined
def _request_buckets(block, steps, k, gallery, waiting, place):
    """Request the next buckets: as many as may wait, or those before a step of many buckets that not all queries need.

    Returns the number of requests, each of which is for the buckets of a query's step, and the place where to continue.
    """
    tables = gallery.tables
    step, q, begun, last = place
    requests, count = np.int64(0), np.int64(0)
    while step < steps:
        table, weight = tables.steps[step, 0], tables.steps[step, 1]
        width, item = tables.widths[table], np.int64(tables.starts.itemsize)
        starts = np.int64(tables.starts.ctypes.data) + table * tables.starts.shape[1] * item
        while q < block.active.shape[0]:
            if not block.active[q] or step >= block.limits[q]:
                q, begun = q + 1, False
                continue
            if not begun and block.met[q] + tables.buckets[step + 1] - tables.buckets[step] > block.budget:
                block.met[q], block.active[q] = -1, False
                continue
            if count == _TOGETHER:
                return requests, Place(step, q, begun, last)
            if weight and not begun:
                last = _first_choice(block.queries, q, tables, table, weight, waiting)
            more = True
            while more:  # one round for each choice of all differing bits but the last one
                base, packed = block.sums[table, q], np.uint64(0)
                for i in range(weight - 1):
                    base += waiting.deltas[waiting.chosen[i]]
                    packed |= np.uint64(waiting.chosen[i]) << np.uint64(_PLACE_BITS * i)
                stop = min(width if weight else 1, last + _TOGETHER - count)
                for i in range(np.uint64(last), np.uint64(stop)):
                    changed, own = base, packed
                    if weight:
                        changed += waiting.deltas[i]
                        own |= i << np.uint64(_PLACE_BITS * (weight - 1))
                    bucket = np.int64(changed >> tables.shift)
                    prefetch(starts + bucket * item)
                    waiting.buckets[np.uint64(count)], waiting.places[np.uint64(count)] = bucket, own
                    count += 1
                begun = weight > 0 and stop < width
                last = stop
                more = not begun and _advance(waiting.chosen, weight - 1, width - 1)
                if more:
                    last = waiting.chosen[weight - 2] + 1
            waiting.owners[requests], waiting.steps[requests], waiting.ends[requests] = q, step, count
            requests += 1
            if begun:
                return requests, Place(step, q, begun, last)
            q, last = q + 1, np.int64(0)
        q, step = np.int64(0), step + 1
        if k and (step == steps or tables.steps[step, 1]):
            break
    return requests, Place(step, q, False, np.int64(0))


@inlined
def _first_choice(queries, q, tables, table, weight, waiting):
    """Compute the changes of a query's sum and choose the first differing bits; return the last of them."""
    for i in range(tables.widths[table]):
        word, bit = tables.places[table, i] // 64, np.uint64(tables.places[table, i] % 64)
        delta = tables.factors[table, word] << bit
        waiting.deltas[i] = np.uint64(0) - delta if queries[q, word] >> bit & np.uint64(1) else delta
    for i in range(MAX_WEIGHT):
        waiting.chosen[i] = i
    return weight - 1


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


@inlined
def _open_buckets(block, gallery, compares, waiting, requests, found, fill):
    """Look into the buckets that wait: count their codes, then request them and compare them. Returns (found, fill).

    Numbers of rows are cut to the size of the gallery, so that a damaged file of tables leads to no address outside of it.
    """
    tables = gallery.tables
    starts, rows = tables.starts.reshape(-1), tables.rows.reshape(-1)  # a view of each table would count its references
    row_address, item, count = np.int64(rows.ctypes.data), np.int64(rows.itemsize), np.int64(tables.rows.shape[1])
    begin, left = np.int64(0), np.uint64(0)
    for request in range(requests):
        q, end = waiting.owners[request], waiting.ends[request]
        table = tables.steps[waiting.steps[request], 0]
        before, buckets = table * count, np.uint64(table * tables.starts.shape[1])  # of the tables before this one
        met, kept = block.met[q], left
        if met >= 0:
            for i in range(np.uint64(begin), np.uint64(end)):
                bucket = buckets + np.uint64(waiting.buckets[i])
                first, last = max(np.int64(starts[bucket]), 0), min(np.int64(starts[bucket + np.uint64(1)]), count)
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
    low = (np.uint64(1) << tables.row_bits) - np.uint64(1)
    i = np.uint64(0)
    while compares and i < left:
        requested = np.uint64(0)
        while i < left:
            q = np.uint64(waiting.owners[waiting.requests[i]])
            own, limit = block.signatures[q], block.limits[q]
            place, end = np.uint64(waiting.spans[i, 0]), np.uint64(waiting.spans[i, 1] if block.met[q] >= 0 else 0)
            while place < end and requested < np.uint64(_TOGETHER):
                if popcount((rows[place] ^ own) >> tables.row_bits) < limit:
                    row = min(np.int64(rows[place] & low), count - 1)
                    prefetch(gallery.address + row * gallery.width)
                    waiting.rows[requested], waiting.of_rows[requested] = row, i
                    requested += np.uint64(1)
                place += np.uint64(1)
            if place < end:
                waiting.spans[i, 0] = place
                break
            i += np.uint64(1)
        found, fill = _compare(block, gallery, waiting, requested, found, fill)
    return found, fill


@inlined
def _compare(block, gallery, waiting, count, found, fill):
    """Compare the codes that are requested with their queries, and add keys for those that are found. Returns (found, fill)."""
    if fill + np.int64(count) > found.shape[0]:
        larger = np.empty(2 * found.shape[0], np.uint64)  # which is twice _TOGETHER at least
        for i in range(np.uint64(fill)):
            larger[i] = found[i]
        found = larger
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
            of_query = np.uint64(q) << np.uint64(DISTANCE_BITS + POSITION_BITS)
            found[fill] = of_query | np.uint64(distance) << np.uint64(POSITION_BITS) | np.uint64(row)
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
def in_order(found, fill, k, counts, met):
    """Return the first `fill` of the keys that a block found by query, distance and position, and update the `counts` of queries.

    With k, each query has k keys or, if it has found fewer, none. A query that gave up has none.
    """
    places = np.empty(counts.shape[0], np.int64)
    total = np.int64(0)
    for q in range(counts.shape[0]):
        places[q] = total
        total += counts[q]
    ordered, spare = np.empty(fill, np.uint64), np.empty(fill, np.uint64)
    for i in range(fill):
        q = found[i] >> np.uint64(POSITION_BITS + DISTANCE_BITS)
        ordered[places[q]] = found[i]
        places[q] += 1
    kept = np.int64(0)
    for q in range(counts.shape[0]):
        first, last = places[q] - counts[q], places[q]
        if met[q] < 0 or counts[q] < k:
            counts[q] = 0
            continue
        _sort(ordered, spare, first, last)
        counts[q] = k if k else counts[q]
        for i in range(counts[q]):
            ordered[kept + i] = ordered[first + i]
        kept += counts[q]
    return ordered[:kept]


@inlined
def _sort(keys, spare, begin, end):
    """Sort keys[begin:end] in ascending order; spare: memory for as many."""
    for first in range(begin, end, _FEW):
        for i in range(first + 1, min(first + _FEW, end)):
            key, place = keys[i], i
            while place > first and keys[place - 1] > key:
                keys[place] = keys[place - 1]
                place -= 1
            keys[place] = key
    length = np.int64(_FEW)
    while length < end - begin:
        for first in range(begin, end - length, 2 * length):
            middle, last = first + length, min(first + 2 * length, end)
            if keys[middle - 1] > keys[middle]:  # codes of one bucket are in order already
                a, b = first, middle
                for place in range(last - first):
                    if a < middle and (b == last or keys[a] <= keys[b]):
                        spare[place] = keys[a]
                        a += 1
                    else:
                        spare[place] = keys[b]
                        b += 1
                for place in range(last - first):
                    keys[first + place] = spare[place]
        length *= 2

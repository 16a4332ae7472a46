"""Sums of precisions along rankings of packed codes on a CPU, from the ranks of _ranks.py, without sorting.

_ranks.py also describes the labels. Expectations over random orders of ties need only the numbers of items at each distance.
"""

import math

import numpy as np
from torch import Tensor

from ._bits import compiled, inlined
from ._blocks import as_array
from ._compiler import compiler
from ._crowded import count_crowd, crowd_of
from ._ranges import over_ranges
from ._ranks import (
    ITEMS,
    fill_nearer,
    fill_relevance,
    lay_out_gallery,
    lay_out_queries,
    ranked_batches,
    sum_lanes,
)

_RADIX_BITS = 11  # three passes over the 32 bits of a score
_RADIX = 2**_RADIX_BITS


class Rankings:
    """A gallery in the lanes of _ranks.py, for rankings in the order (distance, row).

    limits: int64 [M], numbers of ranks that count.
    """

    def __init__(self, queries: int, gallery: Tensor, labels: Tensor, limits: Tensor, *, shared: bool) -> None:
        """Lay out the gallery uint8 [N, B], not empty, and its labels int64 words [N, L], for up to `queries` queries."""
        self.most_queries, self.limits = max(1, queries), limits.numpy()
        arrays = as_array(gallery), as_array(labels).view(np.uint64), shared
        self.crowd = None if len(limits) else crowd_of(*arrays, queries)
        if self.crowd is None:
            self.gallery = lay_out_gallery(*arrays)

    def rank(self, queries: Tensor, labels: Tensor, precisions: Tensor, hits: Tensor, counts: Tensor, relevant: Tensor) -> None:
        """Compute the sums from which all metrics are derived, for queries uint8 [Q, B] with labels int64 words [Q, L].

        precisions: float64 [M, Q], the sum of the precisions at the relevant items among the first ranks, for each limit; hits:
        int64 [M, Q], the number of these items; counts, relevant: int64 [Q, K+1], all and relevant items at each distance.
        """
        arrays = as_array(queries), as_array(labels).view(np.uint64)
        if self.crowd is not None:
            count_crowd(self.crowd, *arrays, counts.numpy(), relevant.numpy())
        else:
            self._rank(*arrays, *(tensor.numpy() for tensor in (precisions, hits, counts, relevant)))

    def _rank(self, queries: np.ndarray, labels: np.ndarray, *results: np.ndarray) -> None:
        """Compute `rank` from the ranks of _ranks.py."""
        laid_queries = lay_out_queries(queries, labels)

        def run(start: int, stop: int) -> None:
            for batch in ranked_batches(laid_queries, self.gallery, start, stop):
                ranked = (batch.counts, batch.relevant, batch.notes, batch.places, batch.first_notes)
                order = laid_queries.order[batch.start : batch.stop]
                _sum_batch(*ranked, order, self.gallery.size, self.limits, *results)

        over_ranges(run, len(queries))


def scored_precision(
    scores: np.ndarray,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    shared: bool,
    k: int,
    precisions: np.ndarray,
    hits: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Rank the gallery by (score descending, row), and fill in the sums that `Rankings.rank` describes.

    scores: float32 [Q, N] without NaN.
    """
    bits = scores.view(np.int32)
    label_planes = np.ascontiguousarray(gallery_labels.T)

    def run(start: int, stop: int) -> None:
        _scored_precision(bits, query_labels, label_planes, shared, k, start, stop, precisions, hits, totals)

    over_ranges(run, len(scores))


def expected_precision(counts: np.ndarray, relevant: np.ndarray, k: int, over_hits: bool, precisions: np.ndarray) -> None:
    """Fill `precisions` float64 [Q] with the expected sums of `Rankings.rank` over all orders of items at one distance.

    counts, relevant: int64 [Q, K+1], as `Rankings.rank` leaves them. With `over_hits` it is the expectation of the sum divided
    by the hits among the first `k`, whose number depends on the order where `k` cuts through a distance.
    """
    over_ranges(lambda start, stop: _expected_precision(counts, relevant, k, over_hits, start, stop, precisions), len(counts))


@compiled
def _sum_batch(counters, relevant_counters, notes, places, first_notes, order, items, ks, precisions, hits, counts, relevant):
    nearer = np.empty(counters.shape[1], np.uint64)
    longest = (first_notes[1 : order.size + 1] - first_notes[: order.size]).max()
    chosen = np.empty(longest if ks.size and ks.min() < items else 0, np.int32)
    largest_first = np.argsort(-ks)
    for i in range(order.size):
        q, begin, end = order[i], first_notes[i], first_notes[i + 1]
        fill_nearer(counters[i], relevant_counters[i], nearer)
        ahead = notes[begin:end]
        before = items
        for j in largest_first:
            if ks[j] >= items:
                precisions[j, q] = _whole_sum(ahead, places[begin:end], nearer)
            else:
                if before == items:
                    ahead = ahead[: _keep_ranked(ahead, places[begin:end], nearer, ks[j], chosen)]
                elif ks[j] < before:
                    ahead = ahead[: _keep_nearer(ahead, ks[j])]
                before = ks[j]
                precisions[j, q] = _sum(ahead)
            hits[j, q] = ahead.size
        for distance in range(counts.shape[1]):
            counts[q, distance] = sum_lanes(counters[i], distance)
            relevant[q, distance] = sum_lanes(relevant_counters[i], distance)


@compiled
def _keep_ranked(notes, places, nearer, k, chosen):
    """Turn notes into the number of items before each item and, 32 bits higher, of relevant ones; see _ranks.py.

    Those with fewer than `k` items move to the front, in their order. Returns their number. `chosen`, int32 [as many as notes
    or more], is memory to work in.
    """
    end = 0  # of the places that have items with fewer than k before them
    while end < nearer.size and np.int64(nearer[end] & ITEMS) < k:
        end += 1
    count = 0
    for i in range(places.size):  # few are left by this loop, which reads only places
        chosen[np.uint64(count)] = i
        count += places[np.uint64(i)] < end
    kept = 0
    for i in chosen[:count]:
        ahead = notes[np.uint64(i)] + nearer[np.uint64(places[np.uint64(i)])]
        notes[np.uint64(kept)] = ahead
        kept += np.int64(ahead & ITEMS) < k
    return kept


@compiled
def _keep_nearer(ahead, k):
    """Move those of `ahead` that have fewer than `k` items to the front, in their order, and return their number."""
    kept = 0
    for i in range(ahead.size):
        one = ahead[np.uint64(i)]
        ahead[np.uint64(kept)] = one
        kept += np.int64(one & ITEMS) < k
    return kept


@compiler(boundscheck=False, fastmath={"reassoc"})
def _whole_sum(notes, places, nearer):
    """Return the sum of precisions at all noted items. The terms may be added in any order, as in vectors."""
    precision = 0.0
    for i in range(places.size):
        precision += _precision(notes[np.uint64(i)] + nearer[np.uint64(places[np.uint64(i)])])
    return precision


@compiler(boundscheck=False, fastmath={"reassoc"})
def _sum(ahead):
    """Return the sum of precisions at items with so many before them. The terms may be added in any order, as in vectors."""
    precision = 0.0
    for i in range(ahead.size):
        precision += _precision(ahead[np.uint64(i)])
    return precision


@inlined
def _precision(ahead):
    """Return the precision at a relevant item, before which come `ahead & ITEMS` items and, 32 bits higher, relevant ones."""
    return (np.float64(np.int32(ahead >> np.uint64(32))) + 1.0) / (np.float64(np.int32(ahead & ITEMS)) + 1.0)


@compiled
def _scored_precision(bits, query_labels, label_planes, shared, k, start, stop, precisions, hits, totals):
    """Compute `scored_precision` for the queries start .. stop - 1."""
    count = label_planes.shape[1]
    is_relevant = np.empty(count, dtype=np.bool_)
    keys = np.empty(count, dtype=np.uint64)
    sorted_keys = np.empty(count, dtype=np.uint64)
    offsets = np.empty(_RADIX, dtype=np.int64)
    for q in range(start, stop):
        fill_relevance(label_planes, query_labels[q], shared, is_relevant)
        for j in range(count):
            keys[j] = _descending_key(bits[q, j]) << np.uint64(1) | np.uint64(is_relevant[j])
        for shift in range(1, 33, _RADIX_BITS):
            _radix_pass(keys, np.uint64(shift), offsets, sorted_keys)
            keys, sorted_keys = sorted_keys, keys
        precision = 0.0
        found = 0
        for rank in range(min(k, count)):
            if keys[rank] & np.uint64(1):
                found += 1
                precision += found / (rank + 1)
        precisions[q] = precision
        hits[q] = found
        totals[q] = is_relevant.sum()


@compiled
def _descending_key(bits):
    """Return a 32-bit key that decreases as the float32 with these `bits` increases; both zeros have one key."""
    if bits == -(2**31):
        bits = np.int32(0)
    ascending = bits if bits >= 0 else np.int32(bits ^ 0x7FFFFFFF)
    return np.uint64(np.int64(2**31 - 1) - np.int64(ascending))


@compiled
def _radix_pass(keys, shift, offsets, result):
    """Sort `keys` by _RADIX_BITS bits from `shift` on, by a stable counting sort."""
    digit = np.uint64(_RADIX - 1)
    offsets[:] = 0
    for key in keys:
        offsets[key >> shift & digit] += 1
    before = 0
    for value in range(_RADIX):
        offsets[value], before = before, before + offsets[value]
    for key in keys:
        place = offsets[key >> shift & digit]
        result[place] = key
        offsets[key >> shift & digit] = place + 1


@compiled
def _expected_precision(counts, relevant, k, over_hits, start, stop, precisions):
    for q in range(start, stop):
        precisions[q] = _expected_query(counts[q], relevant[q], k, over_hits)


@compiled
def _expected_query(counts, relevant, k, over_hits):
    """Return the expectation for one query; see `expected_precision`."""
    items = 0
    hits = 0
    precision = 0.0
    for d in range(counts.size):
        slots = min(counts[d], k - items)
        if relevant[d] > 0 and slots > 0:
            if over_hits and slots < counts[d]:
                return _expected_ratio(items, hits, precision, counts[d], relevant[d], slots)
            precision += _expected_sum(items, hits, counts[d], relevant[d], slots)
            hits += relevant[d]
        items += slots
    return precision / max(hits, 1) if over_hits else precision


@compiled
def _expected_sum(items, hits, tied, relevant, slots):
    """Return the expected sum of precisions at the relevant items among the first `slots` of `tied` items in random order.

    `items` other items, with `hits` relevant ones, come before them.
    """
    inverse, earlier = _rank_sums(items, slots)
    companions = (relevant - 1) / (tied - 1) if tied > 1 else 0.0
    return relevant / tied * ((hits + 1) * inverse + companions * earlier)


@compiled
def _rank_sums(items, slots):
    """Return the sums of 1 / rank and (j - 1) / rank over the ranks items + j, j = 1 .. slots.

    From rank 65 on by the asymptotic series of the harmonic numbers, whose error is below 1e-15 there.
    """
    inverse = 0.0
    for j in range(min(slots, max(64 - items, 0))):
        inverse += 1.0 / (items + j + 1)
    begin, end = max(items, 64) + 0.5, items + slots + 0.5
    if end > begin:
        inverse += math.log1p((end - begin) / begin) + _beyond_logarithm(end) - _beyond_logarithm(begin)
    return inverse, slots - (items + 1) * inverse


@inlined
def _beyond_logarithm(middle):
    """Return the n-th harmonic number minus Euler's constant and the logarithm of middle = n + 1/2."""
    square = 1.0 / (middle * middle)
    return square * (1.0 / 24 - square * (7.0 / 960 - square * (31.0 / 8064)))


@compiled
def _expected_ratio(items, hits, precision, tied, relevant, slots):
    """Return the expected (sum of precisions) / hits if only `slots` of `tied` items in random order are within k.

    The number of hits among these is hypergeometric; given h hits in the slots, all their places are equally likely. The weights
    start at 1 for a number near the most likely one and follow the ratio of neighbours on both sides, so that none overflows.
    """
    inverse, earlier = _rank_sums(items, slots)
    lowest = max(0, slots - (tied - relevant))
    highest = min(relevant, slots)
    likely = min(max((slots + 1) * (relevant + 1) // (tied + 2), lowest), highest)
    spare = tied - relevant - slots  # h + spare irrelevant items are beyond k
    weight = 1.0
    weights = 0.0
    total = 0.0
    for h in range(likely, highest + 1):
        weights += weight
        total += weight * _ratio(hits, precision, slots, h, inverse, earlier)
        weight *= (relevant - h) * (slots - h) / ((h + 1) * (spare + h + 1))
    weight = 1.0
    for h in range(likely, lowest, -1):
        weight *= h * (spare + h) / ((relevant - h + 1) * (slots - h + 1))
        weights += weight
        total += weight * _ratio(hits, precision, slots, h - 1, inverse, earlier)
    return total / weights


@compiled
def _ratio(hits, precision, slots, h, inverse, earlier):
    """Return the expected sum of precisions over hits, given that `h` of `slots` tied ranks are relevant."""
    if hits + h == 0:
        return 0.0
    companions = (h - 1) / (slots - 1) if slots > 1 else 0.0
    return (precision + h / slots * ((hits + 1) * inverse + companions * earlier)) / (hits + h)

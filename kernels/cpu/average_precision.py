"""Ranking quality from packed codes, without sorting.

Distances take few values. So the rank of an item in the order (distance, position) is the number of nearer items plus that of
earlier ones at its own distance: one pass over the gallery counts items per distance, a second one walks it in order and counts
up. Where only expectations over random tie orders are wanted, the counts alone hold everything.

Labels come as words, uint64 [N, L]. With `shared` they are sets of classes, one bit each, and two items are relevant to each
other when they share a class; without, L is 1 and they are when the words are equal.
"""

import numba
import numpy as np

from ._bits import compiled, load_block, popcount
from ._ranges import over_ranges

# Two counters in one integer: items in the lower half, relevant items in the upper.
_RELEVANT = 2**32
_ITEMS = _RELEVANT - 1

_RADIX_BITS = 11  # three passes over the 32 bits of a score
_RADIX = 2**_RADIX_BITS


def distance_histograms(queries, gallery, query_labels, gallery_labels, shared, counts, relevant) -> None:
    """Fill `counts` and `relevant`, int64 [Q, K+1]: gallery items, and relevant ones, at each distance from each query."""
    query_planes, planes = _planes(queries), _planes(gallery)
    label_planes = np.ascontiguousarray(gallery_labels.T)

    def run(start, stop):
        _histograms(query_planes, planes, query_labels, label_planes, shared, start, stop, counts, relevant)

    over_ranges(run, len(queries))


def ranked_precision(queries, gallery, query_labels, gallery_labels, shared, k, precisions, hits, totals) -> None:
    """Fill, for each query, the sum of the precisions at its relevant items among the first `k`, their number, and that of all.

    The order is (distance, position). precisions: float64 [Q]; hits, totals: int64 [Q].
    """
    query_planes, planes = _planes(queries), _planes(gallery)
    label_planes = np.ascontiguousarray(gallery_labels.T)

    def run(start, stop):
        _ranked_precision(query_planes, planes, query_labels, label_planes, shared, k, start, stop, precisions, hits, totals)

    over_ranges(run, len(queries))


def scored_precision(scores, query_labels, gallery_labels, shared, k, precisions, hits, totals) -> None:
    """As `ranked_precision`, in the order (score descending, position) of float32 `scores` [Q, N] without NaN."""
    bits = scores.view(np.int32)
    label_planes = np.ascontiguousarray(gallery_labels.T)

    def run(start, stop):
        _scored_precision(bits, query_labels, label_planes, shared, k, start, stop, precisions, hits, totals)

    over_ranges(run, len(scores))


def expected_precision(counts, relevant, k, over_hits, precisions) -> None:
    """Fill `precisions`, float64 [Q]: as in `ranked_precision`, in expectation over all orders of items at one distance.

    counts, relevant: int64 [Q, K+1], see `distance_histograms`. With `over_hits` it is the expectation of the sum divided by the
    hits among the first `k`, whose number depends on the order where `k` cuts through a distance.
    """
    over_ranges(lambda start, stop: _expected_precision(counts, relevant, k, over_hits, start, stop, precisions), len(counts))


def _planes(codes):
    count, width = codes.shape
    planes = np.empty((-(-width // 8), count), dtype=np.uint64)
    load_block(codes, 0, count, planes)
    return planes


@compiled
def _fill_distances(planes, query, distances):
    distances[:] = 0
    for word in range(planes.shape[0]):
        plane = planes[word]
        bits = query[word]
        for j in range(plane.size):
            distances[j] += np.int32(popcount(plane[j] ^ bits))


@compiled
def _fill_relevance(planes, labels, shared, is_relevant):
    if not shared:
        plane = planes[0]
        label = labels[0]
        for j in range(plane.size):
            is_relevant[j] = plane[j] == label
        return
    is_relevant[:] = False
    for word in range(planes.shape[0]):
        plane = planes[word]
        classes = labels[word]
        for j in range(plane.size):
            is_relevant[j] |= (plane[j] & classes) != 0


@compiled
def _count(distances, is_relevant, counters):
    counters[:] = 0
    for j in range(distances.size):
        counters[distances[j]] += 1 + is_relevant[j] * _RELEVANT


@compiled
def _histograms(query_planes, planes, query_labels, label_planes, shared, start, stop, counts, relevant):
    distances = np.empty(planes.shape[1], dtype=np.int32)
    is_relevant = np.empty(planes.shape[1], dtype=np.bool_)
    counters = np.empty(counts.shape[1], dtype=np.int64)
    for q in range(start, stop):
        _fill_distances(planes, query_planes[:, q].copy(), distances)
        _fill_relevance(label_planes, query_labels[q], shared, is_relevant)
        _count(distances, is_relevant, counters)
        for d in range(counters.size):
            counts[q, d] = counters[d] & _ITEMS
            relevant[q, d] = counters[d] // _RELEVANT


@compiled
def _ranked_precision(query_planes, planes, query_labels, label_planes, shared, k, start, stop, precisions, hits, totals):
    distances = np.empty(planes.shape[1], dtype=np.int32)
    is_relevant = np.empty(planes.shape[1], dtype=np.bool_)
    counters = np.empty(64 * planes.shape[0] + 1, dtype=np.int64)
    for q in range(start, stop):
        _fill_distances(planes, query_planes[:, q].copy(), distances)
        _fill_relevance(label_planes, query_labels[q], shared, is_relevant)
        _count(distances, is_relevant, counters)
        before = 0
        for d in range(counters.size):
            counters[d], before = before, before + counters[d]
        totals[q] = before // _RELEVANT
        precisions[q], hits[q] = _walk(distances, is_relevant, counters, k)


@compiled
def _walk(distances, is_relevant, counters, k):
    """Sum of precisions and hits among the first `k`; counters[d] starts as what is nearer than d."""
    precision = 0.0
    hits = 0
    for j in range(distances.size):
        ahead = counters[distances[j]]
        counters[distances[j]] = ahead + 1 + is_relevant[j] * _RELEVANT
        rank = (ahead & _ITEMS) + 1
        if is_relevant[j] and rank <= k:
            precision += (ahead // _RELEVANT + 1) / rank
            hits += 1
    return precision, hits


@compiled
def _scored_precision(bits, query_labels, label_planes, shared, k, start, stop, precisions, hits, totals):
    count = label_planes.shape[1]
    is_relevant = np.empty(count, dtype=np.bool_)
    keys = np.empty(count, dtype=np.uint64)
    sorted_keys = np.empty(count, dtype=np.uint64)
    offsets = np.empty(_RADIX, dtype=np.int64)
    for q in range(start, stop):
        _fill_relevance(label_planes, query_labels[q], shared, is_relevant)
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
    """A 32-bit key that falls as the float32 with these `bits` rises; both zeros have one key."""
    if bits == -(2**31):
        bits = np.int32(0)
    ascending = bits if bits >= 0 else np.int32(bits ^ 0x7FFFFFFF)
    return np.uint64(np.int64(2**31 - 1) - np.int64(ascending))


@compiled
def _radix_pass(keys, shift, offsets, result):
    """Stable counting sort of `keys` by _RADIX_BITS bits from `shift` on."""
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
    """Expected sum of precisions at the relevant of the first `slots` of `tied` items in random order, behind `items` others."""
    inverse, earlier = _rank_sums(items, slots)
    companions = (relevant - 1) / (tied - 1) if tied > 1 else 0.0
    return relevant / tied * ((hits + 1) * inverse + companions * earlier)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})
def _rank_sums(items, slots):
    """Sums of 1 / rank and (j - 1) / rank over the ranks items + j, j = 1 .. slots; summed in any order, which vectorises."""
    inverse = 0.0
    earlier = 0.0
    for j in range(slots):
        inverse += 1.0 / (items + j + 1)
        earlier += j / (items + j + 1)
    return inverse, earlier


@compiled
def _expected_ratio(items, hits, precision, tied, relevant, slots):
    """Expected (sum of precisions) / hits when only `slots` of `tied` items fit, over the random number of hits among them.

    That number is hypergeometric; given h hits in the slots, all their places are equally likely. Weights start at 1 for a number
    near the most likely one and follow the ratio of neighbours on both sides, so that none overflows.
    """
    inverse, earlier = _rank_sums(items, slots)
    lowest = max(0, slots - (tied - relevant))
    highest = min(relevant, slots)
    likely = min(max((slots + 1) * (relevant + 1) // (tied + 2), lowest), highest)
    spare = tied - relevant - slots  # h more than this is how many irrelevant items stay outside
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
    """Expected sum of precisions over hits, given that `h` of `slots` tied ranks are relevant."""
    if hits + h == 0:
        return 0.0
    companions = (h - 1) / (slots - 1) if slots > 1 else 0.0
    return (precision + h / slots * ((hits + 1) * inverse + companions * earlier)) / (hits + h)

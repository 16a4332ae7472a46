"""Exact search for the k nearest codes with Triton, in the order (distance, row), without sorting during the scan.

The gallery is divided into spans. One scan finds the distance of the nearest code of every span, with one minimum per distance
and no branch. The k nearest codes are in the k spans that come first in the order (distance of the nearest code, row), because
each of these spans holds a code that comes before every code of a later span. The distances to all codes of these k spans, a few
thousand, are computed again, and their k smallest are chosen in the same way. The work is the same for every gallery, also where
all codes are equal or sorted by class.

With spans of sqrt(N / k) codes a query takes 2 sqrt(N k) distances besides the scan. Where k is too large for that, passes that
count codes within trial radii find each query's radius, and another pass writes the codes within it. No step waits for the host,
and no result depends on timing.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import _smallest, _spans
from ._bits import as_words
from ._device import Device, Family, device_of
from ._distances import UNROLLED_WORDS, group_of, rows_in_flight
from ._scan import Scan
from ._sizes import cdiv, next_power_of_2
from .missing import MISSING_DISTANCE, MISSING_ID

# Words of the longest code that tensor cores scan. Longer ones need more registers than a "cdna" GPU has, and Triton 3.9 cannot
# compile them for "sm_100"; "rdna" GPUs use population counts.
_MOST_DOT_WORDS: dict[Family, int] = {
    "sm_80": 32, "sm_86": 32, "sm_90": 32, "sm_100": 16, "sm_120": 32, "cdna": 16, "rdna": 0
}  # fmt: skip
_BUFFER_BYTES = 1 << 29  # memory of a batch of queries besides its result
_BYTES_OF_PLACE = 40  # memory of an entry of a result found by counting: unsorted, its sort order, and sorted


class Plan(NamedTuple):
    """Method, tile sizes and number of programs of a search."""

    path: Literal["bandwidth", "popcount", "dot", "count"]  # the resource that limits the scan; "count" for a large k
    span: int = 0  # codes of a span
    block_m: int = 0  # queries of a program
    rows: int = 0  # codes of a tile for "dot", otherwise groups of codes of a tile
    programs: int = 0  # approximate number of programs


def plan(queries: int, gallery: int, words: int, k: int, device: Device) -> Plan:
    """Choose the method and tile sizes to search `gallery` codes of `words` 32-bit words."""
    group, lanes = group_of(words), device.warp_size
    most = min(gallery, 2**31) // (2 * k)  # codes of a span, so that k spans are at most half the gallery
    span = 1 << round(math.log2(gallery / k) / 2) if most else 0
    if queries >= 32 and words <= _MOST_DOT_WORDS[device.family] and most >= 256:
        # The tile's sums, their minima and the expanded codes fit the registers.
        block_m = 128 if words <= 8 else 64 if words <= 16 else 32
        return Plan("dot", min(max(2 * span, 256), 4096), min(block_m, next_power_of_2(queries)), 64, 2 * device.multiprocessors)
    if most < lanes * group:
        return Plan("count")
    span = min(max(span, lanes * group), 4096)
    if queries <= 4:
        rows = min(rows_in_flight(words, lanes), span // group)
        return Plan("bandwidth", span, next_power_of_2(queries), rows, 32 * device.multiprocessors)
    # The words of a program's queries stay in registers, except for codes that are read in a loop.
    block_m = 16 if words <= 2 else 8 if words <= 8 or words > UNROLLED_WORDS.value else 4
    return Plan("popcount", span, min(block_m, next_power_of_2(queries)), lanes, 16 * device.multiprocessors)


def hamming_topk(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor | None, distances: Tensor, ids: Tensor
) -> None:
    """Fill `distances` int32 and `ids` int64 [Q, k] with the k nearest codes of each query.

    queries: uint8 [Q, B], gallery: uint8 [N, B], neither of them empty; mask: bool [N], True for rows that may be found; limits:
    int32 [Q], only codes nearer than their query's limit are found.
    """
    words, k = cdiv(gallery.shape[1], 4), distances.shape[1]
    cut = plan(queries.shape[0], gallery.shape[0], words, k, device_of(gallery.device))
    if cut.path == "count":
        batch = max(1, _BUFFER_BYTES // (_BYTES_OF_PLACE * k))
        for first in range(0, queries.shape[0], batch):
            some = slice(first, first + batch)
            _search_by_counting(
                queries[some], gallery, mask, None if limits is None else limits[some], distances[some], ids[some]
            )
    else:
        _search_spans(as_words(queries), as_words(gallery), mask, limits, cut, distances, ids)


def _search_spans(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor | None, cut: Plan, distances: Tensor, ids: Tensor
) -> None:
    """Search by spans, one batch of queries after the other. Queries and gallery are codes in 32-bit words."""
    if mask is not None:
        mask = mask.contiguous().view(torch.uint8)
    dtype = torch.int16 if 32 * gallery.shape[1] + 1 < 2**15 else torch.int32
    block_bytes = cut.block_m * _bytes_of_query(gallery.shape[0], distances.shape[1], cut.span, dtype)
    batch = max(1, _BUFFER_BYTES // block_bytes) * cut.block_m
    if batch >= queries.shape[0]:
        _search_batch(queries, limits, distances, ids, gallery, mask, cut, dtype)
        return
    for first in range(0, queries.shape[0], batch):
        some = slice(first, first + batch)
        some_limits = None if limits is None else limits[some]
        _search_batch(queries[some], some_limits, distances[some], ids[some], gallery, mask, cut, dtype)


def _bytes_of_query(gallery: int, k: int, span: int, dtype: torch.dtype) -> int:
    """Return how many bytes a search allocates for a query besides its result."""
    counts = cdiv(gallery, span), k * span
    return dtype.itemsize * sum(counts) + sum(_smallest.candidate_bytes(count, k) for count in counts) + 4 * k


def scan(queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor, cut: Plan) -> None:
    """Fill `nearest` [Q, ceil(N / span)] with the distance of the nearest code of every span, for codes in words."""
    nearest_in_spans = _spans.nearest_by_dot if cut.path == "dot" else _spans.nearest_by_popcount
    nearest_in_spans(queries, gallery, mask, nearest, span=cut.span, block_m=cut.block_m, rows=cut.rows, programs=cut.programs)


def _search_batch(
    queries: Tensor, limits: Tensor | None, distances: Tensor, ids: Tensor, gallery: Tensor, mask: Tensor | None, cut: Plan,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    """Search by spans for one batch of queries. `dtype` is an integer type in which every distance fits."""
    (count, k), span, farthest = distances.shape, cut.span, 32 * gallery.shape[1] + 1
    nearest = queries.new_empty(count, cdiv(gallery.shape[0], span), dtype=dtype)
    scan(queries, gallery, mask, nearest, cut)
    chosen, near = queries.new_empty(count, k), queries.new_empty(count, k * span, dtype=dtype)
    if _smallest.ordered_at_once(k, farthest):
        nearest = _smallest.candidates(nearest, farthest, k)
        _spans.span_distances(queries, gallery, mask, nearest, chosen, near, span=span)
        near = _smallest.candidates(near, farthest, k)
        _smallest.nearest_first(near, farthest, chosen, span, limits, distances, ids)
        return
    _smallest.first_smallest(nearest, farthest, chosen)
    _spans.span_distances(queries, gallery, mask, None, chosen, near, span=span)
    places, found = queries.new_empty(count, k), queries.new_empty(count, k, dtype=dtype)
    _smallest.first_smallest(near, farthest, places, found)
    rows = chosen.gather(1, (places // span).long()).long() * span + places % span
    _put_in_order(found, rows, farthest, limits, distances, ids)


def _put_in_order(found: Tensor, rows: Tensor, farthest: int, limits: Tensor | None, distances: Tensor, ids: Tensor) -> None:
    """Sort `found` [Q, k] by distance into `distances`, and `rows` accordingly into `ids`; equal distances keep their order.

    A code that is `farthest` or more away, or not nearer than the limit of its query, is missing.
    """
    ordered, order = torch.sort(found, dim=1, stable=True)
    distances.copy_(ordered)
    torch.gather(rows, 1, order, out=ids)
    beyond = distances >= farthest
    if limits is not None:
        beyond |= distances >= limits[:, None]
    distances.masked_fill_(beyond, MISSING_DISTANCE)
    ids.masked_fill_(beyond, MISSING_ID)


def _search_by_counting(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor | None, distances: Tensor, ids: Tensor
) -> None:
    """Find each query's radius by counting codes within trial radii, then write the codes within it."""
    passes = Scan(queries, gallery, mask)
    count, k = distances.shape
    wanted = torch.full((1,), min(k, gallery.shape[0]), dtype=torch.int32, device=gallery.device)
    if mask is not None:
        wanted = wanted.minimum(mask.sum()).int()

    radii, nearer, ties = _radii(passes, 8 * queries.shape[1], wanted)
    starts = k * torch.arange(count, device=gallery.device)
    nearer_slots = starts[:, None] + nearer.cumsum(1) - nearer
    tie_slots = starts[:, None] + nearer.sum(1, keepdim=True) + ties.cumsum(1) - ties
    found, found_ids = distances.new_full(distances.shape, MISSING_DISTANCE), ids.new_full(ids.shape, MISSING_ID)
    passes.write(radii, nearer_slots, tie_slots, starts + wanted, found, found_ids)
    _put_in_order(found, found_ids, 8 * queries.shape[1] + 1, limits, distances, ids)


def _radii(passes: Scan, bits: int, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find each query's radius [Q]; also return how many codes of each split are nearer, and at the radius, [Q, splits] each."""
    levels, device = passes.plan.levels, wanted.device
    # The radius is one of smallest .. smallest + width - 1.
    smallest = torch.zeros(len(passes.queries), 1, dtype=torch.int32, device=device)
    width = bits + 1
    while width >= levels:
        cuts = (torch.arange(levels + 1, dtype=torch.int32, device=device) * width + levels) // (levels + 1)
        within = passes.count(smallest + cuts[1:] - 1).sum(2)
        smallest = smallest + cuts[(within < wanted).sum(1, keepdim=True)]
        width = cdiv(width, levels + 1)
    trials = smallest + torch.arange(-1, levels - 1, dtype=torch.int32, device=device)
    counts = passes.count(trials)
    level = (counts.sum(2) < wanted).sum(1, keepdim=True)
    nearer, within = (_take_level(counts, chosen) for chosen in ((level - 1).clamp(min=0), level))
    return trials.gather(1, level).squeeze(1), nearer, within - nearer


def _take_level(counts: Tensor, level: Tensor) -> Tensor:
    """Select the counts of one level for each query: counts [Q, levels, splits], level [Q, 1] -> int64 [Q, splits]."""
    return counts.gather(1, level[:, :, None].expand(-1, 1, counts.shape[2])).squeeze(1).long()

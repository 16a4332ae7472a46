"""Exact k nearest codes in the order (distance, position), without sorting, counting or collecting in the scan.

The gallery is cut into spans. One scan leaves the distance of every span's nearest code: one minimum a distance, no branch. The
k nearest codes lie in the k spans that come first in the order (distance of the nearest code, position): each of those holds a
code that comes before every code of a span further down. So the distances inside k spans, a few thousand codes, are taken again,
and their k smallest chosen in the same way. The work is the same for every gallery, be all codes equal or sorted by class.

With spans of sqrt(N / k) codes, scan apart, a query costs 2 sqrt(N k) distances. Where k is too large a part of the gallery for
that, passes that count codes within trial radii find each query's radius, and one more pass writes the codes within it.
Nothing waits for the host, and no answer depends on timing.
"""

import math
from typing import NamedTuple

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
_BUFFER_BYTES = 1 << 29  # what a batch of queries may take beside its answer
_BYTES_OF_PLACE = 40  # of an answer by counting: as it was found, and its order, sorted


class Plan(NamedTuple):
    """How a search is done."""

    path: str  # "bandwidth", "popcount", "dot": what bounds the scan; "count" for a large k
    span: int = 0  # codes of a span
    block_q: int = 0  # queries of a program
    rows: int = 0  # codes, or groups of codes, that a program meets at a time
    programs: int = 0  # about this many


def plan(queries: int, gallery: int, words: int, k: int, device: Device) -> Plan:
    """Choose how to search `gallery` codes of `words` 32-bit words."""
    group, lanes = group_of(words), device.warp_size
    most = min(gallery, 2**31) // (2 * k)  # codes of a span, if k spans are to be at most half the gallery
    span = 1 << round(math.log2(gallery / k) / 2) if most else 0
    if queries >= 32 and words <= _MOST_DOT_WORDS[device.family] and most >= 256:
        # A thread holds its part of the tile's sums, their minima and the expanded codes in registers.
        block_q = 128 if words <= 8 else 64 if words <= 16 else 32
        return Plan("dot", min(max(2 * span, 256), 4096), min(block_q, next_power_of_2(queries)), 64, 2 * device.multiprocessors)
    if most < lanes * group:
        return Plan("count")
    span = min(max(span, lanes * group), 4096)
    if queries <= 4:
        rows = min(rows_in_flight(words, lanes), span // group)
        return Plan("bandwidth", span, next_power_of_2(queries), rows, 32 * device.multiprocessors)
    # The words of a program's queries stay in registers, unless they are too many for any.
    block_q = 16 if words <= 2 else 8 if words <= 8 or words > UNROLLED_WORDS.value else 4
    return Plan("popcount", span, min(block_q, next_power_of_2(queries)), lanes, 16 * device.multiprocessors)


def hamming_topk(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor | None, distances: Tensor, ids: Tensor
) -> None:
    """Fill `distances` int32 and `ids` int64 [Q, k] from uint8 codes [Q, B] and [N, B].

    `mask` bool [N] says which rows count, `limits` int32 [Q] at which distance codes stop to count. Neither queries nor gallery
    are empty.
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
    """By batches of queries, from codes in words."""
    if mask is not None:
        mask = mask.contiguous().view(torch.uint8)
    dtype = torch.int16 if 32 * gallery.shape[1] + 1 < 2**15 else torch.int32
    group_bytes = cut.block_q * _bytes_of_query(gallery.shape[0], distances.shape[1], cut.span, dtype)
    batch = max(1, _BUFFER_BYTES // group_bytes) * cut.block_q
    for first in range(0, queries.shape[0], batch):
        parts = (queries, limits, distances, ids)
        if batch < queries.shape[0]:
            parts = tuple(None if part is None else part[first : first + batch] for part in parts)
        _search_batch(*parts, gallery, mask, cut, dtype)


def _bytes_of_query(gallery: int, k: int, span: int, dtype: torch.dtype) -> int:
    """What a search allocates for a query beside its answer."""
    counts = cdiv(gallery, span), k * span
    return dtype.itemsize * sum(counts) + sum(_smallest.candidate_bytes(count, k) for count in counts) + 4 * k


def scan(queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor, cut: Plan) -> None:
    """The distance of every span's nearest code, [Q, ceil(N / span)], from codes in words."""
    nearest_in_spans = _spans.nearest_by_dot if cut.path == "dot" else _spans.nearest_by_popcount
    nearest_in_spans(queries, gallery, mask, nearest, span=cut.span, block_q=cut.block_q, rows=cut.rows, programs=cut.programs)


def _search_batch(
    queries: Tensor, limits: Tensor | None, distances: Tensor, ids: Tensor, gallery: Tensor, mask: Tensor | None, cut: Plan,
    dtype: torch.dtype,
) -> None:  # fmt: skip
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
    """Fill `distances` and `ids` [Q, k] from what was found, in the order of rows for each distance.

    What is `farthest` or more away, or not below the limit of its query, is missing.
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
    """Count, then write."""
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
    """Each query's radius [Q], and for each part of the gallery how many codes lie nearer and how many on it, [Q, splits]."""
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
    """counts [Q, levels, splits], level [Q, 1] -> int64 [Q, splits]."""
    return counts.gather(1, level[:, :, None].expand(-1, 1, counts.shape[2])).squeeze(1).long()

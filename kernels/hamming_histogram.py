"""Numbers of gallery codes at each distance from each query, counted with Triton.

A program of one warp counts a split of the gallery for one query in the registers of its threads (see _counters.py). PyTorch adds
up the splits.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _counters
from ._bits import as_words
from ._counters import (
    BATCH,
    batch_distances,
    batch_relevance,
    batch_rows,
    count_batch,
    counts_of,
    items_of,
    no_counts,
    only_live,
    weight,
)
from ._device import Device, device_of
from ._distances import UNROLLED_WORDS, group_of, query_words_of
from ._sizes import cdiv
from .launch import launch

_WARPS_PER_MULTIPROCESSOR = 64  # several times the number that runs at once, so that no multiprocessor is idle at the end
_FEWEST_BATCHES = 8  # batches of a program; one with fewer would mostly add up the counts of its threads
_PARTIAL_BYTES = 2**28  # memory of the counts of all splits
_PLANES = 12  # bit planes of the counters; one less for two sets of counters or long codes
COUNTS = ["query_count", "size", "splits", "batches", "blocks"]  # arguments for whose values kernels are not specialised


class Plan(NamedTuple):
    """Division of the work among programs and threads."""

    counters: _counters.Counters
    lanes: int  # threads of a program, which has one warp
    splits: int  # splits of the gallery
    batches: int  # batches of BATCH codes that a thread counts in a split

    def steps(self, batch: int) -> int:
        """Return how many batches of `batch` codes a thread counts in a split."""
        return self.batches * BATCH // batch


def plan(queries: int, gallery: int, bits: int, labels: bool, device: Device) -> Plan:
    """Plan splits that are as large as possible while no multiprocessor is idle and no counter overflows."""
    words, lanes = 4 if labels or bits > 512 else 8, device.warp_size
    programs = cdiv(_WARPS_PER_MULTIPROCESSOR * device.multiprocessors, queries * cdiv(bits, 32 * words))
    all_batches = cdiv(gallery, lanes * BATCH)
    planes = _PLANES - 1 if labels or bits > 256 else _PLANES
    batches = min(max(_FEWEST_BATCHES, cdiv(all_batches, programs)), _counters.most_batches(planes))
    return Plan(_counters.counters(bits, words, batches, planes), lanes, cdiv(all_batches, batches), batches)


def hamming_histogram(
    queries: Tensor,
    gallery: Tensor,
    counts: Tensor,
    query_labels: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
    *,
    shared: bool = False,
) -> None:
    """Fill `counts` int64 [Q, K+1] with the number of gallery codes at each distance.

    queries: uint8 [Q, B], gallery: uint8 [N, B], neither of them empty. With labels, int64 words [Q, L] and [N, L], also fill
    `relevant` int64 [Q, K+1] with the number of these codes that are relevant to the query. With `shared` labels are sets of
    classes, one bit each, and codes that share a class are relevant; otherwise L is 1 and codes with an equal word are relevant.
    """
    bins = counts.shape[1]
    cut = plan(len(queries), len(gallery), bins - 1, relevant is not None, device_of(gallery.device))
    totals = [counts] if relevant is None else [counts, relevant]
    words, gallery_words = as_words(queries), as_words(gallery)
    gallery_labels = None if gallery_labels is None else gallery_labels.contiguous()
    batch = max(1, _PARTIAL_BYTES // (4 * len(totals) * cut.splits * cut.counters.bins))
    for first in range(0, len(queries), batch):
        some = slice(first, first + batch)
        labels = None if query_labels is None else query_labels[some].contiguous()
        partial = counts.new_empty(len(totals), len(words[some]), cut.splits, cut.counters.bins, dtype=torch.int32)
        launch_count(words[some], gallery_words, labels, gallery_labels, partial[0], partial[-1], len(gallery), cut, shared)
        for total, by_split in zip(totals, partial, strict=True):
            torch.sum(by_split[:, :, :bins], dim=1, dtype=torch.int64, out=total[some])


def launch_count(
    queries: Tensor,
    gallery: Tensor,
    query_labels: Tensor | None,
    gallery_labels: Tensor | None,
    counts: Tensor,
    relevant: Tensor,
    size: int,
    cut: Plan,
    shared: bool,
    segmented: int = 0,
) -> None:
    """Launch `_count` for queries [Q, W] and the first `size` codes of the gallery [N', W], in int32 words.

    With `segmented` 0, `counts` and, with labels, `relevant` are int32 [Q, splits, bins]. Otherwise gallery and labels are in the
    order of `_counters.segments` for batches of `segmented` codes, and `counts` is int64 [Q, bins, splits * lanes]: the codes of
    each segment and, 32 bits higher, the relevant ones.
    """
    words = gallery.shape[1]
    labels = 0 if gallery_labels is None else gallery_labels.shape[1]
    unrolled = words <= UNROLLED_WORDS.value
    many = (2 if labels else 1) * cut.counters.words * cut.counters.planes > 64
    # With many counters there are no registers left for 8 long codes, or for labels of several words.
    batch = BATCH // 2 if unrolled and (words > 8 or (many and labels > 1)) else BATCH
    # Without a bound NVIDIA's compiler chooses numbers of registers for which it spills a few bytes.
    min_blocks = None
    if many and unrolled:
        min_blocks = 10
    elif not many and labels > 1 and (unrolled or segmented):
        min_blocks = 12
    launch(_count, (len(queries) * cut.splits * cut.counters.blocks,), queries, gallery, query_labels, gallery_labels, counts,
           relevant, len(queries), size, cut.splits, cut.steps(batch), cut.counters.blocks,
           **scan_constexprs(batch, words, labels, shared, cut, device_of(gallery.device)), SEGMENTED=segmented, num_warps=1,
           min_blocks_per_sm=min_blocks)  # fmt: skip


def scan_constexprs(batch: int, words: int, labels: int, shared: bool, cut: Plan, device: Device) -> dict[str, Any]:
    """Return the constants that the kernels of this module and of average_precision.py share."""
    return {
        **cut.counters.constexprs(),
        "BATCH": batch,
        "LANES": cut.lanes,
        "WORDS": words,
        "GROUP": group_of(words),
        "LABELS": labels,
        "SHARED": shared,
        "SLOW_POPCOUNT": device.backend == "cuda",
    }


@triton.jit(do_not_specialize=COUNTS)
def _count(queries, gallery, query_labels, gallery_labels, counts, relevant, query_count, size, splits, batches,
           blocks, BATCH: tl.constexpr, COUNTED: tl.constexpr, BLOCKED: tl.constexpr, LAST: tl.constexpr, PLANES: tl.constexpr,
           LANES: tl.constexpr, WORDS: tl.constexpr, GROUP: tl.constexpr, LABELS: tl.constexpr, SHARED: tl.constexpr,
           SLOW_POPCOUNT: tl.constexpr, SEGMENTED: tl.constexpr):  # fmt: skip
    """Count one split of the gallery for one query, and one block of distances.

    queries, gallery: int32 words [Q, W], [N', W]; query_labels, gallery_labels: int64 words [Q, L], [N', L], or None; counts,
    relevant: out, as `launch_count` describes. COUNTED: words of distances of a block; BLOCKED: there are several blocks;
    LAST, PLANES: see `_counters.Counters`; LABELS: L, or 0. Programs of one split have consecutive numbers, so that they run at
    the same time and share the split in the cache.
    """
    query = (tl.program_id(0) % query_count).to(tl.int64)
    split = (tl.program_id(0) // query_count % splits).to(tl.int64)
    block = tl.program_id(0) // query_count // splits if BLOCKED else 0
    farthest = 32 * COUNTED * (blocks if BLOCKED else 1)  # with LAST, the largest distance, which has its own counter
    query_words = query_words_of(queries, query, query_count, WORDS, 1)
    planes = no_counts(LANES, COUNTED, PLANES)
    relevant_planes = no_counts(LANES, COUNTED if LABELS else 0, PLANES)
    last = tl.zeros([1, LANES], tl.int32)  # the number of items at the largest distance and, 16 bits higher, of relevant ones
    first_row = split * batches * (BATCH * LANES)
    whole, end = 0, batches
    if not SEGMENTED:  # with segments, any batch may hold codes that do not count
        end = tl.minimum(batches, tl.cdiv(size - first_row, BATCH * LANES))
        if GROUP > 1 or WORDS <= 8:  # for long codes one loop is enough, since checking each code takes little of the time
            whole = tl.minimum(batches, tl.maximum(size - first_row, 0) // (BATCH * LANES))
    for step in range(whole):
        planes, relevant_planes, last = _count_batch(
            planes, relevant_planes, last, queries, query_words, query, gallery, query_labels, gallery_labels,
            size, split, batches, step, block, farthest, BATCH, COUNTED, LAST, PLANES, LANES, WORDS, GROUP, LABELS, SHARED,
            SLOW_POPCOUNT, SEGMENTED, True)  # fmt: skip
    for step in range(whole, end):
        planes, relevant_planes, last = _count_batch(
            planes, relevant_planes, last, queries, query_words, query, gallery, query_labels, gallery_labels,
            size, split, batches, step, block, farthest, BATCH, COUNTED, LAST, PLANES, LANES, WORDS, GROUP, LABELS, SHARED,
            SLOW_POPCOUNT, SEGMENTED, False)  # fmt: skip
    bins = farthest + LAST
    first_bin = block * (32 * COUNTED)
    for bit in range(32):
        for word in tl.static_range(COUNTED):
            found = counts_of(planes, word, bit, PLANES)
            found_relevant = counts_of(relevant_planes, word, bit, PLANES) if LABELS else found
            _store(
                counts,
                relevant,
                found,
                found_relevant,
                query,
                split,
                splits,
                first_bin + 32 * word + bit,
                bins,
                LABELS,
                SEGMENTED,
            )
    if LAST and (not BLOCKED or block == blocks - 1):
        _store(counts, relevant, last & 0xFFFF, last >> 16, query, split, splits, bins - 1, bins, LABELS, SEGMENTED)


@triton.jit
def _count_batch(planes, relevant_planes, last, queries, query_words, query, gallery, query_labels, gallery_labels,
                 size, split, batches, step, block, farthest, BATCH: tl.constexpr, COUNTED: tl.constexpr,
                 LAST: tl.constexpr, PLANES: tl.constexpr, LANES: tl.constexpr, WORDS: tl.constexpr, GROUP: tl.constexpr,
                 LABELS: tl.constexpr, SHARED: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, SEGMENTED: tl.constexpr,
                 WHOLE: tl.constexpr):  # fmt: skip
    """Count one batch of codes per thread. WHOLE: all of its codes count."""
    full: tl.constexpr = WHOLE or SEGMENTED > 0
    distances = batch_distances(queries, query_words, query, gallery, split, batches, step, size, BATCH, WORDS, GROUP, LANES,
                                SLOW_POPCOUNT, full)  # fmt: skip
    rows = batch_rows(split, batches, step, BATCH, GROUP, LANES)
    if not WHOLE:
        distances = only_live(distances, rows, split, batches, step, size, GROUP, SEGMENTED)
    places = distances - block * (32 * COUNTED)
    items = items_of(places)
    planes = count_batch(planes, items, (), COUNTED, PLANES)
    wanted = distances < 0  # all False
    if LABELS:
        wanted = batch_relevance(query_labels, gallery_labels, query, rows, size, BATCH, LANES, LABELS, SHARED, full)
        relevant_planes = count_batch(relevant_planes, items, items_of(tl.where(wanted, -1, 0)), COUNTED, PLANES)
    if LAST:
        last += tl.sum(tl.where(distances == farthest, weight(wanted), 0), axis=0, keep_dims=True)
    return planes, relevant_planes, last


@triton.jit
def _store(
    counts, relevant, found, found_relevant, query, split, splits, bin_, bins, LABELS: tl.constexpr, SEGMENTED: tl.constexpr
):
    """Store the counts of one distance: per segment, or added up over the threads."""
    if SEGMENTED:
        segment = split * found.shape[1] + tl.arange(0, found.shape[1])[None, :]
        place = (query * bins + bin_) * (splits * found.shape[1]) + segment
        tl.store(counts + place, found.to(tl.int64) | (found_relevant.to(tl.int64) << 32))
    else:
        place = (query * splits + split) * bins + bin_
        tl.store(counts + place, tl.sum(found))
        if LABELS:
            tl.store(relevant + place, tl.sum(found_relevant))

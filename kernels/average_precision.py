"""Ranks of relevant items, and the sums of precisions at them, without sorting.

An item's rank in the order (distance, position) is one more than the items that are nearer, and those as near that stand before
it. The gallery is cut into segments, a thread's each. A first pass counts the items of every segment at every distance, in the
order of positions, and running sums over (distance, segment) say how many items come before those of a segment at a distance.
A second pass walks the segments again and adds how many the thread has met at the distance itself: it has a counter for each
(see _counters.py). The same counts of relevant items alone are the hits. Nothing is sorted, and no answer depends on timing.
"""

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
    counts_at,
    distance_bits,
    live_items,
    no_counts,
    only,
    only_live,
)
from ._sizes import cdiv
from ._spans import group_of, query_words_of, warp_size
from .hamming_histogram import Plan, launch_count, scan_constexprs
from .launch import launch, multiprocessor_count

_WARPS_A_MULTIPROCESSOR = 64  # a few times what runs at once, so that none stands idle at the end
_FEWEST_BATCHES = 16  # of a segment, which takes as many starts as there are distances
_PLANES = 11  # of the counters: one register a plane and 32 distances less than a histogram's
_TABLE_BYTES = 2**28  # of what the first pass leaves
_LIMITS_A_LAUNCH = 4


def plan(queries: int, gallery: int, bits: int, rows: int, multiprocessors: int) -> Plan:
    """Segments as long as leave no multiprocessor idle, and as the counters can hold."""
    programs = cdiv(_WARPS_A_MULTIPROCESSOR * multiprocessors, queries * cdiv(bits, 128))
    all_batches = cdiv(gallery, rows * BATCH.value)
    batches = min(max(_FEWEST_BATCHES, cdiv(all_batches, programs)), _counters.most_batches(_PLANES), all_batches)
    parts = cdiv(all_batches, batches)
    batches = cdiv(all_batches, parts)
    return Plan(_counters.counters(bits, 4, batches, _PLANES), rows, parts, batches)


class Rankings:
    """A gallery, laid out for the rankings of `queries` queries at most."""

    def __init__(self, queries: int, gallery: Tensor, labels: Tensor, *, shared: bool) -> None:
        """gallery: uint8 [N, B], not empty; labels: int64 words [N, L], as `hamming_histogram` takes them."""
        words, device = as_words(gallery), gallery.device
        self.size, self.bits, self.shared = len(gallery), 8 * gallery.shape[1], shared
        self.plan = plan(queries, self.size, self.bits, warp_size(device), multiprocessor_count(device))
        layout = group_of(words.shape[1]), self.plan.parts, self.plan.rows, self.plan.batches
        self.gallery, self.labels = _counters.segments(words, *layout), _counters.segments(labels, *layout)

    @property
    def most_queries(self) -> int:
        """How many queries to rank in one call, which takes _TABLE_BYTES of memory."""
        return max(1, _TABLE_BYTES // (8 * self.plan.counters.bins * self.plan.parts * self.plan.rows))

    def rank(
        self, queries: Tensor, labels: Tensor, limits: Tensor, precisions: Tensor, hits: Tensor, counts: Tensor, relevant: Tensor
    ) -> None:
        """Fill in what all metrics come from, for queries uint8 [Q, B] and their labels int64 [Q, L].

        precisions: float64 [L, Q], the sum of the precisions at the relevant items among the first `limits` int64 [L], and
        hits: int64 [L, Q], their number; counts, relevant: int64 [Q, K+1], all and relevant items at each distance.
        """
        words, labels = as_words(queries), labels.contiguous()
        starts = self._starts(words, labels)
        ends = starts[:, self.plan.parts * self.plan.rows - 1 :: self.plan.parts * self.plan.rows][:, : counts.shape[1]]
        for total, before in ((counts, ends & 0xFFFFFFFF), (relevant, ends >> 32)):
            torch.diff(before, dim=1, prepend=before.new_zeros(len(before), 1), out=total)
        limits = limits.to(queries.device)
        for first in range(0, len(limits), _LIMITS_A_LAUNCH):
            some = slice(first, first + _LIMITS_A_LAUNCH)
            self._sum(words, labels, starts, limits[some], precisions[some], hits[some])

    def _starts(self, words: Tensor, labels: Tensor) -> Tensor:
        """Items up to a distance and segment, and relevant ones, 32 bits higher: int64 [Q, bins * segments]."""
        segments = self.plan.parts * self.plan.rows
        starts = labels.new_empty(len(words), self.plan.counters.bins * segments)
        launch_count(words, self.gallery, labels, self.labels, starts, starts, self.size, self.plan, self.shared, segmented=True)
        return torch.cumsum(starts, dim=1, out=starts)

    def _sum(self, words: Tensor, labels: Tensor, starts: Tensor, limits: Tensor, precisions: Tensor, hits: Tensor) -> None:
        cut = self.plan
        programs = cut.parts * cut.counters.blocks
        partial_precisions = precisions.new_empty(len(limits), len(words), programs)
        partial_hits = hits.new_empty(len(limits), len(words), programs, dtype=torch.int32)
        launch(_sum_precisions, (len(words) * programs,), words, self.gallery, labels, self.labels, starts, limits,
               partial_precisions, partial_hits, len(words), self.size, len(self.gallery), cut.parts, cut.batches,
               LIMITS=len(limits), **scan_constexprs(words.shape[1], labels.shape[1], self.shared, cut), num_warps=1)  # fmt: skip
        torch.sum(partial_precisions, dim=2, out=precisions)
        torch.sum(partial_hits, dim=2, dtype=torch.int64, out=hits)


@triton.jit
def _sum_precisions(queries, gallery, query_labels, gallery_labels, starts, limits, precisions, hits, query_count, size, stored,
                    parts, batches, LIMITS: tl.constexpr, COUNTED: tl.constexpr, BLOCKS: tl.constexpr, LAST: tl.constexpr,
                    PLANES: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, GROUP: tl.constexpr, LABELS: tl.constexpr,
                    SHARED: tl.constexpr, SLOW_POPCOUNT: tl.constexpr):  # fmt: skip
    """precisions, hits: [LIMITS, Q, BLOCKS * parts]. A program takes the items at the distances of one block."""
    query = (tl.program_id(0) % query_count).to(tl.int64)
    program = tl.program_id(0) // query_count
    part = (program % parts).to(tl.int64)
    block = program // parts if BLOCKS > 1 else 0
    query_words = query_words_of(queries, query, query_count, WORDS, 1)
    planes = no_counts(ROWS, COUNTED, PLANES)
    relevant_planes = no_counts(ROWS, COUNTED, PLANES)
    # Of items at the largest distance, which may have no planes: all of them, and relevant ones 16 bits higher.
    last = tl.zeros([ROWS], tl.int32)
    segment = part * ROWS + tl.arange(0, ROWS)
    segments = parts * ROWS
    bins: tl.constexpr = 32 * COUNTED * BLOCKS + LAST
    query_starts = starts + (query * bins * segments + segment - 1)  # the start of a segment is the end of the one before
    ends, sums, found = (), (), ()
    for limit in tl.static_range(LIMITS):
        ends += (tl.load(limits + limit),)
        sums += (tl.zeros([ROWS], tl.float64),)
        found += (tl.zeros([ROWS], tl.int32),)
    for step in range(batches):
        rows = batch_rows(part, batches, step, GROUP, ROWS)
        live = live_items(rows, part, batches, step, size, GROUP, True)
        distances = only_live(
            batch_distances(queries, query_words, query, gallery, rows, stored, WORDS, GROUP, SLOW_POPCOUNT, True), live
        )
        wanted = batch_relevance(query_labels, gallery_labels, query, rows, stored, GROUP, LABELS, SHARED)
        bits = distance_bits(distances, block * (32 * COUNTED), COUNTED)
        for item in tl.static_range(BATCH):
            distance = distances[item]
            mine = wanted[item] & _in_block(distance, block, COUNTED, BLOCKS, LAST)
            before = _tied_before(distances, wanted, item)
            if LAST:
                before += tl.where(distance == bins - 1, last, 0)
            items = counts_at(planes, bits, item, COUNTED, PLANES) + (before & 0xFFFF)
            hit_items = counts_at(relevant_planes, bits, item, COUNTED, PLANES) + (before >> 16)
            first = (distance == 0) & (segment == 0)
            start = tl.load(query_starts + distance.to(tl.int64) * segments, mask=mine & ~first, other=0)
            rank = start.to(tl.int32) + items + 1
            hit = (start >> 32).to(tl.int32) + hit_items + 1
            precision = _quotient(hit, rank)
            new_sums, new_found = (), ()
            for limit in tl.static_range(LIMITS):
                counts = mine & (rank <= ends[limit])
                new_sums += (sums[limit] + tl.where(counts, precision, 0.0),)
                new_found += (found[limit] + counts.to(tl.int32),)
            sums, found = new_sums, new_found
        planes = count_batch(planes, bits, COUNTED, PLANES)
        relevant_planes = count_batch(relevant_planes, only(bits, wanted, COUNTED), COUNTED, PLANES)
        if LAST:
            for item in tl.static_range(BATCH):
                last += tl.where(distances[item] == bins - 1, _weight(wanted[item]), 0)
    for limit in tl.static_range(LIMITS):
        place = (limit * query_count + query) * (parts * BLOCKS) + program
        tl.store(precisions + place, tl.sum(sums[limit], axis=0))
        tl.store(hits + place, tl.sum(found[limit], axis=0))


@triton.jit
def _in_block(distance, block, COUNTED: tl.constexpr, BLOCKS: tl.constexpr, LAST: tl.constexpr):
    """Whether an item is there, and a program of this block counts it. Items at the largest distance are the last block's."""
    if BLOCKS == 1:
        return distance < 32 * COUNTED + LAST
    mine: tl.constexpr = 32 * COUNTED
    return (tl.minimum(distance // mine, BLOCKS - 1 if LAST else BLOCKS) == block) & (distance < mine * BLOCKS + LAST)


@triton.jit
def _tied_before(distances, wanted, item: tl.constexpr):
    """Items of the batch that are as near as this one and stand before it, and relevant ones, 16 bits higher."""
    before = tl.zeros(distances[0].shape, tl.int32)
    for other in tl.static_range(item):
        before += tl.where(distances[other] == distances[item], _weight(wanted[other]), 0)
    return before


@triton.jit
def _quotient(numerator, denominator):
    """A quotient of integers in float64, to 1e-13 of itself: a step of Newton's method where a division takes twenty."""
    inverse = (1.0 / denominator.to(tl.float32)).to(tl.float64)
    return numerator.to(tl.float64) * inverse * (2.0 - denominator.to(tl.float64) * inverse)


@triton.jit
def _weight(wanted):
    return tl.where(wanted, 0x10001, 1)

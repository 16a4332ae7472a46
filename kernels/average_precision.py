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
    items_of,
    no_counts,
    only_live,
    weight,
)
from ._device import Device, device_of
from ._distances import UNROLLED_WORDS, group_of, query_words_of
from ._sizes import cdiv
from .hamming_histogram import COUNTS, Plan, launch_count, scan_constexprs
from .launch import launch

_WARPS_A_MULTIPROCESSOR = 64  # a few times what runs at once, so that none stands idle at the end
_FEWEST_BATCHES = 16  # of a segment, which takes as many starts as there are distances
_RANKED = 4  # codes of a thread that the second pass ranks together: with more it would run out of registers
_PLANES = 11  # of the counters, two registers each for 32 distances
_TABLE_BYTES = 2**28  # of what the first pass leaves
_LIMITS_A_LAUNCH = 4  # or one: between the two, the rest are none


def plan(queries: int, gallery: int, bits: int, device: Device) -> Plan:
    """Segments as long as leave no multiprocessor idle, and as the counters can hold."""
    rows = device.warp_size
    programs = cdiv(_WARPS_A_MULTIPROCESSOR * device.multiprocessors, queries * cdiv(bits, 128))
    all_batches = cdiv(gallery, rows * BATCH)
    batches = min(max(_FEWEST_BATCHES, cdiv(all_batches, programs)), _counters.most_batches(_PLANES), all_batches)
    parts = cdiv(all_batches, batches)
    batches = cdiv(all_batches, parts)
    return Plan(_counters.counters(bits, 4, batches, _PLANES), rows, parts, batches)


class Rankings:
    """A gallery, laid out for the rankings of `queries` queries at most."""

    def __init__(self, queries: int, gallery: Tensor, labels: Tensor, *, shared: bool) -> None:
        """gallery: uint8 [N, B], not empty; labels: int64 words [N, L], as `hamming_histogram` takes them."""
        words = as_words(gallery)
        self.size, self.bits, self.shared = len(gallery), 8 * gallery.shape[1], shared
        self.plan = plan(queries, self.size, self.bits, device_of(gallery.device))
        layout = group_of(words.shape[1]), self.plan.parts, self.plan.rows, self.plan.steps(_RANKED), _RANKED
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
        for first in range(0, len(limits), _LIMITS_A_LAUNCH):
            some = slice(first, first + _LIMITS_A_LAUNCH)
            self._sum(words, labels, starts, limits[some], precisions[some], hits[some])

    def _starts(self, words: Tensor, labels: Tensor) -> Tensor:
        """Items up to a distance and segment, and relevant ones, 32 bits higher: int64 [Q, bins * segments]."""
        segments = self.plan.parts * self.plan.rows
        starts = labels.new_empty(len(words), self.plan.counters.bins * segments)
        launch_count(words, self.gallery, labels, self.labels, starts, starts, self.size, self.plan, self.shared, _RANKED)
        return torch.cumsum(starts, dim=1, out=starts)

    def _sum(self, words: Tensor, labels: Tensor, starts: Tensor, limits: Tensor, precisions: Tensor, hits: Tensor) -> None:
        cut = self.plan
        programs = cut.parts * cut.counters.blocks
        at_once = 1 if len(limits) == 1 else _LIMITS_A_LAUNCH
        ends = torch.nn.functional.pad(limits.to(words.device), (0, at_once - len(limits)))
        partial_precisions = precisions.new_empty(at_once, len(words), programs)
        partial_hits = hits.new_empty(at_once, len(words), programs, dtype=torch.int32)
        device = device_of(words.device)
        constexprs = scan_constexprs(_RANKED, words.shape[1], labels.shape[1], self.shared, cut, device)
        # Without a bound NVIDIA's compiler aims at 168 or 255 registers there, and spills a few bytes.
        min_blocks = None
        if cut.counters.blocks > 1 and (words.shape[1] <= UNROLLED_WORDS.value or device.family == "sm_86"):
            min_blocks = 9
        elif words.shape[1] == 3 and device.family == "sm_120":
            min_blocks = 8
        launch(_sum_precisions, (len(words) * programs,), words, self.gallery, labels, self.labels, starts, ends,
               partial_precisions, partial_hits, len(words), self.size, cut.parts, cut.steps(_RANKED),
               cut.counters.blocks, LIMITS=at_once, **constexprs, num_warps=1, min_blocks_per_sm=min_blocks)  # fmt: skip
        torch.sum(partial_precisions[: len(limits)], dim=2, out=precisions)
        torch.sum(partial_hits[: len(limits)], dim=2, dtype=torch.int64, out=hits)


@triton.jit(do_not_specialize=COUNTS)
def _sum_precisions(queries, gallery, query_labels, gallery_labels, starts, limits, precisions, hits, query_count, size, parts,
                    batches, blocks, LIMITS: tl.constexpr, BATCH: tl.constexpr, COUNTED: tl.constexpr,
                    BLOCKED: tl.constexpr, LAST: tl.constexpr, PLANES: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr,
                    GROUP: tl.constexpr, LABELS: tl.constexpr, SHARED: tl.constexpr, SLOW_POPCOUNT: tl.constexpr):  # fmt: skip
    """precisions, hits: [LIMITS, Q, blocks * parts]. A program takes the items at the distances of one block."""
    query = (tl.program_id(0) % query_count).to(tl.int64)
    program = tl.program_id(0) // query_count
    part = (program % parts).to(tl.int64)
    block = program // parts if BLOCKED else 0
    farthest = 32 * COUNTED * (blocks if BLOCKED else 1)  # with LAST the largest distance, which is behind all words
    query_words = query_words_of(queries, query, query_count, WORDS, 1)
    planes = no_counts(ROWS, COUNTED, PLANES)
    relevant_planes = no_counts(ROWS, COUNTED, PLANES)
    # Of items at the largest distance, which may have no planes: all of them, and relevant ones 16 bits higher.
    last = tl.zeros([1, ROWS], tl.int32)
    segment = part * ROWS + tl.arange(0, ROWS)[None, :]
    segments = parts * ROWS
    # The start of a segment is the end of the one before.
    query_starts = starts + (query * (farthest + LAST) * segments + segment - 1)
    ends, sums, found = (), (), ()
    for limit in tl.static_range(LIMITS):
        ends += (tl.minimum(tl.load(limits + limit), 0x7FFFFFFF).to(tl.int32),)
        sums += (tl.zeros([1, ROWS], tl.float64),)
        found += (tl.zeros([1, ROWS], tl.int32),)
    for step in range(batches):
        rows = batch_rows(part, batches, step, BATCH, GROUP, ROWS)
        distances = batch_distances(queries, query_words, query, gallery, part, batches, step, size, BATCH, WORDS, GROUP, ROWS,
                                    SLOW_POPCOUNT, True)  # fmt: skip
        distances = only_live(distances, rows, part, batches, step, size, GROUP, BATCH)
        wanted = batch_relevance(query_labels, gallery_labels, query, rows, size, BATCH, ROWS, LABELS, SHARED, True)
        mine = wanted & _in_block(distances, block, blocks, COUNTED, BLOCKED, LAST)
        places = distances - block * (32 * COUNTED)
        items_at, masks = items_of(places), items_of(tl.where(wanted, -1, 0))
        before = _tied_before(places, items_at, masks)
        if LAST:
            before += tl.where(distances == farthest, last, 0)
        items = counts_at(planes, places, COUNTED, PLANES) + (before & 0xFFFF)
        hit_items = counts_at(relevant_planes, places, COUNTED, PLANES) + (before >> 16)
        first = (distances == 0) & (segment == 0)
        place = tl.reshape(query_starts + distances.to(tl.int64) * segments, [BATCH * ROWS])
        start = tl.load(place, mask=tl.reshape(mine & ~first, [BATCH * ROWS]), other=0)
        start = tl.reshape(start, [BATCH, ROWS])
        rank = start.to(tl.int32) + items + 1
        hit = (start >> 32).to(tl.int32) + hit_items + 1
        precision = _quotient(hit, rank)
        new_sums, new_found = (), ()
        for limit in tl.static_range(LIMITS):
            counts = mine & (rank <= ends[limit])
            new_sums += (sums[limit] + tl.sum(tl.where(counts, precision, 0.0), axis=0, keep_dims=True),)
            new_found += (found[limit] + tl.sum(counts.to(tl.int32), axis=0, keep_dims=True),)
        sums, found = new_sums, new_found
        planes = count_batch(planes, items_at, (), COUNTED, PLANES)
        relevant_planes = count_batch(relevant_planes, items_at, masks, COUNTED, PLANES)
        if LAST:
            last += tl.sum(tl.where(distances == farthest, weight(wanted), 0), axis=0, keep_dims=True)
    for limit in tl.static_range(LIMITS):
        place = (limit * query_count + query) * (parts * (blocks if BLOCKED else 1)) + program
        tl.store(precisions + place, tl.sum(sums[limit]))
        tl.store(hits + place, tl.sum(found[limit]))


@triton.jit
def _in_block(distance, block, blocks, COUNTED: tl.constexpr, BLOCKED: tl.constexpr, LAST: tl.constexpr):
    """Whether an item is there, and a program of this block counts it. Items at the largest distance are the last block's."""
    mine: tl.constexpr = 32 * COUNTED
    if BLOCKED:
        last = blocks - 1 if LAST else blocks
        return (tl.minimum(distance // mine, last) == block) & (distance < mine * blocks + LAST)
    else:
        return distance < mine + LAST


@triton.jit
def _tied_before(places, items, masks):
    """Items of the batch that are as near as each of them and stand before it, and relevant ones, 16 bits higher."""
    item = tl.arange(0, places.shape[0])[:, None]
    before = tl.zeros(places.shape, tl.int32)
    for other in tl.static_range(places.shape[0] - 1):
        tied = (places == items[other]) & (item > other)
        before += tl.where(tied, weight(masks[other] != 0), 0)
    return before


@triton.jit
def _quotient(numerator, denominator):
    """A quotient of integers in float64, to 1e-13 of itself: a step of Newton's method where a division takes twenty."""
    inverse = (1.0 / denominator.to(tl.float32)).to(tl.float64)
    return numerator.to(tl.float64) * inverse * (2.0 - denominator.to(tl.float64) * inverse)

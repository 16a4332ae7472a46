"""Ranks of relevant items, and sums of precisions at these ranks, with Triton and without sorting.

The rank of an item in the order (distance, row) is one plus the number of nearer items plus the number of items at the same
distance in earlier rows. The gallery is divided into segments, one for each thread. A first pass counts the items of every
segment at every distance; running sums over (distance, segment) are the numbers of items before a segment's items at a distance.
A second pass reads the segments again and adds the number of items that the thread has read at the same distance, for which it
has counters (see _counters.py). The same counts of relevant items alone are the hits. No result depends on timing.
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
from .hamming_histogram import COUNTS, Plan, hamming_histogram, launch_count, scan_constexprs
from .launch import launch

_WARPS_PER_MULTIPROCESSOR = 64  # several times the number that runs at once, so that no multiprocessor is idle at the end
_FEWEST_BATCHES = 16  # batches of a segment, which needs a table entry for every distance
_RANKED = 4  # codes of a thread that the second pass ranks together; more would not fit the registers
_PLANES = 11  # bit planes of the counters; each takes two registers for 32 distances
_TABLE_BYTES = 2**28  # memory of the table that the first pass fills
_LIMITS_PER_LAUNCH = 4  # a launch takes one limit or this many, padded with limits of 0


def plan(queries: int, gallery: int, bits: int, device: Device) -> Plan:
    """Plan segments that are as long as possible while no multiprocessor is idle and no counter overflows."""
    lanes = device.warp_size
    programs = cdiv(_WARPS_PER_MULTIPROCESSOR * device.multiprocessors, queries * cdiv(bits, 128))
    all_batches = cdiv(gallery, lanes * BATCH)
    batches = min(max(_FEWEST_BATCHES, cdiv(all_batches, programs)), _counters.most_batches(_PLANES), all_batches)
    splits = cdiv(all_batches, batches)
    batches = cdiv(all_batches, splits)
    return Plan(_counters.counters(bits, 4, batches, _PLANES), lanes, splits, batches)


class Rankings:
    """A gallery in the order that kernels read, for rankings of up to `queries` queries.

    limits: int64 [M], numbers of ranks that count. Without any, items are counted and not ranked.
    """

    def __init__(self, queries: int, gallery: Tensor, labels: Tensor, limits: Tensor, *, shared: bool) -> None:
        """Reorder the gallery uint8 [N, B], not empty, and its labels int64 words [N, L] (see `hamming_histogram`)."""
        self.size, self.bits, self.shared, self.limits = len(gallery), 8 * gallery.shape[1], shared, limits
        self.plan = plan(queries, self.size, self.bits, device_of(gallery.device))
        self.gallery, self.labels = gallery, labels
        if len(limits):
            words = as_words(gallery)
            layout = group_of(words.shape[1]), self.plan.splits, self.plan.lanes, self.plan.steps(_RANKED), _RANKED
            self.gallery, self.labels = _counters.segments(words, *layout), _counters.segments(labels, *layout)
        # One call of `rank` may take so many queries that its table needs _TABLE_BYTES of memory.
        table = 8 * self.plan.counters.bins * self.plan.splits * self.plan.lanes
        self.most_queries = max(1, _TABLE_BYTES // table) if len(limits) else max(1, queries)

    def rank(self, queries: Tensor, labels: Tensor, precisions: Tensor, hits: Tensor, counts: Tensor, relevant: Tensor) -> None:
        """Compute the sums from which all metrics are derived, for queries uint8 [Q, B] with labels int64 words [Q, L].

        precisions: float64 [M, Q], the sum of the precisions at the relevant items among the first ranks, for each limit; hits:
        int64 [M, Q], the number of these items; counts, relevant: int64 [Q, K+1], all and relevant items at each distance.
        """
        if len(self.limits) == 0:
            hamming_histogram(queries, self.gallery, counts, labels, self.labels, relevant, shared=self.shared)
            return
        words, labels = as_words(queries), labels.contiguous()
        starts = self._starts(words, labels)
        ends = starts[:, self.plan.splits * self.plan.lanes - 1 :: self.plan.splits * self.plan.lanes][:, : counts.shape[1]]
        for total, before in ((counts, ends & 0xFFFFFFFF), (relevant, ends >> 32)):
            torch.diff(before, dim=1, prepend=before.new_zeros(len(before), 1), out=total)
        for first in range(0, len(self.limits), _LIMITS_PER_LAUNCH):
            some = slice(first, first + _LIMITS_PER_LAUNCH)
            self._sum(words, labels, starts, self.limits[some], precisions[some], hits[some])

    def _starts(self, words: Tensor, labels: Tensor) -> Tensor:
        """Count the items up to each (distance, segment), int64 [Q, bins * segments], and 32 bits higher the relevant ones."""
        segments = self.plan.splits * self.plan.lanes
        starts = labels.new_empty(len(words), self.plan.counters.bins * segments)
        launch_count(words, self.gallery, labels, self.labels, starts, starts, self.size, self.plan, self.shared, _RANKED)
        return torch.cumsum(starts, dim=1, out=starts)

    def _sum(self, words: Tensor, labels: Tensor, starts: Tensor, limits: Tensor, precisions: Tensor, hits: Tensor) -> None:
        """Fill `precisions` and `hits` [M, Q] for at most _LIMITS_PER_LAUNCH limits, in one launch."""
        cut = self.plan
        programs = cut.splits * cut.counters.blocks
        at_once = 1 if len(limits) == 1 else _LIMITS_PER_LAUNCH
        ends = torch.nn.functional.pad(limits.to(words.device), (0, at_once - len(limits)))
        partial_precisions = precisions.new_empty(at_once, len(words), programs)
        partial_hits = hits.new_empty(at_once, len(words), programs, dtype=torch.int32)
        device = device_of(words.device)
        constexprs = scan_constexprs(_RANKED, words.shape[1], labels.shape[1], self.shared, cut, device)
        # Without a bound NVIDIA's compiler uses 168 or 255 registers here, and spills a few bytes.
        min_blocks = None
        if cut.counters.blocks > 1 and (words.shape[1] <= UNROLLED_WORDS.value or device.family == "sm_86"):
            min_blocks = 9
        elif words.shape[1] == 3 and device.family == "sm_120":
            min_blocks = 8
        launch(_sum_precisions, (len(words) * programs,), words, self.gallery, labels, self.labels, starts, ends,
               partial_precisions, partial_hits, len(words), self.size, cut.splits, cut.steps(_RANKED),
               cut.counters.blocks, LIMITS=at_once, **constexprs, num_warps=1, min_blocks_per_sm=min_blocks)  # fmt: skip
        torch.sum(partial_precisions[: len(limits)], dim=2, out=precisions)
        torch.sum(partial_hits[: len(limits)], dim=2, dtype=torch.int64, out=hits)


@triton.jit(do_not_specialize=COUNTS)
def _sum_precisions(queries, gallery, query_labels, gallery_labels, starts, limits, precisions, hits, query_count, size, splits,
                    batches, blocks, LIMITS: tl.constexpr, BATCH: tl.constexpr, COUNTED: tl.constexpr,
                    BLOCKED: tl.constexpr, LAST: tl.constexpr, PLANES: tl.constexpr, LANES: tl.constexpr, WORDS: tl.constexpr,
                    GROUP: tl.constexpr, LABELS: tl.constexpr, SHARED: tl.constexpr, SLOW_POPCOUNT: tl.constexpr):  # fmt: skip
    """Rank the items of one split for one query, at the distances of one block, and add up the precisions at relevant items.

    queries, gallery: int32 words [Q, W], [N', W]; query_labels, gallery_labels: int64 words [Q, L], [N', L]; starts: int64 [Q,
    bins * segments], see `Rankings._starts`; limits: int64 [LIMITS]; precisions, hits: out, float64 and int32 [LIMITS, Q,
    blocks * splits]. The other constants are those of `hamming_histogram._count`.
    """
    query = (tl.program_id(0) % query_count).to(tl.int64)
    program = tl.program_id(0) // query_count
    split = (program % splits).to(tl.int64)
    block = program // splits if BLOCKED else 0
    farthest = 32 * COUNTED * (blocks if BLOCKED else 1)  # with LAST, the largest distance, which has its own counter
    query_words = query_words_of(queries, query, query_count, WORDS, 1)
    planes = no_counts(LANES, COUNTED, PLANES)
    relevant_planes = no_counts(LANES, COUNTED, PLANES)
    # The number of items at the largest distance, which may have no planes, and 16 bits higher of relevant ones.
    last = tl.zeros([1, LANES], tl.int32)
    segment = split * LANES + tl.arange(0, LANES)[None, :]
    segments = splits * LANES
    # The start of a segment is the end of the one before.
    query_starts = starts + (query * (farthest + LAST) * segments + segment - 1)
    ends, sums, found = (), (), ()
    for limit in tl.static_range(LIMITS):
        ends += (tl.minimum(tl.load(limits + limit), 0x7FFFFFFF).to(tl.int32),)
        sums += (tl.zeros([1, LANES], tl.float64),)
        found += (tl.zeros([1, LANES], tl.int32),)
    for step in range(batches):
        rows = batch_rows(split, batches, step, BATCH, GROUP, LANES)
        distances = batch_distances(queries, query_words, query, gallery, split, batches, step, size, BATCH, WORDS, GROUP, LANES,
                                    SLOW_POPCOUNT, True)  # fmt: skip
        distances = only_live(distances, rows, split, batches, step, size, GROUP, BATCH)
        wanted = batch_relevance(query_labels, gallery_labels, query, rows, size, BATCH, LANES, LABELS, SHARED, True)
        mine = wanted & _in_block(distances, block, blocks, COUNTED, BLOCKED, LAST)
        places = distances - block * (32 * COUNTED)
        items_at, masks = items_of(places), items_of(tl.where(wanted, -1, 0))
        before = _tied_before(places, items_at, masks)
        if LAST:
            before += tl.where(distances == farthest, last, 0)
        items = counts_at(planes, places, COUNTED, PLANES) + (before & 0xFFFF)
        hit_items = counts_at(relevant_planes, places, COUNTED, PLANES) + (before >> 16)
        first = (distances == 0) & (segment == 0)
        place = tl.reshape(query_starts + distances.to(tl.int64) * segments, [BATCH * LANES])
        start = tl.load(place, mask=tl.reshape(mine & ~first, [BATCH * LANES]), other=0)
        start = tl.reshape(start, [BATCH, LANES])
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
        place = (limit * query_count + query) * (splits * (blocks if BLOCKED else 1)) + program
        tl.store(precisions + place, tl.sum(sums[limit]))
        tl.store(hits + place, tl.sum(found[limit]))


@triton.jit
def _in_block(distance, block, blocks, COUNTED: tl.constexpr, BLOCKED: tl.constexpr, LAST: tl.constexpr):
    """Return whether an item exists and is at a distance of this block. The last block has the largest distance, too."""
    mine: tl.constexpr = 32 * COUNTED
    if BLOCKED:
        last = blocks - 1 if LAST else blocks
        return (tl.minimum(distance // mine, last) == block) & (distance < mine * blocks + LAST)
    else:
        return distance < mine + LAST


@triton.jit
def _tied_before(places, items, masks):
    """Count, for each item of a batch, the earlier items of the batch at its distance and, 16 bits higher, the relevant ones."""
    item = tl.arange(0, places.shape[0])[:, None]
    before = tl.zeros(places.shape, tl.int32)
    for other in tl.static_range(places.shape[0] - 1):
        tied = (places == items[other]) & (item > other)
        before += tl.where(tied, weight(masks[other] != 0), 0)
    return before


@triton.jit
def _quotient(numerator, denominator):
    """Return a quotient of integers in float64 with a relative error of 1e-13.

    One step of Newton's method replaces a float64 division of twenty instructions.
    """
    inverse = (1.0 / denominator.to(tl.float32)).to(tl.float64)
    return numerator.to(tl.float64) * inverse * (2.0 - denominator.to(tl.float64) * inverse)

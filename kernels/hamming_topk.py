"""Exact k nearest codes in the order (distance, position): count, then write.

A query's radius is the distance of its k-th nearest code. Passes over the gallery count the codes within a few trial radii at
once and narrow the radius down; the last one leaves, for each part of the gallery, how many codes lie nearer than the radius and
how many on it. Exclusive sums of those tell each part where its codes go, so that one more pass writes exactly k candidates a
query: first the nearer ones, then the ties on the radius, both in the order of their positions. A stable sort of them ends it.
No atomics, so that the answer never depends on timing; no k is too large; nothing waits for the host.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import as_words, tile_distances
from .launch import launch, multiprocessor_count

MISSING_DISTANCE = tl.constexpr(2**31 - 1)
MISSING_ID = -1


class Plan(NamedTuple):
    """How a search is cut up."""

    block_q: int  # queries of a program
    block_n: int  # codes of a tile
    levels: int  # trial radii of a counting pass
    splits: int  # parts of the gallery, each with its own programs
    split_tiles: int  # tiles of a part


def plan(queries: int, gallery: int, words: int, multiprocessors: int) -> Plan:
    """Four programs a multiprocessor, even for one query; the counters, block_q * levels * block_n, stay in registers."""
    block_q = 1 if queries == 1 else 4
    levels, block_n = (4, 512) if words <= 2 else (8, 128)  # longer codes pay for more counters
    tiles = triton.cdiv(gallery, block_n)
    groups = triton.cdiv(queries, block_q)
    split_tiles = max(4, triton.cdiv(tiles, triton.cdiv(4 * multiprocessors, groups)))
    return Plan(block_q, block_n, levels, triton.cdiv(tiles, split_tiles), split_tiles)


def hamming_topk(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor | None, distances: Tensor, ids: Tensor
) -> None:
    """Fill `distances` int32 and `ids` int64 [Q, k] from uint8 codes [Q, B] and [N, B]; `mask` bool [N] says which rows count.

    Neither queries nor gallery are empty.
    """
    words = as_words(gallery)
    cut = plan(len(queries), len(gallery), words.shape[1], multiprocessor_count(gallery.device))
    scan = _Scan(as_words(queries), words, None if mask is None else mask.contiguous().view(torch.uint8), cut)
    k = distances.shape[1]
    wanted = torch.full((1,), min(k, len(gallery)), dtype=torch.int32, device=gallery.device)
    if mask is not None:
        wanted = wanted.minimum(mask.sum()).int()

    radii, nearer, ties = _radii(scan, 8 * queries.shape[1], wanted)
    found, found_ids = distances.new_full(distances.shape, MISSING_DISTANCE.value), ids.new_full(ids.shape, MISSING_ID)
    nearer_slots = nearer.cumsum(1) - nearer
    tie_slots = (nearer.sum(1, keepdim=True) + ties.cumsum(1) - ties).minimum(wanted)
    scan.write(radii, nearer_slots.int(), tie_slots.int(), wanted, found, found_ids)
    ordered, order = torch.sort(found, dim=1, stable=True)
    distances.copy_(ordered)
    torch.gather(found_ids, 1, order, out=ids)
    if limits is not None:
        beyond = distances >= limits[:, None]
        distances.masked_fill_(beyond, MISSING_DISTANCE.value)
        ids.masked_fill_(beyond, MISSING_ID)


def _radii(scan: "_Scan", bits: int, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each query's radius [Q], and for each part of the gallery how many codes lie nearer and how many on it, [Q, splits]."""
    levels, device = scan.plan.levels, wanted.device
    smallest = torch.zeros(
        len(scan.queries), 1, dtype=torch.int32, device=device
    )  # the radius is smallest .. smallest + width - 1
    width = bits + 1
    while width >= levels:
        cuts = (torch.arange(levels + 1, dtype=torch.int32, device=device) * width + levels) // (levels + 1)
        within = scan.count(smallest + cuts[1:] - 1).sum(2)
        smallest = smallest + cuts[(within < wanted).sum(1, keepdim=True)]
        width = triton.cdiv(width, levels + 1)
    trials = smallest + torch.arange(-1, levels - 1, dtype=torch.int32, device=device)
    counts = scan.count(trials)
    level = (counts.sum(2) < wanted).sum(1, keepdim=True)
    nearer, within = (_take_level(counts, chosen) for chosen in ((level - 1).clamp(min=0), level))
    return trials.gather(1, level).squeeze(1), nearer, within - nearer


def _take_level(counts: Tensor, level: Tensor) -> Tensor:
    """counts [Q, levels, splits], level [Q, 1] -> int64 [Q, splits]."""
    return counts.gather(1, level[:, :, None].expand(-1, 1, counts.shape[2])).squeeze(1).long()


class _Scan:
    """One search's codes and plan, and the two passes over them."""

    def __init__(self, queries: Tensor, gallery: Tensor, mask: Tensor | None, plan: Plan) -> None:
        self.queries, self.gallery, self.mask, self.plan = queries, gallery, mask, plan  # int32 [Q, W], int32 [N, W], uint8 [N]

    def count(self, trials: Tensor) -> Tensor:
        """How many codes of each part lie within the trial radii int32 [Q, levels]: int32 [Q, levels, splits]."""
        counts = trials.new_empty(*trials.shape, self.plan.splits)
        self._launch(_count, trials, counts, LEVELS=self.plan.levels)
        return counts

    def write(
        self, radii: Tensor, nearer_slots: Tensor, tie_slots: Tensor, wanted: Tensor, distances: Tensor, ids: Tensor
    ) -> None:
        """Every code within its query's radius, up to `wanted` of them, into a slot of `distances` and `ids` [Q, k]."""
        self._launch(_write, radii, nearer_slots, tie_slots, wanted, distances, ids, distances.shape[1])

    def _launch(self, kernel, *args, **constexprs) -> None:
        cut = self.plan
        grid = (triton.cdiv(len(self.queries), cut.block_q) * cut.splits,)
        codes = self.queries, self.gallery, self.mask, len(self.queries), len(self.gallery)
        launch(kernel, grid, *codes, cut.splits, cut.split_tiles, *args,
               WORDS=self.gallery.shape[1], BLOCK_Q=cut.block_q, BLOCK_N=cut.block_n, **constexprs)  # fmt: skip


@triton.jit
def _program(query_count, splits, BLOCK_Q: tl.constexpr):
    """A program's part of the gallery and its queries. Programs of one part run side by side and share it in the cache."""
    groups = tl.cdiv(query_count, BLOCK_Q)
    split = (tl.program_id(0) // groups).to(tl.int64)
    query_rows = (tl.program_id(0) % groups).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    return split, query_rows, query_rows < query_count


@triton.jit
def _tile(queries, gallery, mask, query_rows, query_live, gallery_count, first, WORDS: tl.constexpr, BLOCK_N: tl.constexpr):
    """The rows of a tile and their distances int32 [BLOCK_Q, BLOCK_N]; MISSING_DISTANCE for rows that may not be found."""
    rows = first + tl.arange(0, BLOCK_N)
    live = rows < gallery_count
    distances = tile_distances(queries, gallery, query_rows, query_live, rows, live, WORDS)
    if mask is not None:
        live = tl.load(mask + rows, mask=live, other=0) != 0
    return rows, tl.where(query_live[:, None] & live[None, :], distances, MISSING_DISTANCE)


@triton.jit
def _count(queries, gallery, mask, query_count, gallery_count, splits, split_tiles, trials, counts,
           WORDS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, LEVELS: tl.constexpr):  # fmt: skip
    split, query_rows, query_live = _program(query_count, splits, BLOCK_Q)
    level = query_rows[:, None] * LEVELS + tl.arange(0, LEVELS)[None, :]  # [BLOCK_Q, LEVELS]
    radius = tl.load(trials + level, mask=query_live[:, None], other=-1)
    within = tl.zeros([BLOCK_Q, LEVELS, BLOCK_N], tl.int32)
    start = split * split_tiles * BLOCK_N
    for tile in range(split_tiles):
        first = start + tile * BLOCK_N
        _, distances = _tile(queries, gallery, mask, query_rows, query_live, gallery_count, first, WORDS, BLOCK_N)
        within += (distances[:, None, :] <= radius[:, :, None]).to(tl.int32)
    tl.store(counts + (level * splits + split), tl.sum(within, axis=2), mask=query_live[:, None])


@triton.jit
def _write(queries, gallery, mask, query_count, gallery_count, splits, split_tiles, radii, nearer_slots, tie_slots, wanted,
           found, ids, k, WORDS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    split, query_rows, query_live = _program(query_count, splits, BLOCK_Q)
    radius = tl.load(radii + query_rows, mask=query_live, other=-1)[:, None]
    nearer_slot = tl.load(nearer_slots + (query_rows * splits + split), mask=query_live, other=0)
    tie_slot = tl.load(tie_slots + (query_rows * splits + split), mask=query_live, other=0)
    slots = tl.load(wanted)
    start = split * split_tiles * BLOCK_N
    for tile in range(split_tiles):
        first = start + tile * BLOCK_N
        rows, distances = _tile(queries, gallery, mask, query_rows, query_live, gallery_count, first, WORDS, BLOCK_N)
        nearer = distances < radius
        tied = (distances == radius) & (tie_slot < slots)[:, None]
        if tl.max((nearer | tied).to(tl.int32).reshape([BLOCK_Q * BLOCK_N]), axis=0) > 0:
            slot = tl.where(
                nearer,
                nearer_slot[:, None] + tl.cumsum(nearer.to(tl.int32), axis=1),
                tie_slot[:, None] + tl.cumsum(tied.to(tl.int32), axis=1),
            ) - 1  # fmt: skip
            keep = nearer | (tied & (slot < slots))
            place = query_rows[:, None] * k + slot
            tl.store(found + place, distances, mask=keep)
            tl.store(ids + place, tl.broadcast_to(rows[None, :], [BLOCK_Q, BLOCK_N]), mask=keep)
            nearer_slot += tl.sum(nearer.to(tl.int32), axis=1)
            tie_slot += tl.sum(tied.to(tl.int32), axis=1)

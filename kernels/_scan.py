"""Two passes over the gallery: one counts the codes within a radius of each query, and one writes them.

The exclusive sums of the counts are the places where each split of the gallery writes its codes. So no atomics are needed, and
the result never depends on timing.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import as_words
from ._device import Device, device_of
from ._distances import tile_distances
from ._sizes import cdiv
from .launch import launch
from .missing import MISSING_DISTANCE

_MISSING = tl.constexpr(MISSING_DISTANCE)


class Plan(NamedTuple):
    """Division of a search among programs."""

    block_m: int  # queries of a program
    block_n: int  # codes of a tile
    levels: int  # trial radii of a counting pass
    splits: int  # splits of the gallery
    split_tiles: int  # tiles of a split


def plan(queries: int, gallery: int, words: int, device: Device) -> Plan:
    """Plan four programs per multiprocessor, even for one query; the block_m * levels * block_n counters stay in registers."""
    block_m = 1 if queries == 1 else 4
    levels, block_n = (4, 512) if words <= 2 else (8, 128)  # fewer passes with more counters are faster for longer codes
    tiles = cdiv(gallery, block_n)
    query_blocks = cdiv(queries, block_m)
    split_tiles = max(4, cdiv(tiles, cdiv(4 * device.multiprocessors, query_blocks)))
    return Plan(block_m, block_n, levels, cdiv(tiles, split_tiles), split_tiles)


class Scan:
    """The codes and the plan of a search, and the two passes over the gallery."""

    def __init__(self, queries: Tensor, gallery: Tensor, mask: Tensor | None = None, *, cut: Plan | None = None) -> None:
        self.queries, self.gallery = as_words(queries), as_words(gallery)  # int32 [Q, W], [N, W]
        self.mask = None if mask is None else mask.contiguous().view(torch.uint8)
        words = self.gallery.shape[1]
        self.plan = cut or plan(queries.shape[0], gallery.shape[0], words, device_of(gallery.device))

    def count(self, trials: Tensor) -> Tensor:
        """Count the codes of each split within the trial radii int32 [Q, levels]: return int32 [Q, levels, splits].

        levels is a power of two.
        """
        counts = trials.new_empty(*trials.shape, self.plan.splits)
        self._launch(_count, trials, counts, LEVELS=trials.shape[1])
        return counts

    def write(
        self, radii: Tensor, nearer_slots: Tensor, tie_slots: Tensor, tie_ends: Tensor, distances: Tensor, ids: Tensor
    ) -> None:
        """Write every code nearer than its query's radius, and codes at the radius until their slots are full, in row order.

        radii: int32 [Q]; nearer_slots, tie_slots: int64 [Q, splits], where the first code of a split is written that is nearer
        than the radius, or at the radius; tie_ends: int64 [Q], the slot before which the codes at the radius end. Slots count
        from the start of `distances` int32 and `ids` int64, of any shape.
        """
        self._launch(_write, radii, nearer_slots, tie_slots, tie_ends, distances, ids)

    def _launch(self, kernel: Any, *args: Tensor, **constexprs: int) -> None:
        cut = self.plan
        grid = (cdiv(self.queries.shape[0], cut.block_m) * cut.splits,)
        codes = self.queries, self.gallery, self.mask, self.queries.shape[0], self.gallery.shape[0]
        launch(kernel, grid, *codes, cut.splits, cut.split_tiles, *args,
               WORDS=self.gallery.shape[1], BLOCK_M=cut.block_m, BLOCK_N=cut.block_n, **constexprs)  # fmt: skip


@triton.jit
def _program(query_count, splits, BLOCK_M: tl.constexpr):
    """Return the program's split of the gallery, its query rows, and which of these rows exist.

    Programs of one split have consecutive numbers, so that they run at the same time and share the split in the cache.
    """
    query_blocks = tl.cdiv(query_count, BLOCK_M)
    split = (tl.program_id(0) // query_blocks).to(tl.int64)
    query_rows = (tl.program_id(0) % query_blocks).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    return split, query_rows, query_rows < query_count


@triton.jit
def _tile(queries, gallery, mask, query_rows, query_live, gallery_count, first, WORDS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the rows of a tile and their distances int32 [BLOCK_M, BLOCK_N], _MISSING for rows that may not be found."""
    rows = first + tl.arange(0, BLOCK_N)
    live = rows < gallery_count
    distances = tile_distances(queries, gallery, query_rows, query_live, rows, live, WORDS)
    if mask is not None:
        live = tl.load(mask + rows, mask=live, other=0) != 0
    return rows, tl.where(query_live[:, None] & live[None, :], distances, _MISSING)


@triton.jit(do_not_specialize=["splits", "split_tiles"])
def _count(queries, gallery, mask, query_count, gallery_count, splits, split_tiles, trials, counts,
           WORDS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LEVELS: tl.constexpr):  # fmt: skip
    """Count, for BLOCK_M queries and one split of the gallery, the codes within LEVELS trial radii.

    queries, gallery: int32 words [Q, W], [N, W]; mask: uint8 [N] or None; trials: int32 [Q, LEVELS]; counts: out, int32 [Q,
    LEVELS, splits].
    """
    split, query_rows, query_live = _program(query_count, splits, BLOCK_M)
    level = query_rows[:, None] * LEVELS + tl.arange(0, LEVELS)[None, :]  # [BLOCK_M, LEVELS]
    radius = tl.load(trials + level, mask=query_live[:, None], other=-1)
    within = tl.zeros([BLOCK_M, LEVELS, BLOCK_N], tl.int32)
    start = split * split_tiles * BLOCK_N
    for tile in range(split_tiles):
        first = start + tile * BLOCK_N
        _, distances = _tile(queries, gallery, mask, query_rows, query_live, gallery_count, first, WORDS, BLOCK_N)
        within += (distances[:, None, :] <= radius[:, :, None]).to(tl.int32)
    tl.store(counts + (level * splits + split), tl.sum(within, axis=2), mask=query_live[:, None])


@triton.jit(do_not_specialize=["splits", "split_tiles"])
def _write(queries, gallery, mask, query_count, gallery_count, splits, split_tiles, radii, nearer_slots, tie_slots,
           tie_ends, found, ids, WORDS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """Write, for BLOCK_M queries and one split of the gallery, the codes that `Scan.write` describes.

    queries, gallery: int32 words [Q, W], [N, W]; mask: uint8 [N] or None; radii: int32 [Q]; nearer_slots, tie_slots: int64 [Q,
    splits]; tie_ends: int64 [Q]; found, ids: out, int32 and int64.
    """
    split, query_rows, query_live = _program(query_count, splits, BLOCK_M)
    radius = tl.load(radii + query_rows, mask=query_live, other=-1)[:, None]
    nearer_slot = tl.load(nearer_slots + (query_rows * splits + split), mask=query_live, other=0)
    tie_slot = tl.load(tie_slots + (query_rows * splits + split), mask=query_live, other=0)
    tie_end = tl.load(tie_ends + query_rows, mask=query_live, other=0)
    start = split * split_tiles * BLOCK_N
    for tile in range(split_tiles):
        first = start + tile * BLOCK_N
        rows, distances = _tile(queries, gallery, mask, query_rows, query_live, gallery_count, first, WORDS, BLOCK_N)
        nearer = distances < radius
        tied = (distances == radius) & (tie_slot < tie_end)[:, None]
        if tl.max((nearer | tied).to(tl.int32).reshape([BLOCK_M * BLOCK_N]), axis=0) > 0:
            slot = tl.where(
                nearer,
                nearer_slot[:, None] + tl.cumsum(nearer.to(tl.int32), axis=1),
                tie_slot[:, None] + tl.cumsum(tied.to(tl.int32), axis=1),
            ) - 1  # fmt: skip
            keep = nearer | (tied & (slot < tie_end[:, None]))
            tl.store(found + slot, distances, mask=keep)
            tl.store(ids + slot, tl.broadcast_to(rows[None, :], [BLOCK_M, BLOCK_N]), mask=keep)
            nearer_slot += tl.sum(nearer.to(tl.int32), axis=1)
            tie_slot += tl.sum(tied.to(tl.int32), axis=1)

"""How many codes lie at each distance from each query.

Each program counts a part of the gallery for a few queries and writes what it found; a sum over the parts ends it. Within a
program `tl.histogram` counts all its queries at once, each in bins of its own: on a GPU these are integer counters in shared
memory, which threads raise in any order, so that the answer never depends on timing. (A GPU adds up the threads of a warp that
meet at a counter, and distances that are near one another lie in different banks.) Nothing but a program's own results leaves it.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import as_words, tile_distances
from .launch import launch, multiprocessor_count

_DISTANCES_A_TILE = 4096
_BINS_A_PROGRAM = 2048  # at least those of one query
_MOST_TILES = 2**19  # of a part, so that no counter of 32 bits overflows


class Plan(NamedTuple):
    """How the work is cut up."""

    bins: int  # of a query, one of them for what does not count
    block_q: int  # queries of a program
    block_n: int  # codes of a tile
    splits: int  # parts of the gallery, each with its own programs
    split_tiles: int  # tiles of a part


def plan(queries: int, gallery: int, bits: int, multiprocessors: int) -> Plan:
    """Eight programs a multiprocessor, even for one query."""
    bins = triton.next_power_of_2(bits + 2)
    block_q = min(max(1, _BINS_A_PROGRAM // bins), 8, triton.next_power_of_2(queries))
    block_n = _DISTANCES_A_TILE // block_q
    tiles, groups = triton.cdiv(gallery, block_n), triton.cdiv(queries, block_q)
    split_tiles = min(max(4, triton.cdiv(tiles, triton.cdiv(8 * multiprocessors, groups))), _MOST_TILES)
    return Plan(bins, block_q, block_n, triton.cdiv(tiles, split_tiles), split_tiles)


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
    """Fill `counts` int64 [Q, K+1] from uint8 codes [Q, B] and [N, B], neither of them empty.

    With labels, int64 words [Q, L] and [N, L], also fill `relevant` int64 [Q, K+1]: how many of the counted codes are relevant to
    the query. With `shared` labels are sets of classes, one bit each, and relevant is what has a class in common; without, L is 1
    and relevant is what has an equal word.
    """
    words = as_words(gallery)
    size, bits = len(queries), counts.shape[1] - 1
    cut = plan(size, len(gallery), bits, multiprocessor_count(gallery.device))
    totals = [counts] if relevant is None else [counts, relevant]
    partial = [counts.new_empty(size, cut.splits, cut.bins, dtype=torch.int32) for _ in totals]
    labels = [None if words is None else words.contiguous() for words in (query_labels, gallery_labels)]
    grid = (triton.cdiv(size, cut.block_q) * cut.splits,)
    launch(_count, grid, as_words(queries), words, *labels, partial[0], partial[-1], size, len(gallery), cut.splits,
           cut.split_tiles, WORDS=words.shape[1], LABELS=0 if relevant is None else labels[1].shape[1], SHARED=shared,
           UNCOUNTED=bits + 1, BINS=cut.bins, BLOCK_Q=cut.block_q, BLOCK_N=cut.block_n)  # fmt: skip
    for total, parts in zip(totals, partial, strict=True):
        torch.sum(parts[:, :, : bits + 1], dim=1, dtype=torch.int64, out=total)


@triton.jit
def _count(queries, gallery, query_labels, gallery_labels, counts, relevant, query_count, gallery_count, splits, split_tiles,
           WORDS: tl.constexpr, LABELS: tl.constexpr, SHARED: tl.constexpr, UNCOUNTED: tl.constexpr, BINS: tl.constexpr,
           BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """counts, relevant: int32 [Q, splits, BINS]. Programs of one part run side by side and share it in the cache."""
    groups = tl.cdiv(query_count, BLOCK_Q)
    split = (tl.program_id(0) // groups).to(tl.int64)
    first_query = (tl.program_id(0) % groups).to(tl.int64) * BLOCK_Q
    query_rows = first_query + tl.arange(0, BLOCK_Q)
    query_live = query_rows < query_count
    first_bin = tl.arange(0, BLOCK_Q)[:, None] * BINS
    counted = tl.zeros([BLOCK_Q * BINS], tl.int32)
    if LABELS > 0:
        counted_relevant = tl.zeros([BLOCK_Q * BINS], tl.int32)
    start = split * split_tiles * BLOCK_N
    for tile in range(split_tiles):
        rows = start + tile * BLOCK_N + tl.arange(0, BLOCK_N)
        live = rows < gallery_count
        distances = tile_distances(queries, gallery, query_rows, query_live, rows, live, WORDS)
        distances = tl.where(live[None, :], distances, UNCOUNTED)
        counted += _histogram(first_bin, distances, BINS)
        if LABELS > 0:
            wanted = _relevant(query_labels, gallery_labels, query_rows, query_live, rows, live, LABELS, SHARED)
            distances = tl.where(wanted, distances, UNCOUNTED)
            counted_relevant += _histogram(first_bin, distances, BINS)
    bin_ = tl.arange(0, BLOCK_Q * BINS)
    query_row = first_query + bin_ // BINS
    place = (query_row * splits + split) * BINS + bin_ % BINS
    tl.store(counts + place, counted, mask=query_row < query_count)
    if LABELS > 0:
        tl.store(relevant + place, counted_relevant, mask=query_row < query_count)


@triton.jit
def _histogram(first_bin, distances, BINS: tl.constexpr):
    """int32 [BLOCK_Q * BINS] of the distances [BLOCK_Q, BLOCK_N]."""
    bins = first_bin + (distances & (BINS - 1))  # the same numbers, which the compiler now knows to be in range
    return tl.histogram(bins.reshape([distances.shape[0] * distances.shape[1]]), distances.shape[0] * BINS)


@triton.jit
def _relevant(query_labels, gallery_labels, query_rows, query_live, rows, live, LABELS: tl.constexpr, SHARED: tl.constexpr):
    """bool [BLOCK_Q, BLOCK_N]: whose labels fit."""
    found = tl.zeros([query_rows.shape[0], rows.shape[0]], tl.int1)
    for word in range(LABELS):
        wanted = tl.load(query_labels + (query_rows * LABELS + word), mask=query_live, other=0)
        labels = tl.load(gallery_labels + (rows * LABELS + word), mask=live, other=0)
        if SHARED:
            found = found | ((wanted[:, None] & labels[None, :]) != 0)
        else:
            found = found | (wanted[:, None] == labels[None, :])
    return found

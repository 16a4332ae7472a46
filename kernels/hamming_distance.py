"""All pairwise Hamming distances with Triton."""

import triton
import triton.language as tl
from torch import Tensor

from ._bits import as_words
from ._distances import tile_distances
from ._sizes import cdiv
from .launch import launch

_BLOCK_M, _BLOCK_N = 16, 256


def hamming_distance(queries: Tensor, gallery: Tensor, distances: Tensor) -> None:
    """Fill `distances` int32 [Q, N] from uint8 codes [Q, B] and [N, B]; none of the three is empty."""
    query_words, words = as_words(queries), as_words(gallery)
    grid = (cdiv(len(queries), _BLOCK_M) * cdiv(len(gallery), _BLOCK_N),)
    launch(_distances, grid, query_words, words, distances, len(queries), len(gallery),
           WORDS=words.shape[1], BLOCK_M=_BLOCK_M, BLOCK_N=_BLOCK_N)  # fmt: skip


@triton.jit(do_not_specialize=["query_count"])
def _distances(
    queries, gallery,  # int32 words [Q, W], [N, W]
    distances,  # out: int32 [Q, N]
    query_count, gallery_count,
    WORDS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute one tile: the distances of BLOCK_M queries to BLOCK_N gallery codes."""
    tiles = tl.cdiv(gallery_count, BLOCK_N)
    query_rows = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = (tl.program_id(0) % tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    query_live, live = query_rows < query_count, rows < gallery_count
    tile = tile_distances(queries, gallery, query_rows, query_live, rows, live, WORDS)
    tl.store(distances + (query_rows[:, None] * gallery_count + rows[None, :]), tile, mask=query_live[:, None] & live[None, :])

"""Dot products of rows with a chunk of the codebook, for rows with more bits than a program has accumulators.

`cosine_codebook_loss.py` describes the algorithm.
"""

import torch
import triton
import triton.language as tl

from ._codebook_arguments import Prepared, Rows
from ._codebook_rows import ROW_SCALE, load_codes, load_unit_rows
from ._device import Device
from ._halves import high_half, low_half
from ._sizes import cdiv, next_power_of_2
from .launch import launch

BLOCK_M = {"sm_80": 64, "sm_90": 64}  # rows of a tile; other families use 32, because 64 spill
BLOCK_N, TILE_K = 64, 64


class Dots:
    """Scratch memory for the dot products of all rows with a chunk of classes."""

    def __init__(self, rows: Rows, chunk: int, device: Device) -> None:
        """Allocate memory for `chunk` classes, and split the rows into fp16 halves."""
        count, bits = rows.v.shape
        self.block_m = BLOCK_M.get(device.family, 32)
        self.halves = torch.empty(2, count, bits, dtype=torch.float16, device=rows.v.device)
        self.products = torch.empty(count, chunk, dtype=torch.float32, device=rows.v.device)  # dot products, times ROW_SCALE
        launch(
            _halves_kernel, (count,), *rows.pointers(), self.halves, count, *rows.lengths(),
            BLOCK_K=next_power_of_2(bits), HAS_NORM=rows.mean is not None, num_warps=4,
        )  # fmt: skip

    def fill(self, codes: Prepared, first: int, end: int) -> None:
        """Compute the dot products of all rows with the classes [first, end)."""
        _, count, bits = self.halves.shape
        launch(
            _dots_kernel, (cdiv(end - first, BLOCK_N), cdiv(count, self.block_m)),
            self.halves, codes.words, self.products, count, bits, self.products.shape[1], first, end,
            WORDS=codes.words.shape[1], BLOCK_M=self.block_m, BLOCK_N=BLOCK_N, TILE_K=TILE_K, num_warps=4, num_stages=2,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n_rows", "n_weight", "n_bias"])
def _halves_kernel(
    # Rows: v [N, K]; mean, rstd, weight, bias [K] of the batch normalisation, or None without it.
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,
    # Out: fp16 [2, N, K], the high and the low halves.
    halves_ptr,
    n_rows, n_bits, n_weight, n_bias, BLOCK_K: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Normalise one row, multiply it by ROW_SCALE and store its two fp16 halves. The grid is (N,)."""
    row = (tl.program_id(0) + tl.arange(0, 1)).to(tl.int64)
    bit = tl.arange(0, BLOCK_K)
    in_rows = row < n_rows
    v, _ = load_unit_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, n_weight, n_bias, HAS_NORM)
    inside = in_rows[:, None] & (bit < n_bits)[None, :]
    high = high_half(v * ROW_SCALE)
    at = halves_ptr + row[:, None] * n_bits + bit[None, :]
    tl.store(at, high, mask=inside)
    tl.store(at + tl.cast(n_rows, tl.int64) * n_bits, low_half(v * ROW_SCALE, high), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "end_class"])
def _dots_kernel(
    # fp16 halves of the rows [2, N, K]; packed codes int32 [C, WORDS].
    halves_ptr, words_ptr,
    # Out: float32 [N, dots_stride], the classes [first_class, end_class).
    dots_ptr,
    n_rows, n_bits, dots_stride, first_class, end_class,
    WORDS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    """Compute a tile [BLOCK_M, BLOCK_N] of dot products v^ . o_c of normalised rows and codes, times ROW_SCALE.

    The grid is (blocks of classes, blocks of rows).

    The last tile is stored whole, including columns beyond end_class.
    """
    row = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = first_class + column
    in_rows = row < n_rows
    in_classes = c < end_class
    low_ptr = halves_ptr + tl.cast(n_rows, tl.int64) * n_bits
    dot = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first_bit in range(0, n_bits, TILE_K):
        codes = tl.trans(load_codes(words_ptr, c, in_classes, first_bit, WORDS, BLOCK_N, TILE_K))
        product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        product = tl.dot(_load_half(low_ptr, row, in_rows, first_bit, n_bits, TILE_K), codes, product)
        dot += tl.dot(_load_half(halves_ptr, row, in_rows, first_bit, n_bits, TILE_K), codes, product)
    tl.store(dots_ptr + row[:, None] * dots_stride + column[None, :], dot, mask=in_rows[:, None])


@triton.jit
def _load_half(half_ptr, row, in_rows, first_bit, n_bits, TILE_K: tl.constexpr):
    """Load TILE_K columns of fp16 rows, starting at column first_bit.  [BLOCK_M, TILE_K]"""
    bit = first_bit + tl.arange(0, TILE_K)
    return tl.load(half_ptr + row[:, None] * n_bits + bit[None, :], mask=in_rows[:, None] & (bit < n_bits)[None, :], other=0.0)

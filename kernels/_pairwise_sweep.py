"""The sweep of the pairwise likelihood over the columns: sums of losses and of gradients for each split of the columns.

`pairwise_likelihood_loss.py` describes the algorithm.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import popcount
from ._device import Device, device_of
from ._halves import halves, product
from ._pairwise_arguments import Halves, Pairing, Side
from ._pairwise_prepare import TOP, power_scales
from ._sizes import cdiv, next_power_of_2
from .launch import launch

LOG2_E = tl.constexpr(1.4426950408889634)
LARGEST = tl.constexpr(1e38)

MAX_TILE_K = 64  # dimensions of one tensor-core product; up to these, the rows stay in registers
MAX_BLOCK_K = 256  # dimensions whose gradient accumulates in registers at once


class Plan(NamedTuple):
    """Tile sizes of a launch, and the division of its work among programs."""

    block_m: int  # rows
    block_n: int  # columns
    block_k: int  # dimensions of a program's accumulator; a power of two
    k_blocks: int
    tile_k: int  # dimensions of one tensor-core product
    one_tile: bool  # whether a tile has all dimensions
    splits: int
    blocks_per_split: int
    num_warps: int
    num_stages: int


def plan(rows: int, columns: int, bits: int, need_grad: bool, device: Device) -> Plan:
    """Choose tiles whose accumulators fit the registers, and split the columns until the device is full.

    Tests compile every choice and allow no spill.
    """
    rdna = device.family == "rdna"  # "rdna" GPUs have waves of 32 lanes, and half the registers of CDNA
    one_tile = bits <= MAX_TILE_K
    block_k = min(MAX_BLOCK_K, max(16, next_power_of_2(bits)))
    k_blocks = cdiv(bits, block_k) if need_grad else 1
    # Four warps process 64 rows. More warps would share rows and compute the same products twice.
    block_m, block_n, num_warps = (64, 16, 4) if one_tile else (32, 32, 8)
    if block_k == 128:
        block_m, num_warps = 64, 8 if need_grad else 4
    num_warps, num_stages = (8, 1) if rdna else (num_warps, 2)
    if rdna and one_tile and not need_grad:
        block_m, num_warps = 32, 4
    blocks = cdiv(columns, block_n)
    programs = cdiv(rows, block_m) * k_blocks
    blocks_per_split = cdiv(blocks, max(1, 2 * device.multiprocessors // programs))
    splits = cdiv(blocks, blocks_per_split)
    tile_k = block_k if one_tile else MAX_TILE_K
    return Plan(block_m, block_n, block_k, k_blocks, tile_k, one_tile, splits, blocks_per_split, num_warps, num_stages)


def sweep(
    rows: Side,
    row_halves: Halves,
    columns: Side,
    column_halves: Halves,
    value_halves: Halves | None,  # float [M, K]: the codes that make up the gradient, if not the columns
    pairing: Pairing,
    factors: Tensor,  # float32 [3] or [0]
    *,
    factor: float,  # factor of the gradient
    need_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sum the losses and gradients of the rows over each split of the columns.

    Returns losses float32 [splits, N], and gradients float32 [splits, N, stride] with zeros beyond K, or None.
    """
    count, bits = rows.codes.shape
    device, stride = rows.codes.device, row_halves.halves.shape[2]
    tiles = plan(count, len(columns.codes), bits, need_grad, device_of(device))
    values = value_halves or ((None, None) if tiles.one_tile else column_halves)
    losses = torch.empty(tiles.splits, count, dtype=torch.float32, device=device)
    grads = torch.empty(tiles.splits, count, stride, dtype=torch.float32, device=device) if need_grad else None
    ids, words, _ = rows.labels
    overlap = 4.0 if ids is not None and pairing.similarity == "squared_cosine" else 1.0
    launch(
        _sweep_kernel, (cdiv(count, tiles.block_m), tiles.k_blocks, tiles.splits),
        *row_halves, *rows.labels, *column_halves, *columns.labels, *values, factors if pairing.balanced else None, losses, grads,
        count, len(columns.codes), stride, 0 if words is None else len(words), tiles.blocks_per_split,
        pairing.alpha / TOP.value**2, factor * pairing.alpha / TOP.value, (pairing.positive_weight or 1.0) * overlap,
        pairing.ignore_index,
        SIMILARITY="ids" if ids is not None else pairing.similarity, BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n,
        BLOCK_K=tiles.block_k, TILE_K=tiles.tile_k, ONE_TILE=tiles.one_tile,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return losses, grads


@triton.jit
def _load_halves(halves_ptr, row, in_rows, first_bit, n_rows, stride, TILE_K: tl.constexpr):
    """Load TILE_K dimensions, starting at first_bit, of the high and of the low halves.  [rows, TILE_K] each"""
    bit = first_bit + tl.arange(0, TILE_K)
    at = halves_ptr + row[:, None] * stride + bit[None, :]
    inside = in_rows[:, None] & (bit < stride)[None, :]
    high = tl.load(at, mask=inside, other=0.0)
    return high, tl.load(at + tl.cast(n_rows, tl.int64) * stride, mask=inside, other=0.0)


@triton.jit
def shared_classes(words_ptr, row, in_rows, n_rows, column_words_ptr, column, in_columns, n_columns, n_words,
                   BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, COUNTED: tl.constexpr):  # fmt: skip
    """Intersect the sets of classes of rows and columns, int32 [BLOCK_M, BLOCK_N].

    Returns the number of shared classes if COUNTED, otherwise a number that is 0 only if no class is shared.
    """
    shared = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for word in range(n_words):
        first = tl.cast(word, tl.int64)
        own = tl.load(words_ptr + first * n_rows + row, mask=in_rows, other=0)
        others = tl.load(column_words_ptr + first * n_columns + column, mask=in_columns, other=0)
        both = own[:, None] & others[None, :]
        if COUNTED:
            shared += popcount(both)
        else:
            shared |= both
    return shared


@triton.jit
def _log1p_over(e):
    """Return log(1 + e) / e for e in [0, 1], to 1.7e-7, by a polynomial fit at Chebyshev nodes for the relative error."""
    series = -0.0031639994 * e + 0.0194876865
    series = series * e - 0.0562695265
    series = series * e + 0.1053294961
    series = series * e - 0.1526327431
    series = series * e + 0.1966101825
    series = series * e - 0.2495116740
    series = series * e + 0.3332966566
    series = series * e - 0.4999988973
    return series * e + 1.0


@triton.jit(do_not_specialize=["n_rows", "n_columns", "blocks_per_split", "ignore_index"])
def _sweep_kernel(
    # Rows: fp16 halves [2, N, stride], float32 scales [N]; class ids int64 [N], or words int32 [W, N] and sizes int32 [N].
    halves_ptr, scale_ptr, ids_ptr, words_ptr, sizes_ptr,
    # Columns: the same with M instead of N.
    column_halves_ptr, column_scale_ptr, column_ids_ptr, column_words_ptr, column_sizes_ptr,
    # Values, as V in attention: fp16 halves [2, M, stride], scales [M]; None if the columns are the values and have one tile.
    value_halves_ptr, value_scale_ptr,
    # float32 [2], weights of a dissimilar and of a similar pair; None for 1.
    weights_ptr,
    # Out: float32 losses [splits, N], gradients [splits, N, stride] or None.
    losses_ptr, grads_ptr,
    n_rows, n_columns, stride, n_words, blocks_per_split,
    logit_scale, grad_factor, positive_weight, ignore_index,
    SIMILARITY: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TILE_K: tl.constexpr,
    ONE_TILE: tl.constexpr,
):  # fmt: skip
    """Sweep one split of the columns for one block of rows; accumulate the gradient of one block of dimensions.

    The grid is (blocks of BLOCK_M rows, blocks of BLOCK_K dimensions, splits).
    """
    k_block = tl.program_id(1)
    split = tl.program_id(2)
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_M
    local = tl.arange(0, BLOCK_M)  # 32-bit: offsets between the rows of a program are small
    row = first_row + local
    in_rows = local < n_rows - first_row
    first = split.to(tl.int64) * blocks_per_split * BLOCK_N

    # 1. Load scales, weights, and the rows.
    unscale = tl.minimum(tl.load(scale_ptr + row, mask=in_rows, other=0.0) * logit_scale, LARGEST)
    dissimilar = 1.0
    similar = positive_weight
    if weights_ptr is not None:
        dissimilar = tl.load(weights_ptr)
        similar *= tl.load(weights_ptr + 1)
    if ONE_TILE:
        high, low = _load_halves(halves_ptr, row, in_rows, 0, n_rows, stride, TILE_K)
    if SIMILARITY == "ids":
        own = tl.load(ids_ptr + row, mask=in_rows, other=0)
    elif SIMILARITY != "any":
        size = tl.load(sizes_ptr + row, mask=in_rows, other=0).to(tl.float32)
    loss = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)

    # 2. Sweep the columns. Loop invariants are computed again, because there are no registers to keep them.
    for block in tl.range(blocks_per_split, disable_licm=True):
        column = first + tl.cast(block, tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
        in_columns = column < n_columns
        column_scale = tl.load(column_scale_ptr + column, mask=in_columns, other=0.0)
        if ONE_TILE:
            column_high, column_low = _load_halves(column_halves_ptr, column, in_columns, 0, n_columns, stride, TILE_K)
            theta = product(high, low, tl.trans(column_high), tl.trans(column_low))
        else:
            theta = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for first_bit in range(0, stride, TILE_K):
                high, low = _load_halves(halves_ptr, row, in_rows, first_bit, n_rows, stride, TILE_K)
                column_high, column_low = _load_halves(
                    column_halves_ptr, column, in_columns, first_bit, n_columns, stride, TILE_K
                )
                theta += product(high, low, tl.trans(column_high), tl.trans(column_low))
        theta *= tl.minimum(unscale[:, None] * column_scale[None, :], LARGEST)

        if SIMILARITY == "ids":
            others = tl.load(column_ids_ptr + column, mask=in_columns, other=0)
            in_columns = in_columns & (others != ignore_index)
            alike = own[:, None] == others[None, :]
            weight = tl.where(alike, similar, dissimilar)
        else:
            shared = shared_classes(words_ptr + first_row, local, in_rows, n_rows, column_words_ptr, column, in_columns,
                                    n_columns, n_words, BLOCK_M, BLOCK_N, SIMILARITY != "any")  # fmt: skip
            alike = shared != 0
            overlap = 1.0
            if SIMILARITY != "any":
                both = shared.to(tl.float32)
                other_size = tl.load(column_sizes_ptr + column, mask=in_columns, other=0).to(tl.float32)
                if SIMILARITY == "jaccard":
                    overlap = both / tl.maximum(size[:, None] + other_size[None, :] - both, 1.0)
                else:
                    overlap = 4.0 * both * both / tl.maximum(size[:, None] * other_size[None, :], 1.0)
            weight = tl.where(alike, similar * overlap, dissimilar)
        weight = tl.where(in_columns[None, :], weight, 0.0)

        t = tl.where(alike, -theta, theta)
        e = tl.exp2(-tl.abs(t) * LOG2_E)
        loss += tl.sum(weight * (tl.maximum(t, 0.0) + e * _log1p_over(e)), 1)
        if grads_ptr is not None:
            slope = weight * tl.where(t > 0.0, 1.0, e) / (1.0 + e)
            value_scale = column_scale
            if value_scale_ptr is not None:
                value_scale = tl.load(value_scale_ptr + column, mask=column < n_columns, other=0.0)
            slope *= value_scale[None, :]
            scale, inverse = power_scales(tl.max(slope, 1))
            slope_high, slope_low = halves(tl.where(alike, -slope, slope) * scale[:, None])
            if value_halves_ptr is None:
                value_high, value_low = column_high, column_low
            else:
                value_high, value_low = _load_halves(
                    value_halves_ptr, column, column < n_columns, k_block * BLOCK_K, n_columns, stride, BLOCK_K
                )
            acc += product(slope_high, slope_low, value_high, value_low) * inverse[:, None]

    # 3. Store the sums of this split.
    if SIMILARITY == "ids":
        kept = own != ignore_index
        loss = tl.where(kept, loss, 0.0)
        acc = tl.where(kept[:, None], acc, 0.0)
    at = split.to(tl.int64) * n_rows + first_row
    tl.store(losses_ptr + at + local, loss, mask=local < tl.where(k_block == 0, n_rows - first_row, 0))
    if grads_ptr is not None:
        bit = k_block * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = in_rows[:, None] & (bit < stride)[None, :]
        tl.store(grads_ptr + at * stride + local[:, None] * stride + bit[None, :], acc * grad_factor, mask=inside)

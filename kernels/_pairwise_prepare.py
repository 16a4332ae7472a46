"""Codes and labels of the pairwise likelihood in the form that the sweep reads: fp16 halves, and sets of classes as bits.

`pairwise_likelihood_loss.py` describes the algorithm.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._halves import halves
from ._pairwise_arguments import Halves, Kept, Labels, Side
from ._sizes import cdiv, next_power_of_2
from .launch import launch

TOP_EXPONENT = tl.constexpr(14)  # scaled numbers are at most 2^14 .. 2^15; fp16 ends at 2^16
LEAST_EXPONENT = tl.constexpr(41)  # biased; smaller numbers are scaled by 2^100, whose inverse is a normal number too
TOP = tl.constexpr(2.0**14)

BLOCK_NUMBERS = 4096  # numbers that a program prepares
PACK_BLOCK_M = 32


def sides(
    z: Tensor,  # float [N, K]
    target: Tensor,
    bank: Tensor | None,  # float [M, K]
    bank_target: Tensor | None,
) -> tuple[Side, Side]:
    """Return (rows, columns) with packed labels; the same object twice if z is its own bank."""
    rows = Side(z, labels(target))
    if bank is None or bank_target is None or (bank is z and bank_target is target):
        return rows, rows
    return rows, Side(bank, rows.labels if bank_target is target else labels(bank_target))


def labels(target: Tensor) -> Labels:
    """Return class ids int64 [N], or a multi-hot target [N, C] packed to bits, as `Labels`."""
    if target.ndim == 1:
        return Labels(target.contiguous(), None, None)
    rows, classes = target.shape
    words = torch.empty(cdiv(classes, 32), rows, dtype=torch.int32, device=target.device)
    sizes = torch.empty(rows, dtype=torch.int32, device=target.device)
    launch(
        _pack_kernel, (cdiv(rows, PACK_BLOCK_M),), target, words, sizes, rows, classes, len(words), *target.stride(),
        BLOCK_M=PACK_BLOCK_M, num_warps=4, min_blocks_per_sm=4,
    )  # fmt: skip
    return Labels(None, words, sizes)


def prepare(ignore_index: int, *given: Side | None) -> tuple[list[Halves], Kept]:
    """Split the codes of one to three sides into halves, and count the rows whose class is known."""
    present = [Side(side.codes.contiguous(), side.labels) for side in given if side is not None]
    device, bits = present[0].codes.device, present[0].codes.shape[1]
    stride = cdiv(bits, 16) * 16
    block_k = next_power_of_2(stride)
    block_m = max(1, BLOCK_NUMBERS // block_k)
    blocks = cdiv(max(len(side.codes) for side in present), block_m)
    found = []
    for codes, _ in present:
        parts = torch.empty(2, len(codes), stride, dtype=torch.float16, device=device)
        found.append(Halves(parts, torch.empty(len(codes), dtype=torch.float32, device=device)))
    counted = present[0].labels.ids is not None
    counts = torch.empty(len(present), blocks, dtype=torch.int32, device=device) if counted else None
    arguments: list[Any] = []
    for (codes, own), split in zip(present, found, strict=True):
        arguments += codes, own.ids, *split, len(codes)
    launch(
        _prepare_kernel, (blocks, len(present)), *arguments, *(None, None, None, None, 0) * (3 - len(present)), counts,
        bits, stride, ignore_index, BLOCK_M=block_m, BLOCK_K=block_k, num_warps=4,
    )  # fmt: skip
    return found, Kept(counts, blocks, len(present) == 1)


@triton.jit
def power_scales(largest):
    """Return the power of two that scales numbers of at most `largest` to fp16's upper end, and its inverse."""
    biased = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, LEAST_EXPONENT)
    scale = (254 - biased + TOP_EXPONENT) << 23
    inverse = (biased - TOP_EXPONENT) << 23
    return scale.to(tl.float32, bitcast=True), inverse.to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["n_rows_0", "n_rows_1", "n_rows_2", "ignore_index"])
def _prepare_kernel(
    # For each side: codes [N, K], int64 class ids [N] or None; out: fp16 halves [2, N, stride], float32 scales [N].
    codes_0_ptr, ids_0_ptr, halves_0_ptr, scale_0_ptr, n_rows_0,
    codes_1_ptr, ids_1_ptr, halves_1_ptr, scale_1_ptr, n_rows_1,
    codes_2_ptr, ids_2_ptr, halves_2_ptr, scale_2_ptr, n_rows_2,
    # Out: int32 [sides, blocks], rows of each block with a known label; or None.
    kept_ptr,
    n_bits, stride, ignore_index,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Prepare one block of rows of one side. The grid is (blocks of the longest side, sides)."""
    side = tl.program_id(1)
    options = (kept_ptr, n_bits, stride, ignore_index)
    if side == 0:
        _prepare_rows(codes_0_ptr, ids_0_ptr, halves_0_ptr, scale_0_ptr, n_rows_0, *options, BLOCK_M, BLOCK_K)
    if codes_1_ptr is not None:  # noqa: SIM102  (the compiler decides the first condition, the program the second)
        if side == 1:
            _prepare_rows(codes_1_ptr, ids_1_ptr, halves_1_ptr, scale_1_ptr, n_rows_1, *options, BLOCK_M, BLOCK_K)
    if codes_2_ptr is not None:  # noqa: SIM102
        if side == 2:
            _prepare_rows(codes_2_ptr, ids_2_ptr, halves_2_ptr, scale_2_ptr, n_rows_2, *options, BLOCK_M, BLOCK_K)


@triton.jit
def _prepare_rows(
    codes_ptr, ids_ptr, halves_ptr, scale_ptr, n_rows, kept_ptr, n_bits, stride, ignore_index,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Scale and split one block of rows, and count those with a known label.

    Ignored rows become zeros: their pairs have weight 0, but 0 times NaN would be NaN. Numbers that are not finite do not decide
    the scale of their row.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    bit = tl.arange(0, BLOCK_K)
    in_rows = row < n_rows
    known = in_rows
    if ids_ptr is not None:
        known = tl.load(ids_ptr + row, mask=in_rows, other=ignore_index) != ignore_index
        block = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        tl.store(kept_ptr + block, tl.sum((in_rows & known).to(tl.int32), 0))
    inside = known[:, None] & (bit < n_bits)[None, :]
    codes = tl.load(codes_ptr + row[:, None] * n_bits + bit[None, :], mask=inside, other=0.0).to(tl.float32)
    magnitude = tl.abs(codes)
    scale, inverse = power_scales(tl.max(tl.where(magnitude < float("inf"), magnitude, 0.0), 1))
    high, low = halves(codes * scale[:, None])
    at = halves_ptr + row[:, None] * stride + bit[None, :]
    inside = in_rows[:, None] & (bit < stride)[None, :]
    tl.store(at, high, mask=inside)
    tl.store(at + tl.cast(n_rows, tl.int64) * stride, low, mask=inside)
    tl.store(scale_ptr + row, inverse * TOP, mask=in_rows)


@triton.jit(do_not_specialize=["n_rows"])
def _pack_kernel(
    # Target [N, C]: nonzero entries are members.
    target_ptr,
    # Out: int32 words [W, N], sizes of the sets [N].
    words_ptr, sizes_ptr,
    n_rows, n_classes, n_words, row_stride, column_stride,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Pack the sets of classes of one block of rows to bits, and count their members. The grid is (blocks of rows,)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_rows = row < n_rows
    size = tl.zeros((BLOCK_M,), tl.int32)
    for word in range(n_words):
        column = tl.cast(word, tl.int64) * 32 + tl.arange(0, 32)
        inside = in_rows[:, None] & (column < n_classes)[None, :]
        at = row[:, None] * row_stride + column[None, :] * column_stride
        member = (tl.load(target_ptr + at, mask=inside, other=0) != 0).to(tl.int32)
        size += tl.sum(member, 1)
        tl.store(words_ptr + tl.cast(word, tl.int64) * n_rows + row, tl.sum(member << tl.arange(0, 32)[None, :], 1), mask=in_rows)
    tl.store(sizes_ptr + row, size, mask=in_rows)

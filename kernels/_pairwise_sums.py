"""Sums of the pairwise likelihood: similar pairs, weights and normaliser, and the splits of losses and gradients.

`pairwise_likelihood_loss.py` describes the algorithm.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import device_of
from ._pairwise_arguments import Kept, Labels, Pairing, Reduction, Side
from ._pairwise_sweep import shared_classes
from ._sizes import cdiv
from .launch import launch

COUNT_BLOCK_M, COUNT_BLOCK_N = 64, 128
FINISH_SPLITS, FINISH_NUMBERS, FINISH_LOSSES = 16, 128, 2048
BLOCK_SUM = tl.constexpr(1024)  # numbers of a long sum that are loaded at once


def weigh(rows: Labels, columns: Labels, kept: Kept, pairing: Pairing, factors: Tensor) -> None:
    """Fill `factors` [3]: the weights of a dissimilar and of a similar pair, and the normaliser of the mean."""
    counts, (count, others) = count_similar(rows, columns, pairing.ignore_index)
    launch(
        _weigh_kernel, (1,), counts, kept.counts, factors,
        counts.numel(), kept.blocks, count, others, pairing.positive_weight or 1.0,
        OWN=kept.own, BALANCED=pairing.balanced, num_warps=4,
    )  # fmt: skip


def count_similar(rows: Labels, columns: Labels, ignore_index: int) -> tuple[Tensor, tuple[int, int]]:
    """Count the columns that share a class with each row, int32 [splits, N]; also return the numbers of rows and columns."""
    mine, theirs = (side.words if side.ids is None else side.ids for side in (rows, columns))
    assert mine is not None
    assert theirs is not None
    count, others = mine.shape[-1], theirs.shape[-1]
    blocks = cdiv(others, COUNT_BLOCK_N)
    programs = cdiv(count, COUNT_BLOCK_M)
    blocks_per_split = cdiv(blocks, max(1, 4 * device_of(mine.device).multiprocessors // programs))
    splits = cdiv(blocks, blocks_per_split)
    counts = torch.empty(splits, count, dtype=torch.int32, device=mine.device)
    launch(
        _count_kernel, (programs, splits), mine, theirs, counts, count, others, 0 if mine.ndim == 1 else len(mine),
        blocks_per_split, ignore_index, IDS=mine.ndim == 1, BLOCK_M=COUNT_BLOCK_M, BLOCK_N=COUNT_BLOCK_N, num_warps=4,
    )  # fmt: skip
    return counts, (count, others)


def finish(
    losses: Tensor,  # float32 [splits, N]
    grads: Tensor | None,  # float32 [splits, N, stride]
    rows: Side,
    columns: Side,
    kept: Kept,
    loss: Tensor | None,  # out: float32, a scalar or [N]
    scale: Tensor | None,  # out, for reduction "mean": float32 scalar, the inverse of the normaliser
    factors: Tensor,  # float32 [3] or [0]
    reduction: Reduction | None,  # None for a gradient without a loss
) -> Tensor:
    """Add up the splits of losses and gradients; return the gradient [N, K], or [0, K] without `grads`.

    The gradient is a copy unless K is a multiple of 16.
    """
    splits, count = losses.shape
    bits = rows.codes.shape[1]
    several = grads is not None and splits > 1
    if grads is None:
        grad = torch.empty(0, bits, dtype=torch.float32, device=losses.device)
    else:
        grad = torch.empty_like(grads[0]) if several else grads[0]
    if loss is not None or several:
        numbers = grad.numel() if several else 1
        if reduction == "none":
            numbers = max(numbers, count)
        launch(
            _finish_kernel, (cdiv(numbers, FINISH_NUMBERS),),
            losses, grads if several else None, kept.counts, factors if len(factors) else None, loss, grad if several else None,
            scale if reduction == "mean" else None, count, len(columns.codes), grad.numel(), splits, kept.blocks, OWN=kept.own,
            BY_ROW=reduction == "none", SPLITS=FINISH_SPLITS, NUMBERS=FINISH_NUMBERS, LOSSES=FINISH_LOSSES, num_warps=4,
        )  # fmt: skip
    return grad[:, :bits].contiguous()


@triton.jit(do_not_specialize=["n_rows", "n_columns", "blocks_per_split", "ignore_index"])
def _count_kernel(
    # int32 words [W, N], [W, M] of sets of classes; or class ids, int64 [N], [M].
    words_ptr, column_words_ptr,
    # Out: int32 [splits, N].
    counts_ptr,
    n_rows, n_columns, n_words, blocks_per_split, ignore_index,
    IDS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Count the columns of one split that share a class with each row of a block. The grid is (blocks of rows, splits)."""
    row = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    in_rows = row < n_rows
    first = tl.program_id(1).to(tl.int64) * blocks_per_split * BLOCK_N
    counts = tl.zeros((BLOCK_M,), tl.int32)
    if IDS:
        own = tl.load(words_ptr + row, mask=in_rows, other=ignore_index)
        known = own != ignore_index
    for block in range(blocks_per_split):
        column = first + tl.cast(block, tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
        in_columns = column < n_columns
        if IDS:
            others = tl.load(column_words_ptr + column, mask=in_columns, other=ignore_index)
            alike = (own[:, None] == others[None, :]) & known[:, None] & in_columns[None, :]
        else:
            shared = shared_classes(words_ptr, row, in_rows, n_rows, column_words_ptr, column, in_columns, n_columns, n_words,
                                    BLOCK_M, BLOCK_N, False)  # fmt: skip
            alike = shared != 0
        counts += tl.sum(alike.to(tl.int32), 1)
    tl.store(counts_ptr + tl.program_id(1).to(tl.int64) * n_rows + row, counts, mask=in_rows)


@triton.jit
def _long_sum(numbers_ptr, n_numbers):
    """Return the sum of n_numbers integers, int64."""
    total = tl.zeros((BLOCK_SUM,), tl.int64)
    for first in range(0, n_numbers, BLOCK_SUM):
        at = first + tl.arange(0, BLOCK_SUM)
        total += tl.load(numbers_ptr + at, mask=at < n_numbers, other=0)
    return tl.sum(total, 0)


@triton.jit
def _count_pairs(kept_ptr, n_blocks, n_rows, n_columns, OWN: tl.constexpr):
    """Return the number of pairs whose labels are known, float64."""
    if kept_ptr is None:
        pairs = tl.cast(n_rows, tl.int64) * n_columns
    else:
        mine = _long_sum(kept_ptr, n_blocks)
        pairs = mine * mine if OWN else mine * _long_sum(kept_ptr + n_blocks, n_blocks)
    return pairs.to(tl.float64)


@triton.jit
def _ratio(pairs, part):
    """Return pairs / part in float32 (divisions in float64 spill), and 0 if part is 0."""
    return tl.where(part > 0.0, pairs.to(tl.float32) / tl.maximum(part.to(tl.float32), 1.0), 0.0)


@triton.jit(do_not_specialize=["n_counts", "n_blocks", "n_rows", "n_columns"])
def _weigh_kernel(
    # int32 counts of similar pairs [n_counts]; known rows int32 [sides, n_blocks], or None.
    counts_ptr, kept_ptr,
    # Out: float32 [3].
    factors_ptr,
    n_counts, n_blocks, n_rows, n_columns, positive_weight,
    OWN: tl.constexpr, BALANCED: tl.constexpr,
):  # fmt: skip
    """Compute the weights of dissimilar and of similar pairs and the normaliser. There is one program.

    If there are no pairs of a kind, their weight is 0.
    """
    pairs = _count_pairs(kept_ptr, n_blocks, n_rows, n_columns, OWN)
    similar = _long_sum(counts_ptr, n_counts).to(tl.float64)
    dissimilar = pairs - similar
    if BALANCED:
        tl.store(factors_ptr, _ratio(pairs, dissimilar))
        tl.store(factors_ptr + 1, _ratio(pairs, similar))
        tl.store(factors_ptr + 2, pairs)
    else:
        tl.store(factors_ptr, 1.0)
        tl.store(factors_ptr + 1, positive_weight)
        tl.store(factors_ptr + 2, positive_weight * similar + dissimilar)


@triton.jit(do_not_specialize=["n_rows", "n_columns", "n_splits", "n_blocks"])
def _finish_kernel(
    # losses [splits, N], gradients [splits, n_numbers], known rows int32 [sides, n_blocks], factors [3]; or None.
    losses_ptr, grads_ptr, kept_ptr, factors_ptr,
    # Out: float32 loss [N] or [1], gradient [n_numbers], inverse of the normaliser [1]; or None.
    loss_ptr, grad_ptr, scale_ptr,
    n_rows, n_columns, n_numbers, n_splits, n_blocks,
    OWN: tl.constexpr, BY_ROW: tl.constexpr, SPLITS: tl.constexpr, NUMBERS: tl.constexpr, LOSSES: tl.constexpr,
):  # fmt: skip
    """Add up the splits of NUMBERS gradients, in their order. The grid is (blocks of numbers,).

    With BY_ROW a program also adds up the losses of NUMBERS rows; otherwise the first program adds up the losses of all rows.
    """
    at = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    if grads_ptr is not None:
        grad = _sum_of_splits(grads_ptr, at, n_numbers, n_splits, SPLITS, NUMBERS)
        tl.store(grad_ptr + at, grad, mask=at < n_numbers)
    if loss_ptr is not None:
        if BY_ROW:
            tl.store(loss_ptr + at, _sum_of_splits(losses_ptr, at, n_rows, n_splits, SPLITS, NUMBERS), mask=at < n_rows)
        elif tl.program_id(0) == 0:
            losses = tl.zeros((LOSSES,), tl.float64)
            n_losses = tl.cast(n_rows, tl.int64) * n_splits
            for first in range(0, n_losses, LOSSES):
                one = first + tl.arange(0, LOSSES)
                losses += tl.load(losses_ptr + one, mask=one < n_losses, other=0.0)
            total = tl.sum(losses, 0)
            if scale_ptr is not None:
                if factors_ptr is None:
                    normaliser = _count_pairs(kept_ptr, n_blocks, n_rows, n_columns, OWN)
                else:
                    normaliser = tl.load(factors_ptr + 2).to(tl.float64)
                some = normaliser > 0.0
                tl.store(scale_ptr, tl.where(some, 1.0 / tl.where(some, normaliser, 1.0), 0.0))
                total /= normaliser
            tl.store(loss_ptr, total)


@triton.jit
def _sum_of_splits(parts_ptr, at, n_numbers, n_splits, SPLITS: tl.constexpr, NUMBERS: tl.constexpr):
    """Return the sums over the splits of [splits, n_numbers] at the positions `at`, float64 [NUMBERS]."""
    total = tl.zeros((SPLITS, NUMBERS), tl.float64)
    for first in range(0, n_splits, SPLITS):
        split = (first + tl.arange(0, SPLITS)).to(tl.int64)
        inside = (split < n_splits)[:, None] & (at < n_numbers)[None, :]
        total += tl.load(parts_ptr + split[:, None] * n_numbers + at[None, :], mask=inside, other=0.0)
    return tl.sum(total, 0)

"""Pairwise likelihood in one sweep over the columns: loss and gradient of a block of rows, the matrix of pairs never in memory.

  prepare  every code as two fp16 numbers and a power of two, all sides in one launch; counts the rows with a label.
  count    the similar pairs, and `weigh` what pairs weigh, only where the weights or the normaliser depend on that number.
  sweep    program = (block of rows, slice of the dimensions, part of the columns); the products <z_i, b_j> of a tile become their
           losses and the gradient with respect to them, which pulls the rows.
  finish   adds the parts up in their order, and the losses of the rows to the result.

Numerics. Both factors of both products are real numbers. Each is a high and a low fp16 half, and three of the four products of
halves are taken (the fourth is below float32's last digit); every row is scaled to 2^14 .. 2^15 at most, and its numbers keep
float32's digits down to 2^-18 of its largest, below which they lose what no sum of products would show. Tensor cores add up in
float32 but cut off instead of rounding, so that a long sum would shrink: every tile starts from zero, and ordinary additions take
it to the sum. The slopes of a tile, times the scales of the columns, are scaled row by row: a row of small ones, all of whose
pairs are as they should be, keeps its digits.

With t = theta for a dissimilar pair and -theta for a similar one the loss is w log(1 + e^t) and its slope along t is w sigma(t):
nothing cancels, and the only exponential, e^-|t|, cannot overflow. log(1 + e) / e is a polynomial: e may be far below 1.

More than WHOLE dimensions are multiplied in chunks. More than SLICE have more gradient than a program has registers: programs
for each slice compute all products again, (K / SLICE + 1) / 2 times the work.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import popcount
from ._device import device_of
from ._sizes import cdiv, next_power_of_2
from .launch import backend, launch, multiprocessor_count

LOG2_E = tl.constexpr(1.4426950408889634)
TOP_EXPONENT = tl.constexpr(14)  # of scaled numbers: the largest is between 2^14 and 2^15: fp16 ends at 2^16
LEAST_EXPONENT = tl.constexpr(41)  # biased; smaller numbers are scaled by 2^100, whose inverse is a normal number too
TOP = tl.constexpr(2.0**14)
LARGEST = tl.constexpr(1e38)

WHOLE = 64  # dimensions that are multiplied at once, the rows' in registers
CHUNK = 64  # where there are more
SLICE = 256  # dimensions whose gradient accumulates in registers at once
PREPARED = 4096  # numbers of a program
PACK_ROWS = 32
COUNT_ROWS, COUNT_COLUMNS = 64, 128
FINISH_SPLITS, FINISH_NUMBERS, FINISH_LOSSES = 16, 128, 2048
LONG = tl.constexpr(1024)  # numbers of a long sum at once


class Labels(NamedTuple):
    """The labels of one side: class ids, or sets of classes as bits, a word of all rows after the other."""

    ids: Tensor | None  # int64 [N]
    words: Tensor | None  # int32 [W, N]
    sizes: Tensor | None  # int32 [N], classes in each set


class Halves(NamedTuple):
    """Codes as the tensor cores take them."""

    halves: Tensor  # fp16 [2, N, stride], zeros beyond K
    scale: Tensor  # float32 [N]: what they are times 2^-14


class Pairing(NamedTuple):
    """How two sides are compared, whichever of them are the rows."""

    alpha: float
    positive_weight: float | None  # None for 1; not looked at if balanced
    balanced: bool
    similarity: str
    ignore_index: int


class Kept(NamedTuple):
    """The rows whose label is known, counted in parts."""

    counts: Tensor | None  # int32 [sides, blocks]; None for sets of classes, which are all known
    blocks: int
    own: bool  # one side, which is both


class Plan(NamedTuple):
    """Tile sizes and the split of the work; a pure function of the problem."""

    rows: int
    columns: int
    bits: int  # of a slice; a power of two
    slices: int
    chunk: int  # dimensions multiplied at once; all of them if `whole`
    whole: bool
    splits: int
    blocks_per_split: int
    warps: int
    stages: int


def labels(target: Tensor) -> Labels:
    """Of int64 class ids [N], or of a multi-hot target [N, C]."""
    if target.ndim == 1:
        return Labels(target.contiguous(), None, None)
    rows, classes = target.shape
    words = torch.empty(cdiv(classes, 32), rows, dtype=torch.int32, device=target.device)
    sizes = torch.empty(rows, dtype=torch.int32, device=target.device)
    launch(
        _pack_kernel, (cdiv(rows, PACK_ROWS),), target, words, sizes, rows, classes, len(words), *target.stride(),
        ROWS=PACK_ROWS, num_warps=4, min_blocks_per_sm=4,
    )  # fmt: skip
    return Labels(None, words, sizes)


def loss_and_gradient(
    rows: Tensor,  # float [N, K]
    row_labels: Labels,
    columns: Tensor,  # float [M, K]; `rows` itself for a batch that is its own bank
    column_labels: Labels,
    pairing: Pairing,
    *,
    reduction: str,
    factor: float,  # of the gradient
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, float32: a scalar, or [N] for reduction "none"; `factor` times the gradient of each row's sum with respect to the
    rows, float32 [N, K] (no rows where not needed); what `column_gradient` needs, float32 [3] or [0]; and, for reduction "mean"
    only, what the gradient is still to be multiplied with, a float32 scalar (else [0])."""
    device = rows.device
    others = None if columns is rows else (columns, column_labels.ids)
    sides, kept = _prepare(pairing.ignore_index, (rows, row_labels.ids), others)
    weighed = pairing.balanced or (pairing.positive_weight is not None and reduction == "mean")
    factors = torch.empty(3 if weighed else 0, device=device)
    if weighed:
        _weigh(row_labels, column_labels, kept, pairing, factors)
    losses, grads = _sweep(
        rows, row_labels, sides[0], columns, column_labels, sides[-1], None, pairing, factors, factor=factor, need_grad=need_grad
    )
    loss = torch.empty(len(rows) if reduction == "none" else (), device=device)
    scale = torch.empty(() if reduction == "mean" else 0, device=device)
    return loss, _finish(losses, grads, rows, columns, kept, loss, scale, factors, reduction), factors, scale


def column_gradient(
    rows: Tensor,  # float [N, K]
    row_labels: Labels,
    columns: Tensor,  # float [M, K]
    column_labels: Labels,
    pulls: Tensor | None,  # float32 [M, K]: the codes that make up the gradient, if not the columns
    pairing: Pairing,
    factors: Tensor,  # float32 [3] or [0], from `loss_and_gradient` with the two sides in either order
) -> Tensor:
    """The gradient of the sum of all losses with respect to the rows.  float32 [N, K]"""
    others = None if columns is rows else (columns, column_labels.ids)
    pulling = None if pulls is None else (pulls, column_labels.ids)
    sides, _ = _prepare(pairing.ignore_index, (rows, row_labels.ids), others, pulling)
    mine, theirs = sides[0], sides[0] if columns is rows else sides[1]
    pull = None if pulls is None else sides[-1]
    losses, grads = _sweep(
        rows, row_labels, mine, columns, column_labels, theirs, pull, pairing, factors, factor=1.0, need_grad=True
    )
    return _finish(losses, grads, rows, columns, Kept(None, 0, columns is rows), None, None, factors, "")


def plan(rows: int, columns: int, bits: int, need_grad: bool, wave32: bool, processors: int) -> Plan:
    """Tiles whose accumulators fit the registers (tests compile every one and allow no spill), split until the device is full.

    wave32: an AMD GPU whose waves have 32 lanes, and half the registers of those with 64.
    """
    whole = bits <= WHOLE
    slice_bits = min(SLICE, max(16, next_power_of_2(bits)))
    slices = cdiv(bits, slice_bits) if need_grad else 1
    # Four warps for 64 rows: more share the rows out, and repeat each other's products.
    block_rows, block_columns, warps = (64, 16, 4) if whole else (32, 32, 8)
    if slice_bits == 128:
        block_rows, warps = 64, 8 if need_grad else 4
    warps, stages = (8, 1) if wave32 else (warps, 2)
    if wave32 and whole and not need_grad:
        block_rows, warps = 32, 4
    blocks = cdiv(columns, block_columns)
    programs = cdiv(rows, block_rows) * slices
    blocks_per_split = cdiv(blocks, max(1, 2 * processors // programs))
    splits = cdiv(blocks, blocks_per_split)
    chunk = slice_bits if whole else CHUNK
    return Plan(block_rows, block_columns, slice_bits, slices, chunk, whole, splits, blocks_per_split, warps, stages)


def _prepare(ignore_index: int, *sides: tuple[Tensor, Tensor | None] | None) -> tuple[list[Halves], Kept]:
    """Codes [N, K] and class ids [N] of one to three sides: the codes in halves, and the numbers of known rows."""
    given = [(codes.contiguous(), ids) for codes, ids in filter(None, sides)]
    device, bits = given[0][0].device, given[0][0].shape[1]
    stride = cdiv(bits, 16) * 16
    width = next_power_of_2(stride)
    block_rows = max(1, PREPARED // width)
    blocks = cdiv(max(len(codes) for codes, _ in given), block_rows)
    found = [
        Halves(torch.empty(2, len(codes), stride, dtype=torch.float16, device=device), torch.empty(len(codes), device=device))
        for codes, _ in given
    ]
    counted = given[0][1] is not None
    counts = torch.empty(len(given), blocks, dtype=torch.int32, device=device) if counted else None
    pointers: list[Any] = []
    for (codes, ids), halves in zip(given, found, strict=True):
        pointers += codes, ids, *halves, len(codes)
    launch(
        _prepare_kernel, (blocks, len(given)), *pointers, *(None, None, None, None, 0) * (3 - len(given)), counts,
        bits, stride, ignore_index, ROWS=block_rows, BITS=width, num_warps=4,
    )  # fmt: skip
    return found, Kept(counts, blocks, len(given) == 1)


def _weigh(rows: Labels, columns: Labels, kept: Kept, pairing: Pairing, factors: Tensor) -> None:
    """What a dissimilar and a similar pair weigh, and the normaliser of the mean, to `factors` [3]."""
    counts, (count, others) = count_similar(rows, columns, pairing.ignore_index)
    launch(
        _weigh_kernel, (1,), counts, kept.counts, factors,
        counts.numel(), kept.blocks, count, others, pairing.positive_weight or 1.0,
        OWN=kept.own, BALANCED=pairing.balanced, num_warps=4,
    )  # fmt: skip


def count_similar(rows: Labels, columns: Labels, ignore_index: int) -> tuple[Tensor, tuple[int, int]]:
    """Pairs that share a class, of each row in parts, int32 [splits, N]; and the numbers of rows and columns."""
    mine, theirs = (side.words if side.ids is None else side.ids for side in (rows, columns))
    assert mine is not None
    assert theirs is not None
    count, others = mine.shape[-1], theirs.shape[-1]
    blocks = cdiv(others, COUNT_COLUMNS)
    programs = cdiv(count, COUNT_ROWS)
    blocks_per_split = cdiv(blocks, max(1, 4 * multiprocessor_count(mine.device) // programs))
    splits = cdiv(blocks, blocks_per_split)
    counts = torch.empty(splits, count, dtype=torch.int32, device=mine.device)
    launch(
        _count_kernel, (programs, splits), mine, theirs, counts, count, others, 0 if mine.ndim == 1 else len(mine),
        blocks_per_split, ignore_index, IDS=mine.ndim == 1, ROWS=COUNT_ROWS, COLUMNS=COUNT_COLUMNS, num_warps=4,
    )  # fmt: skip
    return counts, (count, others)


def _sweep(
    rows: Tensor,
    row_labels: Labels,
    mine: Halves,
    columns: Tensor,
    column_labels: Labels,
    theirs: Halves,
    pulls: Halves | None,
    pairing: Pairing,
    factors: Tensor,
    *,
    factor: float,
    need_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sums over parts of the columns: losses of the rows, float32 [splits, N], and their gradients [splits, N, stride], zeros
    beyond K."""
    count, bits = rows.shape
    wave32 = backend() == "hip" and device_of(rows.device).warp_size == 32
    tiles = plan(count, len(columns), bits, need_grad, wave32, multiprocessor_count(rows.device))
    pulling = pulls or ((None, None) if tiles.whole else theirs)
    losses = torch.empty(tiles.splits, count, device=rows.device)
    stride = mine.halves.shape[2]
    grads = torch.empty(tiles.splits, count, stride, device=rows.device) if need_grad else None
    words = 0 if row_labels.words is None else len(row_labels.words)
    overlap = 4.0 if row_labels.ids is not None and pairing.similarity == "squared_cosine" else 1.0
    launch(
        _sweep_kernel, (cdiv(count, tiles.rows), tiles.slices, tiles.splits),
        *mine, *row_labels, *theirs, *column_labels, *pulling, factors if pairing.balanced else None, losses, grads,
        count, len(columns), stride, words, tiles.blocks_per_split,
        pairing.alpha / TOP.value**2, factor * pairing.alpha / TOP.value, (pairing.positive_weight or 1.0) * overlap,
        pairing.ignore_index,
        SIMILARITY="ids" if row_labels.ids is not None else pairing.similarity, ROWS=tiles.rows, COLUMNS=tiles.columns,
        BITS=tiles.bits, CHUNK=tiles.chunk, WHOLE=tiles.whole, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return losses, grads


def _finish(
    losses: Tensor,  # float32 [splits, N]
    grads: Tensor | None,  # float32 [splits, N, stride]
    rows: Tensor,
    columns: Tensor,
    kept: Kept,
    loss: Tensor | None,  # out: float32 scalar, or [N]
    scale: Tensor | None,  # out, for reduction "mean": float32 scalar, the inverse of the normaliser
    factors: Tensor,
    reduction: str,
) -> Tensor:
    """Adds the parts up. Returns the gradient [N, K], without rows where there are no `grads`; a copy where K is no multiple of
    16."""
    splits, count = losses.shape
    bits = rows.shape[1]
    several = grads is not None and splits > 1
    if grads is None:
        grad = torch.empty(0, bits, device=rows.device)
    else:
        grad = torch.empty_like(grads[0]) if several else grads[0]
    if loss is not None or several:
        numbers = grad.numel() if several else 1
        if reduction == "none":
            numbers = max(numbers, count)
        launch(
            _finish_kernel, (cdiv(numbers, FINISH_NUMBERS),),
            losses, grads if several else None, kept.counts, factors if len(factors) else None, loss, grad if several else None,
            scale if reduction == "mean" else None, count, len(columns), grad.numel(), splits, kept.blocks, OWN=kept.own,
            BY_ROW=reduction == "none", SPLITS=FINISH_SPLITS, NUMBERS=FINISH_NUMBERS, LOSSES=FINISH_LOSSES, num_warps=4,
        )  # fmt: skip
    return grad[:, :bits].contiguous()


@triton.jit
def _scales(top):
    """The power of two that brings numbers of at most `top` to fp16's upper end, and its inverse."""
    biased = tl.maximum(top.to(tl.int32, bitcast=True) >> 23, LEAST_EXPONENT)
    scale = (254 - biased + TOP_EXPONENT) << 23
    inverse = (biased - TOP_EXPONENT) << 23
    return scale.to(tl.float32, bitcast=True), inverse.to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["n_rows_0", "n_rows_1", "n_rows_2", "ignore_index"])
def _prepare_kernel(
    codes_0_ptr, ids_0_ptr, halves_0_ptr, scale_0_ptr, n_rows_0,  # [N, K], int64 [N] or None; out: fp16 [2, N, stride], [N]
    codes_1_ptr, ids_1_ptr, halves_1_ptr, scale_1_ptr, n_rows_1,
    codes_2_ptr, ids_2_ptr, halves_2_ptr, scale_2_ptr, n_rows_2,
    kept_ptr,  # out: int32 [sides, blocks], or None
    n_bits, stride, ignore_index,
    ROWS: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    side = tl.program_id(1)
    how = (kept_ptr, n_bits, stride, ignore_index)
    if side == 0:
        _prepare_rows(codes_0_ptr, ids_0_ptr, halves_0_ptr, scale_0_ptr, n_rows_0, *how, ROWS, BITS)
    if codes_1_ptr is not None:  # noqa: SIM102  (one condition is of the compiler's, one of the program's)
        if side == 1:
            _prepare_rows(codes_1_ptr, ids_1_ptr, halves_1_ptr, scale_1_ptr, n_rows_1, *how, ROWS, BITS)
    if codes_2_ptr is not None:  # noqa: SIM102
        if side == 2:
            _prepare_rows(codes_2_ptr, ids_2_ptr, halves_2_ptr, scale_2_ptr, n_rows_2, *how, ROWS, BITS)


@triton.jit
def _prepare_rows(
    codes_ptr, ids_ptr, halves_ptr, scale_ptr, n_rows, kept_ptr, n_bits, stride, ignore_index,
    ROWS: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """A block of rows of one side, zeros in those that are ignored: their pairs weigh nothing, but nothing times NaN is NaN.
    Not-finite numbers do not decide the scale of their row."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    bit = tl.arange(0, BITS)
    in_rows = row < n_rows
    known = in_rows
    if ids_ptr is not None:
        known = tl.load(ids_ptr + row, mask=in_rows, other=ignore_index) != ignore_index
        at = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        tl.store(kept_ptr + at, tl.sum((in_rows & known).to(tl.int32), 0))
    inside = known[:, None] & (bit < n_bits)[None, :]
    codes = tl.load(codes_ptr + row[:, None] * n_bits + bit[None, :], mask=inside, other=0.0).to(tl.float32)
    magnitude = tl.abs(codes)
    scale, inverse = _scales(tl.max(tl.where(magnitude < float("inf"), magnitude, 0.0), 1))
    high, low = _in_halves(codes * scale[:, None])
    here = halves_ptr + row[:, None] * stride + bit[None, :]
    inside = in_rows[:, None] & (bit < stride)[None, :]
    tl.store(here, high, mask=inside)
    tl.store(here + tl.cast(n_rows, tl.int64) * stride, low, mask=inside)
    tl.store(scale_ptr + row, inverse * TOP, mask=in_rows)


@triton.jit(do_not_specialize=["n_rows"])
def _pack_kernel(
    target_ptr,  # [N, C], zeros and others
    words_ptr, sizes_ptr,  # out: int32 [W, N], [N]
    n_rows, n_classes, n_words, row_stride, column_stride,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Sets of classes as bits, and their sizes."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < n_rows
    size = tl.zeros((ROWS,), tl.int32)
    for word in range(n_words):
        column = tl.cast(word, tl.int64) * 32 + tl.arange(0, 32)
        inside = in_rows[:, None] & (column < n_classes)[None, :]
        at = row[:, None] * row_stride + column[None, :] * column_stride
        member = (tl.load(target_ptr + at, mask=inside, other=0) != 0).to(tl.int32)
        size += tl.sum(member, 1)
        tl.store(words_ptr + tl.cast(word, tl.int64) * n_rows + row, tl.sum(member << tl.arange(0, 32)[None, :], 1), mask=in_rows)
    tl.store(sizes_ptr + row, size, mask=in_rows)


@triton.jit
def _in_halves(x):
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _load_halves(halves_ptr, row, in_rows, first_bit, n_rows, stride, BITS: tl.constexpr):
    """[rows, BITS] from first_bit on, twice."""
    bit = first_bit + tl.arange(0, BITS)
    at = halves_ptr + row[:, None] * stride + bit[None, :]
    inside = in_rows[:, None] & (bit < stride)[None, :]
    high = tl.load(at, mask=inside, other=0.0)
    return high, tl.load(at + tl.cast(n_rows, tl.int64) * stride, mask=inside, other=0.0)


@triton.jit
def _product(a_high, a_low, b_high, b_low):
    """a @ b but for low @ low, the smaller products first."""
    product = tl.dot(a_low, b_high)
    product = tl.dot(a_high, b_low, product)
    return tl.dot(a_high, b_high, product)


@triton.jit
def _share(words_ptr, row, in_rows, n_rows, column_words_ptr, column, in_columns, n_columns, n_words,
           ROWS: tl.constexpr, COLUMNS: tl.constexpr, COUNTED: tl.constexpr):  # fmt: skip
    """What sets share: the number of classes if COUNTED, otherwise 0 only where nothing.  int32 [ROWS, COLUMNS]"""
    shared = tl.zeros((ROWS, COLUMNS), tl.int32)
    for word in range(n_words):
        at = tl.cast(word, tl.int64)
        own = tl.load(words_ptr + at * n_rows + row, mask=in_rows, other=0)
        others = tl.load(column_words_ptr + at * n_columns + column, mask=in_columns, other=0)
        both = own[:, None] & others[None, :]
        if COUNTED:
            shared += popcount(both)
        else:
            shared |= both
    return shared


@triton.jit
def _log1p_over(e):
    """log(1 + e) / e for e in [0, 1], to 1.7e-7. A fit at Chebyshev's nodes that is weighted for the relative error."""
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
    halves_ptr, scale_ptr, ids_ptr, words_ptr, sizes_ptr,  # of the rows: fp16 [2, N, stride], [N], labels or None
    column_halves_ptr, column_scale_ptr, column_ids_ptr, column_words_ptr, column_sizes_ptr,  # of the columns
    pull_halves_ptr, pull_scale_ptr,  # fp16 [2, M, stride], [M]; None where the columns themselves pull and lie in one piece
    weights_ptr,  # float32 [2]: of a dissimilar and of a similar pair; None for 1
    losses_ptr, grads_ptr,  # out: float32 [splits, N], [splits, N, stride] or None
    n_rows, n_columns, stride, n_words, blocks_per_split,
    alpha, grad_factor, positive_weight, ignore_index,
    SIMILARITY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, CHUNK: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    own_slice = tl.program_id(1)
    split = tl.program_id(2)
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    local = tl.arange(0, ROWS)  # 32-bit: what differs between the rows of a program stays small
    row = first_row + local
    in_rows = local < n_rows - first_row
    first = split.to(tl.int64) * blocks_per_split * COLUMNS

    # 1. Scales, weights, and the rows.
    unscale = tl.minimum(tl.load(scale_ptr + row, mask=in_rows, other=0.0) * alpha, LARGEST)
    dissimilar = 1.0
    similar = positive_weight
    if weights_ptr is not None:
        dissimilar = tl.load(weights_ptr)
        similar *= tl.load(weights_ptr + 1)
    if WHOLE:
        high, low = _load_halves(halves_ptr, row, in_rows, 0, n_rows, stride, CHUNK)
    if SIMILARITY == "ids":
        own = tl.load(ids_ptr + row, mask=in_rows, other=0)
    elif SIMILARITY != "any":
        size = tl.load(sizes_ptr + row, mask=in_rows, other=0).to(tl.float32)
    loss = tl.zeros((ROWS,), tl.float32)
    pulled = tl.zeros((ROWS, BITS), tl.float32)

    # 2. The sweep. What could be computed before it is computed again: there are no registers to keep it.
    for block in tl.range(blocks_per_split, disable_licm=True):
        column = first + tl.cast(block, tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
        in_columns = column < n_columns
        column_scale = tl.load(column_scale_ptr + column, mask=in_columns, other=0.0)
        if WHOLE:
            column_high, column_low = _load_halves(column_halves_ptr, column, in_columns, 0, n_columns, stride, CHUNK)
            theta = _product(high, low, tl.trans(column_high), tl.trans(column_low))
        else:
            theta = tl.zeros((ROWS, COLUMNS), tl.float32)
            for first_bit in range(0, stride, CHUNK):
                high, low = _load_halves(halves_ptr, row, in_rows, first_bit, n_rows, stride, CHUNK)
                column_high, column_low = _load_halves(column_halves_ptr, column, in_columns, first_bit, n_columns, stride, CHUNK)
                theta += _product(high, low, tl.trans(column_high), tl.trans(column_low))
        theta *= tl.minimum(unscale[:, None] * column_scale[None, :], LARGEST)

        if SIMILARITY == "ids":
            others = tl.load(column_ids_ptr + column, mask=in_columns, other=0)
            in_columns = in_columns & (others != ignore_index)
            alike = own[:, None] == others[None, :]
            weight = tl.where(alike, similar, dissimilar)
        else:
            shared = _share(words_ptr + first_row, local, in_rows, n_rows, column_words_ptr, column, in_columns, n_columns,
                            n_words, ROWS, COLUMNS, SIMILARITY != "any")  # fmt: skip
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
            pull_scale = column_scale
            if pull_scale_ptr is not None:
                pull_scale = tl.load(pull_scale_ptr + column, mask=column < n_columns, other=0.0)
            slope *= pull_scale[None, :]
            scale, inverse = _scales(tl.max(slope, 1))
            slope_high, slope_low = _in_halves(tl.where(alike, -slope, slope) * scale[:, None])
            if pull_halves_ptr is None:
                pull_high, pull_low = column_high, column_low
            else:
                pull_high, pull_low = _load_halves(
                    pull_halves_ptr, column, column < n_columns, own_slice * BITS, n_columns, stride, BITS
                )
            pulled += _product(slope_high, slope_low, pull_high, pull_low) * inverse[:, None]

    # 3. What this part of the columns found.
    if SIMILARITY == "ids":
        kept = own != ignore_index
        loss = tl.where(kept, loss, 0.0)
        pulled = tl.where(kept[:, None], pulled, 0.0)
    at = split.to(tl.int64) * n_rows + first_row
    tl.store(losses_ptr + at + local, loss, mask=local < tl.where(own_slice == 0, n_rows - first_row, 0))
    if grads_ptr is not None:
        bit = own_slice * BITS + tl.arange(0, BITS)
        inside = in_rows[:, None] & (bit < stride)[None, :]
        tl.store(grads_ptr + at * stride + local[:, None] * stride + bit[None, :], pulled * grad_factor, mask=inside)


@triton.jit(do_not_specialize=["n_rows", "n_columns", "blocks_per_split", "ignore_index"])
def _count_kernel(
    words_ptr, column_words_ptr,  # int32 [W, N], [W, M]; or class ids, int64 [N], [M]
    counts_ptr,  # out: int32 [splits, N]
    n_rows, n_columns, n_words, blocks_per_split, ignore_index,
    IDS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """How many columns of a part share a class with each row."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    in_rows = row < n_rows
    first = tl.program_id(1).to(tl.int64) * blocks_per_split * COLUMNS
    counts = tl.zeros((ROWS,), tl.int32)
    if IDS:
        own = tl.load(words_ptr + row, mask=in_rows, other=ignore_index)
        known = own != ignore_index
    for block in range(blocks_per_split):
        column = first + tl.cast(block, tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
        in_columns = column < n_columns
        if IDS:
            others = tl.load(column_words_ptr + column, mask=in_columns, other=ignore_index)
            alike = (own[:, None] == others[None, :]) & known[:, None] & in_columns[None, :]
        else:
            shared = _share(words_ptr, row, in_rows, n_rows, column_words_ptr, column, in_columns, n_columns, n_words,
                            ROWS, COLUMNS, False)  # fmt: skip
            alike = shared != 0
        counts += tl.sum(alike.to(tl.int32), 1)
    tl.store(counts_ptr + tl.program_id(1).to(tl.int64) * n_rows + row, counts, mask=in_rows)


@triton.jit
def _long_sum(numbers_ptr, n_numbers):
    """int64"""
    total = tl.zeros((LONG,), tl.int64)
    for first in range(0, n_numbers, LONG):
        at = first + tl.arange(0, LONG)
        total += tl.load(numbers_ptr + at, mask=at < n_numbers, other=0)
    return tl.sum(total, 0)


@triton.jit
def _pairs(kept_ptr, n_blocks, n_rows, n_columns, OWN: tl.constexpr):
    """The number of pairs that are kept.  float64"""
    if kept_ptr is None:
        pairs = tl.cast(n_rows, tl.int64) * n_columns
    else:
        mine = _long_sum(kept_ptr, n_blocks)
        pairs = mine * mine if OWN else mine * _long_sum(kept_ptr + n_blocks, n_blocks)
    return pairs.to(tl.float64)


@triton.jit
def _share_of(pairs, part):
    """pairs / part in float32 (divisions in float64 spill), 0 without a part."""
    return tl.where(part > 0.0, pairs.to(tl.float32) / tl.maximum(part.to(tl.float32), 1.0), 0.0)


@triton.jit(do_not_specialize=["n_counts", "n_blocks", "n_rows", "n_columns"])
def _weigh_kernel(
    counts_ptr, kept_ptr, factors_ptr,  # int32 [n_counts], [sides, n_blocks] or None; out: float32 [3]
    n_counts, n_blocks, n_rows, n_columns, positive_weight,
    OWN: tl.constexpr, BALANCED: tl.constexpr,
):  # fmt: skip
    """Weights of dissimilar and of similar pairs, and the normaliser. A kind of which there is no pair weighs 0."""
    pairs = _pairs(kept_ptr, n_blocks, n_rows, n_columns, OWN)
    similar = _long_sum(counts_ptr, n_counts).to(tl.float64)
    dissimilar = pairs - similar
    if BALANCED:
        tl.store(factors_ptr, _share_of(pairs, dissimilar))
        tl.store(factors_ptr + 1, _share_of(pairs, similar))
        tl.store(factors_ptr + 2, pairs)
    else:
        tl.store(factors_ptr, 1.0)
        tl.store(factors_ptr + 1, positive_weight)
        tl.store(factors_ptr + 2, positive_weight * similar + dissimilar)


@triton.jit(do_not_specialize=["n_rows", "n_columns", "n_splits", "n_blocks"])
def _finish_kernel(
    losses_ptr, grads_ptr, kept_ptr, factors_ptr,  # [splits, N], [splits, n_numbers], int32 [sides, n_blocks], [3], or None
    loss_ptr, grad_ptr, scale_ptr,  # out: float32 [N] or [1], [n_numbers], [1], or None
    n_rows, n_columns, n_numbers, n_splits, n_blocks,
    OWN: tl.constexpr, BY_ROW: tl.constexpr, SPLITS: tl.constexpr, NUMBERS: tl.constexpr, LOSSES: tl.constexpr,
):  # fmt: skip
    """Parts in their order. The first program also adds up the losses of all rows, unless they are wanted BY_ROW."""
    at = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    if grads_ptr is not None:
        grad = _over_splits(grads_ptr, at, n_numbers, n_splits, SPLITS, NUMBERS)
        tl.store(grad_ptr + at, grad, mask=at < n_numbers)
    if loss_ptr is not None:
        if BY_ROW:
            tl.store(loss_ptr + at, _over_splits(losses_ptr, at, n_rows, n_splits, SPLITS, NUMBERS), mask=at < n_rows)
        elif tl.program_id(0) == 0:
            losses = tl.zeros((LOSSES,), tl.float64)
            n_losses = tl.cast(n_rows, tl.int64) * n_splits
            for first in range(0, n_losses, LOSSES):
                one = first + tl.arange(0, LOSSES)
                losses += tl.load(losses_ptr + one, mask=one < n_losses, other=0.0)
            total = tl.sum(losses, 0)
            if scale_ptr is not None:
                if factors_ptr is None:
                    normaliser = _pairs(kept_ptr, n_blocks, n_rows, n_columns, OWN)
                else:
                    normaliser = tl.load(factors_ptr + 2).to(tl.float64)
                some = normaliser > 0.0
                tl.store(scale_ptr, tl.where(some, 1.0 / tl.where(some, normaliser, 1.0), 0.0))
                total /= normaliser
            tl.store(loss_ptr, total)


@triton.jit
def _over_splits(parts_ptr, at, n_numbers, n_splits, SPLITS: tl.constexpr, NUMBERS: tl.constexpr):
    """Of [splits, n_numbers], the sums over the splits.  float64 [NUMBERS]"""
    total = tl.zeros((SPLITS, NUMBERS), tl.float64)
    for first in range(0, n_splits, SPLITS):
        split = (first + tl.arange(0, SPLITS)).to(tl.int64)
        inside = (split < n_splits)[:, None] & (at < n_numbers)[None, :]
        total += tl.load(parts_ptr + split[:, None] * n_numbers + at[None, :], mask=inside, other=0.0)
    return tl.sum(total, 0)

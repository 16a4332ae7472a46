"""Pairwise likelihood in one sweep over the columns: loss and gradient of a block of rows, the matrix of pairs never in memory.

  halves   every code as two fp16 numbers, after a power of two that the largest of all decides.
  sweep    program = (block of rows, slice of the dimensions, part of the columns); the products <z_i, b_j> of a tile become their
           losses and the gradient with respect to them, which pulls the rows. Parts are added up in their order.

Numerics. Both factors of both products are real numbers. Each is a high and a low fp16 half, and three of the four products of
halves are taken (the fourth is below float32's last digit); scaled to 2^14 .. 2^15 at most, a tensor's numbers keep float32's
digits down to 2^-18 of its largest, and below that lose what no sum of products would show. Tensor cores add up in float32 but
cut off instead of rounding, so that a long sum would shrink: every tile starts from zero, and ordinary additions take it to the
sum. The slopes of a tile are scaled row by row: a row of small ones, all of whose pairs are as they should be, keeps its digits.

With t = theta for a dissimilar pair and -theta for a similar one the loss is w log(1 + e^t) and its slope along t is w sigma(t):
nothing cancels, and the only exponential, e^-|t|, cannot overflow. log(1 + e) / e is a polynomial: e may be far below 1.

More than WHOLE dimensions are multiplied in chunks. More than SLICE have more gradient than a program has registers: programs
for each slice compute all products again, (K / SLICE + 1) / 2 times the work.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import as_words, popcount
from ._spans import warp_size
from .launch import backend, launch, multiprocessor_count
from .pack_codes import pack_codes

LOG2_E = tl.constexpr(1.4426950408889634)
TOP_EXPONENT = tl.constexpr(14)  # of scaled numbers: the largest is between 2^14 and 2^15: fp16 ends at 2^16
LEAST_EXPONENT = tl.constexpr(41)  # biased; smaller numbers are scaled by 2^100, whose inverse is a normal number too
LARGEST = tl.constexpr(1e38)

WHOLE = 64  # dimensions that are multiplied at once, the rows' in registers
CHUNK = 64  # where there are more
SLICE = 256  # dimensions whose gradient accumulates in registers at once
TOPS = 1024  # programs at most that look for the largest number
TOP_BLOCK = 4096
COUNT_ROWS, COUNT_COLUMNS = 64, 128


class Labels(NamedTuple):
    """The labels of one side: class ids, or sets of classes as bits, a word of all rows after the other."""

    ids: Tensor | None  # int64 [N]
    words: Tensor | None  # int32 [W, N]
    sizes: Tensor | None  # int32 [N], classes in each set


class Halves(NamedTuple):
    """Codes as the tensor cores take them."""

    halves: Tensor  # fp16 [2, N, stride], zeros beyond K
    inverse: Tensor  # float32 [1]: what they were not yet multiplied by


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
    member = target != 0
    packed = torch.empty(len(member), triton.cdiv(member.shape[1], 8), dtype=torch.uint8, device=target.device)
    pack_codes(member, 0.0, packed)
    return Labels(None, as_words(packed).T.contiguous(), member.sum(1, dtype=torch.int32))


def weights(factors: Tensor) -> Tensor:
    """Of a dissimilar and of a similar pair, from the head of `factors`: a tensor, so that nothing waits for the device."""
    return factors.float()


def count_similar(rows: Labels, columns: Labels) -> Tensor:
    """Pairs of sets that share a class.  int64 scalar"""
    assert rows.words is not None
    assert columns.words is not None
    words, count = rows.words.shape
    others = columns.words.shape[1]
    blocks = triton.cdiv(others, COUNT_COLUMNS)
    programs = triton.cdiv(count, COUNT_ROWS)
    blocks_per_split = triton.cdiv(blocks, max(1, 4 * multiprocessor_count(rows.words.device) // programs))
    splits = triton.cdiv(blocks, blocks_per_split)
    counts = torch.empty(splits, count, dtype=torch.int32, device=rows.words.device)
    launch(
        _count_kernel, (programs, splits), rows.words, columns.words, counts, count, others, words, blocks_per_split,
        ROWS=COUNT_ROWS, COLUMNS=COUNT_COLUMNS, num_warps=4,
    )  # fmt: skip
    return counts.sum()


def plan(rows: int, columns: int, bits: int, need_grad: bool, wave32: bool, processors: int) -> Plan:
    """Tiles whose accumulators fit the registers (tests compile every one and allow no spill), split until the device is full.

    wave32: an AMD GPU whose waves have 32 lanes, and half the registers of those with 64.
    """
    whole = bits <= WHOLE
    slice_bits = min(SLICE, max(16, triton.next_power_of_2(bits)))
    slices = triton.cdiv(bits, slice_bits) if need_grad else 1
    # Four warps for 64 rows: more share the rows out, and repeat each other's products.
    block_rows, block_columns, warps = (64, 16, 4) if whole else (64, 32, 8) if slice_bits <= 128 else (32, 32, 8)
    warps, stages = (8, 1) if wave32 else (warps, 2)
    blocks = triton.cdiv(columns, block_columns)
    programs = triton.cdiv(rows, block_rows) * slices
    blocks_per_split = triton.cdiv(blocks, max(1, 2 * processors // programs))
    splits = triton.cdiv(blocks, blocks_per_split)
    chunk = slice_bits if whole else CHUNK
    return Plan(block_rows, block_columns, slice_bits, slices, chunk, whole, splits, blocks_per_split, warps, stages)


def sweep(
    rows: Tensor,  # float32 [N, K]
    row_labels: Labels,
    columns: Tensor,  # float32 [M, K]
    column_labels: Labels,
    pulls: Tensor | None,  # float32 [M, K]
    *,
    alpha: float,
    weights: Tensor,  # float32 [2]: of a dissimilar and of a similar pair
    similarity: str,
    ignore_index: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Per row, the sum of its pairs' losses, float64 [N], and its gradient [N, K] (no rows where not needed).

    `pulls` are the codes that make up the gradient, if not the columns. Pairs with the class id `ignore_index` are none.
    """
    count, bits = rows.shape
    mine = _split(rows)
    theirs = mine if columns is rows else _split(columns)
    wave32 = backend() == "hip" and warp_size(rows.device) == 32
    tiles = plan(count, len(columns), bits, need_grad, wave32, multiprocessor_count(rows.device))
    pulling = (None, None) if pulls is None and tiles.whole else theirs if pulls is None else _split(pulls)
    losses = torch.empty(tiles.splits, count, device=rows.device)
    grads = torch.empty(tiles.splits, count, bits, device=rows.device) if need_grad else None
    words = 0 if row_labels.words is None else len(row_labels.words)
    launch(
        _sweep_kernel, (triton.cdiv(count, tiles.rows), tiles.slices, tiles.splits),
        *mine, *row_labels, *theirs, *column_labels, *pulling, weights, losses, grads,
        count, len(columns), bits, mine.halves.shape[2], words, tiles.blocks_per_split,
        alpha, 4.0 if similarity == "squared_cosine" else 1.0, ignore_index,
        SIMILARITY="ids" if row_labels.ids is not None else similarity, ROWS=tiles.rows, COLUMNS=tiles.columns, BITS=tiles.bits,
        CHUNK=tiles.chunk, WHOLE=tiles.whole, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    grad = rows.new_empty(0, bits) if grads is None else grads[0] if tiles.splits == 1 else grads.sum(0)
    return losses.sum(0, dtype=torch.float64), grad


def _split(codes: Tensor) -> Halves:
    """float32 [N, K] in halves."""
    codes = codes.contiguous()
    count, bits = codes.shape
    stride = triton.cdiv(bits, 16) * 16
    numbers = codes.numel()
    blocks = triton.cdiv(numbers, TOP_BLOCK)
    blocks_per_program = triton.cdiv(blocks, TOPS)
    programs = triton.cdiv(blocks, blocks_per_program)
    tops = torch.empty(programs, device=codes.device)
    launch(_tops_kernel, (programs,), codes, tops, numbers, blocks_per_program, BLOCK=TOP_BLOCK, num_warps=4)
    found = Halves(torch.empty(2, count, stride, dtype=torch.float16, device=codes.device), torch.empty(1, device=codes.device))
    width = triton.next_power_of_2(stride)
    block_rows = max(1, 4096 // width)
    launch(
        _halves_kernel, (triton.cdiv(count, block_rows),), codes, tops, *found, count, bits, stride, programs,
        ROWS=block_rows, BITS=width, TOPS=triton.next_power_of_2(programs), num_warps=4,
    )  # fmt: skip
    return found


@triton.jit
def _scales(top):
    """The power of two that brings numbers of at most `top` to fp16's upper end, and its inverse."""
    biased = tl.maximum(top.to(tl.int32, bitcast=True) >> 23, LEAST_EXPONENT)
    scale = (254 - biased + TOP_EXPONENT) << 23
    inverse = (biased - TOP_EXPONENT) << 23
    return scale.to(tl.float32, bitcast=True), inverse.to(tl.float32, bitcast=True)


@triton.jit
def _tops_kernel(codes_ptr, tops_ptr, n_numbers, blocks_per_program, BLOCK: tl.constexpr):
    """The largest finite magnitude of a program's part."""
    first = tl.program_id(0).to(tl.int64) * blocks_per_program * BLOCK
    top = tl.zeros((BLOCK,), tl.float32)
    for block in range(blocks_per_program):
        at = first + tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        magnitude = tl.abs(tl.load(codes_ptr + at, mask=at < n_numbers, other=0.0))
        top = tl.where((magnitude > top) & (magnitude < float("inf")), magnitude, top)
    tl.store(tops_ptr + tl.program_id(0), tl.max(top, 0))


@triton.jit
def _halves_kernel(
    codes_ptr, tops_ptr,  # float32 [N, K], [n_tops]
    halves_ptr, inverse_ptr,  # out: fp16 [2, N, stride], [1]
    n_rows, n_bits, stride, n_tops,
    ROWS: tl.constexpr, BITS: tl.constexpr, TOPS: tl.constexpr,
):  # fmt: skip
    tops = tl.load(tops_ptr + tl.arange(0, TOPS), mask=tl.arange(0, TOPS) < n_tops, other=0.0)
    scale, inverse = _scales(tl.max(tops, 0))
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    bit = tl.arange(0, BITS)
    in_rows = (row < n_rows)[:, None]
    codes = tl.load(codes_ptr + row[:, None] * n_bits + bit[None, :], mask=in_rows & (bit < n_bits)[None, :], other=0.0) * scale
    high, low = _in_halves(codes)
    here = halves_ptr + row[:, None] * stride + bit[None, :]
    inside = in_rows & (bit < stride)[None, :]
    tl.store(here, high, mask=inside)
    tl.store(here + tl.cast(n_rows, tl.int64) * stride, low, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(inverse_ptr, inverse)


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


@triton.jit
def _sweep_kernel(
    halves_ptr, inverse_ptr, ids_ptr, words_ptr, sizes_ptr,  # of the rows: fp16 [2, N, stride], [1], labels or None
    column_halves_ptr, column_inverse_ptr, column_ids_ptr, column_words_ptr, column_sizes_ptr,  # of the columns
    pull_halves_ptr, pull_inverse_ptr,  # fp16 [2, M, stride], [1]; None where the columns themselves pull and lie in one piece
    weights_ptr,  # float32 [2]
    losses_ptr, grads_ptr,  # out: float32 [splits, N], [splits, N, K] or None
    n_rows, n_columns, n_bits, stride, n_words, blocks_per_split,
    alpha, overlap_of_ids, ignore_index,
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
    pull_inverse = tl.load(column_inverse_ptr)
    unscale = tl.minimum(tl.load(inverse_ptr) * pull_inverse * alpha, LARGEST)
    if pull_halves_ptr is not None:
        pull_inverse = tl.load(pull_inverse_ptr)
    dissimilar = tl.load(weights_ptr)
    similar = tl.load(weights_ptr + 1)
    if WHOLE:
        high, low = _load_halves(halves_ptr, row, in_rows, 0, n_rows, stride, CHUNK)
    if SIMILARITY == "ids":
        own = tl.load(ids_ptr + row, mask=in_rows, other=0)
    elif SIMILARITY != "any":
        size = tl.load(sizes_ptr + row, mask=in_rows, other=0).to(tl.float32)
    loss = tl.zeros((ROWS,), tl.float32)
    pulled = tl.zeros((ROWS, BITS), tl.float32)

    # 2. The sweep. With sets of classes, what could be computed before it is computed again: there are no registers to keep it.
    for block in tl.range(blocks_per_split, disable_licm=SIMILARITY != "ids"):
        column = first + tl.cast(block, tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
        in_columns = column < n_columns
        if WHOLE:
            column_high, column_low = _load_halves(column_halves_ptr, column, in_columns, 0, n_columns, stride, CHUNK)
            theta = _product(high, low, tl.trans(column_high), tl.trans(column_low)) * unscale
        else:
            theta = tl.zeros((ROWS, COLUMNS), tl.float32)
            for first_bit in range(0, stride, CHUNK):
                high, low = _load_halves(halves_ptr, row, in_rows, first_bit, n_rows, stride, CHUNK)
                column_high, column_low = _load_halves(column_halves_ptr, column, in_columns, first_bit, n_columns, stride, CHUNK)
                theta += _product(high, low, tl.trans(column_high), tl.trans(column_low)) * unscale

        if SIMILARITY == "ids":
            others = tl.load(column_ids_ptr + column, mask=in_columns, other=0)
            in_columns = in_columns & (others != ignore_index)
            alike = own[:, None] == others[None, :]
            weight = tl.where(alike, similar * overlap_of_ids, dissimilar)
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
            scale, inverse = _scales(tl.max(slope, 1))
            slope_high, slope_low = _in_halves(tl.where(alike, -slope, slope) * scale[:, None])
            if pull_halves_ptr is None:
                pull_high, pull_low = column_high, column_low
            else:
                pull_high, pull_low = _load_halves(
                    pull_halves_ptr, column, column < n_columns, own_slice * BITS, n_columns, stride, BITS
                )
            pulled += _product(slope_high, slope_low, pull_high, pull_low) * (inverse * pull_inverse)[:, None]

    # 3. What this part of the columns found.
    if SIMILARITY == "ids":
        kept = own != ignore_index
        loss = tl.where(kept, loss, 0.0)
        pulled = tl.where(kept[:, None], pulled, 0.0)
    at = split.to(tl.int64) * n_rows + first_row
    tl.store(losses_ptr + at + local, loss, mask=local < tl.where(own_slice == 0, n_rows - first_row, 0))
    if grads_ptr is not None:
        bit = own_slice * BITS + tl.arange(0, BITS)
        inside = in_rows[:, None] & (bit < n_bits)[None, :]
        tl.store(grads_ptr + at * n_bits + local[:, None] * n_bits + bit[None, :], pulled * alpha, mask=inside)


@triton.jit
def _count_kernel(
    words_ptr, column_words_ptr,  # int32 [W, N], [W, M]
    counts_ptr,  # out: int32 [splits, N]
    n_rows, n_columns, n_words, blocks_per_split,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """How many columns of a part share a class with each row."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    in_rows = row < n_rows
    first = tl.program_id(1).to(tl.int64) * blocks_per_split * COLUMNS
    counts = tl.zeros((ROWS,), tl.int32)
    for block in range(blocks_per_split):
        column = first + tl.cast(block, tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
        shared = _share(words_ptr, row, in_rows, n_rows, column_words_ptr, column, column < n_columns, n_columns, n_words,
                        ROWS, COLUMNS, False)  # fmt: skip
        counts += tl.sum((shared != 0).to(tl.int32), 1)
    tl.store(counts_ptr + tl.program_id(1).to(tl.int64) * n_rows + row, counts, mask=in_rows)

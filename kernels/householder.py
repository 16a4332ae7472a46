"""Rows times an orthogonal matrix, and the gradient of the matrix: float32 accuracy on tensor cores.

  apply   y = x R; program = (block of rows, block of columns). With R transposed it is the gradient of x.
  outer   P = x^T g, the gradient of R; program = (block of P, part of the rows). Parts are summed in their order.
  reflectors, vectors_gradient   a vector to its length and the way back; program = vector, in float64.

`orthohash_triton/ops/householder.py` says why rows see the product of all reflections and not the reflections: a chain is M steps
that each wait for a sum over the row, on units without tensor cores; factors take twice the operations.

Numerics. Both sides of a product are carried by a high and a low fp16 half, and three of the four products of halves are taken;
what is left out is 2^-24 of the product. So that neither half leaves fp16's range, numbers are scaled by powers of two, which is
exact: each row of x by its largest entry, which needs a look at the row before (the second one finds it in the cache); for
`outer`, where rows are summed over, each block of rows; entries of R are at most 1.
"""

import torch
import triton
import triton.language as tl

from ._sizes import cdiv, next_power_of_2
from .launch import architecture, backend, launch, multiprocessor_count

PEAK = tl.constexpr(8192.0)  # entries are scaled to below twice this: their low halves are normal fp16 numbers
SMALLEST = tl.constexpr(2.0**-100)  # largest entries below this are not scaled up further, so that no scale overflows
EXPONENT = tl.constexpr(0x7F800000)  # the bits of a float32 that hold its exponent

ROWS = 64
# Columns of a tile of y, 64 elsewhere, and bits that a step adds to them, 32 elsewhere: as many as the registers allow.
MOST_COLUMNS = {"sm_80": 128, "sm_90": 128}
DEPTHS = {"sm_120": 16}
VECTOR = 512  # dimensions of a vector at once
OUTER = 64  # rows and columns of a block of P
OUTER_ROWS = {"cuda": 64, "hip": 32}  # of x and g at once; with 64 some AMD cards run out of registers


def apply(
    x: torch.Tensor,  # float [N, K]
    matrix: torch.Tensor,  # float32 [K, K], any strides, entries of at most 1
    y: torch.Tensor,  # out: float [N, K], contiguous
) -> None:
    rows, bits = x.shape
    if rows == 0:
        return
    x = _with_whole_rows(x)
    card = architecture(x.device)
    columns, depth = min(MOST_COLUMNS.get(card, 64), max(16, next_power_of_2(bits))), DEPTHS.get(card, 32)
    launch(
        _apply_kernel, (cdiv(rows, ROWS), cdiv(bits, columns)),
        x, matrix, y, rows, bits, x.stride(0), *matrix.stride(),
        ROWS=ROWS, COLUMNS=columns, DEPTH=min(depth, columns), num_warps=4 if columns <= 32 else 8,
        min_blocks_per_sm=64 // columns if columns <= 32 or depth < 32 else None,
    )  # fmt: skip


def outer(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """x^T g of float [N, K] each: float64 [K, K], to float32 accuracy."""
    rows, bits = x.shape
    if rows == 0:
        return torch.zeros(bits, bits, dtype=torch.float64, device=x.device)
    x, g = _with_whole_rows(x), _with_whole_rows(g)
    side = min(OUTER, max(16, next_power_of_2(bits)))
    block_rows = OUTER_ROWS[backend()]
    sides, blocks = cdiv(bits, side), cdiv(rows, block_rows)
    blocks_per_split = cdiv(blocks, max(1, 2 * multiprocessor_count(x.device) // sides**2))
    splits = cdiv(blocks, blocks_per_split)
    parts = torch.empty(splits, bits, bits, dtype=torch.float64, device=x.device)
    launch(
        _outer_kernel, (sides, sides, splits),
        x, g, parts, rows, bits, x.stride(0), g.stride(0), blocks_per_split,
        ROWS=block_rows, SIDE=side, num_warps=4 if side <= 32 else 8, min_blocks_per_sm=2 if side <= 32 else None,
    )  # fmt: skip
    return parts[0] if splits == 1 else parts.sum(0)


def reflectors(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of float [M, K], rows of length sqrt(2), float64 [M, K], and what they were multiplied with [M]; 0 for a row of zeros."""
    count, bits = vectors.shape
    found = torch.empty(count, bits, dtype=torch.float64, device=vectors.device)
    factor = torch.empty(count, dtype=torch.float64, device=vectors.device)
    if count:
        launch(_reflectors_kernel, (count,), vectors, found, factor, bits, *vectors.stride(), BITS=VECTOR, num_warps=4)
    return found, factor


def vectors_gradient(
    gradient: torch.Tensor,  # of the reflectors, float64 [M, K], contiguous
    reflectors: torch.Tensor,  # float64 [M, K], contiguous
    factor: torch.Tensor,  # float64 [M]
    dtype: torch.dtype,
) -> torch.Tensor:
    """The gradient of the vectors that became `reflectors`, [M, K] of that dtype."""
    count, bits = gradient.shape
    found = torch.empty(count, bits, dtype=dtype, device=gradient.device)
    if count:
        launch(_vectors_gradient_kernel, (count,), gradient, reflectors, factor, found, bits, BITS=VECTOR, num_warps=4)
    return found


def _with_whole_rows(x: torch.Tensor) -> torch.Tensor:
    """x, with neighbours in a row next to each other: the gradient of a sum, for one, is a single number in all places."""
    return x if x.stride(1) == 1 else x.contiguous()


@triton.jit
def _load(ptr, row, column, n_rows, n_columns, row_stride, column_stride):
    """A tile in float32, zero outside.  [rows, columns]"""
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    at = row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride
    return tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _power_below(largest):
    """The power of two at or below `largest`, by its exponent."""
    power = tl.cast(tl.cast(largest, tl.int32, bitcast=True) & EXPONENT, tl.float32, bitcast=True)
    return tl.maximum(power, SMALLEST)


@triton.jit
def _halves(scaled):
    high = scaled.to(tl.float16)
    return high, (scaled - high.to(tl.float32)).to(tl.float16)


@triton.jit(do_not_specialize=["n_rows"])
def _apply_kernel(
    x_ptr, matrix_ptr, y_ptr,  # [N, K], [K, K], out: [N, K]
    n_rows, n_bits, x_stride, matrix_stride, matrix_column_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)

    largest = tl.zeros((ROWS,), tl.float32)
    for first in range(0, n_bits, DEPTH):
        x = _load(x_ptr, row, first + tl.arange(0, DEPTH), n_rows, n_bits, x_stride, 1)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
    power = _power_below(largest)

    y = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_bits, DEPTH):
        bit = first + tl.arange(0, DEPTH)
        x = _load(x_ptr, row, bit, n_rows, n_bits, x_stride, 1)
        matrix = _load(matrix_ptr, bit, column, n_bits, n_bits, matrix_stride, matrix_column_stride)
        x_high, x_low = _halves(x * (1.0 / power * PEAK)[:, None])
        high, low = _halves(matrix * PEAK)
        y = tl.dot(x_low, high, y)
        y = tl.dot(x_high, low, y)
        y = tl.dot(x_high, high, y)
    y *= (power * (1.0 / (PEAK * PEAK)))[:, None]
    inside = (row < n_rows)[:, None] & (column < n_bits)[None, :]
    tl.store(y_ptr + row[:, None] * n_bits + column[None, :], y, mask=inside)


@triton.jit(do_not_specialize=["n_rows", "blocks_per_split"])
def _outer_kernel(
    x_ptr, g_ptr, parts_ptr,  # [N, K] twice, out: float64 [splits, K, K]
    n_rows, n_bits, x_stride, g_stride, blocks_per_split,
    ROWS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    j = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    split = tl.program_id(2)
    part = tl.zeros((SIDE, SIDE), tl.float32)
    for block in range(split * blocks_per_split, tl.minimum((split + 1) * blocks_per_split, tl.cdiv(n_rows, ROWS))):
        row = tl.cast(block, tl.int64) * ROWS + tl.arange(0, ROWS)
        x = _load(x_ptr, row, i, n_rows, n_bits, x_stride, 1)
        g = _load(g_ptr, row, j, n_rows, n_bits, g_stride, 1)
        x_power = _power_below(tl.max(tl.max(tl.abs(x), 1), 0))
        g_power = _power_below(tl.max(tl.max(tl.abs(g), 1), 0))
        x_high, x_low = _halves(x * (1.0 / x_power * PEAK))
        g_high, g_low = _halves(g * (1.0 / g_power * PEAK))
        product = tl.dot(tl.trans(x_low), g_high)
        product = tl.dot(tl.trans(x_high), g_low, product)
        product = tl.dot(tl.trans(x_high), g_high, product)
        part += product * (x_power / PEAK) * (g_power / PEAK)
    here = tl.cast(split, tl.int64) * n_bits * n_bits + i.to(tl.int64)[:, None] * n_bits + j[None, :]
    tl.store(parts_ptr + here, part, mask=(i < n_bits)[:, None] & (j < n_bits)[None, :])


@triton.jit
def _reflectors_kernel(
    vectors_ptr, reflectors_ptr, factor_ptr,  # [M, K], out: float64 [M, K], [M]
    n_bits, row_stride, column_stride,
    BITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BITS,), tl.float64)
    for first in range(0, n_bits, BITS):
        bit = first + tl.arange(0, BITS).to(tl.int64)
        x = tl.load(vectors_ptr + row * row_stride + bit * column_stride, mask=bit < n_bits, other=0.0).to(tl.float64)
        squares += x * x
    square = tl.sum(squares, 0)
    is_zero = square == 0.0
    factor = tl.where(is_zero, 0.0, tl.sqrt(2.0 / tl.where(is_zero, 1.0, square)))
    tl.store(factor_ptr + row, factor)
    for first in range(0, n_bits, BITS):
        bit = first + tl.arange(0, BITS).to(tl.int64)
        x = tl.load(vectors_ptr + row * row_stride + bit * column_stride, mask=bit < n_bits, other=0.0).to(tl.float64)
        tl.store(reflectors_ptr + row * n_bits + bit, x * factor, mask=bit < n_bits)


@triton.jit
def _vectors_gradient_kernel(
    gradient_ptr, reflectors_ptr, factor_ptr, found_ptr,  # float64 [M, K] twice, [M], out: [M, K]
    n_bits,
    BITS: tl.constexpr,
):  # fmt: skip
    """What of the gradient is along a reflector, whose length is fixed, is lost."""
    row = tl.program_id(0).to(tl.int64) * n_bits
    along = tl.zeros((BITS,), tl.float64)
    for first in range(0, n_bits, BITS):
        bit = first + tl.arange(0, BITS)
        gradient = tl.load(gradient_ptr + row + bit, mask=bit < n_bits, other=0.0)
        along += gradient * tl.load(reflectors_ptr + row + bit, mask=bit < n_bits, other=0.0)
    half = tl.sum(along, 0) * 0.5
    factor = tl.load(factor_ptr + tl.program_id(0))
    for first in range(0, n_bits, BITS):
        bit = first + tl.arange(0, BITS)
        gradient = tl.load(gradient_ptr + row + bit, mask=bit < n_bits, other=0.0)
        reflector = tl.load(reflectors_ptr + row + bit, mask=bit < n_bits, other=0.0)
        found = (gradient - reflector * half) * factor
        if found_ptr.dtype.element_ty != tl.float64:
            found = found.to(tl.float32)  # float64 to bfloat16 in one step is not everywhere
        tl.store(found_ptr + row + bit, found, mask=bit < n_bits)

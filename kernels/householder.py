"""Products of rows with an orthogonal matrix, and the gradient of the matrix: float32 accuracy on tensor cores.

  apply   y = x R. One program takes a block of rows and a block of columns. With R transposed this is the gradient of x.
  outer   P = x^T g, the gradient of R. One program takes a block of P and a split of the rows; the splits are summed in order.
  reflectors, vectors_gradient   Scale vectors to their length, and the gradient of that. One program takes a vector, in float64.

`orthohash_triton/ops/householder.py` explains why rows are multiplied by the product of all reflections and not reflected one
after the other: a chain is M steps that each wait for a sum over the row, on units without tensor cores, and factors take twice
the operations.

Numerics. Both sides of a product are the sum of a high and a low fp16 half, and three of the four products of halves are
computed; the fourth is 2^-24 of the product. So that neither half leaves fp16's range, numbers are scaled by powers of two, which
is exact: each row of x by its largest entry, which takes a pass over the row before (the second pass finds it in the cache); in
`outer`, which sums over rows, each block of rows. Entries of R are at most 1.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import device_of
from ._halves import halves, product
from ._sizes import cdiv, next_power_of_2
from .launch import launch

PEAK = tl.constexpr(8192.0)  # entries are scaled to below twice this, so that their low halves are normal fp16 numbers
SMALLEST = tl.constexpr(2.0**-100)  # largest entries below this are not scaled up further, so that no scale overflows
EXPONENT = tl.constexpr(0x7F800000)  # the bits of a float32 that hold its exponent

BLOCK_M = 64  # rows
# Columns of a tile of y (64 on other GPUs) and dimensions of one product (32 on others): as many as the registers allow.
MAX_BLOCK_N = {"sm_80": 128, "sm_90": 128}
BLOCK_K = {"sm_120": 16}
VECTOR = 512  # dimensions of a vector at once
OUTER = 64  # rows and columns of a block of P
OUTER_BLOCK_M = {"cuda": 64, "hip": 32}  # rows of x and g at once; with 64 some AMD GPUs run out of registers


def multiplies_factors(count: int, bits: int) -> bool:
    """Return False, because a product with the whole matrix is bound by memory, so that factors would save nothing."""
    return False


def apply(
    x: Tensor,  # float [N, K]
    matrix: Tensor,  # float [K, K], any strides, entries of at most 1
    dtype: torch.dtype,
) -> Tensor:
    """Return x @ matrix in `dtype`, with float32 accuracy.  [N, K]"""
    rows, bits = x.shape
    y = torch.empty(rows, bits, dtype=dtype, device=x.device)
    if rows == 0:
        return y
    x, matrix = _with_whole_rows(x), matrix.float()
    family = device_of(x.device).family
    block_n, block_k = min(MAX_BLOCK_N.get(family, 64), max(16, next_power_of_2(bits))), BLOCK_K.get(family, 32)
    launch(
        _apply_kernel, (cdiv(rows, BLOCK_M), cdiv(bits, block_n)),
        x, matrix, y, rows, bits, x.stride(0), *matrix.stride(),
        BLOCK_M=BLOCK_M, BLOCK_N=block_n, BLOCK_K=min(block_k, block_n), num_warps=4 if block_n <= 32 else 8,
        min_blocks_per_sm=64 // block_n if block_n <= 32 or block_k < 32 else None,
    )  # fmt: skip
    return y


def outer(
    x: Tensor,  # float [N, K]
    g: Tensor,  # float [N, K]
    dtype: torch.dtype,
) -> Tensor:
    """Return x^T g, float64 [K, K], with float32 accuracy whatever `dtype` is."""
    rows, bits = x.shape
    if rows == 0:
        return torch.zeros(bits, bits, dtype=torch.float64, device=x.device)
    x, g = _with_whole_rows(x), _with_whole_rows(g)
    device = device_of(x.device)
    block = min(OUTER, max(16, next_power_of_2(bits)))
    block_m = OUTER_BLOCK_M[device.backend]
    side, blocks = cdiv(bits, block), cdiv(rows, block_m)
    blocks_per_split = cdiv(blocks, max(1, 2 * device.multiprocessors // side**2))
    splits = cdiv(blocks, blocks_per_split)
    sums = torch.empty(splits, bits, bits, dtype=torch.float64, device=x.device)
    launch(
        _outer_kernel, (side, side, splits),
        x, g, sums, rows, bits, x.stride(0), g.stride(0), blocks_per_split,
        BLOCK_M=block_m, BLOCK_K=block, num_warps=4 if block <= 32 else 8, min_blocks_per_sm=2 if block <= 32 else None,
    )  # fmt: skip
    return sums[0] if splits == 1 else sums.sum(0)


def reflectors(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Scale vectors [M, K] to length sqrt(2), float64 [M, K]; also return the factors [M]. Both are 0 for a zero vector."""
    count, bits = vectors.shape
    found = torch.empty(count, bits, dtype=torch.float64, device=vectors.device)
    factor = torch.empty(count, dtype=torch.float64, device=vectors.device)
    if count:
        launch(_reflectors_kernel, (count,), vectors, found, factor, bits, *vectors.stride(), BLOCK_K=VECTOR, num_warps=4)
    return found, factor


def vectors_gradient(
    gradient: Tensor,  # gradient of the reflectors, float64 [M, K], contiguous
    reflectors: Tensor,  # float64 [M, K], contiguous
    factor: Tensor,  # float64 [M]
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient of the vectors from the gradient of their `reflectors`, in `dtype`.  [M, K]"""
    count, bits = gradient.shape
    found = torch.empty(count, bits, dtype=dtype, device=gradient.device)
    if count:
        launch(_vectors_gradient_kernel, (count,), gradient, reflectors, factor, found, bits, BLOCK_K=VECTOR, num_warps=4)
    return found


def _with_whole_rows(x: Tensor) -> Tensor:
    """Return x, copied if its column stride is not 1; for instance, the gradient of a sum is one number with strides of 0."""
    return x if x.stride(1) == 1 else x.contiguous()


@triton.jit
def _load(ptr, row, column, n_rows, n_columns, row_stride, column_stride):
    """Load a tile in float32, zero outside the matrix.  [rows, columns]"""
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    at = row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride
    return tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _power_below(largest):
    """Return the largest power of two that is at most `largest`, but not less than SMALLEST."""
    power = tl.cast(tl.cast(largest, tl.int32, bitcast=True) & EXPONENT, tl.float32, bitcast=True)
    return tl.maximum(power, SMALLEST)


@triton.jit(do_not_specialize=["n_rows"])
def _apply_kernel(
    # x [N, K], matrix [K, K]; out: y [N, K].
    x_ptr, matrix_ptr, y_ptr,
    n_rows, n_bits, x_stride, matrix_stride, matrix_column_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute one tile of y = x R, scaling each row by a power of two. The grid is (blocks of rows, blocks of columns)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)

    largest = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, n_bits, BLOCK_K):
        x = _load(x_ptr, row, first + tl.arange(0, BLOCK_K), n_rows, n_bits, x_stride, 1)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
    power = _power_below(largest)

    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, n_bits, BLOCK_K):
        bit = first + tl.arange(0, BLOCK_K)
        x = _load(x_ptr, row, bit, n_rows, n_bits, x_stride, 1)
        matrix = _load(matrix_ptr, bit, column, n_bits, n_bits, matrix_stride, matrix_column_stride)
        x_high, x_low = halves(x * (1.0 / power * PEAK)[:, None])
        high, low = halves(matrix * PEAK)
        y = product(x_high, x_low, high, low, y)
    y *= (power * (1.0 / (PEAK * PEAK)))[:, None]
    inside = (row < n_rows)[:, None] & (column < n_bits)[None, :]
    tl.store(y_ptr + row[:, None] * n_bits + column[None, :], y, mask=inside)


@triton.jit(do_not_specialize=["n_rows", "blocks_per_split"])
def _outer_kernel(
    # x [N, K], g [N, K]; out: float64 [splits, K, K].
    x_ptr, g_ptr, sums_ptr,
    n_rows, n_bits, x_stride, g_stride, blocks_per_split,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sum x^T g over one split of the rows, for one block of P. The grid is (blocks of x's columns, of g's columns, splits)."""
    i = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    j = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = tl.program_id(2)
    total = tl.zeros((BLOCK_K, BLOCK_K), tl.float32)
    for block in range(split * blocks_per_split, tl.minimum((split + 1) * blocks_per_split, tl.cdiv(n_rows, BLOCK_M))):
        row = tl.cast(block, tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
        x = _load(x_ptr, row, i, n_rows, n_bits, x_stride, 1)
        g = _load(g_ptr, row, j, n_rows, n_bits, g_stride, 1)
        x_power = _power_below(tl.max(tl.max(tl.abs(x), 1), 0))
        g_power = _power_below(tl.max(tl.max(tl.abs(g), 1), 0))
        x_high, x_low = halves(x * (1.0 / x_power * PEAK))
        g_high, g_low = halves(g * (1.0 / g_power * PEAK))
        total += product(tl.trans(x_high), tl.trans(x_low), g_high, g_low) * (x_power / PEAK) * (g_power / PEAK)
    at = tl.cast(split, tl.int64) * n_bits * n_bits + i.to(tl.int64)[:, None] * n_bits + j[None, :]
    tl.store(sums_ptr + at, total, mask=(i < n_bits)[:, None] & (j < n_bits)[None, :])


@triton.jit
def _reflectors_kernel(
    # vectors [M, K]; out: float64 reflectors [M, K], factors [M].
    vectors_ptr, reflectors_ptr, factor_ptr,
    n_bits, row_stride, column_stride,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Scale one vector to length sqrt(2). The grid is (M,)."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK_K,), tl.float64)
    for first in range(0, n_bits, BLOCK_K):
        bit = first + tl.arange(0, BLOCK_K).to(tl.int64)
        x = tl.load(vectors_ptr + row * row_stride + bit * column_stride, mask=bit < n_bits, other=0.0).to(tl.float64)
        squares += x * x
    square = tl.sum(squares, 0)
    is_zero = square == 0.0
    factor = tl.where(is_zero, 0.0, tl.sqrt(2.0 / tl.where(is_zero, 1.0, square)))
    tl.store(factor_ptr + row, factor)
    for first in range(0, n_bits, BLOCK_K):
        bit = first + tl.arange(0, BLOCK_K).to(tl.int64)
        x = tl.load(vectors_ptr + row * row_stride + bit * column_stride, mask=bit < n_bits, other=0.0).to(tl.float64)
        tl.store(reflectors_ptr + row * n_bits + bit, x * factor, mask=bit < n_bits)


@triton.jit
def _vectors_gradient_kernel(
    # float64 gradient of the reflectors [M, K], reflectors [M, K], factors [M]; out: [M, K].
    gradient_ptr, reflectors_ptr, factor_ptr, found_ptr,
    n_bits,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of one vector. The part along the reflector is removed: its length is fixed. The grid is (M,)."""
    row = tl.program_id(0).to(tl.int64) * n_bits
    along = tl.zeros((BLOCK_K,), tl.float64)
    for first in range(0, n_bits, BLOCK_K):
        bit = first + tl.arange(0, BLOCK_K)
        gradient = tl.load(gradient_ptr + row + bit, mask=bit < n_bits, other=0.0)
        along += gradient * tl.load(reflectors_ptr + row + bit, mask=bit < n_bits, other=0.0)
    half = tl.sum(along, 0) * 0.5
    factor = tl.load(factor_ptr + tl.program_id(0))
    for first in range(0, n_bits, BLOCK_K):
        bit = first + tl.arange(0, BLOCK_K)
        gradient = tl.load(gradient_ptr + row + bit, mask=bit < n_bits, other=0.0)
        reflector = tl.load(reflectors_ptr + row + bit, mask=bit < n_bits, other=0.0)
        found = (gradient - reflector * half) * factor
        if found_ptr.dtype.element_ty != tl.float64:
            found = found.to(tl.float32)  # not every target converts float64 to bfloat16 in one step
        tl.store(found_ptr + row + bit, found, mask=bit < n_bits)

"""Parts of batch normalisation on a GPU: column statistics, column sums, gradient of the input.

The fused loss applies them at different times. One program takes a block of columns and all rows, so every sum has a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._sizes import cdiv
from .launch import launch

BLOCK_N = 16  # columns of a program: 64 bits already make four programs
BLOCK_M = 128  # rows of a step
MEAN_FACTOR = tl.constexpr(2.0**-32)  # with it the sum of 2^31 numbers stays within float32
SQUARE_FACTOR = tl.constexpr(2.0**-80)  # with it the squares of the largest numbers are at most 2^96
LARGEST = tl.constexpr(3.4028234663852886e38)  # of float32


def statistics(latent: Tensor, correction: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and 1 / deviation of every column of latent [N, K], float32 [K] each.

    The variance has the `correction` of torch.var; 1 / deviation is 1 / sqrt(biased variance + eps). With a correction of 0 the
    variance is float64. Otherwise it is NaN where float32 cannot hold it.
    """
    rows, columns = latent.shape
    mean, rstd = _empty_column(latent), _empty_column(latent)
    var = torch.empty(columns, dtype=torch.float32 if correction else torch.float64, device=latent.device)
    launch(
        _statistics_kernel, _column_grid(columns), latent, mean, var, rstd, rows, columns, *latent.stride(), correction, eps,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, min_blocks_per_sm=1,
    )  # fmt: skip
    return mean, var, rstd


def sums(
    rows: Tensor,  # [N, K]
    upstream: Tensor | None,  # float32, a scalar or [N]: a factor of the rows; None for 1
    latent: Tensor,  # [N, K]
    mean: Tensor,  # [K]
    rstd: Tensor,  # [K]
) -> tuple[Tensor, Tensor]:
    """Return the sums over the batch of upstream * rows * (normalised latent) and of upstream * rows.  [K], [K]"""
    count, columns = latent.shape
    along, plain = _empty_column(latent), _empty_column(latent)
    launch(
        _sums_kernel, _column_grid(columns), rows, upstream, latent, mean, rstd, along, plain,
        count, columns, *rows.stride(), _row_stride(upstream), *latent.stride(),
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, min_blocks_per_sm=1,
    )  # fmt: skip
    return along, plain


def input_gradient(
    rows: Tensor,  # [N, K]
    upstream: Tensor | None,  # as in `sums`
    latent: Tensor,  # [N, K]
    mean: Tensor,  # [K]
    rstd: Tensor,  # [K]
    weight: Tensor | None,  # [K]; None for 1
    along: Tensor,  # [K]
    plain: Tensor,  # [K]
    share: float,
) -> Tensor:
    """Return the gradient of the input of batch normalisation, in the dtype of latent.  [N, K]

    It is weight * rstd * (upstream * rows - share * (plain + normalised latent * along)).
    """
    count, columns = latent.shape
    gradient = torch.empty((count, columns), dtype=latent.dtype, device=latent.device)
    launch(
        _input_gradient_kernel, (cdiv(count, BLOCK_M), cdiv(columns, BLOCK_N)),
        rows, upstream, latent, mean, rstd, weight, along, plain, gradient,
        count, columns, *rows.stride(), _row_stride(upstream), *latent.stride(), share, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return gradient


def _row_stride(upstream: Tensor | None) -> int:
    return upstream.stride(0) if upstream is not None and upstream.ndim else 0


def _empty_column(latent: Tensor) -> Tensor:
    return torch.empty(latent.shape[1], dtype=torch.float32, device=latent.device)


def _column_grid(columns: int) -> tuple[int]:
    return (cdiv(columns, BLOCK_N),)


@triton.jit
def _load(x_ptr, row, column, n_rows, n_columns, row_stride, column_stride):
    """Load a tile in float32, zero outside the matrix; also return which entries are inside.  [BLOCK_M, BLOCK_N] each"""
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    at = row.to(tl.int64)[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def _load_gradient(rows_ptr, upstream_ptr, row, column, n_rows, n_columns, row_stride, column_stride, upstream_stride):
    """Load a tile of rows times upstream, zero outside the matrix.  [BLOCK_M, BLOCK_N]"""
    g, _ = _load(rows_ptr, row, column, n_rows, n_columns, row_stride, column_stride)
    if upstream_ptr is not None:
        g *= tl.load(upstream_ptr + row.to(tl.int64) * upstream_stride, mask=row < n_rows, other=0.0)[:, None]
    return g


@triton.jit(do_not_specialize=["n_rows", "correction"])
def _statistics_kernel(
    # latent [N, K]; out: float32 mean [K], float32 or float64 variance [K], float32 1 / deviation [K].
    latent_ptr, mean_ptr, var_ptr, rstd_ptr,
    n_rows, n_columns, row_stride, column_stride, correction, eps,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute mean, variance and 1 / deviation of one block of columns. The grid is (blocks of columns,).

    The variance is summed about the mean in a second pass, because a sum of squares would cancel. Sums that leave the range of
    float32 are computed again from smaller numbers.
    """
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    of_all = (latent_ptr, column, n_rows, n_columns, row_stride, column_stride)
    mean = tl.zeros((BLOCK_N,), tl.float32)
    mean = _column_sums(*of_all, mean, 1.0, False, BLOCK_M, BLOCK_N) / n_rows
    if _any_overflowed(mean):
        mean = _column_sums(*of_all, mean, MEAN_FACTOR, False, BLOCK_M, BLOCK_N) / n_rows * (1.0 / MEAN_FACTOR)
    squares = _column_sums(*of_all, mean, 1.0, True, BLOCK_M, BLOCK_N)
    total = squares.to(tl.float64)
    if _any_overflowed(squares):
        smaller = _column_sums(*of_all, mean, SQUARE_FACTOR, True, BLOCK_M, BLOCK_N)
        total = tl.where(squares < float("inf"), total, smaller.to(tl.float64) * (1.0 / SQUARE_FACTOR) * (1.0 / SQUARE_FACTOR))
    in_columns = column < n_columns
    var = total / (n_rows - correction)
    if var_ptr.dtype.element_ty == tl.float32:
        var = tl.where(var < LARGEST, var, float("nan"))
    tl.store(mean_ptr + column, mean, mask=in_columns)
    tl.store(var_ptr + column, var, mask=in_columns)
    tl.store(rstd_ptr + column, 1.0 / tl.sqrt(total / n_rows + eps), mask=in_columns)


@triton.jit
def _column_sums(
    latent_ptr, column, n_rows, n_columns, row_stride, column_stride, mean, FACTOR: tl.constexpr, SQUARES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Return the sum of each column times FACTOR or, with SQUARES, of (FACTOR (x - mean))^2.  float32 [BLOCK_N]"""
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, n_rows, BLOCK_M):
        x, inside = _load(latent_ptr, first + tl.arange(0, BLOCK_M), column, n_rows, n_columns, row_stride, column_stride)
        if SQUARES:
            x = tl.where(inside, x - mean[None, :], 0.0)
        if FACTOR != 1.0:
            x *= FACTOR
        total += x * x if SQUARES else x
    return tl.sum(total, 0)


@triton.jit
def _any_overflowed(sums):
    """Return whether a sum is infinite or NaN."""
    return tl.max(tl.where(tl.abs(sums) < float("inf"), 0, 1), 0) > 0


@triton.jit(do_not_specialize=["n_rows", "upstream_stride"])
def _sums_kernel(
    # rows [N, K], upstream [N], scalar or None, latent [N, K], mean [K], rstd [K].
    rows_ptr, upstream_ptr, latent_ptr, mean_ptr, rstd_ptr,
    # Out: float32 [K], [K].
    along_ptr, plain_ptr,
    n_rows, n_columns, rows_stride, rows_column_stride, upstream_stride, latent_stride, latent_column_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sum upstream * rows, with and without the normalised latent, in one block of columns. The grid is (blocks of columns,)."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mean = tl.load(mean_ptr + column, mask=column < n_columns, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + column, mask=column < n_columns, other=0.0).to(tl.float32)
    along = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    plain = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, n_rows, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        g = _load_gradient(
            rows_ptr, upstream_ptr, row, column, n_rows, n_columns, rows_stride, rows_column_stride, upstream_stride
        )
        x, _ = _load(latent_ptr, row, column, n_rows, n_columns, latent_stride, latent_column_stride)
        along += g * (x - mean[None, :])
        plain += g
    tl.store(along_ptr + column, tl.sum(along, 0) * rstd, mask=column < n_columns)
    tl.store(plain_ptr + column, tl.sum(plain, 0), mask=column < n_columns)


@triton.jit(do_not_specialize=["n_rows", "upstream_stride"])
def _input_gradient_kernel(
    # As in `_sums_kernel`; weight [K] or None, along [K], plain [K].
    rows_ptr, upstream_ptr, latent_ptr, mean_ptr, rstd_ptr, weight_ptr, along_ptr, plain_ptr,
    # Out: [N, K].
    gradient_ptr,
    n_rows, n_columns, rows_stride, rows_column_stride, upstream_stride, latent_stride, latent_column_stride, share,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute one tile of the gradient of the input. The grid is (blocks of rows, blocks of columns)."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_columns = column < n_columns
    mean = tl.load(mean_ptr + column, mask=in_columns, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + column, mask=in_columns, other=0.0).to(tl.float32)
    along = tl.load(along_ptr + column, mask=in_columns, other=0.0) * share
    plain = tl.load(plain_ptr + column, mask=in_columns, other=0.0) * share
    factor = rstd
    if weight_ptr is not None:
        factor *= tl.load(weight_ptr + column, mask=in_columns, other=0.0).to(tl.float32)
    g = _load_gradient(rows_ptr, upstream_ptr, row, column, n_rows, n_columns, rows_stride, rows_column_stride, upstream_stride)
    x, inside = _load(latent_ptr, row, column, n_rows, n_columns, latent_stride, latent_column_stride)
    x = (x - mean[None, :]) * rstd[None, :]
    gradient = (g - plain[None, :] - x * along[None, :]) * factor[None, :]
    tl.store(gradient_ptr + row.to(tl.int64)[:, None] * n_columns + column[None, :], gradient, mask=inside)

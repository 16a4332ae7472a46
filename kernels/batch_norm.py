"""The parts of batch normalisation that the fused loss takes apart: column statistics, column sums, gradient of the input.

One program owns a few columns and all rows of them, so that every sum has one fixed order.
"""

import torch
import triton
import triton.language as tl

from ._sizes import cdiv
from .launch import launch

COLUMNS = 16  # per program: half a sector's worth of lanes, so that 64 bits already make four programs
ROWS = 128  # per step


def statistics(latent: torch.Tensor, correction: int, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, variance with that correction as in torch.var, and 1 / sqrt(biased variance + eps) of every column of latent [N, K],
    in float32.  [K] each"""
    rows, columns = latent.shape
    mean, var, rstd = (_per_column(latent) for _ in range(3))
    launch(
        _statistics_kernel, _column_grid(columns), latent, mean, var, rstd, rows, columns, *latent.stride(), correction, eps,
        ROWS=ROWS, COLUMNS=COLUMNS, min_blocks_per_sm=1,
    )  # fmt: skip
    return mean, var, rstd


def sums(
    rows: torch.Tensor,  # [N, K]
    upstream: torch.Tensor | None,  # float32 [N] or scalar: a factor of the rows
    latent: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Over the batch: the sum of rows * normalised latent, and the sum of rows.  [K], [K]"""
    count, columns = latent.shape
    along, plain = _per_column(latent), _per_column(latent)
    launch(
        _sums_kernel, _column_grid(columns), rows, upstream, latent, mean, rstd, along, plain,
        count, columns, *rows.stride(), _row_stride(upstream), *latent.stride(), ROWS=ROWS, COLUMNS=COLUMNS, min_blocks_per_sm=1,
    )  # fmt: skip
    return along, plain


def input_gradient(
    rows: torch.Tensor,
    upstream: torch.Tensor | None,
    latent: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    along: torch.Tensor,  # [K]
    plain: torch.Tensor,  # [K]
    share: float,
) -> torch.Tensor:
    """weight * rstd * (rows - share * (plain + normalised latent * along)), in the dtype of the latent; rows, upstream as in
    `sums`.  [N, K]"""
    count, columns = latent.shape
    gradient = torch.empty((count, columns), dtype=latent.dtype, device=latent.device)
    launch(
        _input_gradient_kernel, (cdiv(count, ROWS), cdiv(columns, COLUMNS)),
        rows, upstream, latent, mean, rstd, weight, along, plain, gradient,
        count, columns, *rows.stride(), _row_stride(upstream), *latent.stride(), share, ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
    return gradient


def _row_stride(upstream: torch.Tensor | None) -> int:
    return upstream.stride(0) if upstream is not None and upstream.ndim else 0


def _per_column(latent: torch.Tensor) -> torch.Tensor:
    return torch.empty(latent.shape[1], dtype=torch.float32, device=latent.device)


def _column_grid(columns: int) -> tuple[int]:
    return (cdiv(columns, COLUMNS),)


@triton.jit
def _load(x_ptr, row, column, n_rows, n_columns, row_stride, column_stride):
    """A float32 tile, zero outside, and where it is inside.  [ROWS, COLUMNS] each"""
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    at = row.to(tl.int64)[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def _load_gradient(rows_ptr, upstream_ptr, row, column, n_rows, n_columns, row_stride, column_stride, upstream_stride):
    """A tile of rows times upstream, zero outside.  [ROWS, COLUMNS]"""
    g, _ = _load(rows_ptr, row, column, n_rows, n_columns, row_stride, column_stride)
    if upstream_ptr is not None:
        g *= tl.load(upstream_ptr + row.to(tl.int64) * upstream_stride, mask=row < n_rows, other=0.0)[:, None]
    return g


@triton.jit(do_not_specialize=["n_rows", "correction"])
def _statistics_kernel(
    latent_ptr, mean_ptr, var_ptr, rstd_ptr,  # [N, K], out: [K] each
    n_rows, n_columns, row_stride, column_stride, correction, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    # The variance is summed about the mean in a second pass: a sum of squares would cancel.
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_rows, ROWS):
        x, _ = _load(latent_ptr, first + tl.arange(0, ROWS), column, n_rows, n_columns, row_stride, column_stride)
        total += x
    mean = tl.sum(total, 0) / n_rows
    square = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_rows, ROWS):
        x, inside = _load(latent_ptr, first + tl.arange(0, ROWS), column, n_rows, n_columns, row_stride, column_stride)
        centred = tl.where(inside, x - mean[None, :], 0.0)
        square += centred * centred
    in_columns = column < n_columns
    squares = tl.sum(square, 0)
    tl.store(mean_ptr + column, mean, mask=in_columns)
    tl.store(var_ptr + column, squares / (n_rows - correction), mask=in_columns)
    tl.store(rstd_ptr + column, 1.0 / tl.sqrt((squares / n_rows).to(tl.float64) + eps), mask=in_columns)


@triton.jit(do_not_specialize=["n_rows", "upstream_stride"])
def _sums_kernel(
    rows_ptr, upstream_ptr, latent_ptr, mean_ptr, rstd_ptr, along_ptr, plain_ptr,  # [N, K], [N], [N, K], [K]..., out: [K], [K]
    n_rows, n_columns, rows_stride, rows_column_stride, upstream_stride, latent_stride, latent_column_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mean = tl.load(mean_ptr + column, mask=column < n_columns, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + column, mask=column < n_columns, other=0.0).to(tl.float32)
    along = tl.zeros((ROWS, COLUMNS), tl.float32)
    plain = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
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
    rows_ptr, upstream_ptr, latent_ptr, mean_ptr, rstd_ptr, weight_ptr, along_ptr, plain_ptr, gradient_ptr,  # out: [N, K]
    n_rows, n_columns, rows_stride, rows_column_stride, upstream_stride, latent_stride, latent_column_stride, share,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
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

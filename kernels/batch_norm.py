"""The parts of batch normalisation that the fused loss takes apart: column statistics, column sums, gradient of the input.

One program owns a few columns and all rows of them, so that every sum has one fixed order.
"""

import torch
import triton
import triton.language as tl

from .launch import launch

COLUMNS = 16  # per program: half a sector's worth of lanes, so that 64 bits already make four programs
ROWS = 128  # per step


def statistics(latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of every column of latent [N, K], in float32.  [K], [K]"""
    rows, columns = latent.shape
    mean, var = _per_column(latent), _per_column(latent)
    launch(
        _statistics_kernel, _column_grid(columns), latent, mean, var, rows, columns, *latent.stride(), ROWS=ROWS, COLUMNS=COLUMNS
    )
    return mean, var


def sums(rows: torch.Tensor, latent: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Over the batch: the sum of rows * normalised latent, and the sum of rows.  [K], [K]"""
    count, columns = latent.shape
    along, plain = _per_column(latent), _per_column(latent)
    launch(
        _sums_kernel, _column_grid(columns), rows, latent, mean, rstd, along, plain,
        count, columns, *rows.stride(), *latent.stride(), ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
    return along, plain


def input_gradient(
    rows: torch.Tensor,
    latent: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    through: torch.Tensor,  # [2, K]
) -> torch.Tensor:
    """weight * rstd * (rows - through[1] - normalised latent * through[0]), in the dtype of the latent.  [N, K]"""
    count, columns = latent.shape
    gradient = torch.empty((count, columns), dtype=latent.dtype, device=latent.device)
    launch(
        _input_gradient_kernel, (triton.cdiv(count, ROWS), triton.cdiv(columns, COLUMNS)),
        rows, latent, mean, rstd, weight, through, gradient,
        count, columns, *rows.stride(), *latent.stride(), ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
    return gradient


def _per_column(latent: torch.Tensor) -> torch.Tensor:
    return torch.empty(latent.shape[1], dtype=torch.float32, device=latent.device)


def _column_grid(columns: int) -> tuple[int]:
    return (triton.cdiv(columns, COLUMNS),)


@triton.jit
def _load(x_ptr, row, column, n_rows, n_columns, row_stride, column_stride):
    """A float32 tile, zero outside, and where it is inside.  [ROWS, COLUMNS] each"""
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    at = row.to(tl.int64)[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def _statistics_kernel(
    latent_ptr, mean_ptr, var_ptr,  # [N, K], out: [K], [K]
    n_rows, n_columns, row_stride, column_stride,
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
    tl.store(mean_ptr + column, mean, mask=column < n_columns)
    tl.store(var_ptr + column, tl.sum(square, 0) / n_rows, mask=column < n_columns)


@triton.jit
def _sums_kernel(
    rows_ptr, latent_ptr, mean_ptr, rstd_ptr, along_ptr, plain_ptr,  # [N, K] twice, [K] twice, out: [K], [K]
    n_rows, n_columns, rows_stride, rows_column_stride, latent_stride, latent_column_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mean = tl.load(mean_ptr + column, mask=column < n_columns, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + column, mask=column < n_columns, other=0.0).to(tl.float32)
    along = tl.zeros((ROWS, COLUMNS), tl.float32)
    plain = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        g, _ = _load(rows_ptr, row, column, n_rows, n_columns, rows_stride, rows_column_stride)
        x, _ = _load(latent_ptr, row, column, n_rows, n_columns, latent_stride, latent_column_stride)
        along += g * (x - mean[None, :])
        plain += g
    tl.store(along_ptr + column, tl.sum(along, 0) * rstd, mask=column < n_columns)
    tl.store(plain_ptr + column, tl.sum(plain, 0), mask=column < n_columns)


@triton.jit
def _input_gradient_kernel(
    rows_ptr, latent_ptr, mean_ptr, rstd_ptr, weight_ptr, through_ptr, gradient_ptr,  # out: [N, K]
    n_rows, n_columns, rows_stride, rows_column_stride, latent_stride, latent_column_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_columns = column < n_columns
    mean = tl.load(mean_ptr + column, mask=in_columns, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + column, mask=in_columns, other=0.0).to(tl.float32)
    along = tl.load(through_ptr + column, mask=in_columns, other=0.0)
    plain = tl.load(through_ptr + n_columns + column, mask=in_columns, other=0.0)
    factor = rstd
    if weight_ptr is not None:
        factor *= tl.load(weight_ptr + column, mask=in_columns, other=0.0).to(tl.float32)
    g, inside = _load(rows_ptr, row, column, n_rows, n_columns, rows_stride, rows_column_stride)
    x, _ = _load(latent_ptr, row, column, n_rows, n_columns, latent_stride, latent_column_stride)
    x = (x - mean[None, :]) * rstd[None, :]
    gradient = (g - plain[None, :] - x * along[None, :]) * factor[None, :]
    tl.store(gradient_ptr + row.to(tl.int64)[:, None] * n_columns + column[None, :], gradient, mask=inside)

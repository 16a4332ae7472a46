"""Codebook loss on a CPU: loss and gradient in one pass over blocks of classes, on BLAS.

The codebook is fixed, so the softmax of a row is attention with K = V = codebook: one sweep accumulates sum_c e^(z_c) and
sum_c e^(z_c) o_c, which give the loss and its gradient. Two measures reduce the sweep to two matrix products and one exp:

- A code is +-1, so no logit exceeds (s / sqrt(K)) |v^|_1. This bound replaces the running maximum. A row whose sum is tiny under
  the bound, because all its logits are far below it, is swept again under its true maximum.
- With a column of ones appended to the codes, and one of minus the bound appended to v^, the first product subtracts the bound
  and the second one sums the exponentials.

If the positive classes are listed (one id per row, or the entries of a sparse target), the sweep leaves them out, and they are
added in closed form, including the margin: softmax minus target is never a difference of two large numbers. A dense target is
part of the sweep. Numba compiles what is done once per row, and small problems as a whole.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._codebook_positives import count_labelled, finish_listed, largest_listed, leave_out
from ._codebook_rows import TINY_SUM, expand, extend_rows, fill_margin, finish_dense
from ._codebook_small import finish_small, first_outside
from .batch_norm import normalise

LOGITS_AT_A_TIME = 1 << 19  # logits of a block, in elements; together with the codes they fit a last-level cache
CODES_AT_A_TIME = 1 << 20  # elements of the expanded codes
SMALL_WORK = 1 << 21  # multiplications of rows by codes up to which compiled loops are faster than calls of BLAS

MEAN_SCALES_BACKWARD = False  # `loss_and_gradients` multiplies gradients by the factor of the mean

_NO_IDS, _NO_VALUES = np.empty(0, np.int64), np.empty(0, np.float32)


class Problem(NamedTuple):
    """Options of the loss, and the codebook."""

    codebook: Tensor  # int8 [C, K]
    scale: float
    step: float  # scale / sqrt(K): a logit per unit of v^ . o_c
    margin: float
    angular: bool
    label_smoothing: float
    ignore_index: int
    need_grad: bool
    need_lse_grad: bool


class Listed(NamedTuple):
    """Listed positive classes: those of row n are columns[starts[n] : starts[n + 1]]; without starts, columns[n] alone."""

    starts: Tensor | None  # int64 [N + 1]
    columns: Tensor  # int64 [nnz], ascending and unique within a row
    values: Tensor | None  # [nnz], at least 0; an entry of 0 is not positive

    def of(self, rows: Tensor) -> "Listed":
        """Return the positives of the rows where bool `rows` [N] is true."""
        if self.starts is None or self.values is None:
            return Listed(None, self.columns[rows], None)
        counts = self.starts.diff()
        kept = rows.repeat_interleave(counts)  # bool [nnz]
        starts = torch.cat((counts.new_zeros(1), counts[rows].cumsum(0)))
        return Listed(starts, self.columns[kept], self.values[kept])

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return starts, columns and values; starts and values are empty if there is one id per row."""
        if self.starts is None or self.values is None:
            return _NO_IDS, self.columns.numpy(), _NO_VALUES
        return self.starts.numpy(), self.columns.numpy(), self.values.numpy()


class Rows(NamedTuple):
    """Normalised rows in the form that the sweep reads."""

    extended: Tensor  # [N, K + 1]: step v^ and minus the bound, so that its product with [codes, 1] is logits minus the bound
    inverse_norm: Tensor  # [N]: 1 / |v|, 0 for a zero row


class Result(NamedTuple):
    """Loss, log-sum-exp and their gradients with respect to v for each row; a gradient that is not needed has no rows."""

    loss: Tensor  # [N]
    lse: Tensor  # [N]
    grad: Tensor  # [N, K]
    lse_grad: Tensor  # [N, K]


def prepare(codebook: Tensor) -> Tensor:
    """Return a contiguous int8 codebook [C, K] as a new tensor object, which may share the memory of the argument."""
    return codebook.contiguous().detach()


def loss_and_gradients(
    v: Tensor,  # float [N, K]; batch-normalised first if `mean` is given
    mean: Tensor | None,  # [K]
    rstd: Tensor | None,  # [K]
    weight: Tensor | None,  # [K]
    bias: Tensor | None,  # [K]
    target: Tensor,  # int64 [N]; float [N, C]; or, with columns and values, row starts int64 [N + 1]
    columns: Tensor | None,  # int64 [nnz], ascending and unique within a row
    values: Tensor | None,  # [nnz], at least 0
    codes: Tensor,  # int8 [C, K], from `prepare`
    *,
    p_terms: int,  # not used: products are float32 or float64
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    reduction: Literal["none", "mean", "sum"],
    need_grad: bool,
    need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, the log-sum-exp, and the tensors that the backward needs, in float32 (float64 for float64 rows).

    Returns:
        loss: a scalar, or [N] for reduction "none".
        lse: [N].
        grad, lse_grad: [N, K], or [0, K] if not needed: gradients of the loss (each row's own for reduction "none") and of the
            log-sum-exp with respect to the normalised rows.
        share: [0], as nothing is left to be multiplied with `grad`.
    """
    v = v.float() if v.dtype.itemsize < 4 else v
    if mean is not None and rstd is not None:
        v = normalise(v, mean, rstd, weight, bias)
    columns, values = (None if x is None else x.contiguous() for x in (columns, values))
    total, (loss, lse, grad, lse_grad) = cosine_codebook_loss(
        v.contiguous(), target.contiguous(), columns, values, codes, scale=scale, margin=margin, angular=angular,
        label_smoothing=label_smoothing, ignore_index=ignore_index, need_grad=need_grad, need_lse_grad=need_lse_grad,
        mean=reduction == "mean",
    )  # fmt: skip
    return loss if reduction == "none" else total, lse, grad, lse_grad, loss.new_empty(0)


def cosine_codebook_loss(
    v: Tensor,  # float32 or float64 [N, K]
    target: Tensor,  # int64 [N]; float [N, C]; or, with columns and values, row starts int64 [N + 1]
    columns: Tensor | None,  # int64 [nnz], ascending and unique within a row
    values: Tensor | None,  # [nnz], at least 0
    codebook: Tensor,  # int8 [C, K]
    *,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    need_grad: bool,
    need_lse_grad: bool,
    mean: bool,
) -> tuple[Tensor, Result]:
    """Return the sum of the losses, and the results of all rows.

    With `mean`, the sum and `grad` are divided by the number of labelled rows.

    An invalid positive (a class outside [0, C), columns out of order, a negative value) makes its row NaN.
    """
    count, bits = v.shape
    step = scale / math.sqrt(bits)
    problem = Problem(codebook, scale, step, margin, angular, label_smoothing, ignore_index, need_grad, need_lse_grad)
    positives: Listed | Tensor = target
    if target.ndim == 1:
        positives = Listed(None, target, None) if columns is None else Listed(target, columns, values)
        if v.dtype == torch.float32 and count * bits * codebook.shape[0] <= SMALL_WORK:
            result, total, any_lost = _solve_small(problem, v, positives, mean)
            if not any_lost:
                return torch.full((), total, dtype=v.dtype), result
    rows = Rows(torch.empty((count, bits + 1), dtype=v.dtype), torch.empty(count, dtype=v.dtype))
    extend_rows(v.detach().numpy(), step, rows.inverse_norm.numpy(), rows.extended.numpy())
    labelled = _number_labelled(positives, count, ignore_index) if mean else 1
    # Without a labelled row the mean is NaN, as in torch, and the gradient zero.
    result, total = _solve(problem, rows, positives, 1 / max(labelled, 1))
    return torch.full((), total / labelled if labelled else math.nan, dtype=v.dtype), result


def class_outside(target: Tensor, classes: int, ignore_index: int) -> int | None:
    """Return an id of contiguous int64 target [N] that is neither in [0, classes) nor `ignore_index`, or None."""
    position = first_outside(target.data_ptr(), len(target), classes, ignore_index)
    return None if position < 0 else int(target[position])


def _number_labelled(target: Listed | Tensor, rows: int, ignore_index: int) -> int:
    if isinstance(target, Listed):
        return count_labelled(*target.arrays(), ignore_index, rows)
    return int((target.sum(1) > 0).sum())


def _solve(problem: Problem, rows: Rows, target: Listed | Tensor, share: float) -> tuple[Result, float]:
    """Return the results of the rows and the sum of their losses.

    Rows whose sum of exponentials is too small under the bound are swept a second time, under their true maximum.
    """
    result, total, any_lost = _solve_once(problem, rows, target, share)
    if any_lost:
        lost = result.lse + rows.extended[:, -1] < math.log(TINY_SUM)  # bool [N]
        target = target.of(lost) if isinstance(target, Listed) else target[lost]
        again = Rows(rows.extended[lost], rows.inverse_norm[lost])
        again.extended[:, -1] = -_largest_logit(problem, again, target)
        for whole, part in zip(result, _solve_once(problem, again, target, share)[0], strict=True):
            if len(whole):
                whole[lost] = part
        total = float(result.loss.sum(dtype=torch.float64))
    return result, total


def _solve_small(problem: Problem, v: Tensor, listed: Listed, mean: bool) -> tuple[Result, float, bool]:
    """Compute losses and gradients of a small problem in one compiled call.

    Also returns the sum of the losses, and whether the sum of a row is too small under the bound.

    Compiled code receives addresses, because arrays cost more to pass.
    """
    result = _empty_result(problem, v)
    starts, columns, values = listed
    at = [0 if tensor is None else tensor.data_ptr() for tensor in (starts, columns, values, v, problem.codebook, *result)]
    sizes = (*v.shape, problem.codebook.shape[0], columns.shape[0])
    return result, *finish_small(*problem[1:], mean, *sizes, *at)


def _solve_once(problem: Problem, rows: Rows, target: Listed | Tensor, share: float) -> tuple[Result, float, bool]:
    """Compute losses and gradients under the bound of each row.

    Also returns the sum of the losses, and whether the sum of a row is too small under the bound.
    """
    if isinstance(target, Listed):
        return _solve_listed(problem, rows, target, share)
    return _solve_dense(problem, rows, target, share)


def _solve_listed(problem: Problem, rows: Rows, listed: Listed, share: float) -> tuple[Result, float, bool]:
    """Compute the loss for listed positive classes: sweep all other classes, and add the positives in closed form."""
    sums = _empty_sums(problem, rows)
    for logits, codes in _other_logits(problem, rows, listed):
        _accumulate(sums, logits.exp_(), codes)
    result = _empty_result(problem, rows.extended)
    options = (problem.scale, problem.step, problem.margin, problem.angular, problem.label_smoothing, problem.ignore_index)
    arrays = (rows.extended, rows.inverse_norm, problem.codebook, sums, *result)
    return result, *finish_listed(*options, share, *listed.arrays(), *(tensor.numpy() for tensor in arrays))


def _solve_dense(problem: Problem, rows: Rows, target: Tensor, share: float) -> tuple[Result, float, bool]:
    """Compute the loss for a dense target, one distribution over the classes per row, as part of the sweep."""
    extended = rows.extended
    weight = target.sum(1, keepdim=True, dtype=extended.dtype)  # [N, 1]
    labelled = weight[:, 0] > 0
    weight = (1 - problem.label_smoothing) / weight.where(weight > 0, 1)
    sums, target_sums = _empty_sums(problem, rows), _empty_sums(problem, rows)
    target_logit, total = extended.new_zeros(len(extended)), extended.new_zeros(len(extended))
    for first, logits, slope, codes in _margined_logits(problem, rows, target):
        q = weight * target[:, first : first + len(codes)].to(weight.dtype) + problem.label_smoothing / len(problem.codebook)
        target_logit += (q * logits).sum(1)
        e = logits.exp_()
        total += e.sum(1)
        _accumulate(sums, e * slope, codes)
        _accumulate(target_sums, q * slope, codes)
    result = _empty_result(problem, extended)
    arrays = (extended, rows.inverse_norm, labelled, target_logit, total, target_sums, sums, *result)
    return result, *finish_dense(problem.step, share, *(tensor.numpy() for tensor in arrays))


def _empty_result(problem: Problem, rows: Tensor) -> Result:
    count, bits = len(rows), problem.codebook.shape[1]
    shapes = (count,), (count,), (count if problem.need_grad else 0, bits), (count if problem.need_lse_grad else 0, bits)
    return Result(*(torch.empty(shape, dtype=rows.dtype) for shape in shapes))


def _largest_logit(problem: Problem, rows: Rows, target: Listed | Tensor) -> Tensor:
    """Return the largest logit of every row, after the margin.  [N]"""
    extended = rows.extended.clone()
    extended[:, -1] = 0
    rows = rows._replace(extended=extended)
    largest = torch.full_like(rows.inverse_norm, -math.inf)
    if isinstance(target, Listed):
        options = (problem.scale, problem.margin, problem.angular, problem.ignore_index)
        arrays = (extended.numpy(), problem.codebook.numpy(), largest.numpy())
        largest_listed(*options, *target.arrays(), *arrays)
        blocks = (logits for logits, _ in _other_logits(problem, rows, target))
    else:
        blocks = (logits for _, logits, _, _ in _margined_logits(problem, rows, target))
    for logits in blocks:
        largest = torch.maximum(largest, logits.amax(1))
    return largest


def _other_logits(problem: Problem, rows: Rows, listed: Listed) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each block of classes: logits minus bound [N, B], -inf for the positive classes of a row, and codes."""
    for first, logits, codes in _logits(problem, rows):
        leave_out(*listed.arrays(), problem.ignore_index, first, logits.numpy())
        yield logits, codes


def _margined_logits(problem: Problem, rows: Rows, target: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield for each block of classes: first class, logits minus bound after the margin [N, B], its slope [N, B], and codes."""
    bound = -rows.extended[:, -1:]
    for first, logits, codes in _logits(problem, rows):
        positive = target[:, first : first + len(codes)] > 0
        shifted, slope = _with_margin(problem, (logits + bound) / problem.scale)
        yield first, torch.where(positive, problem.scale * shifted - bound, logits), torch.where(positive, slope, 1.0), codes


def _logits(problem: Problem, rows: Rows) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield for each block of classes: first class, logits minus bound [N, B], and [codes, 1] [B, K + 1].

    Each block overwrites the memory of the block before.
    """
    extended, codebook = rows.extended, problem.codebook.numpy()
    count, (classes, bits) = len(rows.inverse_norm), codebook.shape
    size = min(classes, max(64, min(LOGITS_AT_A_TIME // max(count, 1), CODES_AT_A_TIME // bits)))
    codes = torch.empty((size, bits + 1), dtype=extended.dtype)
    logits = torch.empty((count, size), dtype=extended.dtype)
    for first in range(0, classes, size):
        if classes - first < size:  # the last block
            codes = codes[: classes - first]
            logits = logits.view(-1)[: count * len(codes)].view(count, len(codes))
        expand(codebook, first, codes.numpy())
        yield first, torch.mm(extended, codes.T, out=logits), codes


def _empty_sums(problem: Problem, rows: Rows) -> Tensor:
    """Return zeros for weights [N, C] @ [codes, 1]: [N, K + 1], or without gradients only the last column [N, 1]."""
    needs_codes = problem.need_grad or problem.need_lse_grad
    return rows.extended.new_zeros(len(rows.extended), rows.extended.shape[1] if needs_codes else 1)


def _accumulate(sums: Tensor, weights: Tensor, codes: Tensor) -> None:
    """Add weights [N, B] @ [codes, 1] of a block of classes to `sums`."""
    if sums.shape[1] == codes.shape[1]:
        sums.addmm_(weights, codes)  # autocast does not change products that are written into a given tensor
    else:
        sums.add_(weights.sum(1, keepdim=True))


def _with_margin(problem: Problem, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of positive classes after their margin, and the slope d shifted / d cosine."""
    shifted, slope = torch.empty_like(cosine), torch.empty_like(cosine)
    arrays = (cosine.contiguous().view(-1), shifted.view(-1), slope.view(-1))
    fill_margin(problem.margin, problem.angular, *(tensor.numpy() for tensor in arrays))
    return shifted, slope

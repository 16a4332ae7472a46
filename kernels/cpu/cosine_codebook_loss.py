"""Cosine codebook loss in blocks of classes: loss and gradient in one pass, on BLAS.

The codebook is fixed, so the softmax of a row is attention with K = V = codebook: one sweep accumulates sum_c e^(z_c) and
sum_c e^(z_c) o_c, which are the loss and its gradient. Two things keep the sweep at two matrix products and one exp:

- A code is +-1, so no logit exceeds (s / sqrt(K)) |v^|_1: this bound takes the place of the running maximum. A row whose sum
  comes out tiny under it (all its classes lie far below the bound) is swept again under its true maximum.
- A column of ones beside the codes, and of minus the bound beside v^, makes the first product subtract the bound and the
  second one sum the exponentials.

Where the positive classes are listed (one id a row, or the entries of a sparse target), the sweep leaves them out, and they are
added in closed form, margin and all: softmax minus target is never a difference of two large numbers. A dense target is part of
the sweep. What is done once a row rather than once a logit is compiled by Numba, and a small problem altogether: there, calls
of PyTorch cost more than the work.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from ._compiler import compiler
from ._exponential import exponential

LOGITS_AT_A_TIME = 1 << 19  # elements; with the codes, what a last-level cache holds
CODES_AT_A_TIME = 1 << 20  # elements of the expanded codes
SINE_FLOOR = 1e-6  # of sin^2(theta), as the reference
SMALL_WORK = 1 << 21  # multiplications of rows by codes up to which compiled loops beat calls of BLAS
TINY_SUM = 1e-25  # a sum of exponentials under this has lost digits to underflow

_NO_IDS, _NO_VALUES = np.empty(0, np.int64), np.empty(0, np.float32)

# Sums may be reordered, which vectorises them; NaN and infinity keep their meaning.
_compiled = compiler(fastmath={"reassoc", "contract", "nsz"})


class Problem(NamedTuple):
    """What is asked of every row; `step` is the scale of a logit per unit of v^ . o_c."""

    codebook: Tensor  # int8 [C, K]
    scale: float
    step: float
    margin: float
    angular: bool
    label_smoothing: float
    ignore_index: int
    need_grad: bool
    need_lse_grad: bool


class Listed(NamedTuple):
    """Positive classes one by one: those of row n are columns[starts[n] : starts[n + 1]]; without starts, columns[n] alone."""

    starts: Tensor | None  # int64 [N + 1]
    columns: Tensor  # int64 [nnz], ascending and unique within a row
    values: Tensor | None  # [nnz], at least 0; an entry of 0 is not positive

    def of(self, rows: Tensor) -> "Listed":
        """The positives of the rows where bool `rows` [N] is true."""
        if self.starts is None or self.values is None:
            return Listed(None, self.columns[rows], None)
        counts = self.starts.diff()
        kept = rows.repeat_interleave(counts)  # bool [nnz]
        starts = torch.cat((counts.new_zeros(1), counts[rows].cumsum(0)))
        return Listed(starts, self.columns[kept], self.values[kept])

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.starts is None or self.values is None:
            return _NO_IDS, self.columns.numpy(), _NO_VALUES
        return self.starts.numpy(), self.columns.numpy(), self.values.numpy()


class Rows(NamedTuple):
    """The rows, ready for the sweep."""

    extended: Tensor  # [N, K + 1]: step v^ and minus the bound, so that its product with [codes, 1] is logits minus the bound
    inverse_norm: Tensor  # [N]: 1 / |v|, 0 for a zero row
    target: Listed | Tensor  # or float [N, C]


class Result(NamedTuple):
    """Per row: loss, log-sum-exp and their gradients with respect to v; a gradient that is not needed has no rows."""

    loss: Tensor  # [N]
    lse: Tensor  # [N]
    grad: Tensor  # [N, K]
    lse_grad: Tensor  # [N, K]


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
    """The sum of the rows' losses, and the rows. With `mean` the sum and `grad` are divided by the number of labelled rows.

    Positives that cannot be (a class outside [0, C), columns out of order, a negative value) make their row NaN.
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
    rows = Rows(torch.empty((count, bits + 1), dtype=v.dtype), torch.empty(count, dtype=v.dtype), positives)
    _extend_rows(v.detach().numpy(), step, rows.inverse_norm.numpy(), rows.extended.numpy())
    labelled = _number_labelled(rows, ignore_index) if mean else 1
    # Without a labelled row the mean is NaN, as in torch, and the gradient zero.
    result, total = _solve(problem, rows, 1 / max(labelled, 1))
    return torch.full((), total / labelled if labelled else math.nan, dtype=v.dtype), result


def class_outside(target: Tensor, classes: int, ignore_index: int) -> int | None:
    """An id of contiguous int64 target [N] that is neither in [0, classes) nor `ignore_index`, or None."""
    position = _first_outside(target.data_ptr(), len(target), classes, ignore_index)
    return None if position < 0 else int(target[position])


def _number_labelled(rows: Rows, ignore_index: int) -> int:
    if isinstance(rows.target, Listed):
        return _count_labelled(*rows.target.arrays(), ignore_index, len(rows.inverse_norm))
    return int((rows.target.sum(1) > 0).sum())


def _solve(problem: Problem, rows: Rows, share: float) -> tuple[Result, float]:
    """The rows, and the sum of their losses; rows whose sum was lost under the bound come out of a second sweep."""
    solve = _solve_listed if isinstance(rows.target, Listed) else _solve_dense
    result, total, any_lost = solve(problem, rows, share)
    if any_lost:
        lost = result.lse + rows.extended[:, -1] < math.log(TINY_SUM)  # bool [N]
        target = rows.target.of(lost) if isinstance(rows.target, Listed) else rows.target[lost]
        again = Rows(rows.extended[lost], rows.inverse_norm[lost], target)
        again.extended[:, -1] = -_largest_logit(problem, again)
        for whole, part in zip(result, solve(problem, again, share)[0], strict=True):
            if len(whole):
                whole[lost] = part
        total = float(result.loss.sum(dtype=torch.float64))
    return result, total


def _solve_small(problem: Problem, v: Tensor, listed: Listed, mean: bool) -> tuple[Result, float, bool]:
    """As `cosine_codebook_loss`, but for rows that are lost. Addresses take the place of arrays, which cost more to pass."""
    result = _empty_result(problem, v)
    starts, columns, values = listed
    at = [0 if tensor is None else tensor.data_ptr() for tensor in (starts, columns, values, v, problem.codebook, *result)]
    sizes = (*v.shape, problem.codebook.shape[0], columns.shape[0])
    return result, *_finish_small(*problem[1:], mean, *sizes, *at)


def _solve_listed(problem: Problem, rows: Rows, share: float) -> tuple[Result, float, bool]:
    """Positive classes in closed form, every other class by the sweep. Also the sum of the losses, and whether a row is lost."""
    sums = None
    for logits, codes in _other_logits(problem, rows):
        sums = _accumulate(problem, sums, logits.exp_(), codes)
    result = _empty_result(problem, rows.extended)
    options = (problem.scale, problem.step, problem.margin, problem.angular, problem.label_smoothing, problem.ignore_index)
    arrays = (rows.extended, rows.inverse_norm, problem.codebook, sums, *result)
    return result, *_finish_listed(*options, share, *rows.target.arrays(), *(tensor.numpy() for tensor in arrays))


def _solve_dense(problem: Problem, rows: Rows, share: float) -> tuple[Result, float, bool]:
    """A distribution over the classes per row: the margin, the target and its pull are part of the sweep."""
    extended, target = rows.extended, rows.target
    weight = target.sum(1, keepdim=True, dtype=extended.dtype)  # [N, 1]
    labelled = weight[:, 0] > 0
    weight = (1 - problem.label_smoothing) / weight.where(weight > 0, 1)
    sums = target_pull = None
    target_logit, total = extended.new_zeros(len(extended)), extended.new_zeros(len(extended))
    for first, logits, slope, codes in _margined_logits(problem, rows):
        q = weight * target[:, first : first + len(codes)].to(weight.dtype) + problem.label_smoothing / len(problem.codebook)
        target_logit += (q * logits).sum(1)
        e = logits.exp_()
        total += e.sum(1)
        sums = _accumulate(problem, sums, e * slope, codes)
        target_pull = _accumulate(problem, target_pull, q * slope, codes)
    result = _empty_result(problem, extended)
    arrays = (extended, rows.inverse_norm, labelled, target_logit, total, target_pull, sums, *result)
    return result, *_finish_dense(problem.step, share, *(tensor.numpy() for tensor in arrays))


def _empty_result(problem: Problem, rows: Tensor) -> Result:
    count, bits = len(rows), problem.codebook.shape[1]
    shapes = (count,), (count,), (count if problem.need_grad else 0, bits), (count if problem.need_lse_grad else 0, bits)
    return Result(*(torch.empty(shape, dtype=rows.dtype) for shape in shapes))


def _largest_logit(problem: Problem, rows: Rows) -> Tensor:
    """The largest logit of every row, margin included.  [N]"""
    extended = rows.extended.clone()
    extended[:, -1] = 0
    rows = rows._replace(extended=extended)
    largest = torch.full_like(rows.inverse_norm, -math.inf)
    if isinstance(rows.target, Listed):
        options = (problem.scale, problem.margin, problem.angular, problem.ignore_index)
        arrays = (extended.numpy(), problem.codebook.numpy(), largest.numpy())
        _largest_listed(*options, *rows.target.arrays(), *arrays)
        blocks = (logits for logits, _ in _other_logits(problem, rows))
    else:
        blocks = (logits for _, logits, _, _ in _margined_logits(problem, rows))
    for logits in blocks:
        largest = torch.maximum(largest, logits.amax(1))
    return largest


def _other_logits(problem: Problem, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of logits minus bound [N, B], -inf for the row's positive classes, with their codes."""
    listed = rows.target.arrays()
    for first, logits, codes in _logits(problem, rows):
        _leave_out(*listed, problem.ignore_index, first, logits.numpy())
        yield logits, codes


def _margined_logits(problem: Problem, rows: Rows) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """First class, logits minus bound [N, B] with the margin on every positive, its slope [N, B], and the codes."""
    bound = -rows.extended[:, -1:]
    for first, logits, codes in _logits(problem, rows):
        positive = rows.target[:, first : first + len(codes)] > 0
        moved, slope = _with_margin(problem, (logits + bound) / problem.scale)
        yield first, torch.where(positive, problem.scale * moved - bound, logits), torch.where(positive, slope, 1.0), codes


def _logits(problem: Problem, rows: Rows) -> Iterator[tuple[int, Tensor, Tensor]]:
    """First class, logits minus bound [N, B], and [codes, 1] [B, K + 1]; the next block overwrites the tensors of this one."""
    extended, codebook = rows.extended, problem.codebook.numpy()
    count, (classes, bits) = len(rows.inverse_norm), codebook.shape
    size = min(classes, max(64, min(LOGITS_AT_A_TIME // max(count, 1), CODES_AT_A_TIME // bits)))
    codes = torch.empty((size, bits + 1), dtype=extended.dtype)
    logits = torch.empty((count, size), dtype=extended.dtype)
    for first in range(0, classes, size):
        if classes - first < size:  # the last block
            codes = codes[: classes - first]
            logits = logits.view(-1)[: count * len(codes)].view(count, len(codes))
        _expand(codebook, first, codes.numpy())
        yield first, torch.mm(extended, codes.T, out=logits), codes


def _accumulate(problem: Problem, sums: Tensor | None, weights: Tensor, codes: Tensor) -> Tensor:
    """sums + weights [N, B] @ [codes, 1], [N, K + 1]; where no gradient is asked for only the column of sums, [N, 1]."""
    if problem.need_grad or problem.need_lse_grad:
        if sums is None:  # products into a given tensor are the ones that autocast leaves alone
            return torch.mm(weights, codes, out=torch.empty((len(weights), codes.shape[1]), dtype=codes.dtype))
        return sums.addmm_(weights, codes)
    column = weights.sum(1, keepdim=True)
    return column if sums is None else sums.add_(column)


def _with_margin(problem: Problem, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Positive classes' cosines behind their margin, and the slope d moved / d cosine."""
    moved, slope = torch.empty_like(cosine), torch.empty_like(cosine)
    arrays = (cosine.contiguous().view(-1), moved.view(-1), slope.view(-1))
    _fill_margin(problem.margin, problem.angular, *(tensor.numpy() for tensor in arrays))
    return moved, slope


@_compiled
def _margin_of(cosine, margin, angular):
    """A positive class's cosine behind its margin, and the slope d moved / d cosine."""
    if not angular:
        return cosine - margin, 1.0
    if cosine < math.cos(math.pi - margin):
        return cosine - margin * math.sin(math.pi - margin), 1.0
    square = 1.0 - cosine * cosine
    sine = math.sqrt(max(square, SINE_FLOOR))
    slope = math.cos(margin)
    if square > SINE_FLOOR:
        slope += math.sin(margin) * cosine / sine
    return cosine * math.cos(margin) - sine * math.sin(margin), slope


@_compiled
def _fill_margin(margin, angular, cosine, moved, slope):
    for i in range(cosine.size):
        moved[i], slope[i] = _margin_of(cosine[i], margin, angular)


@_compiled
def _extend_rows(v, step, inverse_norm, extended):
    """1 / |v| [N], 0 for a zero row; and `Rows.extended`."""
    count, bits = v.shape
    for n in range(count):
        square = v.dtype.type(0)
        for k in range(bits):
            square += v[n, k] * v[n, k]
        inverse_norm[n] = 0.0 if square == 0 else 1.0 / np.sqrt(square)
        bound = v.dtype.type(0)
        for k in range(bits):
            extended[n, k] = v.dtype.type(step) * inverse_norm[n] * v[n, k]
            bound += abs(extended[n, k])
        extended[n, bits] = -bound


@_compiled
def _expand(codebook, first, codes):
    """[codes, 1] of the classes from `first` on."""
    count, width = codes.shape
    for i in range(count):
        for k in range(width - 1):
            codes[i, k] = codebook[first + i, k]
        codes[i, width - 1] = 1


@_compiled
def _entries(starts, columns, n):
    """First and last entry of row n, and whether they can be; see Listed."""
    if starts.size == 0:
        return n, n + 1, True
    first, last = starts[n], starts[n + 1]
    if 0 <= first <= last <= columns.size:
        return first, last, True
    return 0, 0, False


@_compiled
def _weight(starts, columns, values, ignore_index, j):
    """The weight of entry j; it is positive where the class is."""
    if starts.size == 0:
        return 0.0 if columns[j] == ignore_index else 1.0
    return values[j]


@_compiled
def _count_labelled(starts, columns, values, ignore_index, count):
    labelled = 0
    for n in range(count):
        first, last, _ = _entries(starts, columns, n)
        for j in range(first, last):
            if _weight(starts, columns, values, ignore_index, j) > 0:
                labelled += 1
                break
    return labelled


@_compiled
def _leave_out(starts, columns, values, ignore_index, first_class, logits):
    """-inf for the logits of a row's positive classes where this block of classes holds them."""
    for n in range(logits.shape[0]):
        first, last, _ = _entries(starts, columns, n)
        if last - first > 1:
            first += np.searchsorted(columns[first:last], first_class)
        for j in range(first, last):
            column = columns[j] - first_class
            if column >= logits.shape[1]:
                break
            if column >= 0 and _weight(starts, columns, values, ignore_index, j) > 0:
                logits[n, column] = -np.inf


@_compiled
def _positive(row, code, scale, margin, angular):
    """Of a positive class with this code: the plain logit, the one behind the margin, and the slope; without the bound."""
    dot = row.dtype.type(0)
    for k in range(code.size):
        dot += row[k] * row.dtype.type(code[k])
    moved, slope = _margin_of(dot / scale, margin, angular)
    return dot, scale * moved, slope


@_compiled
def _largest_listed(scale, margin, angular, ignore_index, starts, columns, values, extended, codebook, largest):
    """Raise `largest` [N] to the largest logit of a row's positive classes."""
    for n in range(largest.size):
        first, last, _ = _entries(starts, columns, n)
        for j in range(first, last):
            if 0 <= columns[j] < len(codebook) and _weight(starts, columns, values, ignore_index, j) > 0:
                logit = _positive(extended[n], codebook[columns[j]], scale, margin, angular)[1]
                largest[n] = max(largest[n], logit)


@_compiled
def _total_weight(starts, columns, values, ignore_index, classes, n):
    """The sum of row n's weights; NaN where they or their classes cannot be."""
    first, last, exists = _entries(starts, columns, n)
    total = 0.0 if exists else np.nan
    previous = -1
    for j in range(first, last):
        weight = _weight(starts, columns, values, ignore_index, j)
        ignored = starts.size == 0 and weight == 0
        if ignored or (weight >= 0 and previous < columns[j] < classes):
            total += weight
        else:
            total = np.nan
        previous = columns[j]
    return total


@intrinsic
def _address(typing_context, address, sample):
    """`address` as a pointer to numbers of the type of `sample`."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(sample)(address, sample), generate


@_compiled
def _numbers(address, shape, sample):
    return numba.carray(_address(address, sample), shape)


@_compiled
def _first_outside(target_at, count, classes, ignore_index):
    target = _numbers(target_at, (count,), np.int64(0))
    for n in range(count):
        if not 0 <= target[n] < classes and target[n] != ignore_index:
            return n
    return -1


@_compiled
def _finish_small(
    scale, step, margin, angular, label_smoothing, ignore_index, need_grad, need_lse_grad, mean,
    count, bits, classes, entries,
    starts_at, columns_at, values_at, v_at, codebook_at, loss_at, lse_at, grad_at, lse_grad_at,
):  # fmt: skip
    """A small float32 problem from its rows to its result; the sweep goes two rows at a time."""
    real = np.float32
    starts = _numbers(starts_at, (count + 1 if starts_at else 0,), np.int64(0))
    columns = _numbers(columns_at, (entries,), np.int64(0))
    values = _numbers(values_at, (entries if values_at else 0,), real(0))
    codebook = _numbers(codebook_at, (classes, bits), np.int8(0))
    v = _numbers(v_at, (count, bits), real(0))
    loss, lse = _numbers(loss_at, (count,), real(0)), _numbers(lse_at, (count,), real(0))
    grad = _numbers(grad_at, (count if need_grad else 0, bits), real(0))
    lse_grad = _numbers(lse_grad_at, (count if need_lse_grad else 0, bits), real(0))
    labelled = _count_labelled(starts, columns, values, ignore_index, count) if mean else 1

    even = count + count % 2
    inverse_norm = np.empty(count, real)
    extended, sums = np.zeros((even, bits + 1), real), np.empty((even, bits + 1), real)
    logits = np.empty((even, classes), real)
    codes, transposed = np.empty((classes, bits + 1), real), np.empty((bits + 1, classes), real)
    _extend_rows(v, step, inverse_norm, extended[:count])
    _expand(codebook, 0, codes)
    for c in range(classes):
        for k in range(bits + 1):
            transposed[k, c] = codes[c, k]
    _multiply_pairs(extended, transposed, logits)
    _leave_out(starts, columns, values, ignore_index, 0, logits[:count])
    flat = logits.reshape(-1)
    for i in range(flat.size):
        flat[i] = exponential(flat[i])
    if len(grad) or len(lse_grad):
        _multiply_pairs(logits, codes, sums)
    else:
        for n in range(count):
            sums[n, bits] = logits[n].sum()
    total, any_lost = _finish_listed(
        scale, step, margin, angular, label_smoothing, ignore_index, 1 / max(labelled, 1),
        starts, columns, values, extended, inverse_norm, codebook, sums, loss, lse, grad, lse_grad,
    )  # fmt: skip
    return total / labelled if labelled else np.nan, any_lost


@_compiled
def _multiply_pairs(a, b, out):
    """out = a @ b for an even number of rows. Four rows of b meet two of a at a time, along which the loops are vectors."""
    length, width = b.shape
    fours = length // 4 * 4
    for n in range(0, len(a), 2):
        x, y = out[n], out[n + 1]
        for m in range(width):
            x[m] = 0
            y[m] = 0
        for l in range(0, fours, 4):
            x0, x1, x2, x3 = a[n, l], a[n, l + 1], a[n, l + 2], a[n, l + 3]
            y0, y1, y2, y3 = a[n + 1, l], a[n + 1, l + 1], a[n + 1, l + 2], a[n + 1, l + 3]
            for m in range(width):
                b0, b1, b2, b3 = b[l, m], b[l + 1, m], b[l + 2, m], b[l + 3, m]
                x[m] += x0 * b0 + x1 * b1 + x2 * b2 + x3 * b3
                y[m] += y0 * b0 + y1 * b1 + y2 * b2 + y3 * b3
        for l in range(fours, length):
            for m in range(width):
                x[m] += a[n, l] * b[l, m]
                y[m] += a[n + 1, l] * b[l, m]


@_compiled
def _finish_listed(
    scale, step, margin, angular, label_smoothing, ignore_index, share,
    starts, columns, values, extended, inverse_norm, codebook, sums, loss, lse, grad, lse_grad,
):  # fmt: skip
    """Add the positive classes to what the sweep summed over the others, and fill the result."""
    real = extended.dtype.type  # factors in double precision would halve the width of the loops
    classes, bits = codebook.shape
    uniform = label_smoothing / classes
    every_code = np.zeros(bits, np.int64)
    for c in range(classes if label_smoothing > 0 else 0):
        for k in range(bits):
            every_code[k] += codebook[c, k]
    most = 1
    for n in range(len(loss) if starts.size else 0):
        first, last, _ = _entries(starts, columns, n)
        most = max(most, last - first)
    exponentials, slopes, pulls = np.empty(most), np.empty(most), np.empty(most)  # of a row's entries
    sum_of_losses = 0.0
    any_lost = False
    for n in range(len(loss)):
        first, last, _ = _entries(starts, columns, n)
        total_weight = _total_weight(starts, columns, values, ignore_index, classes, n)
        labelled = total_weight > 0
        if not labelled:
            last = first
        bound = -extended[n, bits]
        total = np.float64(sums[n, sums.shape[1] - 1])
        target_logit = 0.0
        for j in range(first, last):
            i = j - first
            weight = _weight(starts, columns, values, ignore_index, j)
            exponentials[i] = slopes[i] = pulls[i] = 0.0
            if weight > 0:
                plain, logit, slopes[i] = _positive(extended[n], codebook[columns[j]], scale, margin, angular)
                exponentials[i] = math.exp(logit - bound)
                total += exponentials[i]
                q = (1.0 - label_smoothing) * weight / total_weight
                pulls[i] = q * slopes[i] + uniform * (slopes[i] - 1.0)
                target_logit += q * (logit - bound) + uniform * (logit - plain)
        if labelled and label_smoothing > 0:
            every_dot = real(0)
            for k in range(bits):
                every_dot += extended[n, k] * real(every_code[k])
            target_logit += uniform * (every_dot - classes * bound)
        any_lost |= total < TINY_SUM
        lse[n] = math.log(total) + bound
        exact_loss = math.log(total) - target_logit if labelled else 0.0
        if np.isnan(total_weight):  # callers that cannot check must not get a result that looks like one
            exact_loss = np.nan
        loss[n] = exact_loss
        sum_of_losses += exact_loss
        if len(grad):
            _pull_row(grad[n], sums[n], total, codebook, columns, first, last, exponentials, slopes, pulls)
            if labelled and label_smoothing > 0:
                for k in range(bits):
                    grad[n, k] -= real(uniform) * real(every_code[k])
            _through_norm(grad[n], extended[n], step, inverse_norm[n], labelled, share)
            if np.isnan(total_weight):
                grad[n] = np.nan
        if len(lse_grad):
            pulls[:] = 0
            _pull_row(lse_grad[n], sums[n], total, codebook, columns, first, last, exponentials, slopes, pulls)
            _through_norm(lse_grad[n], extended[n], step, inverse_norm[n], True, 1.0)
    return sum_of_losses, any_lost


@_compiled
def _pull_row(out, sums, total, codebook, columns, first, last, exponentials, slopes, pulls):
    """sum_c (p_c z'_c - pull_c) o_c over all classes, z' the slope of the margin; `sums` has those that are not positive."""
    real = out.dtype.type
    factor = real(1.0 / total)
    for k in range(out.size):
        out[k] = factor * sums[k]
    for j in range(first, last):
        i = j - first
        coefficient = real(exponentials[i] * slopes[i] / total - pulls[i])
        code = codebook[columns[j]]
        for k in range(out.size):
            out[k] += coefficient * real(code[k])


@_compiled
def _finish_dense(
    step, share, extended, inverse_norm, labelled, target_logit, total, target_pull, sums, loss, lse, grad, lse_grad
):
    """Fill the result; sum_c q_c z'_c o_c is the first K columns of `target_pull`."""
    bits = extended.shape[1] - 1
    sum_of_losses = 0.0
    any_lost = False
    for n in range(len(loss)):
        above_bound = math.log(total[n])
        lse[n] = above_bound - extended[n, bits]
        loss[n] = above_bound - target_logit[n] if labelled[n] else 0.0
        sum_of_losses += loss[n]
        any_lost |= total[n] < TINY_SUM
        if len(grad):
            for k in range(bits):
                grad[n, k] = sums[n, k] / total[n] - target_pull[n, k]
            _through_norm(grad[n], extended[n], step, inverse_norm[n], labelled[n], share)
        if len(lse_grad):
            for k in range(bits):
                lse_grad[n, k] = sums[n, k] / total[n]
            _through_norm(lse_grad[n], extended[n], step, inverse_norm[n], True, 1.0)
    return sum_of_losses, any_lost


@_compiled
def _through_norm(pull, extended, step, inverse_norm, labelled, share):
    """In place: `share` times the gradient with respect to v, from one with respect to v^ that lacks the factor `step`."""
    if not labelled:
        pull[:] = 0
        return
    along = pull.dtype.type(0)
    for k in range(pull.size):
        along += pull[k] * extended[k]
    factor = pull.dtype.type(step * share) * inverse_norm
    along = along * pull.dtype.type(share / step) * inverse_norm  # extended is step v^
    for k in range(pull.size):
        pull[k] = factor * pull[k] - along * extended[k]

"""Cosine codebook loss in blocks of classes: loss and gradient in one pass, on BLAS.

The codebook is fixed, so the softmax of a row is attention with K = V = codebook: one sweep accumulates sum_c e^(z_c) and
sum_c e^(z_c) o_c, which are the loss and its gradient. Two things keep the sweep at two matrix products and one exp:

- A code is +-1, so no logit exceeds (s / sqrt(K)) |v^|_1: this bound takes the place of the running maximum. A row whose sum
  comes out tiny under it (all its classes lie far below the bound) is swept again under its true maximum.
- A column of ones beside the codes, and of minus the bound beside v^, makes the first product subtract the bound and the
  second one sum the exponentials.

With one label per row the positive class is left out of the sweep and added in closed form, margin and all. What is done once
a row rather than once a logit is compiled by Numba: dozens of small PyTorch calls would cost more than a small problem.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

LOGITS_AT_A_TIME = 1 << 19  # elements; with the codes, what a last-level cache holds
CODES_AT_A_TIME = 1 << 20  # elements of the expanded codes
SINE_FLOOR = 1e-6  # of sin^2(theta), as the reference
TINY_SUM = 1e-25  # a sum of exponentials under this has lost digits to underflow

NO_CODE = torch.empty(0, dtype=torch.int64)

# Sums may be reordered, which vectorises them; NaN and infinity keep their meaning.
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


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


class Rows(NamedTuple):
    """The rows, ready for the sweep."""

    extended: Tensor  # [N, K + 1]: step v^ and minus the bound, so that its product with [codes, 1] is logits minus the bound
    inverse_norm: Tensor  # [N]: 1 / |v|, 0 for a zero row
    target: Tensor  # int64 [N] or float [N, C]


class Result(NamedTuple):
    """Per row: loss, log-sum-exp and their gradients with respect to v; a gradient that is not needed has no rows."""

    loss: Tensor  # [N]
    lse: Tensor  # [N]
    grad: Tensor  # [N, K]
    lse_grad: Tensor  # [N, K]


def cosine_codebook_loss(
    v: Tensor,  # float32 or float64 [N, K]
    target: Tensor,  # int64 [N] of ids in [0, C) or ignore_index, others make their row NaN; or float [N, C]
    codebook: Tensor,  # int8 [C, K]
    *,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    need_grad: bool,
    need_lse_grad: bool,
) -> Result:
    count, bits = v.shape
    step = scale / math.sqrt(bits)
    problem = Problem(codebook, scale, step, margin, angular, label_smoothing, ignore_index, need_grad, need_lse_grad)
    rows = Rows(v.new_empty(count, bits + 1), v.new_empty(count), target)
    _extend_rows(v.numpy(), step, rows.inverse_norm.numpy(), rows.extended.numpy())

    solve = _solve_ids if target.ndim == 1 else _solve_dense
    result, total = solve(problem, rows)
    lost = total < TINY_SUM  # bool [N]
    if lost.any():
        again = Rows(*(tensor[lost] for tensor in rows))
        again.extended[:, bits] = -_largest_logit(problem, again)
        for whole, part in zip(result, solve(problem, again)[0], strict=True):
            if len(whole):
                whole[lost] = part
    return result


def _solve_ids(problem: Problem, rows: Rows) -> tuple[Result, Tensor]:
    """One positive class per row: every other class by the sweep, the positive one in closed form. Also sum_c e_c [N]."""
    bits = problem.codebook.shape[1]
    sums = torch.zeros_like(rows.extended)
    for logits, codes in _other_logits(problem, rows):
        _accumulate(problem, sums, logits.exp_(), codes)
    result = _empty_result(problem, rows)
    every_code = problem.codebook.sum(0) if problem.label_smoothing else NO_CODE  # [K]
    arrays = (*rows, problem.codebook, every_code, sums, *result)
    options = (problem.scale, problem.step, problem.margin, problem.angular, problem.label_smoothing, problem.ignore_index)
    _finish_ids(*options, *(tensor.numpy() for tensor in arrays))
    return result, sums[:, bits]


def _solve_dense(problem: Problem, rows: Rows) -> tuple[Result, Tensor]:
    """A distribution over the classes per row: the margin, the target and its pull are part of the sweep. Also sum_c e_c [N]."""
    extended, target = rows.extended, rows.target
    classes, bits = problem.codebook.shape
    weight = target.sum(1, keepdim=True, dtype=extended.dtype)  # [N, 1]
    labelled = weight[:, 0] > 0
    weight = (1 - problem.label_smoothing) / weight.where(weight > 0, 1)
    sums, target_sums = torch.zeros_like(extended), torch.zeros_like(extended)
    target_logit, total = extended.new_zeros(len(extended)), extended.new_zeros(len(extended))
    for first, logits, slope, codes in _margined_logits(problem, rows):
        q = weight * target[:, first : first + len(codes)] + problem.label_smoothing / classes
        target_logit += (q * logits).sum(1)
        e = logits.exp_()
        total += e.sum(1)
        _accumulate(problem, sums, e * slope, codes)
        _accumulate(problem, target_sums, q * slope, codes)
    sums[:, bits] = total  # behind an angular margin the column of ones has summed slopes
    result = _empty_result(problem, rows)
    arrays = (extended, rows.inverse_norm, labelled, target_logit, target_sums, sums, *result)
    _finish_dense(problem.step, *(tensor.numpy() for tensor in arrays))
    return result, total


def _empty_result(problem: Problem, rows: Rows) -> Result:
    extended, bits = rows.extended, problem.codebook.shape[1]
    grads = [extended.new_empty(len(extended) if needed else 0, bits) for needed in (problem.need_grad, problem.need_lse_grad)]
    return Result(extended.new_empty(len(extended)), extended.new_empty(len(extended)), *grads)


def _largest_logit(problem: Problem, rows: Rows) -> Tensor:
    """The largest logit of every row, margin included.  [N]"""
    extended = rows.extended.clone()
    extended[:, -1] = 0
    rows = rows._replace(extended=extended)
    if rows.target.ndim == 1:
        exists = (rows.target >= 0) & (rows.target < len(problem.codebook))
        own = problem.codebook[rows.target.where(exists, 0)]  # [N, K]
        cosine = torch.linalg.vecdot(extended[:, :-1], own.to(extended.dtype)) / problem.scale
        largest = problem.scale * _with_margin(problem, cosine)[0]
        blocks = (logits for logits, _ in _other_logits(problem, rows))
    else:
        largest = torch.full_like(extended[:, 0], -math.inf)
        blocks = (logits for _, logits, _, _ in _margined_logits(problem, rows))
    for logits in blocks:
        largest = torch.maximum(largest, logits.amax(1))
    return largest


def _other_logits(problem: Problem, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of logits minus bound [N, B], -inf for the row's own class, with their codes."""
    own = rows.target.numpy()
    for first, logits, codes in _logits(problem, rows):
        _leave_out(own, problem.ignore_index, first, logits.numpy())
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
    extended = rows.extended
    count, (classes, bits) = len(extended), problem.codebook.shape
    size = min(classes, max(64, min(LOGITS_AT_A_TIME // max(count, 1), CODES_AT_A_TIME // bits)))
    codes = extended.new_ones(size, bits + 1)
    logits = extended.new_empty(count * size)
    for first in range(0, classes, size):
        block = codes[: min(size, classes - first)]
        block[:, :bits] = problem.codebook[first : first + size]
        yield first, torch.mm(extended, block.T, out=logits[: count * len(block)].view(count, len(block))), block


def _accumulate(problem: Problem, sums: Tensor, weights: Tensor, codes: Tensor) -> None:
    """sums [N, K + 1] += weights [N, B] @ [codes, 1]; only the column of sums where no gradient is asked for."""
    if problem.need_grad or problem.need_lse_grad:
        sums.addmm_(weights, codes)
    else:
        sums[:, -1] += weights.sum(1)


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
def _leave_out(own, ignore_index, first, logits):
    """-inf for the logit of a row's own class where this block of classes holds it."""
    for n in range(own.size):
        column = own[n] - first
        if own[n] != ignore_index and 0 <= column < logits.shape[1]:
            logits[n, column] = -np.inf


@_compiled
def _finish_ids(
    scale, step, margin, angular, label_smoothing, ignore_index,
    extended, inverse_norm, own, codebook, every_code, sums, loss, lse, grad, lse_grad,
):  # fmt: skip
    """Add each row's own class to `sums` (see _solve_ids), and fill the result."""
    real = extended.dtype.type  # factors in double precision would halve the width of the loops
    classes, bits = codebook.shape
    uniform = label_smoothing / classes
    for n in range(own.size):
        exists = 0 <= own[n] < classes
        labelled = own[n] != ignore_index and exists
        target_logit = 0.0
        code = codebook[own[n] if labelled else 0]
        slope = 1.0
        if labelled:
            dot = real(0)
            for k in range(bits):
                dot += extended[n, k] * real(code[k])
            moved, slope = _margin_of(dot / scale, margin, angular)
            logit = scale * moved + extended[n, bits]
            weight = math.exp(logit)
            sums[n, bits] += weight
            pulled = real(weight * slope)
            for k in range(bits):
                sums[n, k] += pulled * real(code[k])
            target_logit = (1.0 - label_smoothing) * logit
            if label_smoothing > 0:
                every_dot = real(0)
                for k in range(bits):
                    every_dot += extended[n, k] * real(every_code[k])
                target_logit += uniform * (every_dot + scale * moved - dot + classes * extended[n, bits])
        _finish_row(n, bits, labelled, target_logit, extended, sums, loss, lse)
        factor = real(1.0 / sums[n, bits])
        if len(grad):
            pull = real((1.0 - label_smoothing) * slope + uniform * (slope - 1.0))
            for k in range(bits):
                grad[n, k] = factor * sums[n, k] - pull * real(code[k])
            if label_smoothing > 0:
                for k in range(bits):
                    grad[n, k] -= real(uniform) * real(every_code[k])
            _through_norm(grad[n], extended[n], step, inverse_norm[n], labelled)
        if len(lse_grad):
            for k in range(bits):
                lse_grad[n, k] = factor * sums[n, k]
            _through_norm(lse_grad[n], extended[n], step, inverse_norm[n], True)
        if own[n] != ignore_index and not exists:  # callers that cannot check must not get a result that looks like one
            loss[n] = np.nan
            if len(grad):
                grad[n] = np.nan


@_compiled
def _finish_dense(step, extended, inverse_norm, labelled, target_logit, target_pull, sums, loss, lse, grad, lse_grad):
    """Fill the result; sum_c q_c z'_c o_c is the first K columns of `target_pull`."""
    bits = extended.shape[1] - 1
    for n in range(labelled.size):
        _finish_row(n, bits, labelled[n], target_logit[n], extended, sums, loss, lse)
        if len(grad):
            for k in range(bits):
                grad[n, k] = sums[n, k] / sums[n, bits] - target_pull[n, k]
            _through_norm(grad[n], extended[n], step, inverse_norm[n], labelled[n])
        if len(lse_grad):
            for k in range(bits):
                lse_grad[n, k] = sums[n, k] / sums[n, bits]
            _through_norm(lse_grad[n], extended[n], step, inverse_norm[n], True)


@_compiled
def _finish_row(n, bits, labelled, target_logit, extended, sums, loss, lse):
    above_bound = math.log(sums[n, bits])
    lse[n] = above_bound - extended[n, bits]
    loss[n] = above_bound - target_logit if labelled else 0.0


@_compiled
def _through_norm(pull, extended, step, inverse_norm, labelled):
    """In place: the gradient with respect to v, from one with respect to v^ that still lacks the factor `step`."""
    if not labelled:
        pull[:] = 0
        return
    along = pull.dtype.type(0)
    for k in range(pull.size):
        along += pull[k] * extended[k]
    along = along / pull.dtype.type(step) * inverse_norm  # extended is step v^
    factor = pull.dtype.type(step) * inverse_norm
    for k in range(pull.size):
        pull[k] = factor * pull[k] - along * extended[k]

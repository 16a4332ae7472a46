"""Cosine codebook loss in blocks of classes: loss and gradient in one pass, on BLAS.

The codebook is fixed, so the softmax of a row is attention with K = V = codebook: one sweep accumulates sum_c e^(z_c) and
sum_c e^(z_c) o_c, which are the loss and its gradient. Two things keep the sweep at two matrix products and one exp:

- A code is +-1, so no logit exceeds (s / sqrt(K)) |v^|_1: this bound takes the place of the running maximum. A row whose sum
  comes out tiny under it (all its classes lie far below the bound) is swept again under its true maximum.
- A column of ones beside the codes, and of minus the bound beside v^, makes the first product subtract the bound and the
  second one sum the exponentials.

With one label per row the positive class is left out of the sweep and added in closed form, margin and all.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

LOGITS_AT_A_TIME = 1 << 19  # elements; with the codes, what a last-level cache holds
CODES_AT_A_TIME = 1 << 20  # elements of the expanded codes
SINE_FLOOR = 1e-6  # of sin^2(theta), as the reference
TINY_SUM = 1e-25  # a sum of exponentials under this has lost digits to underflow


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


class Swept(NamedTuple):
    """Sums over the classes, of e^(z - bound) and of the smoothed target q."""

    total: Tensor  # [N, 1]: sum_c e_c
    pulled: Tensor  # [N, K]: sum_c e_c z'_c o_c, with z' the slope of the margin
    target_logit: Tensor  # [N, 1]: sum_c q_c z_c
    target_pull: Tensor  # [N, K]: sum_c q_c z'_c o_c


def cosine_codebook_loss(
    v: Tensor,  # float32 or float64 [N, K]
    target: Tensor,  # int64 [N] of ids in [0, C) or ignore_index; or float [N, C]
    codebook: Tensor,  # int8 [C, K]
    *,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    need_grad: bool,
    need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Per row: loss [N], log-sum-exp [N], d loss / d v [N, K], d lse / d v [N, K]; None for a gradient that is not needed."""
    step = scale / math.sqrt(v.shape[1])
    problem = Problem(codebook, scale, step, margin, angular, label_smoothing, ignore_index, need_grad or need_lse_grad)
    square = torch.linalg.vecdot(v, v)[:, None]  # [N, 1]
    inverse_norm = torch.where(square == 0, 0.0, square.rsqrt())
    unit = v * inverse_norm  # [N, K]
    bound = step * unit.abs().sum(1, keepdim=True)  # [N, 1]

    sweep = _sweep_ids if target.ndim == 1 else _sweep_dense
    swept = sweep(problem, unit, target, bound)
    lost = swept.total[:, 0] < TINY_SUM
    if lost.any():
        bound[lost] = _largest_logit(problem, unit[lost], target[lost])
        again = sweep(problem, unit[lost], target[lost], bound[lost])
        for whole, part in zip(swept, again, strict=True):
            whole[lost] = part

    lse = bound + swept.total.log()  # [N, 1]
    labelled = (target != ignore_index if target.ndim == 1 else target.sum(1) > 0)[:, None]
    loss = torch.where(labelled, lse - swept.target_logit, 0.0)

    def through_norm(pull: Tensor) -> Tensor:
        """The gradient with respect to v, from one with respect to v^ that still lacks the factor `step`."""
        along = torch.linalg.vecdot(pull, unit)[:, None]
        return pull.addcmul_(along, unit, value=-1).mul_(step * inverse_norm)

    grad = lse_grad = None
    if problem.need_grad:
        mean_code = swept.pulled / swept.total  # [N, K]
        if need_grad:
            grad = through_norm(mean_code - swept.target_pull).masked_fill_(~labelled, 0.0)
        if need_lse_grad:
            lse_grad = through_norm(mean_code)
    return loss[:, 0], lse[:, 0], grad, lse_grad


def _sweep_ids(problem: Problem, unit: Tensor, target: Tensor, bound: Tensor) -> Swept:
    """One positive class per row: every other class by the sweep, the positive one in closed form."""
    classes, bits = problem.codebook.shape
    sums = unit.new_zeros(len(unit), bits + 1)
    for logits, codes in _other_logits(problem, unit, target, bound):
        _accumulate(problem, sums, logits.exp_(), codes)
    pulled, total = sums[:, :bits], sums[:, bits:]

    positive_code, cosine, moved, slope = _positive_class(problem, unit, target)
    labelled = (target != problem.ignore_index)[:, None]
    weight = (problem.scale * moved - bound).exp() * labelled
    total = total + weight
    pulled.addcmul_(weight * slope, positive_code)

    smoothing = problem.label_smoothing
    target_logit = (1 - smoothing) * problem.scale * moved
    target_pull = (1 - smoothing) * slope * positive_code
    if smoothing:
        every_code = problem.codebook.sum(0).to(unit.dtype)  # [K]
        every_logit = problem.step * (unit @ every_code)[:, None] + problem.scale * (moved - cosine)
        target_logit += smoothing / classes * every_logit
        target_pull += smoothing / classes * (every_code + (slope - 1) * positive_code)
    return Swept(total, pulled, target_logit, target_pull)


def _sweep_dense(problem: Problem, unit: Tensor, target: Tensor, bound: Tensor) -> Swept:
    """A distribution over the classes per row: the margin, the target and its pull are part of the sweep."""
    classes, bits = problem.codebook.shape
    weight = target.sum(1, keepdim=True, dtype=unit.dtype)  # [N, 1]
    weight = (1 - problem.label_smoothing) / weight.where(weight > 0, 1)
    sums, target_sums = unit.new_zeros(len(unit), bits + 1), unit.new_zeros(len(unit), bits + 1)
    target_logit = bound.clone()  # the smoothed target sums to one
    total = torch.zeros_like(bound)
    for first, logits, slope, codes in _margined_logits(problem, unit, target, bound):
        q = weight * target[:, first : first + len(codes)] + problem.label_smoothing / classes
        target_logit += (q * logits).sum(1, keepdim=True)
        e = logits.exp_()
        total += e.sum(1, keepdim=True)
        _accumulate(problem, sums, e * slope, codes)
        _accumulate(problem, target_sums, q * slope, codes)
    return Swept(total, sums[:, :bits], target_logit, target_sums[:, :bits])


def _largest_logit(problem: Problem, unit: Tensor, target: Tensor) -> Tensor:
    """The largest logit of every row, margin included.  [N, 1]"""
    no_bound = torch.zeros_like(unit[:, :1])
    if target.ndim == 1:
        largest = problem.scale * _positive_class(problem, unit, target)[2]
        blocks = (logits for logits, _ in _other_logits(problem, unit, target, no_bound))
    else:
        largest = torch.full_like(no_bound, -math.inf)
        blocks = (logits for _, logits, _, _ in _margined_logits(problem, unit, target, no_bound))
    for logits in blocks:
        largest = torch.maximum(largest, logits.amax(1, keepdim=True))
    return largest


def _positive_class(problem: Problem, unit: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Code [N, K], cosine, cosine behind the margin and slope [N, 1] of each row's class (class 0 where it has none)."""
    code = problem.codebook[target.where(target != problem.ignore_index, 0)].to(unit.dtype)
    cosine = torch.linalg.vecdot(unit, code)[:, None] / math.sqrt(unit.shape[1])
    return code, cosine, *_with_margin(problem, cosine)


def _other_logits(problem: Problem, unit: Tensor, target: Tensor, bound: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of logits minus bound [N, B], -inf for the row's own class, with their codes."""
    column, row = target.where(target != problem.ignore_index, -1).sort()
    hits = int(torch.searchsorted(column, 0))
    for first, logits, codes in _logits(problem, unit, bound):
        passed, hits = hits, int(torch.searchsorted(column, first + len(codes)))
        if hits > passed:
            logits[row[passed:hits], column[passed:hits] - first] = -math.inf
        yield logits, codes


def _margined_logits(
    problem: Problem, unit: Tensor, target: Tensor, bound: Tensor
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """First class, logits minus bound [N, B] with the margin on every positive, its slope [N, B], and the codes."""
    for first, logits, codes in _logits(problem, unit, bound):
        positive = target[:, first : first + len(codes)] > 0
        moved, slope = _with_margin(problem, (logits + bound) / problem.scale)
        yield first, torch.where(positive, problem.scale * moved - bound, logits), torch.where(positive, slope, 1.0), codes


def _logits(problem: Problem, unit: Tensor, bound: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """First class, logits minus bound [N, B], and [codes, 1] [B, K + 1]; the next block overwrites the tensors of this one."""
    classes, bits = problem.codebook.shape
    size = max(64, min(LOGITS_AT_A_TIME // max(len(unit), 1), CODES_AT_A_TIME // bits, classes))
    extended = torch.cat((problem.step * unit, -bound), 1)  # [N, K + 1]
    codes = unit.new_ones(size, bits + 1)
    logits = unit.new_empty(len(unit) * size)
    for first in range(0, classes, size):
        block = codes[: min(size, classes - first)]
        block[:, :bits] = problem.codebook[first : first + size]
        yield first, torch.mm(extended, block.T, out=logits[: len(unit) * len(block)].view(len(unit), len(block))), block


def _accumulate(problem: Problem, sums: Tensor, weights: Tensor, codes: Tensor) -> None:
    """sums [N, K + 1] += weights [N, B] @ [codes, 1]; only the column of sums where no gradient is asked for."""
    if problem.need_grad:
        sums.addmm_(weights, codes)
    else:
        sums[:, -1] += weights.sum(1)


def _with_margin(problem: Problem, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """A positive class's cosine behind its margin, and the slope d moved / d cosine."""
    margin = problem.margin
    if not problem.angular:
        return cosine - margin, torch.ones_like(cosine)
    square = 1 - cosine.square()
    sine = square.clamp(min=SINE_FLOOR).sqrt()
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    slope = math.cos(margin) + torch.where(square > SINE_FLOOR, math.sin(margin) * cosine / sine, 0.0)
    past_pi = cosine < math.cos(math.pi - margin)
    return torch.where(past_pi, cosine - margin * math.sin(math.pi - margin), moved), torch.where(past_pi, 1.0, slope)

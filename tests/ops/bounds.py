"""Bounds for float32 results of the ops, from the rounding errors of the sums in their formulas (see tests/tolerances.py).

A cosine, an inner product or a reflection is a sum over the bits, a softmax or a loss of pairs a sum over classes or pairs, and a
gradient a sum over these. Each bound adds the error of the sum itself and the errors that its terms bring along.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.tolerances import ROUNDINGS_AFTERWARDS, sum_error, unit_roundoff

FEW = ROUNDINGS_AFTERWARDS * unit_roundoff()  # relative error of a few roundings in a row


class Bounds(NamedTuple):
    """Largest absolute errors of a loss and of a gradient, for a comparison with float64."""

    loss: float
    gradient: float

    def in_float64(self) -> "Bounds":
        """Return the bounds of the same sums in float64."""
        return Bounds(*(bound * unit_roundoff(torch.float64) / unit_roundoff() for bound in self))

    def check(self, loss: Tensor, exact_loss: Tensor, gradient: Tensor, exact_gradient: Tensor) -> None:
        """Assert that a loss and a gradient are within the bounds of float64 results."""
        check(loss, exact_loss, self.loss)
        check(gradient, exact_gradient, self.gradient)


def check(found: Tensor, exact: Tensor, bound: float) -> None:
    """Assert that `found` differs from the float64 tensor `exact` by at most `bound`."""
    assert torch.isfinite(exact).all()
    torch.testing.assert_close(found.detach().double(), exact.detach().double(), rtol=0, atol=bound)


def codebook_bounds(
    v: Tensor,
    codebook: Tensor,
    upstream: Tensor | float = 1.0,
    *,
    scale: float | None = None,
    margin_type: str = "cosine",
    label_smoothing: float = 0.0,
    **_: Any,
) -> Bounds:
    """Return the bounds of cosine_codebook_loss for v [N, K] and codebook [C, K].

    `upstream` is what the gradient is multiplied by: a number or a tensor [N], the sum of those of loss and lse.
    """
    v, codes = v.detach().double(), codebook.double()
    classes, bits = codes.shape
    scale = bits**0.5 if scale is None else scale
    length = v.norm(dim=1).clamp(min=1e-30)
    unit = v / length[:, None]
    # An angle multiplies the error of its cosine by 1 / sin.
    steepest = 1.0
    if margin_type == "angular":
        steepest = float((1 - (unit @ codes.T / bits**0.5).square()).clamp(min=2 * unit_roundoff()).rsqrt().max())
    logits = scale * unit @ codes.T / bits**0.5
    norm = scale * FEW  # the error that all logits of a row share
    logit = 1.5 * scale * sum_error(bits) + norm
    few = FEW * (1 + torch.logsumexp(logits, 1).abs().max().item())
    loss = (1 + steepest) * logit + (1 + label_smoothing * scale) * sum_error(classes) + few
    # The weights of the codes sum to at most 2 in absolute value, and are projected onto the tangent of the sphere. The errors of
    # the logits are independent of each other, so that a softmax over many classes averages them.
    entries = 2 * (bits**-0.5 + unit.abs().amax(1)) * scale * steepest / length * torch.as_tensor(upstream).double().abs()
    concentration = float(logits.softmax(1).square().sum(1).sqrt().max())
    of_weights = steepest * (2 * concentration * logit + norm) + few
    return Bounds(loss, float(entries.max()) * (of_weights + sum_error(classes) + sum_error(bits)))


class ReflectionBounds(NamedTuple):
    """Largest absolute errors of reflected rows, of their gradient, and of the gradient of vectors of length 1."""

    result: float
    x: float
    vectors: float


def reflection_bounds(
    x: Tensor, vectors: Tensor, g: Tensor, dtype: torch.dtype = torch.float32, *, sides: int = 1
) -> ReflectionBounds:
    """Return the bounds of householder_apply for rows x and g [N, K] and vectors [M, K].

    The matrix, or its two factors, are computed in float64. Rows are multiplied by one or two matrices: sums over bits and
    reflections. An orthogonal matrix does not change lengths, so that the absolute values of the terms sum to at most the length
    of a row. The gradient of the vectors sums products of entries of x and g over the rows, 4 times because of both factors and
    vectors of length sqrt(2); the errors of different rows are independent.
    """
    x, g = x.detach().double(), g.detach().double()
    lengths, g_lengths = x.norm(dim=1, keepdim=True), g.norm(dim=1, keepdim=True)
    products = 2 * sum_error(max(*vectors.shape, 1), dtype) + ROUNDINGS_AFTERWARDS * unit_roundoff(dtype)
    over_rows = sum_error(len(x), dtype) * _largest(x.abs().T @ g.abs())
    along_rows = products * max(_largest((lengths * g).norm(dim=0)), _largest((g_lengths * x).norm(dim=0)))
    bounds = products * _largest(lengths), products * _largest(g_lengths), 4 * (over_rows + along_rows)
    return ReflectionBounds(*(sides * bound for bound in bounds))


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0

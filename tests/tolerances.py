"""Bounds for floating-point comparisons, derived from the rounding error of sums.

Two correct programs differ where they add the same numbers in different orders: another vector width (AVX2, AVX-512), another
split into threads, blocks or batches, a fused multiply-add instead of two operations. A bound that was chosen by watching one
processor therefore fails on the next one. The bounds of this module follow from the dtype, the number of terms and their size.

The model (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 4.2; Higham and Mary, A New Approach to
Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019):

    u        = eps / 2                          the unit roundoff of the dtype: 2^-24 = 6.0e-8 in float32
    gamma(n) = min(n, 2 sqrt(n)) u              the error of a sum of n terms, relative to the sum of their absolute values
    error    = sums * gamma(terms) * magnitude  the error of `sums` such sums in a row, each feeding the next one

`n u` holds for every order of the additions. `2 sqrt(n) u` is about six standard deviations where the errors of the additions are
independent, as they are for data that was not constructed against it. The rounding of each product of a dot product is covered by
both. `magnitude` is the sum of the absolute values of the terms, or their mean where the result is a mean. Where both results are
computed in the dtype, the bound is twice the error: `sides=2`, the default. Where one of them is exact, or computed in a wider
dtype, it is `sides=1`.

    assert_close(x.float().mean(0), x.double().mean(0).float(), **tolerance(len(x), x.abs().mean(), sides=1))
    assert x.sum().item() == pytest.approx(y.sum().item(), **approximately(x.numel(), x.abs().sum()))
"""

import math

import torch

# Functions applied element by element after a sum (a root, an exponential, a division): each rounds the result once or twice.
ROUNDINGS_AFTERWARDS = 4


def unit_roundoff(dtype: torch.dtype = torch.float32) -> float:
    """Return the largest relative error of one rounding to `dtype`."""
    return torch.finfo(dtype).eps / 2


def sum_error(terms: int, dtype: torch.dtype = torch.float32) -> float:
    """Return gamma(terms): the error of a sum of `terms` numbers relative to the sum of their absolute values."""
    return min(terms, 2 * math.sqrt(terms)) * unit_roundoff(dtype)


def tolerance(
    terms: int,
    magnitude: float | torch.Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    sums: int = 1,
    sides: int = 2,
) -> dict[str, float]:
    """Return `rtol` and `atol` for two results that sum the same numbers in different orders.

    Args:
        terms: How many numbers one sum adds, or how many products one dot product adds.
        magnitude: The sum of the absolute values of the terms, or their mean where the result is a mean. If it is a
            tensor with one value for each result, the largest value is used.
        dtype: The dtype in which the sums are computed.
        sums: How many sums follow each other, as layers of a network or steps of training do; their errors add up.
        sides: 2 where both results are computed in `dtype`, 1 where one is exact or computed in a wider dtype.
    """
    largest = float(magnitude.detach().abs().max()) if isinstance(magnitude, torch.Tensor) else abs(float(magnitude))
    return {
        "rtol": sides * ROUNDINGS_AFTERWARDS * unit_roundoff(dtype),
        "atol": sides * sums * sum_error(terms, dtype) * largest,
    }


def approximately(
    terms: int,
    magnitude: float | torch.Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    sums: int = 1,
    sides: int = 2,
) -> dict[str, float]:
    """Return the bounds of `tolerance` as `rel` and `abs`, the arguments of `pytest.approx`."""
    bounds = tolerance(terms, magnitude, dtype, sums=sums, sides=sides)
    return {"rel": bounds["rtol"], "abs": bounds["atol"]}

"""Tests that the bounds of tests/tolerances.py hold for real sums, and that wrong sums exceed them."""

import pytest
import torch

from .tolerances import approximately, sum_error, tolerance, unit_roundoff


def orders_of_summation(x: torch.Tensor) -> list[torch.Tensor]:
    """Return the sum of each row of `x`, added up in orders that processors use: one after another, by lanes, by halves."""
    one_by_one = torch.stack([row.cumsum(0)[-1] for row in x])
    lanes = [sum(x[:, first::width].cumsum(1)[:, -1] for first in range(width)) for width in (4, 8, 16, 64)]
    halves = x.clone()
    while halves.shape[1] > 1:
        halves = halves[:, ::2] + halves[:, 1::2]
    return [one_by_one, *lanes, halves[:, 0], x.flip(1).cumsum(1)[:, -1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("terms", [64, 1024])
@pytest.mark.parametrize("same_sign", [False, True])
def test_no_order_of_summation_leaves_the_bound(terms: int, dtype: torch.dtype, same_sign: bool) -> None:
    x = torch.randn(200, terms).to(dtype)
    x = x.abs() if same_sign else x
    magnitude = x.double().abs().sum(1)
    exact = x.double().sum(1)
    sums = orders_of_summation(x)
    for found in sums:
        bounds = tolerance(terms, magnitude, dtype, sides=1)
        torch.testing.assert_close(found.double(), exact, **bounds)
        torch.testing.assert_close(found, sums[0], **tolerance(terms, magnitude, dtype))


def test_the_bound_is_not_wider_than_a_hundred_errors() -> None:
    x = torch.randn(200, 1024).abs()
    errors = [(found.double() - x.double().sum(1)).abs().max() for found in orders_of_summation(x)]
    assert tolerance(1024, x.sum(1), sides=1)["atol"] < 100 * max(errors)


def test_a_missing_term_is_seen() -> None:
    x = torch.rand(4096) + 0.5
    with pytest.raises(AssertionError):
        torch.testing.assert_close(x[1:].sum() / len(x), x.mean(), **tolerance(len(x), x.mean()))


def test_formula() -> None:
    assert unit_roundoff() == 2**-24
    assert sum_error(1) == 2**-24
    assert sum_error(4) == 4 * 2**-24
    assert sum_error(100, torch.float64) == 20 * 2**-53
    assert tolerance(4, -3.0, sums=5, sides=1) == {"rtol": 4 * 2**-24, "atol": 5 * 4 * 2**-24 * 3.0}
    assert tolerance(4, torch.tensor([-3.0, 2.0]), sums=5, sides=1) == tolerance(4, 3.0, sums=5, sides=1)
    assert approximately(9, 2.0) == {"rel": 8 * 2**-24, "abs": 2 * 6 * 2**-24 * 2.0}

"""Tests of quantization_loss against its formulas in float64."""

import math

import pytest
import torch

from orthohash_triton.nn.central import QuantizationLoss
from orthohash_triton.ops.quantization_loss import quantization_loss
from orthohash_triton.reference.quantization_loss import quantization_loss as truth
from tests.tolerances import tolerance, unit_roundoff

KINDS = ["log_cosh", "l1", "l2", "cosine"]


def problem(rows=7, bits=12, scale=1.5):
    return scale * torch.randn(rows, bits, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("log_cosh", (math.log(math.cosh(1)) + math.log(math.cosh(0.5)) + 0 + math.log(math.cosh(2))) / 4),
        ("l1", (1 + 0.5 + 0 + 2) / 4),
        ("l2", (1 + 0.25 + 0 + 4) / 4),
        ("cosine", 1 - (2 + 0.5 + 1 + 3) / (math.sqrt(4 + 0.25 + 1 + 9) * 2)),
    ],
)
@pytest.mark.parametrize("function", [truth, quantization_loss])
def test_by_hand(function, kind, expected):
    z = torch.tensor([[2.0, -0.5, 1.0, -3.0]], dtype=torch.float64)
    assert function(z, kind).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient(kind, reduction):
    z = problem().requires_grad_()
    ours, exact = quantization_loss(z, kind, reduction=reduction), truth(z, kind, reduction=reduction)
    upstream = torch.rand_like(exact) + 0.5
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-14)
    (gradient,), (expected,) = torch.autograd.grad(ours, z, upstream), torch.autograd.grad(exact, z, upstream)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(kind, dtype):
    z = problem().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = quantization_loss(z, kind)
    assert loss.dtype == torch.float32
    exact = z.detach().double().requires_grad_()
    # Sums over the entries. "cosine" subtracts one, of absolute values, from 1.
    size = 1.0 if kind == "cosine" else truth(exact, kind)
    torch.testing.assert_close(loss.double(), truth(exact, kind), **tolerance(z.numel(), size, sides=1))
    (gradient,), (expected,) = torch.autograd.grad(loss, z), torch.autograd.grad(truth(exact, kind), exact)
    assert gradient.dtype == dtype
    allowed = tolerance(z.shape[1], expected, sides=1)["atol"]
    torch.testing.assert_close(gradient, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=allowed)


def test_log_cosh_neither_overflows_nor_cancels():
    z = torch.tensor([[1 + 1e-3, 1e4, -3e38]], requires_grad=True)
    near, far, farthest = (quantization_loss(z[:, i : i + 1]) for i in range(3))
    gap = float(z[0, 0].detach().double() - 1)
    assert near.item() == pytest.approx(math.log(math.cosh(gap)), rel=1e-3)  # 5e-7, where log(2) already rounds by 6e-8
    assert far.item() == pytest.approx(1e4 - 1 - math.log(2), rel=2 * unit_roundoff())
    assert farthest.item() == pytest.approx(3e38, rel=2 * unit_roundoff())
    gradient = torch.autograd.grad(near + far + farthest, z)[0]
    torch.testing.assert_close(gradient, torch.tensor([[math.tanh(gap), 1.0, -1.0]]), rtol=1e-3, atol=1e-7)


def test_zeros():
    z = torch.zeros(2, 4, requires_grad=True)
    for kind, expected in zip(KINDS, (math.log(math.cosh(1)), 1, 1, 1), strict=True):
        loss = quantization_loss(z, kind)
        assert loss.item() == pytest.approx(expected)
        assert not torch.autograd.grad(loss, z)[0].any()


def test_no_rows_is_as_in_torch():
    z = torch.empty(0, 8)
    assert quantization_loss(z).isnan()
    assert quantization_loss(z, reduction="sum") == 0
    assert quantization_loss(z, reduction="none").shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_module_and_compiled(kind):
    z = problem().float()
    criterion = QuantizationLoss(kind, reduction="none")
    torch.testing.assert_close(criterion(z), quantization_loss(z, kind, reduction="none"))
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), criterion(z))
    assert repr(criterion) == f"QuantizationLoss(kind='{kind}', reduction='none')"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), TypeError, r"z must be a tensor \[N, K\]"),
        ((torch.ones(2, 3, dtype=torch.int64),), TypeError, "z must be .* of float32"),
        ((torch.ones(3),), ValueError, r"\[N, K\]"),
        ((torch.ones(3, 0),), ValueError, "at least one bit"),
        ((torch.ones(3, 2), "l3"), ValueError, "kind must be one of 'log_cosh', 'l1', 'l2', 'cosine'; got 'l3'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        quantization_loss(*arguments)


def test_bad_reduction():
    with pytest.raises(ValueError, match="reduction must be one of"):
        quantization_loss(torch.ones(3, 2), reduction="max")


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e20, 3e38])
def test_cosine_of_rows_of_any_size(size):
    z = (size * torch.tensor([[1.0, -1.0, 1.0], [0.5, 0.25, -1.0]])).requires_grad_()
    loss = quantization_loss(z, "cosine", reduction="none")
    torch.testing.assert_close(loss, torch.tensor([0.0, 1 - 1.75 / (3 * 1.3125) ** 0.5]), **tolerance(3, 1.0, sums=2))
    loss.sum().backward()
    assert z.grad.isfinite().all()
    if size < 1e30:
        assert z.grad[1].any()

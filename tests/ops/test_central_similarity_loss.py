"""Tests of central_similarity_loss against its formula in float64."""

import math

import pytest
import torch

from orthohash_triton.nn.central import CentralSimilarityLoss
from orthohash_triton.ops.central_similarity_loss import central_similarity_loss, tie_breaker
from orthohash_triton.reference.central_similarity_loss import central_similarity_loss as naive
from tests.tolerances import tolerance

CPU = torch.device("cpu")
KINDS = ["log_cosh", "l1", "l2", "cosine"]


def problem(dense=False, rows=9, classes=6, bits=16):
    """Return latents for which tanh is not saturated, a target with an unlabelled row, and a codebook."""
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(rows, bits, generator=generator, dtype=torch.float64)
    codebook = torch.randint(0, 2, (classes, bits), generator=generator, dtype=torch.int8) * 2 - 1
    if dense:
        target = (torch.rand(rows, classes, generator=generator) < 0.4).float()
        target[1] = torch.tensor([1, 1, 0, 0, 0, 0])  # a tie of the two classes
        target[4] = 0
    else:
        target = torch.randint(0, classes, (rows,), generator=generator)
        target[4] = -100
    return u, target, codebook


def by_loops(u, target, codebook, ties, quantization_weight, quantization):
    """Compute the mean loss, number by number."""
    rows = []
    for row, classes in zip(u.tolist(), target.tolist(), strict=True):
        members = [c for c, y in enumerate(classes) if y] if isinstance(classes, list) else [classes] if classes >= 0 else []
        if not members:
            continue
        total = 0.0
        for k, value in enumerate(row):
            vote = sum(int(codebook[c, k]) for c in members)
            centre = int(ties[k]) if vote == 0 else (1 if vote > 0 else -1)
            y = math.tanh(value)
            total -= math.log((1 + y) / 2 if centre == 1 else (1 - y) / 2)
            gap = abs(y) - 1
            penalty = {"log_cosh": math.log(math.cosh(gap)), "l1": abs(gap), "l2": gap**2}[quantization]
            total += quantization_weight * penalty
        rows.append(total / len(row))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("quantization", ["log_cosh", "l1", "l2"])
@pytest.mark.parametrize("dense", [False, True])
def test_against_explicit_loops(dense, quantization):
    u, target, codebook = problem(dense)
    ties = tie_breaker(16, 7, CPU)
    expected = by_loops(u, target, codebook, ties, 0.3, quantization)
    keywords = dict(quantization_weight=0.3, quantization=quantization)
    assert naive(u, target, codebook, ties, **keywords).item() == pytest.approx(expected, rel=1e-13)
    assert central_similarity_loss(u, target, codebook, seed=7, **keywords).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("quantization", KINDS)
@pytest.mark.parametrize("dense", [False, True])
def test_value_and_gradient(dense, quantization, reduction):
    u, target, codebook = problem(dense)
    u.requires_grad_()
    keywords = dict(quantization_weight=0.2, quantization=quantization, reduction=reduction, centre_weight=0.7)
    ours = central_similarity_loss(u, target, codebook, seed=5, **keywords)
    exact = naive(u, target, codebook, tie_breaker(16, 5, CPU), **keywords)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-14)
    upstream = torch.rand_like(exact) + 0.5
    (gradient,), (expected,) = torch.autograd.grad(ours, u, upstream), torch.autograd.grad(exact, u, upstream)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)
    assert not gradient[4].any()


def test_saturated_latents_are_exact():
    # tanh(50) is 1 even in float64: the formula contains log(0), which the released code clamps at -100.
    u, codebook = torch.tensor([[50.0, -400.0]], requires_grad=True), torch.tensor([[-1, -1]], dtype=torch.int8)
    loss = central_similarity_loss(u, torch.tensor([0]), codebook, reduction="sum")
    assert loss.item() == pytest.approx(50.0)  # softplus(100) and softplus(-800), over two bits
    assert torch.autograd.grad(loss, u)[0].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dense", [False, True])
def test_low_precision_is_computed_in_float32(dense, dtype):
    u, target, codebook = problem(dense)
    u = u.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = central_similarity_loss(u, target, codebook)
    assert loss.dtype == torch.float32
    exact = u.detach().double().requires_grad_()
    expected = naive(exact, target, codebook, tie_breaker(16, 0, CPU))
    torch.testing.assert_close(loss.double(), expected, **tolerance(u.numel(), expected, sides=1))
    (gradient,), (exact_gradient,) = torch.autograd.grad(loss, u), torch.autograd.grad(expected, exact)
    allowed = tolerance(1, exact_gradient, sides=1)["atol"]
    torch.testing.assert_close(gradient, exact_gradient.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=allowed)


def test_majority_vote_and_ties():
    codebook = torch.tensor([[1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, 1]], dtype=torch.int8)
    u = 30 * torch.ones(2, 4)
    target = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert central_similarity_loss(u, target, codebook, reduction="none")[0].item() == pytest.approx(60 * 2 / 4)  # bits 1 and 2
    for seed in range(4):
        ties = tie_breaker(4, seed, CPU)
        wrong = 1 + (ties[1] < 0).item() + (ties[3] < 0).item()  # the vote is even on bits 1 and 3
        found = central_similarity_loss(u, target, codebook, seed=seed, reduction="none")[1]
        assert found.item() == pytest.approx(60 * wrong / 4)
    assert len({tuple(tie_breaker(4, seed, CPU).tolist()) for seed in range(20)}) > 4


def test_tie_breaker_is_fair():
    signs = torch.stack([tie_breaker(2048, seed, CPU) for seed in range(100)]).double()
    assert set(signs.unique().tolist()) == {-1, 1}
    correlation = signs @ signs.T / 2048
    assert (correlation - torch.eye(100)).abs().max() < 6 / math.sqrt(2048)
    assert signs.mean(1).abs().max() < 6 / math.sqrt(2048)
    assert signs.mean(0).abs().max() < 6 / math.sqrt(100)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_multi_hot_of_any_dtype(dtype):
    u, target, codebook = problem(dense=True)
    assert central_similarity_loss(u, target.to(dtype), codebook) == central_similarity_loss(u, target, codebook)


@pytest.mark.parametrize("dense", [False, True])
def test_unlabelled_rows_take_no_part(dense):
    u, target, codebook = problem(dense)
    expected = central_similarity_loss(u[:4], target[:4], codebook)
    poisoned = u[:5].clone()
    poisoned[4] = float("nan")
    poisoned.requires_grad_()
    loss = central_similarity_loss(poisoned, target[:5], codebook)
    assert loss == expected
    gradient = torch.autograd.grad(loss, poisoned)[0]
    assert not gradient[4].any()
    assert gradient.isfinite().all()
    assert central_similarity_loss(u[4:5], target[4:5], codebook).isnan()
    assert central_similarity_loss(u[4:5], target[4:5], codebook, reduction="sum") == 0


def test_no_rows_is_as_in_torch():
    _, _, codebook = problem()
    u, target = torch.empty(0, 16), torch.empty(0, dtype=torch.int64)
    assert central_similarity_loss(u, target, codebook).isnan()
    assert central_similarity_loss(u, target, codebook, reduction="sum") == 0


def test_unknown_class_that_nobody_looked_at_makes_the_loss_nan():
    u, target, codebook = problem()
    target[2] = 6
    compiled = torch.compile(central_similarity_loss, fullgraph=True, backend="aot_eager")
    loss = compiled(u, target, codebook, reduction="none")
    assert loss.isnan().tolist() == [row == 2 for row in range(9)]


@pytest.mark.parametrize("dense", [False, True])
def test_module_and_compiled(dense):
    u, target, codebook = problem(dense)
    criterion = CentralSimilarityLoss(codebook, quantization="l2", seed=3)
    expected = central_similarity_loss(u, target, codebook, quantization="l2", seed=3)
    assert criterion(u, target) == expected
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u, target), expected)
    assert list(criterion.state_dict()) == ["codebook"]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"u": torch.ones(9, 8)}, ValueError, "u has 8 bits, the codebook is"),
        ({"u": torch.ones(9, 16, dtype=torch.int64)}, TypeError, "u must be a tensor"),
        ({"target": torch.zeros(8, dtype=torch.int64)}, ValueError, r"target must be int64 class ids \[9\]"),
        ({"target": torch.zeros(9, dtype=torch.int32)}, TypeError, r"Convert class ids with .long\(\)"),
        ({"target": torch.full((9,), 6)}, ValueError, "target has class 6; expected ids from 0 to 5"),
        ({"target": (torch.arange(10), torch.zeros(9).long(), torch.ones(9))}, ValueError, "target must be dense"),
        ({"codebook": torch.zeros(6, 16, dtype=torch.int8)}, ValueError, r"codebook must hold \+1 and -1 only"),
        ({"codebook": torch.ones(6, 16)}, TypeError, "codebook must be"),
        ({"quantization": "cs"}, ValueError, "quantization must be one of"),
        ({"quantization_weight": -1.0}, ValueError, "quantization_weight must be at least 0 and finite; got -1.0"),
        ({"centre_weight": float("nan")}, ValueError, "centre_weight must be at least 0 and finite; got nan"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_arguments(changed, error, message):
    u, target, codebook = problem()
    with pytest.raises(error, match=message):
        central_similarity_loss(**(dict(u=u, target=target, codebook=codebook) | changed))

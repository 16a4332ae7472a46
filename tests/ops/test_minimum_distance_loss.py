"""Tests of minimum_distance_loss against its formula in float64."""

import math

import pytest
import torch

from orthohash_triton.nn.central import MinimumDistanceLoss
from orthohash_triton.ops.minimum_distance_loss import minimum_distance_loss
from orthohash_triton.reference.minimum_distance_loss import minimum_distance_loss as naive
from tests.tolerances import approximately, tolerance

KINDS = ["log_cosh", "l1", "l2", "cosine"]


def problem(dense=False, rows=9, classes=6, bits=16, bank_rows=13):
    """Return latents, a target with an unlabelled row, a codebook, and a bank with an unlabelled and an unseen row."""
    generator = torch.Generator().manual_seed(3)
    u, bank = (torch.randn(count, bits, generator=generator, dtype=torch.float64) for count in (rows, bank_rows))
    codebook = torch.randint(0, 2, (classes, bits), generator=generator, dtype=torch.int8) * 2 - 1
    if dense:
        target, bank_target = ((torch.rand(n, classes, generator=generator) < 0.3).double() for n in (rows, bank_rows))
        target[0], target[4], bank_target[7] = 1, 0, 0
    else:
        target, bank_target = (torch.randint(0, classes, (n,), generator=generator) for n in (rows, bank_rows))
        target[4] = bank_target[7] = -100
        bank_target[2] = target[0]
    bank[2] = 0
    return u, target, codebook, bank, bank_target


def classes_of(target):
    """Return the set of classes of every row."""
    if target.ndim == 1:
        return [{c} if c >= 0 else set() for c in target.tolist()]
    return [{c for c, y in enumerate(row) if y} for row in target.tolist()]


def by_loops(u, target, codebook, bank, bank_target, scale, pair_weight, quantization_weight):
    """Compute the loss with the "l2" penalty, number by number."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    centre_terms, pair_terms, gaps = [], [], []
    for row, own in zip(u.tolist(), classes_of(target), strict=True):
        if not own:
            continue
        odds = [math.exp(scale * cosine(row, code)) for code in codebook.tolist()]
        for c, weight in enumerate(odds):
            p = weight / sum(odds)
            centre_terms.append(-math.log(p) if c in own else -math.log(1 - p))
        gaps += [(abs(value) - 1) ** 2 for value in row]
        for other, others in zip(bank.tolist(), classes_of(bank_target), strict=True):
            if own & others and any(other):
                pair_terms.append(math.log(1 + math.exp((1 - cosine(row, other)) / 2)))
    mean = [sum(terms) / len(terms) for terms in (centre_terms, pair_terms, gaps)]
    return mean[0] + pair_weight * mean[1] + quantization_weight * mean[2]


@pytest.mark.parametrize("scale", [None, 1.7])
@pytest.mark.parametrize("dense", [False, True])
def test_against_explicit_loops(dense, scale):
    arguments = problem(dense)
    expected = by_loops(*arguments, scale=4 if scale is None else scale, pair_weight=0.6, quantization_weight=0.3)
    keywords = dict(scale=scale, pair_weight=0.6, quantization_weight=0.3)
    assert naive(*arguments, **keywords).item() == pytest.approx(expected, rel=1e-13)
    assert minimum_distance_loss(*arguments, **keywords).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("quantization", KINDS)
@pytest.mark.parametrize("with_bank", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_value_and_gradient(dense, with_bank, quantization):
    u, target, codebook, bank, bank_target = problem(dense)
    tensors = [u, bank] if with_bank else [u]
    for tensor in tensors:
        tensor.requires_grad_()
    others = (bank, bank_target) if with_bank else ()
    keywords = dict(quantization=quantization, quantization_weight=0.2, pair_weight=0.5)
    ours, exact = (function(u, target, codebook, *others, **keywords) for function in (minimum_distance_loss, naive))
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-14)
    for gradient, expected in zip(torch.autograd.grad(ours, tensors), torch.autograd.grad(exact, tensors), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_exact_where_a_probability_is_one():
    # Two classes at scale 1,000: p is 1 to the last bit even in float64, and log(1 - p) is -2,000.
    codebook = torch.tensor([[1, 1], [-1, -1]], dtype=torch.int8)
    u = torch.tensor([[1.0, 0.9]], requires_grad=True)
    cosine = 1.9 / math.sqrt(2 * 1.81)
    for target, expected in ((0, 0.0), (1, 2000 * cosine)):
        loss = minimum_distance_loss(u, torch.tensor([target]), codebook, scale=1000.0, quantization_weight=0)
        assert loss.item() == pytest.approx(expected, **approximately(2, expected, sides=1))
        assert torch.autograd.grad(loss, u)[0].isfinite().all()


def test_even_probabilities():
    # Both classes at p = 1/2, whichever the argmax takes.
    codebook = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    u = torch.tensor([[2.0, 0.0]], requires_grad=True)
    for target in (0, 1):
        loss = minimum_distance_loss(u, torch.tensor([target]), codebook, quantization_weight=0)
        assert loss.item() == pytest.approx(math.log(2))
        slope = torch.autograd.grad(loss, u)[0][0, 1].item()  # d cos = +-1/(2 sqrt 2): dL = -+ scale/(2 sqrt 2) * 2(1 - p)
        assert slope == pytest.approx((1 if target else -1) * 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dense", [False, True])
def test_low_precision_is_computed_in_float32(dense, dtype):
    u, target, codebook, bank, bank_target = problem(dense)
    u, bank = u.to(dtype).requires_grad_(), bank.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = minimum_distance_loss(u, target, codebook, bank, bank_target)
    assert loss.dtype == torch.float32
    exact = u.detach().double().requires_grad_()
    expected = naive(exact, target, codebook, bank.double(), bank_target)
    # Inner products over the bits, softmax or pairs, and the mean over the rows; the gradient goes back through all three.
    bounds = tolerance(u.numel(), expected, sums=3, sides=1)
    torch.testing.assert_close(loss.double(), expected, **bounds)
    (gradient,), (exact_gradient,) = torch.autograd.grad(loss, u), torch.autograd.grad(expected, exact)
    allowed = tolerance(u.numel(), exact_gradient, sums=3, sides=1)["atol"]
    torch.testing.assert_close(gradient, exact_gradient.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=allowed)


@pytest.mark.parametrize("dense", [False, True])
def test_unlabelled_rows_take_no_part(dense):
    u, target, codebook, bank, bank_target = problem(dense)
    expected = minimum_distance_loss(u[:4], target[:4], codebook, bank, bank_target)
    poisoned = u[:5].clone()
    poisoned[4] = float("nan")
    poisoned.requires_grad_()
    loss = minimum_distance_loss(poisoned, target[:5], codebook, bank, bank_target)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    gradient = torch.autograd.grad(loss, poisoned)[0]
    assert gradient.isfinite().all()
    assert not gradient[4].any()
    assert minimum_distance_loss(u[4:5], target[4:5], codebook).isnan()


def test_no_pair_of_one_class_adds_nothing():
    u, target, codebook, bank, _ = problem()
    foreign = torch.full((13,), 5)
    rows = target != 5
    alone = minimum_distance_loss(u[rows], target[rows], codebook)
    assert minimum_distance_loss(u[rows], target[rows], codebook, bank, foreign) == alone
    assert minimum_distance_loss(u[rows], target[rows], codebook, bank[:0], foreign[:0]) == alone


def test_unlabelled_rows_are_not_a_class():
    u, target, codebook, bank, _ = problem()
    target[target == 5] = -100
    none = torch.full((13,), -100)
    assert minimum_distance_loss(u, target, codebook, bank, none) == minimum_distance_loss(u, target, codebook)


def test_zero_row_has_no_gradient_of_its_direction():
    _, _, codebook, bank, bank_target = problem()
    u = torch.zeros(1, 16, dtype=torch.float64, requires_grad=True)
    loss = minimum_distance_loss(u, bank_target[:1], codebook, bank, bank_target, quantization_weight=0)
    sixth = -(math.log(1 / 6) + 5 * math.log(5 / 6)) / 6
    assert loss.item() == pytest.approx(sixth + math.log(1 + math.exp(0.5)))
    assert not torch.autograd.grad(loss, u)[0].any()


def test_unknown_class_that_nobody_looked_at_makes_the_loss_nan():
    u, target, codebook, _, _ = problem()
    compiled = torch.compile(minimum_distance_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u, target, codebook), minimum_distance_loss(u, target, codebook))
    target[2] = -1
    assert compiled(u, target, codebook).isnan()


@pytest.mark.parametrize("dense", [False, True])
def test_module_and_compiled(dense):
    u, target, codebook, bank, bank_target = problem(dense)
    criterion = MinimumDistanceLoss(codebook, pair_weight=0.3)
    expected = minimum_distance_loss(u, target, codebook, bank, bank_target, pair_weight=0.3)
    assert criterion(u, target, bank, bank_target) == expected
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u, target, bank, bank_target), expected)
    assert criterion(u, target) == minimum_distance_loss(u, target, codebook)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"u": torch.ones(9, 8)}, ValueError, "u has 8 bits, the codebook is"),
        ({"target": torch.full((9,), 6)}, ValueError, "target has class 6; expected ids from 0 to 5"),
        ({"codebook": torch.ones(1, 16, dtype=torch.int8), "target": torch.zeros(9).long()}, ValueError, "at least two rows"),
        ({"scale": 0.0}, ValueError, "scale must be positive and finite; got 0.0"),
        ({"pair_weight": -0.5}, ValueError, "pair_weight must be at least 0"),
        ({"quantization_weight": float("inf")}, ValueError, "quantization_weight must be at least 0 and finite"),
        ({"quantization": "cs"}, ValueError, "quantization must be one of"),
        ({"bank": None}, ValueError, "bank is missing; give bank_target and bank together"),
        ({"bank_target": None}, ValueError, "bank_target is missing; give bank and bank_target together"),
        ({"bank": torch.ones(13, 8)}, ValueError, "bank has 8 bits, u has 16"),
        ({"bank": torch.ones(13, 16).long()}, TypeError, "bank must be a tensor"),
        ({"bank_target": torch.zeros(12).long()}, ValueError, r"bank_target must be of the same kind as target, \[13\]"),
        ({"bank_target": torch.zeros(13, 6)}, ValueError, r"bank_target must be of the same kind as target, \[13\]"),
        ({"bank_target": [0] * 13}, TypeError, "bank_target must be of the same kind as target"),
    ],
)
def test_bad_arguments(changed, error, message):
    names = ("u", "target", "codebook", "bank", "bank_target")
    with pytest.raises(error, match=message):
        minimum_distance_loss(**(dict(zip(names, problem(), strict=True)) | changed))

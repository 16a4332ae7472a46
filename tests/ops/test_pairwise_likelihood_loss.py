"""Tests of pairwise_likelihood_loss against explicit loops and the float64 reference, and as a PyTorch op."""

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from orthohash_triton.nn.pairwise import PairwiseLikelihoodLoss
from orthohash_triton.ops._pairwise_op import pairwise_likelihood
from orthohash_triton.ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from orthohash_triton.reference.pairwise_likelihood_loss import pairwise_likelihood_loss as reference
from tests.implementations import BOTH
from tests.operators import operators_and_launches
from tests.tolerances import sum_error

# (rows, bank, dimensions): one pair; ragged everywhere, fewer dimensions than a vector; several blocks of columns, whole and in
# part; more rows than columns.
SHAPES = [(1, 1, 16), (37, 101, 5), (4, 300, 24), (70, 33, 48)]
WEIGHTS = [None, 3.5, "balanced"]
WEIGHTS_AND_IMPLEMENTATIONS = [
    *((weight, "cpu") for weight in WEIGHTS),
    pytest.param("balanced", "triton", marks=pytest.mark.kernel),
]
SIMILARITIES = ["any", "jaccard", "squared_cosine"]
CLASSES = 70  # number of classes of a multi-hot target: more than one word of 64 bits, and three of 32 bits


def labels(rows, multi_hot, generator):
    """Return labels with an unlabelled row, or a row without a class, if there are enough rows."""
    if multi_hot:
        target = torch.rand(rows, CLASSES, generator=generator) < 0.03
        target[:, -1] = torch.rand(rows, generator=generator) < 0.2
        target[0, 1] = True
    else:
        target = torch.randint(0, 4, (rows,), generator=generator)
    if rows > 3:
        target[2] = 0 if multi_hot else -100
    return target


def problem(rows, columns, bits, multi_hot=False, device="cpu"):
    """Return z, target, bank and bank_target. All codes have one scale, except a large and a small row."""
    generator = torch.Generator().manual_seed(rows + columns + bits)
    z, bank = torch.randn(rows, bits, generator=generator), torch.randn(columns, bits, generator=generator)
    bank[0] *= 10
    bank[-1] *= 0.01
    target, bank_target = labels(rows, multi_hot, generator), labels(columns, multi_hot, generator)
    return tuple(x.to(device) for x in (z, target, bank, bank_target))


def evaluate(loss, z, target, bank, bank_target, upstream, **keywords):
    """Return the loss, the gradient of z, and the gradient of the bank if there is one."""
    leaves = [x if x is None else x.detach().clone().requires_grad_() for x in (z, bank)]
    found = loss(leaves[0], target, leaves[1], bank_target, **keywords)
    (found * upstream.to(found.dtype)).sum().backward()
    return [found.detach(), *(x.grad for x in leaves if x is not None)]


def truth(z, target, bank, bank_target, upstream, **keywords):
    return evaluate(reference, z.double(), target, None if bank is None else bank.double(), bank_target, upstream, **keywords)


# Inner products of at most 48 bits, and sums over at most 300 pairs of a row, one after the other.
TWO_SUMS = sum_error(48) + sum_error(300)


def check(found, exact, tolerance=TWO_SUMS):
    for ours, expected in zip(found, exact, strict=True):
        error = float((ours.detach().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        assert error < tolerance, error


def by_loops(z, target, bank, bank_target, alpha, positive_weight, similarity, reduction):
    """Compute the formula pair by pair with Python numbers."""
    terms = []
    for i, j in itertools.product(range(len(z)), range(len(bank))):
        theta = alpha * sum(float(a) * float(b) for a, b in zip(z[i], bank[j], strict=True))
        if target.ndim == 1:
            mine, theirs = {int(target[i])}, {int(bank_target[j])}
            if -100 in mine | theirs:
                continue
        else:
            mine, theirs = ({c for c in range(target.shape[1]) if labels[n][c]} for labels, n in ((target, i), (bank_target, j)))
        both, either = len(mine & theirs), len(mine | theirs)
        s = int(both > 0)
        c = 1.0
        if s and similarity == "jaccard":
            c = both / either
        if s and similarity == "squared_cosine":
            c = 4 * both**2 / (len(mine) * len(theirs))
        terms.append((i, s, c, math.log(1 + math.exp(theta)) - s * theta))
    ones, zeros = sum(s for _, s, _, _ in terms), sum(1 - s for _, s, _, _ in terms)
    w1, w0, total = 1.0, 1.0, ones + zeros
    if positive_weight == "balanced":
        w1, w0 = total / max(ones, 1), total / max(zeros, 1)
    elif positive_weight is not None:
        w1, total = positive_weight, positive_weight * ones + zeros
    rows = [0.0] * len(z)
    for i, s, c, loss in terms:
        rows[i] += (w1 if s else w0) * c * loss
    return {"none": rows, "sum": sum(rows), "mean": sum(rows) / total}[reduction]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("positive_weight", WEIGHTS)
@pytest.mark.parametrize("multi_hot", [False, True])
def test_reference_is_the_formula(multi_hot, positive_weight, similarity, reduction):
    z, target, bank, bank_target = problem(5, 7, 3, multi_hot)
    keywords = dict(alpha=0.4, positive_weight=positive_weight, similarity=similarity, reduction=reduction)
    for pair in ((bank, bank_target), (z, target)):
        expected = by_loops(z.double(), target, pair[0].double(), pair[1], **keywords)
        given = (None, None) if pair[0] is z else (pair[0].double(), pair[1])
        found = reference(z.double(), target, *given, **keywords)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_reference_by_hand():
    # Inner products of (1, 2) and (3, -1): 5, 1, 1, 10; the two rows differ in class, so that similar pairs are the diagonal.
    z, target = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64), torch.tensor([7, -3])
    similar = math.log(1 + math.exp(-2.5)) + math.log(1 + math.exp(-5.0))
    dissimilar = 2 * math.log(1 + math.exp(0.5))
    assert reference(z, target, alpha=0.5).item() == pytest.approx((similar + dissimilar) / 4, rel=1e-14)
    hashnet = reference(z, target, alpha=0.5, positive_weight=100.0).item()
    assert hashnet == pytest.approx((100 * similar + dissimilar) / 202, rel=1e-14)
    balanced = reference(z, target, alpha=0.5, positive_weight="balanced").item()
    assert balanced == pytest.approx(similar / 2 + dissimilar / 2, rel=1e-14)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_reference_gradcheck(similarity, own):
    z, target, bank, bank_target = problem(4, 6, 3, multi_hot=True)
    z, bank = z.double().requires_grad_(), bank.double().div(10).requires_grad_()

    def loss(z, bank):
        pair = (None, None) if own else (bank, bank_target)
        return reference(z, target, *pair, alpha=0.3, positive_weight="balanced", similarity=similarity, reduction="none")

    assert torch.autograd.gradcheck(lambda z: loss(z, None), z) if own else torch.autograd.gradcheck(loss, (z, bank))


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients(shape, multi_hot):
    arguments = problem(*shape, multi_hot)
    upstream = torch.randn(shape[0])
    keywords = dict(alpha=0.3, positive_weight=2.5, similarity="jaccard", reduction="none")
    found = evaluate(pairwise_likelihood_loss, *arguments, upstream, impl="cpu", **keywords)
    assert found[0].dtype == torch.float32
    check(found, truth(*arguments, upstream, **keywords))


# One pair; ragged everywhere; several blocks of columns for a program, more than one of rows; more dimensions than are multiplied
# at once, in two slices.
@pytest.mark.kernel
@pytest.mark.parametrize(
    ("shape", "multi_hot", "processors"),
    [((1, 1, 24), False, 108), ((5, 40, 24), True, 108), ((70, 110, 24), False, 1), ((2, 35, 260), False, 1)],
)
def test_loss_and_gradients_of_the_kernel(shape, multi_hot, processors, device):
    pytest.importorskip("triton")
    from orthohash_triton.kernels._device import A100, assume_device

    arguments = problem(*shape, multi_hot, device)
    upstream = torch.randn(shape[0], device=device)
    keywords = dict(alpha=0.3, positive_weight=2.5, similarity="jaccard", reduction="none")
    with assume_device(A100._replace(multiprocessors=processors)):
        found = evaluate(pairwise_likelihood_loss, *arguments, upstream, impl="triton", **keywords)
    assert found[0].dtype == torch.float32
    check(found, truth(*arguments, upstream, **keywords))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("positive_weight", WEIGHTS)
@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_option(dtype, multi_hot, positive_weight, similarity, own, reduction):
    z, target, bank, bank_target = problem(9, 40, 11, multi_hot)
    arguments = (z.to(dtype), target, None, None) if own else (z.to(dtype), target, bank.to(dtype), bank_target)
    upstream = torch.randn(9 if reduction == "none" else ())
    keywords = dict(alpha=0.3, positive_weight=positive_weight, similarity=similarity, reduction=reduction)
    found = evaluate(pairwise_likelihood_loss, *arguments, upstream, impl="cpu", **keywords)
    assert found[0].dtype == dtype
    check(found, truth(*arguments, upstream, **keywords), TWO_SUMS if dtype == torch.float32 else 1e-13)


# The different paths through the kernels: the kind of bank, the counts made beforehand, the weight of similar pairs.
KERNEL_OPTIONS = [
    (False, "balanced", "any", "mean", True),
    (True, "balanced", "squared_cosine", "none", False),
    (True, None, "any", "sum", True),
    (False, 2.0, "squared_cosine", "none", True),
]


@pytest.mark.kernel
@pytest.mark.parametrize(("multi_hot", "positive_weight", "similarity", "reduction", "own"), KERNEL_OPTIONS)
def test_options_of_the_kernel(multi_hot, positive_weight, similarity, reduction, own, device):
    z, target, bank, bank_target = problem(9, 40, 24, multi_hot, device)
    arguments = (z, target, None, None) if own else (z, target, bank, bank_target)
    upstream = torch.randn(9 if reduction == "none" else (), device=device)
    keywords = dict(alpha=0.3, positive_weight=positive_weight, similarity=similarity, reduction=reduction)
    found = evaluate(pairwise_likelihood_loss, *arguments, upstream, impl="triton", **keywords)
    check(found, truth(*arguments, upstream, **keywords))


# Sums that one program takes in several steps: over many rows, and over the parts of a split.
@pytest.mark.kernel
@pytest.mark.parametrize(("shape", "multi_hot"), [((1030, 3, 8), False), ((3, 300, 8), True)])
def test_long_sums_of_the_kernel(shape, multi_hot, device, monkeypatch):
    monkeypatch.setattr("orthohash_triton.kernels._pairwise_sums.FINISH_SPLITS", 2)
    monkeypatch.setattr("orthohash_triton.kernels._pairwise_sums.FINISH_LOSSES", 16)
    arguments = problem(*shape, multi_hot, device)
    upstream = torch.ones((), device=device)
    keywords = dict(alpha=0.3, positive_weight="balanced")
    found = evaluate(pairwise_likelihood_loss, *arguments, upstream, impl="triton", **keywords)
    check(found, truth(*arguments, upstream, **keywords))


@pytest.mark.parametrize("impl", BOTH)
def test_large_and_small_codes_keep_their_digits(impl, device):
    # theta ranges from 1e-6 to 1e5 with both signs, so losses of similar pairs range from 1e5 down to an underflow of exp.
    z, target, bank, bank_target = problem(9, 40, 24, device=device)
    z *= torch.logspace(-4, 3, 9, device=device)[:, None]
    upstream = torch.ones(9, device=device)
    found = evaluate(pairwise_likelihood_loss, z, target, bank, bank_target, upstream, alpha=5.0, reduction="none", impl=impl)
    exact = truth(z, target, bank, bank_target, upstream, alpha=5.0, reduction="none")
    assert found[0].isfinite().all()
    check(found[1:], exact[1:], 1e-5)  # theta = 1e5 is rounded to 1e-2 before the logistic function
    torch.testing.assert_close(found[0].double(), exact[0], rtol=TWO_SUMS, atol=0)


@pytest.mark.parametrize(
    ("magnitude", "impl"), [(1e-25, "cpu"), (1e12, "cpu"), pytest.param(1e12, "triton", marks=pytest.mark.kernel)]
)
def test_any_magnitude(magnitude, impl, device):
    z, target, bank, bank_target = problem(9, 40, 24, device=device)
    arguments = z * magnitude, target, bank, bank_target
    upstream = torch.ones(9, device=device)
    found = evaluate(pairwise_likelihood_loss, *arguments, upstream, alpha=0.5, reduction="none", impl=impl)
    exact = truth(*arguments, upstream, alpha=0.5, reduction="none")
    check(found, exact, 1e-5 if magnitude > 1 else TWO_SUMS)  # the signs of theta near 0 decide


@pytest.mark.parametrize("impl", BOTH)
def test_confident_pairs_keep_their_digits(impl, device):
    # Every pair has the right sign, with |theta| >= 12: each loss is about e^-12.
    target = torch.arange(8, device=device) % 2
    z = (2.0 * target - 1)[:, None] * torch.linspace(0.7, 1.1, 8, device=device)[:, None].expand(8, 24)
    upstream = torch.ones(8, device=device)
    found = evaluate(pairwise_likelihood_loss, z, target, None, None, upstream, alpha=1.0, reduction="none", impl=impl)
    exact = truth(z, target, None, None, upstream, alpha=1.0, reduction="none")
    torch.testing.assert_close(found[0].double(), exact[0], rtol=5e-6, atol=0)  # theta = 12 is rounded to 1e-6
    torch.testing.assert_close(found[1].double(), exact[1], rtol=5e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    z, target, bank, bank_target = problem(37, 50, 24)
    arguments = z.to(dtype), target, bank.to(dtype), bank_target
    upstream = torch.ones(())
    exact = truth(*arguments, upstream, alpha=0.1)
    found = evaluate(pairwise_likelihood_loss, *arguments, upstream, alpha=0.1)
    assert [x.dtype for x in found] == [torch.float32, dtype, dtype]
    eps = torch.finfo(dtype).eps
    for ours, true in zip(found, exact, strict=True):  # the gradients are exact, except for the rounding of the result
        torch.testing.assert_close(ours.double(), true, rtol=eps, atol=1e-7 * float(true.abs().max()) + 2**-24)


def test_gradients_through_tanh_from_bank_and_batch():
    """Both sides get gradients, like the two mini-batches of HashNet."""
    z, target, bank, bank_target = problem(6, 9, 8)
    grads = []
    for impl in ("cpu", "reference"):
        leaves = [x.clone().requires_grad_() for x in (z, bank)]
        pairwise_likelihood_loss(leaves[0].tanh(), target, leaves[1].tanh(), bank_target, alpha=10 / 8, impl=impl).backward()
        grads.append([x.grad for x in leaves])
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-8)


def test_bank_of_the_batch_itself_is_the_batch_alone():
    z, target, _, _ = problem(9, 1, 8)
    alone, both = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = pairwise_likelihood_loss(alone, target, alpha=0.5)
    loss.backward()
    same = pairwise_likelihood_loss(both, target, both, target, alpha=0.5)
    same.backward()
    assert torch.equal(loss, same)
    torch.testing.assert_close(alone.grad, both.grad, rtol=0, atol=TWO_SUMS * both.grad.abs().max().item())


@pytest.mark.parametrize("own", [False, True])
def test_only_what_requires_a_gradient_gets_one(own):
    z, target, bank, bank_target = problem(6, 9, 8)
    if own:
        bank, bank_target = z.clone(), target
    bank.requires_grad_()
    loss = pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.5)
    loss.backward()
    exact = truth(z, target, bank, bank_target, torch.ones(()), alpha=0.5)
    check([bank.grad], exact[2:])
    assert z.grad is None
    with torch.no_grad():
        assert not pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.5).requires_grad


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize(("ids", "bank_ids"), [([0, 0, 0], [0, 0]), ([0, 1, 2], [3, 4])], ids=["all similar", "none similar"])
def test_balanced_without_a_kind_of_pair(ids, bank_ids, impl, device):
    target, bank_target = torch.tensor(ids, device=device), torch.tensor(bank_ids, device=device)
    z, bank = torch.randn(3, 24, device=device), torch.randn(2, 24, device=device)
    upstream = torch.ones((), device=device)
    keywords = dict(alpha=0.2, positive_weight="balanced")
    found = evaluate(pairwise_likelihood_loss, z, target, bank, bank_target, upstream, impl=impl, **keywords)
    theta = 0.2 * (z @ bank.T)
    expected = F.softplus(-theta if ids[0] == bank_ids[0] else theta).mean()  # the other part contributes nothing
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=0)
    check(found, truth(z, target, bank, bank_target, upstream, **keywords))


@pytest.mark.parametrize(("positive_weight", "impl"), WEIGHTS_AND_IMPLEMENTATIONS)
def test_unknown_labels_drop_their_pairs(positive_weight, impl, device):
    z, target, bank, bank_target = problem(9, 40, 24, device=device)
    upstream = torch.ones((), device=device)
    target[2], bank_target[2], bank_target[30] = 99, 99, 99
    keywords = dict(alpha=0.3, positive_weight=positive_weight, impl=impl)
    found = evaluate(pairwise_likelihood_loss, z, target, bank, bank_target, upstream, ignore_index=99, **keywords)
    kept, bank_kept = target != 99, bank_target != 99
    alone = evaluate(
        pairwise_likelihood_loss, z[kept], target[kept], bank[bank_kept], bank_target[bank_kept], upstream, **keywords
    )
    torch.testing.assert_close(found[0], alone[0], rtol=TWO_SUMS, atol=0)
    torch.testing.assert_close(found[1][kept], alone[1], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found[2][bank_kept], alone[2], rtol=1e-5, atol=1e-8)
    assert not found[1][~kept].any()
    assert not found[2][~bank_kept].any()


@pytest.mark.parametrize(("positive_weight", "impl"), WEIGHTS_AND_IMPLEMENTATIONS)
def test_no_pair_at_all(positive_weight, impl, device):
    z = torch.randn(3, 24, device=device, requires_grad=True)
    target = torch.full((3,), -100, device=device)
    mean = pairwise_likelihood_loss(z, target, alpha=1.0, positive_weight=positive_weight, impl=impl)
    mean.backward()
    assert mean.isnan()  # like torch
    assert not z.grad.any()
    assert pairwise_likelihood_loss(z, target, alpha=1.0, positive_weight=positive_weight, reduction="sum", impl=impl) == 0


@pytest.mark.parametrize("impl", [*BOTH, "reference"])
def test_labels_with_strides_give_no_warning(impl, device):
    z, target, bank, bank_target = problem(9, 40, 24, device=device)
    strided, bank_strided = (torch.stack((labels, labels), 1)[:, 0] for labels in (target, bank_target))
    options = dict(alpha=0.5, positive_weight="balanced", impl=impl)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pairwise_likelihood_loss(z, strided, bank, bank_strided, **options)
    assert torch.equal(found, pairwise_likelihood_loss(z, target, bank, bank_target, **options))


@pytest.mark.parametrize("impl", [*BOTH, "reference"])
@pytest.mark.parametrize(("rows", "columns"), [(0, None), (0, 7), (5, 0), (0, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows_give_a_zero_that_reaches_both_sides(rows, columns, reduction, impl, device):
    sides = [torch.randn(count, 16, device=device).requires_grad_() for count in (rows, columns) if count is not None]
    given = [part for side in sides for part in (side, torch.zeros(len(side), dtype=torch.int64, device=device))]
    loss = pairwise_likelihood_loss(*given, alpha=0.5, positive_weight="balanced", reduction=reduction, impl=impl)
    assert loss.shape == ((rows,) if reduction == "none" else ())
    assert (loss == 0).all()
    loss.sum().backward()
    assert all((side.grad == 0).all() for side in sides)


@pytest.mark.parametrize("impl", BOTH)
def test_a_row_without_labels_is_dissimilar_to_all(impl, device):
    z = torch.randn(4, 24, device=device)
    target = torch.eye(4, 5, device=device)
    target[1] = 0
    rows = pairwise_likelihood_loss(z, target, alpha=0.2, reduction="none", impl=impl)
    torch.testing.assert_close(rows[1], F.softplus(0.2 * (z @ z[1])).sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("impl", BOTH)
def test_nan_stays_in_its_row(impl, device):
    z, target, bank, bank_target = problem(5, 40, 24, device=device)
    z[1, 3] = float("nan")
    z[3, 2] = float("inf")
    found = evaluate(
        pairwise_likelihood_loss,
        z,
        target,
        bank,
        bank_target,
        torch.ones(5, device=device),
        alpha=0.5,
        reduction="none",
        impl=impl,
    )
    harmed = torch.tensor([False, True, False, True, False], device=device)
    exact = truth(z[~harmed], target[~harmed], bank, bank_target, torch.ones(3, device=device), alpha=0.5, reduction="none")
    assert found[0][harmed].isnan().all()  # for infinity too, where the limit of the loss can be 0
    check([x[~harmed] for x in found[:2]], exact[:2])


@pytest.mark.parametrize("impl", BOTH)
def test_strided_inputs_and_gradients(impl, device):
    z, target, bank, bank_target = problem(9, 40, 24, True, device)
    expected = truth(z, target, bank, bank_target, torch.full((9,), 0.5, device=device), alpha=0.3, reduction="none")
    apart = torch.stack((z, z), 2).requires_grad_()
    z_view, bank_view = apart[:, :, 1], bank.T.contiguous().T
    target_view = target.T.contiguous().T
    assert not any(x.is_contiguous() for x in (z_view, bank_view, target_view))
    loss = pairwise_likelihood_loss(z_view, target_view, bank_view, bank_target, alpha=0.3, reduction="none", impl=impl)
    loss.backward(torch.tensor(0.5, device=device).expand(9))  # a gradient of stride 0
    check([loss, apart.grad[:, :, 1]], expected[:2])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
def test_multi_hot_of_any_dtype(dtype):
    z, target, bank, bank_target = problem(9, 40, 16, True)
    expected = reference(z, target, bank, bank_target, alpha=0.3, similarity="jaccard")
    found = pairwise_likelihood_loss(z, target.to(dtype), bank, bank_target.to(dtype), alpha=0.3, similarity="jaccard")
    torch.testing.assert_close(found, expected, rtol=TWO_SUMS, atol=0)


def test_class_ids_are_any_integers():
    z, target, bank, bank_target = problem(9, 40, 16)
    names = torch.tensor([-7, 2**40, 2**40 + 2**32, 3])  # the second and third agree in their low halves
    expected = reference(z, target, bank, bank_target, alpha=0.3)
    renamed = (torch.where(t == -100, -100, names[t.clamp(min=0)]) for t in (target, bank_target))
    target, bank_target = renamed
    torch.testing.assert_close(pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.3), expected, rtol=TWO_SUMS, atol=0)


def test_labels_that_were_written_to_are_packed_again():
    z, target, bank, bank_target = problem(5, 6, 16, True)
    pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.3)
    bank_target[:, :] = target[0]
    found = pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.3)
    torch.testing.assert_close(found, reference(z, target, bank, bank_target, alpha=0.3), rtol=TWO_SUMS, atol=0)


def test_second_backward_on_a_retained_graph():
    z, target, bank, bank_target = problem(5, 6, 16)
    leaves = z.requires_grad_(), bank.requires_grad_()
    loss = pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.3)
    first = torch.autograd.grad(3 * loss, leaves, retain_graph=True)
    second = torch.autograd.grad(3 * loss, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("impl", BOTH)
def test_bitwise_repeatable(impl, device):
    arguments = problem(9, 40, 24, device=device)
    runs = [evaluate(pairwise_likelihood_loss, *arguments, torch.ones((), device=device), alpha=0.3, impl=impl) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


# 70 rows by 33: threads share the rows. 4 by 3,000: they share the columns. 3 by 5: a single thread computes.
@pytest.mark.parametrize("shape", [(70, 3300, 48), (4, 3000, 48), (3, 5, 48)])
@pytest.mark.parametrize("threads", [1, 3])
def test_threads(threads, shape, monkeypatch):
    monkeypatch.setattr("orthohash_triton.kernels.cpu.pairwise_likelihood_loss.thread_count", lambda: threads)
    arguments = problem(*shape)
    upstream = torch.randn(shape[0])
    found = evaluate(pairwise_likelihood_loss, *arguments, upstream, alpha=0.1, reduction="none", impl="cpu")
    check(found, truth(*arguments, upstream, alpha=0.1, reduction="none"))


def test_double_backward_is_refused():
    z, target, _, _ = problem(5, 1, 8)
    loss = pairwise_likelihood_loss(z.requires_grad_(), target, alpha=0.3)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, z, create_graph=True)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_opcheck(multi_hot, own, reduction):
    z, target, bank, bank_target = problem(5, 7, 8, multi_hot)
    pair = (None, None) if own else (bank.requires_grad_(), bank_target)
    options = (0.3, None, True, "jaccard", -100, "cpu", reduction, True)
    torch.library.opcheck(pairwise_likelihood.op, (z.requires_grad_(), pair[0], target, pair[1], *options))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiles_into_one_graph(reduction, own):
    z, target, bank, bank_target = problem(9, 40, 8, multi_hot=True)

    def step(z, bank):
        pair = (None, None) if own else (bank, bank_target)
        return pairwise_likelihood_loss(2 * z, target, *pair, alpha=0.3, positive_weight="balanced", reduction=reduction).sum()

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = z.clone().requires_grad_(), bank.clone().requires_grad_()
        function(*leaves).backward()
        results.append([x.grad for x in leaves[: 1 if own else 2]])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_autocast_leaves_the_loss_in_float32(impl):
    features, layer = torch.randn(9, 12), torch.nn.Linear(12, 16)
    target = torch.arange(9) % 3
    with torch.autocast("cpu", torch.bfloat16):
        codes = layer(features)
        loss = pairwise_likelihood_loss(codes, target, alpha=0.3, impl=impl)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference(codes.detach().float(), target, alpha=0.3), rtol=TWO_SUMS, atol=0)
    loss.backward()
    assert layer.weight.grad.isfinite().all()


def test_module_has_the_keywords_of_the_function():
    z, target, bank, bank_target = problem(9, 40, 8)
    keywords = dict(alpha=0.3, positive_weight=5.0, reduction="sum")
    criterion = PairwiseLikelihoodLoss(**keywords)
    assert torch.equal(criterion(z, target), pairwise_likelihood_loss(z, target, **keywords))
    found = criterion(z, target, bank, bank_target)
    assert torch.equal(found, pairwise_likelihood_loss(z, target, bank, bank_target, **keywords))
    assert repr(criterion) == "PairwiseLikelihoodLoss(alpha=0.3, positive_weight=5.0, reduction='sum')"
    with pytest.raises(TypeError, match=r"PairwiseLikelihoodLoss.* missing 1 required keyword-only argument: 'alpha'"):
        PairwiseLikelihoodLoss(reduction="sum")


def bad(**changes):
    z, target, bank, bank_target = problem(5, 7, 16)
    return dict(z=z, target=target, bank=bank, bank_target=bank_target, alpha=0.3) | changes


IDS = torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (bad(z=[1.0]), TypeError, r"z must be a tensor \[N, K\].*got list"),
        (bad(z=torch.zeros(5, 16, dtype=torch.int64)), TypeError, r"z must be.*int64 \[5, 16\].*\.to\(torch\.float32\)"),
        (bad(z=torch.zeros(5, 0), bank=torch.zeros(7, 0)), ValueError, r"z must have at least one dimension.*\[5, 0\]"),
        (bad(bank=torch.zeros(7, 8)), ValueError, r"bank must have the 16 dimensions of z; got float32 \[7, 8\]"),
        (bad(bank=None), ValueError, r"bank and bank_target must be given together; got bank_target without bank"),
        (bad(bank_target=None), ValueError, r"bank and bank_target must be given together; got bank without bank_target"),
        (bad(target=None), TypeError, r"target must be int64 class ids \[5\].*NoneType"),
        (bad(target=torch.zeros(5)), TypeError, r"target must be int64.*float32 \[5\].*\.long\(\)"),
        (bad(target=IDS[:4]), ValueError, r"target must be int64 class ids \[5\].*\[4\]"),
        (bad(bank_target=IDS), ValueError, r"bank_target must be int64 class ids \[7\].*one row for each of bank.*\[5\]"),
        (bad(target=torch.zeros(5, 0)), ValueError, r"target must be int64.*multi-hot \[5, C\].*\[5, 0\]"),
        (bad(target=torch.zeros(5, 3)), ValueError, r"bank_target must be of the kind of target.*int64 \[7\].*float32 \[5, 3\]"),
        (
            bad(target=torch.zeros(5, 3), bank_target=torch.zeros(7, 4)),
            ValueError,
            r"bank_target must be of the kind of target.*over the same classes.*\[7, 4\].*\[5, 3\]",
        ),
        (
            bad(target=torch.full((5, 3), 0.5), bank_target=torch.zeros(7, 3)),
            ValueError,
            r"target must hold 0 and 1.*0\.5.*\[0, 0\]",
        ),
        (bad(target=-torch.ones(5, 3), bank_target=torch.zeros(7, 3)), ValueError, r"target must hold 0 and 1 only; got -1\.0"),
        (bad(target=torch.zeros(5, 3, dtype=torch.complex64)), TypeError, r"target must be int64.*complex64"),
        (bad(target=torch.zeros(5, 3, requires_grad=True)), ValueError, r"target gets no gradient.*target\.detach\(\)"),
        (bad(bank=torch.zeros(7, 16, device="meta")), ValueError, r"bank is on meta, z on cpu"),
        (bad(bank_target=torch.zeros(7, dtype=torch.int64, device="meta")), ValueError, r"bank_target is on meta, bank on cpu"),
        (bad(alpha=0.0), ValueError, r"alpha must be positive and finite; got 0\.0"),
        (bad(alpha=-1.0), ValueError, r"alpha must be positive and finite; got -1\.0"),
        (bad(alpha=math.inf), ValueError, r"alpha must be positive and finite; got inf"),
        (bad(alpha=math.nan), ValueError, r"alpha must be positive and finite; got nan"),
        (bad(alpha="10"), TypeError, r"alpha must be a positive number; got str '10'"),
        (bad(positive_weight=-2.0), ValueError, r"positive_weight must be None, \"balanced\" or positive and finite; got -2\.0"),
        (bad(positive_weight=math.inf), ValueError, r"positive_weight must be.*got inf"),
        (
            bad(positive_weight="weighted"),
            TypeError,
            r"positive_weight must be None, \"balanced\" or a positive number.*'weighted'",
        ),
        (bad(similarity="dice"), ValueError, r"similarity must be one of 'any', 'jaccard', 'squared_cosine'; got 'dice'"),
        (bad(reduction="avg"), ValueError, r"reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        (bad(ignore_index=0.5), TypeError, r"ignore_index must be an integer; got float 0\.5"),
        (bad(impl="cuda"), ValueError, r"impl must be one of auto, triton, cpu, reference; got 'cuda'"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match="pairwise_likelihood_loss: " + message):
        pairwise_likelihood_loss(**arguments)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["z", "bank"])
def test_float64_is_refused_by_the_kernels(name, device):
    arguments = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in bad().items()}
    arguments[name] = arguments[name].double()
    with pytest.raises(TypeError, match=rf"{name} is float64.*\.float\(\)"):
        pairwise_likelihood_loss(**arguments, impl="triton")


@pytest.mark.parametrize(("positive_weight", "counts"), [(None, []), (3.0, ["_count_kernel", "_weigh_kernel"])])
@pytest.mark.parametrize("multi_hot", [False, True])
def test_a_step_on_a_gpu_is_few_launches_and_waits_for_nothing(multi_hot, positive_weight, counts):
    pytest.importorskip("triton")
    z, target, bank, bank_target = problem(9, 40, 32, multi_hot)
    z.requires_grad_()

    def step():
        pairwise_likelihood_loss(
            z, target, bank, bank_target, alpha=0.3, positive_weight=positive_weight, impl="triton"
        ).backward()
        z.grad = None

    operators, launches = operators_and_launches(step)
    assert operators == {"ones_like": 1, "mul": 2}
    packed = ["_pack_kernel"] * 2 if multi_hot else []
    assert launches == [*packed, "_prepare_kernel", *counts, "_sweep_kernel", "_finish_kernel"]


@pytest.mark.parametrize("impl", BOTH)
def test_codes_that_are_their_own_bank_under_other_labels(impl, device):
    """The bank is the same tensor as z, but its labels ignore other rows."""
    z, target, *_ = problem(9, 40, 24, False, device)
    other = target.flip(0).clone()
    target[1], other[2:6] = -100, -100
    keywords = dict(alpha=0.3, positive_weight="balanced")
    found = pairwise_likelihood_loss(z, target, z, other, impl=impl, **keywords)
    exact = reference(z.double(), target, z.double(), other, **keywords)
    torch.testing.assert_close(found.double(), exact, rtol=TWO_SUMS, atol=0)


@pytest.mark.parametrize("impl", BOTH)
def test_the_default_dtype_changes_nothing(impl, device):
    z, target, bank, bank_target = problem(9, 40, 24, False, device)
    keywords = dict(alpha=0.3, positive_weight="balanced", impl=impl)
    expected = pairwise_likelihood_loss(z, target, bank, bank_target, **keywords)
    torch.set_default_dtype(torch.float64)
    try:
        found = pairwise_likelihood_loss(z, target, bank, bank_target, **keywords)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_labels_are_read_at_every_call():
    """NumPy, or a compiled graph that reuses memory, may change labels without a version counter."""
    z, memory = torch.randn(4, 8), torch.zeros(4, 3)
    seen = memory.numpy()
    for ids in ([0, 0, 1, 1], [0, 1, 2, 0]):
        seen[:] = torch.eye(3)[ids].numpy()
        torch.testing.assert_close(
            pairwise_likelihood_loss(z, memory, alpha=0.5), reference(z, memory, alpha=0.5), rtol=1e-5, atol=0
        )
    seen[:] = 7
    with pytest.raises(ValueError, match="target must hold 0 and 1 only; got 7"):
        pairwise_likelihood_loss(z, memory, alpha=0.5)


def test_several_losses_in_one_compiled_graph():
    """The compiler reuses the memory of the first labels for the second ones."""

    def three(z, scores):
        total = z.sum() * 0
        for part in scores:
            total = total + pairwise_likelihood_loss(z, (part + total * 0 > 0.5).float(), alpha=0.5)
        return total

    z, scores = torch.randn(32, 16), torch.rand(3, 32, 8)
    torch.testing.assert_close(torch.compile(three, fullgraph=True)(z, scores), three(z, scores), rtol=1e-5, atol=0)


@pytest.mark.parametrize("impl", [*BOTH, "reference"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("alone", [True, False])
def test_what_stands_in_ignored_rows_does_not_matter(impl, value, reduction, alone, device):
    sides = [torch.randn(count, 24, device=device) for count in (21, 37)[: 1 if alone else 2]]
    ids = [torch.randint(0, 4, (len(side),), device=device) for side in sides]

    def run(other):
        found = []
        for side, of in zip(sides, ids, strict=True):
            of[3] = -100
            found.append(side.clone().index_fill_(0, torch.tensor([3], device=device), other).requires_grad_())
        given = [part for pair in zip(found, ids, strict=True) for part in pair]
        rows = pairwise_likelihood_loss(*given, alpha=0.5, positive_weight="balanced", reduction=reduction, impl=impl)
        rows.sum().backward()
        return [rows.detach(), *(side.grad for side in found)]

    for ours, expected in zip(run(value), run(0.0), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)

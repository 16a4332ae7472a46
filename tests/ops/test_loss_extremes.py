"""Tests of every loss with numbers at the ends of float32: rows of any finite length, rows that are not finite, huge options."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import orthohash_triton as oht
from orthohash_triton import reference
from orthohash_triton.ops import batch_norm
from tests.implementations import BOTH
from tests.ops.test_cosine_codebook_loss import problem, relative_error

# Beyond 1.8e19 the square of a number overflows in float32, and below 1e-23 it vanishes; 1e-42 is subnormal.
SIZES = [1e18, 1e20, 1e30, 3e37, 1e-20, 1e-25, 1e-34, 1e-42]


def value_and_gradient(loss, rows, *arguments, **keywords):
    leaf = rows.detach().clone().requires_grad_()
    found = loss(leaf, *arguments, reduction="none", **keywords)
    found.sum().backward()
    return found.detach(), leaf.grad


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("impl", [*BOTH, "reference"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("classes", "bits", "kind"), [(40, 16, "ids"), (40, 24, "dense"), (300, 130, "ids"), (300, 64, "sparse")]
)
def test_rows_of_any_finite_length(size, classes, bits, kind, impl, device):
    """The shapes take the fused sweep, a dense target, chunks of wide rows, and a sweep with its finish."""
    v, target, codebook = problem(5, classes, bits, dense=kind != "ids", device=device)
    target = target.to_sparse_csr() if kind == "sparse" else target
    rows = v * torch.tensor([1.0, size, size, 1.0, size], device=device)[:, None]
    exact = rows.double()  # with the rounding of subnormal numbers
    found = value_and_gradient(oht.cosine_codebook_loss, rows, target, codebook, impl=impl)
    expected = value_and_gradient(reference.cosine_codebook_loss, exact, target.to_dense(), codebook)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=4e-6, atol=0)
    if size > 1e-35:
        length = exact.norm(dim=1, keepdim=True)
        assert relative_error(found[1].double() * length, expected[1] * length) < 4e-6
    elif impl != "reference":
        assert found[1].isfinite().all()  # gradients of subnormal rows are beyond float32


@pytest.mark.parametrize("impl", [*BOTH, "reference"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("classes", "bits", "dense"), [(40, 16, False), (40, 24, True), (300, 130, False)])
def test_rows_that_are_not_finite_are_nan(value, classes, bits, dense, impl, device):
    v, target, codebook = problem(5, classes, bits, dense=dense, device=device)
    rows = v.clone()
    rows[1, 3] = value
    rows[3] = value
    loss, gradient = value_and_gradient(oht.cosine_codebook_loss, rows, target, codebook, impl=impl)
    expected = value_and_gradient(oht.cosine_codebook_loss, v, target, codebook, impl=impl)
    harmed = torch.tensor([False, True, False, True, False], device=device)
    assert torch.equal(loss.isnan(), harmed)
    assert gradient[harmed].isnan().any(1).all()
    torch.testing.assert_close(loss[~harmed], expected[0][~harmed], rtol=0, atol=0)
    torch.testing.assert_close(gradient[~harmed], expected[1][~harmed], rtol=0, atol=0)


@pytest.mark.parametrize("impl", [*BOTH, "reference"])
@pytest.mark.parametrize("size", [1e20, 1e30, 3e37])
def test_batch_normalisation_of_large_latents(size, impl, device):
    latent, target, codebook = problem(37, 101, 24, device=device)
    latent[:, 3:] *= size
    weight = torch.rand(24, device=device) + 0.5
    found = value_and_gradient(oht.orthohash_loss, latent, target, codebook, None, None, weight, impl=impl)
    expected = value_and_gradient(reference.orthohash_loss, latent.double(), target, codebook, None, None, weight.double())
    torch.testing.assert_close(found[0].double(), expected[0], rtol=4e-6, atol=0)
    scale = latent.double().std(0)
    assert relative_error(found[1].double() * scale, expected[1] * scale) < 4e-6


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize(("size", "dtype", "name"), [(1e25, torch.float32, "running_var"), (1e5, torch.float16, "running_mean")])
def test_running_statistics_never_overflow_in_silence(size, dtype, name, impl):
    latent, target, codebook = problem(37, 101, 24)
    latent[:, 5] = (latent[:, 5] + 3) * size
    mean, var = torch.zeros(24, dtype=dtype), torch.ones(24, dtype=dtype)
    with pytest.raises(ValueError, match=rf"batch norm: the values of channel 5 are so large that {name} in .*diverged"):
        oht.orthohash_loss(latent, target, codebook, mean, var, impl=impl)
    assert torch.equal(mean, torch.zeros_like(mean))
    assert torch.equal(var, torch.ones_like(var))


@pytest.mark.parametrize("impl", [*BOTH, "reference"])
def test_where_values_are_not_read_a_variance_that_overflows_is_nan_and_so_is_the_evaluation(impl, device, monkeypatch):
    monkeypatch.setattr("orthohash_triton._base.checks.may_read_values", lambda tensor: False)
    latent, target, codebook = problem(37, 101, 24, device=device)
    latent[:, 5] *= 1e25
    mean, var = torch.zeros(24, device=device), torch.ones(24, device=device)
    assert oht.orthohash_loss(latent, target, codebook, mean, var, impl=impl).isfinite()
    assert torch.equal(var.isnan(), torch.arange(24, device=device) == 5)
    assert mean.isfinite().all()
    assert oht.orthohash_loss(latent, target, codebook, mean, var, training=False, impl=impl).isnan()
    # A variance that another library left infinite would make every row the same.
    assert oht.orthohash_loss(latent, target, codebook, mean, var.nan_to_num(torch.inf), training=False, impl=impl).isnan()


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("rows", [2, 300])  # more rows than a step takes
def test_statistics_of_columns_at_the_ends_of_float32(rows, impl, device):
    """Sums of the largest numbers overflow, too, and so does the difference of the largest and the smallest."""
    run = batch_norm.dispatch.implementation("batch_norm", impl)
    factors = torch.tensor([1.0, 1e19, 1e25, 1e30, 8e37, 1e-20, 0.0], device=device)
    latent = (torch.rand(rows, 7, device=device) + 1) * factors
    exact = latent.double()
    mean, var, rstd = run.statistics(latent, 0, 1e-5)
    assert var.dtype == torch.float64
    torch.testing.assert_close(mean.double(), exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(var, exact.var(0, correction=0), rtol=1e-4, atol=0)  # the mean is rounded to float32
    torch.testing.assert_close(rstd.double(), (exact.var(0, correction=0) + 1e-5).rsqrt(), rtol=1e-4, atol=0)
    _, unbiased, _ = run.statistics(latent, 1, 1e-5)
    assert unbiased.dtype == torch.float32
    torch.testing.assert_close(unbiased.isnan(), factors > 1e20)


@pytest.mark.parametrize("impl", [*BOTH, "reference"])
@pytest.mark.parametrize("size", [1e20, 1e30])
@pytest.mark.parametrize("own", [True, False])
def test_pairs_of_large_codes(size, own, impl, device):
    """Products beyond float32 that cancel each other count as what is left of them."""
    z = torch.tensor([[1.0, -1.0], [2.0, 1.0], [-1.0, 3.0]], device=device) * size
    bank = None if own else torch.tensor([[1.0, 1.0], [-1.0, 1.0]], device=device) * size
    target, bank_target = torch.tensor([0, 0, 1], device=device), None if own else torch.tensor([0, 1], device=device)

    def run(z, bank, **keywords):
        leaves = [x.detach().clone().requires_grad_() for x in (z, bank) if x is not None]
        rest = (bank_target,) if bank is not None else ()
        given = (leaves[0], target, *leaves[1:], *rest)
        rows = oht.pairwise_likelihood_loss(*given, alpha=0.5, reduction="none", **keywords)
        return rows.detach(), torch.autograd.grad(rows.sum(), leaves)

    loss, gradients = run(z, bank, impl=impl)
    exact, expected = run(z.double(), None if bank is None else bank.double(), impl="reference")
    torch.testing.assert_close(loss, exact.float(), rtol=1e-6, atol=0)  # infinite where the loss is beyond float32
    for ours, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours.double() / size, truth / size, rtol=1e-6, atol=0)


LATENTS = {
    "central": lambda u: oht.central_similarity_loss(u, TARGET, CODEBOOK, reduction="none"),
    "minimum": lambda u: oht.minimum_distance_loss(u, TARGET, CODEBOOK, quantization_weight=0.0)[None].expand(len(u)),
    "pairs": lambda u: oht.minimum_distance_loss(
        U, TARGET, CODEBOOK, u, TARGET, quantization_weight=0.0
    )[None].expand(len(u)),
    "cosine": lambda u: oht.quantization_loss(u, "cosine", reduction="none"),
    "l1": lambda u: oht.quantization_loss(u, "l1", reduction="none"),
    "log_cosh": lambda u: oht.quantization_loss(u, "log_cosh", reduction="none"),
}  # fmt: skip
CODEBOOK = oht.make_codebook(5, 16, seed=0)
TARGET = torch.tensor([0, 1, 2, 3])
U = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", LATENTS)
def test_no_loss_of_a_row_that_is_not_finite_is_finite(name, value):
    """The limit of a loss at infinity may be 0: that of an infinite latent on its centre, for instance."""
    u = CODEBOOK[TARGET].float() if math.isinf(value) else U.clone()
    u[2] = u[2] * abs(value)
    u.requires_grad_()
    rows = LATENTS[name](u)
    assert not rows[2].isfinite()
    if name not in ("l1", "log_cosh"):
        assert rows[2].isnan()
        (gradient,) = torch.autograd.grad(rows[2], u)
        assert gradient[2].isnan().all()


@pytest.mark.parametrize("size", [1e20, 1e30, 1e-20, 1e-30])
@pytest.mark.parametrize("name", ["minimum", "pairs", "cosine"])
def test_directions_of_any_finite_length(name, size):
    found, gradient = (x.detach() for x in _sum_and_gradient(name, U * size))
    expected, unscaled = _sum_and_gradient(name, U)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient * size, unscaled, rtol=1e-4, atol=1e-7)


def _sum_and_gradient(name, u):
    leaf = u.clone().requires_grad_()
    loss = LATENTS[name](leaf).sum()
    return loss, torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e25), (torch.float32, 1e-30), (torch.float64, 1e200)])
def test_reflections_along_vectors_of_any_finite_length(dtype, size, impl):
    vectors = torch.randn(5, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    expected = oht.householder_product(vectors.double())
    found = oht.householder_product(vectors * size, impl=impl)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_rotations_of_codes_of_any_finite_size():
    x = torch.randn(100, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for size in (2.0**600, 2.0**-600):
        torch.testing.assert_close(oht.fit_itq(x * size).matrix, oht.fit_itq(x).matrix, rtol=0, atol=0)
        found, expected = (oht.fit_householder(rows, epochs=2).matrix for rows in (x * size, x))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


TOO_LARGE, TOO_SMALL = 1e31, 1e-31
HUGE = {
    "cosine_codebook_loss": lambda x: oht.cosine_codebook_loss(U, TARGET, CODEBOOK, scale=x),
    "orthohash_loss": lambda x: oht.orthohash_loss(U, TARGET, CODEBOOK, scale=x),
    "orthohash_loss, eps": lambda x: oht.orthohash_loss(U, TARGET, CODEBOOK, eps=x),
    "minimum_distance_loss": lambda x: oht.minimum_distance_loss(U, TARGET, CODEBOOK, scale=x),
    "pairwise_likelihood_loss": lambda x: oht.pairwise_likelihood_loss(U, TARGET, alpha=x),
    "pairwise_likelihood_loss, weight": lambda x: oht.pairwise_likelihood_loss(U, TARGET, alpha=1.0, positive_weight=x),
    "semantic_hierarchy_loss": lambda x: oht.semantic_hierarchy_loss(U, TARGET, 1 - torch.eye(5), scale=x, kl_weight=0.0),
    "central_similarity_loss": lambda x: oht.central_similarity_loss(U, TARGET, CODEBOOK, centre_weight=x),
    "CosineCodebookLoss": lambda x: oht.nn.CosineCodebookLoss(CODEBOOK, scale=x),
    "PairwiseLikelihoodLoss": lambda x: oht.nn.PairwiseLikelihoodLoss(alpha=x),
}


@pytest.mark.parametrize("value", [TOO_LARGE, TOO_SMALL])
@pytest.mark.parametrize("name", HUGE)
def test_factors_with_which_logits_overflow_or_vanish_are_refused(name, value):
    outcome = "overflow" if value > 1 else "vanish"
    with pytest.raises(
        ValueError, match=rf"{name.split(',')[0]}: .* between 1e-30 and 1e\+(30|06), because .* {outcome} in float32; got"
    ):
        HUGE[name](value)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("scale", [1e6, 1e-30])
def test_the_largest_and_the_smallest_scale_are_computed(scale, impl):
    for target in (TARGET, torch.nn.functional.one_hot(TARGET, 5).float()):
        found = oht.cosine_codebook_loss(U, target, CODEBOOK, scale=scale, impl=impl)
        expected = reference.cosine_codebook_loss(U.double(), target, CODEBOOK, scale=scale)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6 * scale)  # a cosine is rounded by about 1e-7


@pytest.mark.parametrize("make", [np.float32, np.float64, np.float16, np.array, torch.tensor], ids=lambda make: make.__name__)
def test_scalars_are_numbers_in_every_loss(make):
    half, one = make(0.5), make(1.0)
    for name, call in HUGE.items():
        result, expected = call(half), call(0.5)
        if isinstance(result, torch.Tensor):
            torch.testing.assert_close(result, expected, rtol=0, atol=0, msg=name)
        else:
            assert repr(result) == repr(expected)
            assert all(type(value) in (float, int, str, bool, type(None)) for value in result.keywords.values())
    oht.cosine_codebook_loss(U, TARGET, CODEBOOK, margin=half, label_smoothing=half, ignore_index=np.int64(-1))
    oht.minimum_distance_loss(U, TARGET, CODEBOOK, pair_weight=half, quantization_weight=one)
    oht.semantic_hierarchy_loss(
        U, TARGET, 1 - torch.eye(5), kl_weight=half, relational_weight=one, pair_decay=one, distance_floor=half, draws=np.int64(3)
    )
    oht.orthohash_loss(U, TARGET, CODEBOOK, torch.zeros(16), torch.ones(16), momentum=half)
    assert torch.equal(oht.pack_codes(U, threshold=half), oht.pack_codes(U, threshold=0.5))


@pytest.mark.parametrize(
    "value", ["0.5", True, np.bool_(True), torch.tensor(True), torch.tensor([0.5]), np.array([0.5]), 1j, None]
)
def test_other_things_are_no_numbers(value):
    for call in HUGE.values():
        if value is not None:
            with pytest.raises(TypeError, match=r"must be .*number; got"):
                call(value)
    with pytest.raises(TypeError, match="margin must be a number; got"):
        oht.cosine_codebook_loss(U, TARGET, CODEBOOK, margin=value)


def test_a_number_that_wants_a_gradient_is_refused():
    with pytest.raises(ValueError, match=r"alpha gets no gradient, but it requires one\. Pass alpha\.item\(\)"):
        oht.pairwise_likelihood_loss(U, TARGET, alpha=torch.tensor(0.5, requires_grad=True))


SIGNS = torch.tensor([[0, 1], [1, 0]], dtype=torch.int8)  # bits instead of signs
DISTANCE = 1 - torch.eye(3)
MODULES = [
    (lambda: oht.nn.OrthoHashLoss(SIGNS), ValueError, r"OrthoHashLoss: codebook must hold \+1 and -1 only; got values \[0, 1\]"),
    (lambda: oht.nn.CosineCodebookLoss(SIGNS), ValueError, r"CosineCodebookLoss: codebook must hold"),
    (lambda: oht.nn.CentralSimilarityLoss(SIGNS), ValueError, r"CentralSimilarityLoss: codebook must hold"),
    (lambda: oht.nn.MinimumDistanceLoss(SIGNS), ValueError, r"MinimumDistanceLoss: codebook must hold"),
    (lambda: oht.nn.MinimumDistanceLoss(CODEBOOK[:1]), ValueError, r"MinimumDistanceLoss: codebook must have at least two rows"),
    (lambda: oht.nn.OrthoHashLoss(CODEBOOK.float()), TypeError, r"OrthoHashLoss: codebook must be a tensor \[C, K\].*int8"),
    (lambda: oht.nn.OrthoHashLoss(CODEBOOK[0]), ValueError, r"OrthoHashLoss: codebook must be a tensor \[C, K\]"),
    (lambda: oht.nn.OrthoHashLoss(CODEBOOK[:0]), ValueError, r"OrthoHashLoss: codebook must have at least one class"),
    (lambda: oht.nn.OrthoHashLoss(CODEBOOK, margin=3), ValueError, r"OrthoHashLoss: margin must be between 0 and 2; got 3"),
    (lambda: oht.nn.OrthoHashLoss(CODEBOOK, impl="cuda"), ValueError, r"OrthoHashLoss: impl must be one of auto"),
    (lambda: oht.nn.OrthoHashLoss(CODEBOOK, reduction="avg"), ValueError, r"OrthoHashLoss: reduction must be one of"),
    (
        lambda: oht.nn.CosineCodebookLoss(CODEBOOK, ignore_index=0.5),
        TypeError,
        r"CosineCodebookLoss: ignore_index must be",
    ),
    (lambda: oht.nn.CentralSimilarityLoss(CODEBOOK, seed=-1), ValueError, r"CentralSimilarityLoss: seed must be at least 0"),
    (
        lambda: oht.nn.MinimumDistanceLoss(CODEBOOK, quantization="l3"),
        ValueError,
        r"MinimumDistanceLoss: quantization must",
    ),
    (lambda: oht.nn.QuantizationLoss("l3"), ValueError, r"QuantizationLoss: kind must be one of"),
    (lambda: oht.nn.PairwiseLikelihoodLoss(alpha=0), ValueError, r"PairwiseLikelihoodLoss: alpha must be positive and finite"),
    (lambda: oht.nn.PairwiseLikelihoodLoss(alpha=1, similarity="dice"), ValueError, r"PairwiseLikelihoodLoss: similarity must"),
    (
        lambda: oht.nn.SemanticHierarchyLoss(1 - DISTANCE),
        ValueError,
        r"SemanticHierarchyLoss: class_distance must have a zero",
    ),
    (lambda: oht.nn.SemanticHierarchyLoss(DISTANCE[:2]), ValueError, r"SemanticHierarchyLoss: class_distance must be \[C, C\]"),
    (lambda: oht.nn.SemanticHierarchyLoss(DISTANCE, draws=0), ValueError, r"SemanticHierarchyLoss: draws must be at least 1"),
    (
        lambda: oht.nn.SemanticHierarchyLoss(DISTANCE, binary_target=torch.ones(0, 8)),
        ValueError,
        r"SemanticHierarchyLoss: binary_target must be \[M, K\] with M > 0",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), MODULES, ids=[message for _, _, message in MODULES])
def test_modules_are_checked_when_they_are_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_module_can_be_made_without_values():
    """On the meta device, and under fake tensors, there is nothing to check but shapes."""
    with torch.device("meta"):
        assert oht.nn.OrthoHashLoss(torch.empty(3, 16, dtype=torch.int8)).codebook.is_meta
    with FakeTensorMode():
        oht.nn.OrthoHashLoss(torch.zeros(3, 16, dtype=torch.int8))
        oht.nn.SemanticHierarchyLoss(torch.ones(3, 3))

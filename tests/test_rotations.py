"""Tests of the ITQ and H2Q rotations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from orthohash_triton import rotations
from orthohash_triton.metrics import mean_average_precision
from orthohash_triton.nn import HashHead
from orthohash_triton.ops.pack_codes import pack_codes
from orthohash_triton.projections import fit_pca
from orthohash_triton.reference import householder as reference
from orthohash_triton.rotations import Rotation, fit_householder, fit_itq
from tests.ops.bounds import reflection_bounds
from tests.tolerances import sum_error, tolerance, unit_roundoff

pytestmark = pytest.mark.usefixtures("one_thread")

# Matrices are computed in float64 and rounded to float32 once: two of them differ by one unit in the last place at most, and the
# inner product of two columns of length 1 is off by the two roundings.
ONE_ROUNDING = dict(rtol=0, atol=2 * unit_roundoff())
ORTHOGONAL = 2.01 * unit_roundoff()


def clustered(rows=2000, bits=32, clusters=10, noise=0.3):
    """Return noisy, randomly rotated +-1 codes of clusters, with rows of length sqrt(bits), which neither fit has to rescale."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (clusters, bits), generator=generator).double() * 2 - 1
    x = codes[torch.randint(0, clusters, (rows,), generator=generator)]
    x = x + noise * torch.randn(rows, bits, generator=generator, dtype=torch.float64)
    x = x @ torch.linalg.qr(torch.randn(bits, bits, generator=generator, dtype=torch.float64)).Q
    return (math.sqrt(bits) * F.normalize(x)).float()


def quantisation_error(z):
    """Compute the quantisation error by its definition, entry by entry, in float64."""
    z = z.double()
    signs = torch.ones_like(z)
    signs[z <= 0] = -1
    return float((z - signs).square().mean())


def orthogonality(rotation):
    wide = rotation.matrix.double()
    return float((wide.T @ wide - torch.eye(len(wide))).abs().max())


def test_itq_finds_clusters_and_never_gets_worse():
    """The error falls from 0.44 to 0.11; with one factor of the decomposition transposed it would stay between 0.37 and 0.45."""
    x = clustered()
    rotation = fit_itq(x)
    assert len(rotation.errors) == 51
    assert 0.42 < rotation.errors[0] < 0.46
    assert rotation.errors[-1] < 0.12
    assert all(after <= before + 1e-12 for before, after in zip(rotation.errors, rotation.errors[1:], strict=False))
    # Rounding the matrix moves an entry of a row of length sqrt(K) by u sqrt(K), and its squared distance by twice that.
    assert quantisation_error(rotation(x.double())) == pytest.approx(rotation.errors[-1], abs=2 * unit_roundoff() * math.sqrt(32))
    assert orthogonality(rotation) < ORTHOGONAL


def test_itq_step_is_the_best_rotation_for_its_signs():
    """By orthogonal Procrustes no rotation is nearer to the signs, neither a similar one nor a random one."""
    x = clustered(rows=200, bits=6).double()
    signs = torch.where(x @ fit_itq(x, iterations=0).matrix.double() > 0, 1.0, -1.0)
    best = fit_itq(x, iterations=1).matrix.double()
    distance = (x @ best - signs).square().sum()
    for size in (1e-3, 0.1, 10.0):
        for _ in range(20):
            skew = size * torch.randn(6, 6, dtype=torch.float64)
            other = best @ torch.linalg.matrix_exp(skew - skew.T)
            assert (x @ other - signs).square().sum() > distance


def test_itq_is_indifferent_to_scale_and_zero_rows():
    x = clustered(rows=300)
    expected = fit_itq(x, iterations=10)
    for other in (4096 * x, torch.cat((x, torch.zeros(50, 32)))):
        rotation = fit_itq(other, iterations=10)
        torch.testing.assert_close(rotation.matrix, expected.matrix, **ONE_ROUNDING)
    assert fit_itq(4096 * x, iterations=10).errors == pytest.approx(expected.errors, rel=1e-12)
    assert orthogonality(fit_itq(torch.zeros(5, 7))) < ORTHOGONAL


def test_itq_goes_through_rows_in_blocks(monkeypatch):
    x = clustered(rows=300)
    expected = fit_itq(x, iterations=5)
    monkeypatch.setattr(rotations, "_BLOCK_ROWS", 77)
    torch.testing.assert_close(fit_itq(x, iterations=5).matrix, expected.matrix, **ONE_ROUNDING)


def test_random_start_is_a_rotation_of_its_seed():
    matrices = [fit_itq(torch.ones(1, 9), iterations=0, seed=seed).matrix for seed in (0, 0, 1)]
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0], matrices[2])


def test_householder_ends_where_itq_does():
    x = clustered(clusters=100, noise=0.35)
    itq, h2q = fit_itq(x), fit_householder(x, epochs=120)
    assert h2q.errors[0] > 0.39
    assert quantisation_error(h2q(x)) < 1.02 * itq.errors[-1]
    assert h2q.errors[-1] < 1.02 * itq.errors[-1]
    assert len(h2q.errors) == 121
    assert orthogonality(h2q) < ORTHOGONAL


def loss_by_hand(name, z):
    """Compute the mean loss over the rows, one entry at a time."""
    total = 0.0
    for row in z.tolist():
        if name == "l2":
            total += sum((v - (1 if v > 0 else -1)) ** 2 for v in row) / len(row)
        elif name == "l1":
            total += sum(abs(v - (1 if v > 0 else -1)) for v in row) / len(row)
        elif name == "min_entry":
            total += math.log(sum(math.exp(-v * v) for v in row))
        else:
            total += sum(math.exp(-v) / (1 + math.exp(-v)) ** 2 for v in row) / len(row)
    return total / len(z)


@pytest.mark.parametrize("loss", ["l2", "l1", "min_entry", "bit_var"])
def test_losses(loss):
    z = 2 * torch.randn(9, 5, dtype=torch.float64)
    assert float(rotations._LOSSES[loss](z).mean()) == pytest.approx(loss_by_hand(loss, z), rel=1e-12)
    x = clustered(rows=400, bits=8)
    rotation = fit_householder(x, loss=loss, epochs=20, lr=0.1)
    assert loss_by_hand(loss, rotation(x)) < loss_by_hand(loss, x) - 0.001
    assert orthogonality(rotation) < ORTHOGONAL


def descent_bound(rows, g, lr, steps=1):
    """Return the bound of a matrix after `steps` of the descent in float32, for a batch of rows [N, K] and the gradient g of z.

    A step adds the error of the gradient and one rounding to each vector. A vector of length 1 with the error d moves its
    reflection by up to 4 d, and the errors of the K reflections are independent of each other.
    """
    identity = torch.eye(rows.shape[1])
    one_step = lr * reflection_bounds(rows, identity, g).vectors + unit_roundoff()
    return 4 * math.sqrt(rows.shape[1]) * steps * one_step + unit_roundoff()


@pytest.mark.parametrize(("loss", "lr"), [("l2", 0.1), ("l1", 0.1), ("min_entry", 0.1), ("bit_var", 0.01)])
def test_one_step_of_the_published_recipe(loss, lr):
    """The step (rows of length sqrt(K), reflections along the axes, SGD with the published rate) is computed in float64."""
    x = torch.randn(50, 6)
    rows = (math.sqrt(6) * x / x.norm(dim=1, keepdim=True)).double()
    vectors = torch.eye(6, dtype=torch.float64, requires_grad=True)
    z = reference.householder_apply(rows, vectors)
    signs = torch.where(z > 0, 1.0, -1.0)
    value = {
        "l2": (z - signs).square().mean(),
        "l1": (z - signs).abs().mean(),
        "min_entry": (-z.square()).exp().sum(1).log().mean(),
        "bit_var": (z.sigmoid() * (1 - z.sigmoid())).mean(),
    }[loss]
    (g,) = torch.autograd.grad(value, z, retain_graph=True)
    value.backward()
    expected = reference.householder_product((vectors - lr * vectors.grad).detach())
    rotation = fit_householder(x, loss=loss, epochs=1, batch_size=50, validation=0)
    bound = descent_bound(rows, g, lr)
    torch.testing.assert_close(rotation.matrix.double(), expected, rtol=0, atol=bound)
    assert (expected + torch.eye(6)).abs().max() > 20 * bound  # the step is far larger than its error


def test_batches_and_best_epoch():
    """With a learning rate that is too high the best epoch is not the last one, and the best one is returned."""
    x = clustered(rows=300, bits=8)
    rotation = fit_householder(x, epochs=12, lr=30.0, validation=0)
    assert min(rotation.errors) < rotation.errors[-1]
    # `errors` are float32 means over bits and rows of squares of entries, which are sums over the bits.
    least = min(rotation.errors)
    allowed = 2 * sum_error(8) * math.sqrt(8) + (sum_error(8) + sum_error(300)) * least
    assert quantisation_error(rotation(x.double())) == pytest.approx(least, abs=allowed)
    assert fit_householder(x, epochs=0).matrix.tolist() == (-torch.eye(8)).tolist()


def test_held_out_rows_choose_and_do_not_train(monkeypatch):
    seen = []
    descend = rotations._descend
    monkeypatch.setattr(rotations, "_descend", lambda vectors, rows, *rest: seen.append(rows) or descend(vectors, rows, *rest))
    x = clustered(rows=100, bits=8)
    fit_householder(x, epochs=2, validation=0.25)
    assert [len(rows) for rows in seen] == [75, 75]
    assert len(torch.cat((x, seen[0])).unique(dim=0)) == 100
    fit_householder(x[:3], epochs=1, validation=0.25)
    assert len(seen[-1]) == 3


def test_householder_leaves_zero_rows_out():
    x = clustered(rows=200, bits=8)
    padded = torch.cat((x, torch.zeros(40, 8)))
    expected, found = (fit_householder(rows, epochs=3) for rows in (x, padded))
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=0, atol=0)
    scaled = fit_householder(x * torch.logspace(-30, 30, 200)[:, None], epochs=3)
    rows = math.sqrt(8) * F.normalize(x.double())[:128]
    g = 2 * (rows.abs() - 1) / rows.numel()  # of the mean square at the start; 3 epochs have 6 batches
    torch.testing.assert_close(scaled.matrix, expected.matrix, rtol=0, atol=2 * descent_bound(rows, g, 0.1, steps=6))


def trained_on_digits(bits, seed):
    """Return continuous codes of the digits and their labels, from an MLP trained without a quantisation term."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, labels = (torch.from_numpy(array) for array in datasets.load_digits(return_X_y=True))
    x = x.float() / 16
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), HashHead(128, bits, batch_norm=False))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(10):
        for batch in (500 + torch.randperm(1297)).split(128):
            unit = F.normalize(model(x[batch]))
            cosine = unit @ unit.T
            same = labels[batch][:, None] == labels[batch][None]
            loss = torch.where(same, 1 - cosine, (cosine - 0.2).clamp(min=0)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model(x).detach(), labels


def retrieval(z, labels):
    codes = pack_codes(z)
    return mean_average_precision(codes[:500], codes[500:], labels[:500], labels[500:])


@pytest.mark.parametrize("seed", [0, 1])
def test_both_raise_map_of_codes_trained_without_a_quantisation_term(seed):
    z, labels = trained_on_digits(16, seed)
    plain = retrieval(z, labels)
    for rotation in (fit_itq(z[500:]), fit_householder(z[500:], epochs=40)):
        assert retrieval(rotation(z), labels) > plain + 0.04, rotation


def test_pca_followed_by_itq_is_better_than_pca():
    datasets = pytest.importorskip("sklearn.datasets")
    x, labels = (torch.from_numpy(array) for array in datasets.load_digits(return_X_y=True))
    head = fit_pca(x[500:], 32)
    rotated = head.rotated(fit_itq(head(x[500:].float())).matrix)
    assert retrieval(rotated(x.float()), labels) > retrieval(head(x.float()), labels) + 0.1


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("fit", [fit_itq, lambda z: fit_householder(z, epochs=2)], ids=["itq", "householder"])
def test_a_rotated_head_gives_the_codes_of_rotated_codes(fit, batch_norm):
    head = HashHead(12, 24, batch_norm=batch_norm)
    features = 10 * torch.randn(500, 12)
    head(features)  # running statistics
    head.eval()
    with torch.no_grad():
        z = head(features)
        rotation = fit(z)
        found, expected = head.rotated(rotation.matrix)(features), rotation(z)
    away = expected.abs() > 1e-5 * expected.abs().max()
    assert away.double().mean() > 0.999
    assert torch.equal((found > 0)[away], (expected > 0)[away])


@pytest.mark.parametrize("fit", [fit_itq, lambda x, **keywords: fit_householder(x, epochs=2, **keywords)], ids=["itq", "h2q"])
def test_seeds_dtypes_and_small_problems(fit):
    x = clustered(rows=40, bits=8)
    state = torch.get_rng_state()
    expected = fit(x, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert expected.matrix.dtype == torch.float32
    assert torch.equal(fit(x, seed=3).matrix, expected.matrix)
    assert not torch.equal(fit(x, seed=4).matrix, expected.matrix)
    for same in (x.numpy(), x.double(), x.clone().requires_grad_()):
        torch.testing.assert_close(fit(same, seed=3).matrix, expected.matrix, **ONE_ROUNDING)
    half = x.bfloat16()
    torch.testing.assert_close(fit(half, seed=3).matrix, fit(half.float(), seed=3).matrix, **ONE_ROUNDING)
    for shape in ((1, 8), (1, 1), (3, 5)):
        assert orthogonality(fit(torch.randn(shape))) < ORTHOGONAL


def test_rotation_rotates_rows():
    rotation = fit_itq(torch.randn(20, 5))
    x = torch.randn(7, 5)
    exact = x.double() @ rotation.matrix.double()
    torch.testing.assert_close(rotation(x).double(), exact, **tolerance(5, x.norm(dim=1), sides=1))
    torch.testing.assert_close(rotation(x.double()), exact, rtol=1e-12, atol=1e-12)
    assert rotation(x.half()).dtype == torch.float16
    torch.testing.assert_close(rotation(x.half()), rotation(x.half().float()).half(), rtol=0, atol=0)
    leaf = x.clone().requires_grad_()
    rotation(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, rotation.matrix.sum(1).expand(7, 5))
    with pytest.raises(ValueError, match=r"Rotation: x must be \[N, 5\]; got float32 \[7, 4\]"):
        rotation(torch.randn(7, 4))
    with pytest.raises(TypeError, match=r"Rotation: x must be a tensor \[N, 5\]"):
        rotation(np.zeros((7, 5)))
    assert isinstance(rotation, Rotation)
    assert "errors" not in repr(rotation)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_fits_where_gradients_are_off(context):
    x = clustered(rows=100, bits=8)
    expected = fit_householder(x, epochs=2).matrix, fit_itq(x, iterations=2).matrix
    with context():
        codes = x * 1
        found = fit_householder(codes, epochs=2), fit_itq(codes, iterations=2)
    for rotation, matrix in zip(found, expected, strict=True):
        assert torch.equal(rotation.matrix, matrix)
        assert not rotation.matrix.requires_grad
        leaf = x.clone().requires_grad_()
        rotation(leaf).sum().backward()  # an inference tensor could not be saved for the backward pass


@pytest.mark.parametrize("fit", [fit_itq, fit_householder])
@pytest.mark.parametrize(
    ("x", "keywords", "error", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), {}, TypeError, r"x must be a tensor \[N, K\].*got int64"),
        (torch.zeros(3), {}, ValueError, r"x must be a tensor \[N, K\]"),
        (torch.zeros(0, 4), {}, ValueError, r"x must have at least one row and one bit; got float32 \[0, 4\]"),
        (torch.tensor([[1.0, float("nan")]]), {}, ValueError, r"x must be finite"),
        (torch.tensor([[1.0, float("inf")]]), {}, ValueError, r"x must be finite"),
        (torch.ones(3, 4), dict(seed=-1), ValueError, r"seed must be at least 0; got -1"),
        (torch.ones(3, 4), dict(seed=0.5), TypeError, r"seed must be an integer"),
    ],
)
def test_bad_input(fit, x, keywords, error, message):
    with pytest.raises(error, match=f"{fit.__name__}: {message}"):
        fit(x, **keywords)


def test_bad_options():
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"fit_itq: iterations must be at least 0; got -1"):
        fit_itq(x, iterations=-1)
    for keywords, message in (
        (dict(loss="l3"), r"loss must be one of 'l2', 'l1', 'min_entry', 'bit_var'; got 'l3'"),
        (dict(epochs=-1), r"epochs must be at least 0"),
        (dict(batch_size=0), r"batch_size must be at least 1"),
        (dict(lr=0.0), r"lr must be positive and finite; got 0.0"),
        (dict(lr=math.inf), r"lr must be positive and finite; got inf"),
        (dict(validation=1.0), r"validation must be a share in \[0, 1\); got 1.0"),
    ):
        with pytest.raises(ValueError, match=f"fit_householder: {message}"):
            fit_householder(x, **keywords)
    with pytest.raises(ValueError, match=r"fit_householder: x must have a row that is not zero"):
        fit_householder(torch.zeros(3, 4))


def test_householder_whatever_the_default_dtype():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    expected = fit_householder(x, epochs=1)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(fit_householder(x, epochs=1).matrix, expected.matrix)
    finally:
        torch.set_default_dtype(torch.float32)

"""Tests of LSH and PCA hashing."""

import numpy as np
import pytest
import torch

from orthohash_triton import projections
from orthohash_triton.metrics import mean_average_precision
from orthohash_triton.projections import fit_lsh, fit_pca
from tests.tolerances import tolerance, unit_roundoff


def features(rows=300, dimensions=10):
    """Return correlated features that are far from centred, with a different variance in every direction."""
    scales = torch.linspace(3, 0.5, dimensions)
    mixing = torch.linalg.qr(torch.randn(dimensions, dimensions)).Q
    return (torch.randn(rows, dimensions) * scales) @ mixing + torch.arange(dimensions)


# Heads are fitted in float64 and rounded to float32 once, so that two of them, and products of two rows of length 1, differ by at
# most two roundings.
ROUNDED = dict(rtol=2.01 * unit_roundoff(), atol=2.01 * unit_roundoff())


def projection_bounds(head, x):
    """Return the bounds of a head's float32 codes: sums over the features, and the bias."""
    size = x.abs() @ head.linear.weight.detach().abs().T + head.linear.bias.detach().abs()
    return tolerance(x.shape[1] + 1, size, sides=1)


def test_lsh_codes_are_signs_of_projections_of_centred_rows():
    x = features()
    head = fit_lsh(x, 64, seed=5)
    assert head.batch_norm is None
    expected = (x.double() - x.double().mean(0)) @ head.linear.weight.double().T
    torch.testing.assert_close(head(x).double(), expected, **projection_bounds(head, x))
    assert torch.equal(fit_lsh(x, 64, seed=5).linear.weight, head.linear.weight)
    assert not torch.equal(fit_lsh(x, 64, seed=6).linear.weight, head.linear.weight)


def test_lsh_distances_are_angles():
    """A share angle / pi of the bits differs: for 4,096 bits within four standard deviations."""
    x = features(40)
    bits = fit_lsh(x, 4096)(x) > 0
    share = (bits[:, None] != bits[None]).double().mean(2)  # [N, N]
    centred = torch.nn.functional.normalize(x.double() - x.double().mean(0))
    angle = (centred @ centred.T).clamp(-1, 1).acos() / torch.pi
    assert (share - angle).abs().max() < 4 * 0.5 / 64


def test_lsh_draws_from_its_own_generator():
    state = torch.get_rng_state()
    head = fit_lsh(torch.randn(5, 3, generator=torch.Generator()), 4000)
    assert torch.equal(torch.get_rng_state(), state)
    assert head.linear.weight.std().item() == pytest.approx(1, abs=0.03)


def test_pca_by_the_singular_vectors():
    x = features()
    head = fit_pca(x, 6)
    centred = x.double() - x.double().mean(0)
    right = torch.linalg.svd(centred, full_matrices=False).Vh[:6]
    weight = head.linear.weight.double()
    torch.testing.assert_close((weight * right).sum(1).abs(), torch.ones(6, dtype=torch.float64), **ROUNDED)
    torch.testing.assert_close(head(x).double(), centred @ weight.T, **projection_bounds(head, x))
    assert (weight.gather(1, weight.abs().argmax(1, keepdim=True)) > 0).all()


def test_pca_of_fewer_rows_than_dimensions():
    """The products of the rows give the eigenvectors of the covariance, and repeated rows an orthonormal rest."""
    x = features(40, 60)
    head = fit_pca(x, 24)
    centred = x.double() - x.double().mean(0)
    vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors
    expected = vectors.flip(1)[:, :24].T
    agreement = (head.linear.weight.double() * expected).sum(1).abs()
    torch.testing.assert_close(agreement, torch.ones(24, dtype=torch.float64), **ROUNDED)
    repeated = fit_pca(x[:5].repeat(8, 1), 24).linear.weight.double()
    torch.testing.assert_close(repeated @ repeated.T, torch.eye(24, dtype=torch.float64), **ROUNDED)


def test_pca_by_hand():
    """Points on the line (1, -2) about (4, 1): the direction is (-1, 2) / sqrt(5), its larger entry positive."""
    steps = torch.tensor([-2.0, -1.0, 0.0, 3.0])
    x = torch.stack((4 + steps, 1 - 2 * steps), 1)
    head = fit_pca(x, 1)
    torch.testing.assert_close(head.linear.weight, torch.tensor([[-1.0, 2.0]]) / 5**0.5)
    torch.testing.assert_close(head(x).squeeze(1), -(5**0.5) * steps)


@pytest.mark.parametrize("fit", [fit_lsh, fit_pca])
def test_rows_in_blocks(fit, monkeypatch):
    """The fit equals that of all rows at once for any number of blocks, and no block exceeds the limit."""
    x = features(37)
    whole = fit(x, 6)
    monkeypatch.setattr(projections, "_BLOCK", 50)
    sizes = []
    double = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda tensor: sizes.append(tensor.numel()) or double(tensor))
    blocked = fit(x, 6)
    assert max(sizes) == 50
    torch.testing.assert_close(blocked.state_dict(), whole.state_dict(), **ROUNDED)


@pytest.mark.parametrize("fit", [fit_lsh, fit_pca])
def test_numpy_read_only_and_half_precision(fit):
    x = features(50).half()
    expected = fit(x.float(), 4).state_dict()
    array = x.numpy()
    array.flags.writeable = False
    for same in (x, array, np.asfortranarray(x.numpy()), x.double(), x.float().requires_grad_()):
        head = fit(same, 4)
        assert head.linear.weight.dtype == torch.float32
        torch.testing.assert_close(head.state_dict(), expected, **ROUNDED)


def test_both_are_better_than_chance_on_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    x, labels = (torch.from_numpy(array) for array in datasets.load_digits(return_X_y=True))
    queries, gallery = slice(0, 300), slice(300, None)
    for fit, at_least in ((fit_lsh, 0.3), (fit_pca, 0.25)):  # measured: 0.364 and 0.304; chance is 0.1
        head = fit(x[gallery], 16)
        codes = head.encode(x.float())
        found = mean_average_precision(codes[queries], codes[gallery], labels[queries], labels[gallery])
        assert found > at_least, fit


@pytest.mark.parametrize("fit", [fit_lsh, fit_pca])
@pytest.mark.parametrize(
    ("x", "bits", "error", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), 2, TypeError, r"x must be a tensor \[N, D\].*got int64"),
        (np.zeros((3, 4), dtype=np.uint8), 2, TypeError, r"x must be a tensor \[N, D\].*got uint8"),
        (torch.zeros(3), 2, ValueError, r"x must be a tensor \[N, D\]"),
        (np.float64(3), 2, TypeError, r"x must be a tensor \[N, D\]"),
        (torch.zeros(0, 4), 2, ValueError, r"x must have at least one row"),
        (np.zeros((4, 0)), 2, ValueError, r"x must have at least one row and one dimension; got shape \[4, 0\]"),
        (torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [1.0, 2.0]]), 2, ValueError, r"x must be finite"),
        (torch.tensor([[1.0, 2.0], [float("inf"), 0.0], [1.0, 2.0]]), 2, ValueError, r"x must be finite"),
        (torch.zeros(3, 4), 0, ValueError, r"bits must be at least 1"),
        (torch.zeros(3, 4), 2.0, TypeError, r"bits must be an integer"),
    ],
)
def test_bad_input(fit, x, bits, error, message):
    with pytest.raises(error, match=f"{fit.__name__}: {message}"):
        fit(x, bits)


def test_pca_has_no_more_directions_than_rows_vary_along():
    with pytest.raises(ValueError, match=r"fit_pca: bits must be at most D = 4, the number of columns of x; got 5"):
        fit_pca(torch.randn(100, 4), 5)
    with pytest.raises(ValueError, match=r"fit_pca: bits must be at most N - 1 = 2, for 3 rows; got 3"):
        fit_pca(torch.randn(3, 4), 3)

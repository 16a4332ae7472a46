"""Tests of the hash head: with and without batch norm, folded, and rotated."""

import numpy as np
import pytest
import torch
from torch import nn

import orthohash_triton as oht
from orthohash_triton import nn as modules
from orthohash_triton.nn import HashHead
from tests.tolerances import tolerance


def trained_head(dimensions=12, bits=20, **keywords):
    """Return a head whose batch norm has running statistics of some batches."""
    head = HashHead(dimensions, bits, padded=True, **keywords)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        if head.batch_norm is not None:
            head.batch_norm.running_mean.normal_()
            head.batch_norm.running_var.uniform_(0.2, 3.0)
    return head


def test_with_batch_norm_it_is_as_it_was():
    """Keys, random initial values and outputs are unchanged, so that heads saved by earlier versions can be loaded."""
    torch.manual_seed(3)
    linear = nn.Linear(12, 20, bias=False)
    nn.init.normal_(linear.weight, std=0.01)
    torch.manual_seed(3)
    head = HashHead(12, 20, padded=True)
    assert set(head.state_dict()) == {"linear.weight"} | {f"batch_norm.{name}" for name in nn.BatchNorm1d(20).state_dict()}
    assert torch.equal(head.linear.weight, linear.weight)
    x = torch.randn(9, 12)
    assert torch.equal(head(x), nn.BatchNorm1d(20)(linear(x)))
    assert torch.equal(head.latent(x), linear(x))


def test_without_batch_norm_it_is_a_linear_layer():
    head = HashHead(12, 20, padded=True, batch_norm=False)
    assert head.batch_norm is None
    assert set(head.state_dict()) == {"linear.weight", "linear.bias"}
    assert (head.linear.bias == 0).all()
    assert 0.15 < head.linear.weight.std() < 0.22  # 0.64 / sqrt(12)
    head = trained_head(batch_norm=False)
    x = torch.randn(9, 12)
    assert torch.equal(head(x), nn.functional.linear(x, head.linear.weight, head.linear.bias))
    assert torch.equal(head.latent(x), head(x))
    assert torch.equal(head.encode(x), modules.hash_head.pack_codes(head(x)))


@pytest.mark.parametrize(("batch_norm", "bias"), [(True, True), (True, False), (False, True), (False, False)])
def test_bias(batch_norm, bias):
    head = HashHead(12, 20, padded=True, batch_norm=batch_norm, bias=bias)
    assert (head.linear.bias is not None) == bias
    assert (head.batch_norm is not None) == batch_norm


@pytest.mark.parametrize("keywords", [{}, dict(bias=True), dict(batch_norm=False), dict(batch_norm=False, bias=False)], ids=str)
def test_folded_computes_what_the_head_does(keywords):
    head = trained_head(**keywords)
    x = torch.randn(500, 12)
    expected = head.double().eval()(x.double())
    head.float().train()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    folded = head.folded()
    assert folded.batch_norm is None
    assert folded.training
    torch.testing.assert_close(folded(x).double(), expected, **tolerance(12, expected.abs().max(), sums=2, sides=1))
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_folded_and_rotated_heads_are_independent_copies(batch_norm, training):
    """In float64 no conversion copies the weights. The mode is that of the head."""
    head = trained_head(batch_norm=batch_norm).double().train(training)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    for other in (head.folded(), head.rotated(torch.eye(20)), HashHead.from_linear(head.linear.weight, head.linear.weight[:, 0])):
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
    assert head.folded().training == head.rotated(torch.eye(20)).training == training


def test_folded_is_exact_in_float64():
    """Worked out by hand: w x = 3, mean 1, variance 4 - eps, weight 5, bias 7: (3 - 1) / 2 * 5 + 7 = 12."""
    head = HashHead(1, 1, padded=True).double()
    with torch.no_grad():
        head.linear.weight.fill_(3)
        head.batch_norm.running_mean.fill_(1)
        head.batch_norm.running_var.fill_(4 - head.batch_norm.eps)
        head.batch_norm.weight.fill_(5)
        head.batch_norm.bias.fill_(7)
    assert head.folded()(torch.ones(1, 1, dtype=torch.float64)).item() == pytest.approx(12, rel=1e-15)


def test_folded_without_affine():
    head = trained_head().eval()
    head.batch_norm = nn.BatchNorm1d(20, affine=False).eval()
    x = torch.randn(9, 12)
    torch.testing.assert_close(head.folded()(x), head(x), **tolerance(12, head(x).detach().abs().max(), sums=2))


def test_folding_draws_no_random_numbers():
    head = trained_head()
    state = torch.get_rng_state()
    head.folded()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_rotated(batch_norm):
    head = trained_head(batch_norm=batch_norm).eval()
    matrix = torch.linalg.qr(torch.randn(20, 20)).Q
    x = torch.randn(2000, 12)
    rotated = head.rotated(matrix)
    exact = head.double()(x.double()) @ matrix.double()
    torch.testing.assert_close(rotated(x).double(), exact, **tolerance(20, exact.norm(dim=1).max(), sums=3, sides=1))
    away = exact.abs() > 1e-4
    assert away.double().mean() > 0.999
    assert torch.equal((rotated(x) > 0)[away], (exact > 0)[away])


def test_without_running_statistics_there_is_nothing_to_fold():
    head = HashHead(12, 20, padded=True)
    head.batch_norm = nn.BatchNorm1d(20, track_running_stats=False)
    for fold in (head.folded, lambda: head.rotated(torch.eye(20))):
        with pytest.raises(ValueError, match=r"HashHead.folded: the batch norm has track_running_stats=False"):
            fold()


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (torch.eye(12), ValueError, r"matrix must be \[20, 20\]; got float32 \[12, 12\]"),
        (torch.ones(20, 20, dtype=torch.int64), TypeError, r"matrix must be a tensor.*got int64"),
        ([[1.0]], TypeError, r"matrix must be a tensor"),
    ],
)
def test_bad_matrix(matrix, error, message):
    with pytest.raises(error, match=f"HashHead.rotated: {message}"):
        HashHead(12, 20, padded=True).rotated(matrix)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, ">f4", np.uint8])
@pytest.mark.parametrize("keywords", [{}, dict(batch_norm=False)], ids=str)
def test_arrays_of_features(dtype, keywords):
    head = trained_head(**keywords).eval()
    features = (10 * np.random.default_rng(0).standard_normal((9, 12))).astype(dtype)
    expected = head.encode(torch.from_numpy(features.astype(np.float32)))
    for array in (features, np.asfortranarray(features), features[::-1][::-1]):
        codes = head.encode(array)
        assert isinstance(codes, np.ndarray)
        np.testing.assert_array_equal(codes, expected.numpy())
    assert head.encode(features[:0]).shape == (0, 3)
    features.flags.writeable = False
    np.testing.assert_array_equal(head.encode(features), expected.numpy())


def test_arrays_follow_the_dtype_of_the_head():
    head = trained_head(batch_norm=False).double().eval()
    features = np.random.default_rng(0).standard_normal((9, 12))
    np.testing.assert_array_equal(head.encode(features), head.encode(torch.from_numpy(features)).numpy())
    for wrong in (np.array([["a"]]), np.zeros((2, 12), complex), np.array([[None]])):
        with pytest.raises(TypeError, match=r"HashHead\.encode: features must be real numbers \[N, D\]; got ndarray"):
            head.encode(wrong)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (128, 12),
            ValueError,
            r"bits must be a multiple of 8, so that codes fill whole bytes; got 12\. Use 16, or pass",
        ),
        ((128, 0), ValueError, "bits must be at least 1; got 0"),
        ((128, 16.0), TypeError, "bits must be an integer; got float 16.0"),
        ((0, 16), ValueError, "in_features must be at least 1; got 0"),
        (("128", 16), TypeError, "in_features must be an integer; got str"),
    ],
)
def test_sizes_are_checked_when_a_head_is_made(arguments, error, message):
    with pytest.raises(error, match=f"HashHead: {message}"):
        HashHead(*arguments)
    assert HashHead(np.int64(12), torch.tensor(16)).encode(torch.zeros(2, 12)).shape == (2, 2)


def test_padded_codes_have_the_distances_of_their_bits():
    head = HashHead(6, 12, padded=True, batch_norm=False)
    x = torch.randn(9, 6)
    codes = head.encode(x)
    assert codes.shape == (9, 2)
    assert (codes[:, 1] < 16).all()  # the last four bits are 0
    signs = head(x) > 0
    assert torch.equal(oht.hamming_distance(codes, codes), (signs[:, None] != signs).sum(2, dtype=torch.int32))


@pytest.mark.parametrize(
    ("weight", "bias", "error", "message"),
    [
        (torch.ones(8), torch.ones(8), ValueError, r"weight must be a tensor \[K, D\]"),
        (torch.ones(8, 3), torch.ones(7), ValueError, r"bias must be \[8\], one per row of weight; got float32 \[7\]"),
        (torch.ones(8, 3), None, TypeError, r"bias must be a tensor \[K\]"),
    ],
)
def test_weights_are_checked_when_a_head_is_made_of_them(weight, bias, error, message):
    with pytest.raises(error, match=f"HashHead.from_linear: {message}"):
        HashHead.from_linear(weight, bias)


def test_codes_of_a_head_that_diverged_are_refused():
    head = HashHead(6, 16).eval()
    features = torch.randn(9, 6)
    features[4, 2] = torch.nan
    with pytest.raises(ValueError, match="pack_codes: x has NaN in 1 of 9 rows, first in row 4"):
        head.encode(features)

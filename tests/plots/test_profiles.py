"""Tests of the statistics of codes that figures show."""

import numpy as np
import pytest
import torch

from orthohash_triton import pack_codes
from orthohash_triton.plots import profiles


def test_bits_that_never_change_have_no_correlation() -> None:
    codes = torch.tensor([[0b0011], [0b0101], [0b0011], [0b0101]], dtype=torch.uint8)
    found = profiles.bit_statistics(codes, 8)
    assert found["bit_mean"] == [1.0, 0.5, 0.5, 0, 0, 0, 0, 0]
    correlation = torch.tensor(found["bit_correlation"])
    assert correlation[1, 2] == pytest.approx(-1, abs=1e-4)
    assert correlation[1, 1] == pytest.approx(1, abs=1e-4)
    assert (correlation[0] == 0).all()


def test_bit_statistics_are_those_of_numpy_in_however_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1000, 24) + torch.linspace(-1, 1, 24)
    x[:, 3] = x[:, 2]
    bits = (x > 0).numpy()
    whole = profiles.bit_statistics(pack_codes(x), 24)
    monkeypatch.setattr(profiles, "_BLOCK", 300)
    assert profiles.bit_statistics(pack_codes(x), 24) == whole
    np.testing.assert_allclose(whole["bit_mean"], bits.mean(0), atol=1e-12)
    np.testing.assert_allclose(whole["bit_correlation"], np.corrcoef(bits.T), atol=1e-4)


def test_embedding_keeps_classes_apart_and_does_not_collapse() -> None:
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    signs = generator.integers(0, 2, (3, 30))[labels] ^ (generator.random((120, 30)) < 0.05)
    places = profiles.embed(np.packbits(signs, axis=1, bitorder="little"), 30)
    distances = np.linalg.norm(places[:, None] - places, axis=2) + np.where(np.eye(120), np.inf, 0)
    assert (labels[distances.argmin(1)] == labels).all()
    noise = np.packbits(generator.integers(0, 2, (300, 32)), axis=1, bitorder="little")
    spread = profiles.embed(noise, 32)
    assert spread.std() > 1
    assert np.array_equal(spread, profiles.embed(noise, 32))


def test_only_the_bits_of_the_code_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes have two bits, the first two of each byte."""
    manifold = pytest.importorskip("sklearn.manifold")
    seen = []
    monkeypatch.setattr(manifold.TSNE, "fit_transform", lambda self, distances: seen.append(distances))
    codes = np.array([[0b00], [0b01], [0b11]], np.uint8)
    profiles.embed(codes, 2)
    assert seen[0].tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    assert profiles.principal_plane(codes, 2)[1] == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_codes_have_a_place_too(count: int) -> None:
    pytest.importorskip("sklearn")
    places = profiles.embed(np.arange(count, dtype=np.uint8)[:, None], 8)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_principal_plane_tells_its_share_of_the_variance() -> None:
    codes = np.array([[0b00], [0b01], [0b10], [0b11]], np.uint8)
    places, share = profiles.principal_plane(codes, 8)
    assert share == pytest.approx(1)
    assert len(np.unique(places.round(4), axis=0)) == 4
    places, share = profiles.principal_plane(codes[:1], 8)
    assert (places == 0).all()
    assert share == 0


@pytest.mark.parametrize("codes", [np.zeros((30, 4), np.uint8), np.repeat(np.array([[0], [255]], np.uint8), 15, axis=0)])
def test_codes_that_have_collapsed_are_embedded_too(codes: np.ndarray) -> None:
    assert np.isfinite(profiles.embed(codes, 8 * codes.shape[1])).all()


def test_the_smaller_of_equally_common_classes_is_chosen() -> None:
    labels = np.array([7, 7, 3, 3, 5, 9, 9, 9])
    assert profiles.most_common_classes(labels, 2) == [3, 9]
    assert profiles.most_common_classes(labels, 9) == [3, 5, 7, 9]
    assert profiles.most_common_classes(np.arange(40), 3) == [0, 1, 2]


def test_a_single_bit_has_one_component() -> None:
    places, share = profiles.principal_plane(np.array([[0], [1], [1]], np.uint8), 1)
    assert (places[:, 1] == 0).all()
    assert abs(places[0, 0] - places[1, 0]) == pytest.approx(1)
    assert share == pytest.approx(1)

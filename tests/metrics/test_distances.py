import math

import numpy as np
import pytest
import torch

from orthohash_triton.metrics import distance_histograms


def case(kind=np.asarray):
    """Return a zero query of class 1, and codes at the distances 0, 2, 2, 5, 8 with the classes 1, 0, 1, 0, 1."""
    gallery = np.packbits(np.arange(8) < np.array([0, 2, 2, 5, 8])[:, None], axis=1, bitorder="little")
    return [kind(array) for array in (np.zeros((1, 1), np.uint8), gallery, np.array([1]), np.array([1, 0, 1, 0, 1]))]


def test_by_hand():
    found = distance_histograms(*case())
    assert found.distance.tolist() == list(range(9))
    assert found.intra.tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 1]
    assert found.inter.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0]
    assert found.intra_mean == pytest.approx(10 / 3)
    assert found.inter_mean == pytest.approx(7 / 2)
    assert found.intra_std == pytest.approx(math.sqrt(((10 / 3) ** 2 + (4 / 3) ** 2 + (14 / 3) ** 2) / 3))
    assert found.inter_std == pytest.approx(3 / 2)
    assert found.separability == pytest.approx(7 / 2 - 10 / 3)


@pytest.mark.parametrize("multi_hot", [False, True])
def test_against_numpy(multi_hot):
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 256, (n, 3), dtype=np.uint8) for n in (40, 500)]
    labels = [rng.integers(0, 2 if multi_hot else 5, (n, 5) if multi_hot else n) for n in (40, 500)]
    distances = np.unpackbits(codes[0][:, None] ^ codes[1][None], axis=2).sum(axis=2, dtype=np.int64)
    relevant = labels[0] @ labels[1].T > 0 if multi_hot else labels[0][:, None] == labels[1]
    found = distance_histograms(*codes, *labels)
    assert (found.intra == np.bincount(distances[relevant], minlength=25)).all()
    assert (found.inter == np.bincount(distances[~relevant], minlength=25)).all()
    for mean, std, chosen in (
        (found.intra_mean, found.intra_std, relevant),
        (found.inter_mean, found.inter_std, ~relevant),
    ):
        assert (mean, std) == pytest.approx((distances[chosen].mean(), distances[chosen].std()))


def test_kinds_and_no_pairs():
    arrays, tensors = distance_histograms(*case()), distance_histograms(*case(torch.from_numpy))
    assert all(isinstance(part, np.ndarray) and part.dtype == np.int64 for part in arrays)
    assert all(isinstance(part, torch.Tensor) and part.dtype == torch.int64 for part in tensors)
    assert arrays.separability == tensors.separability
    queries, gallery, _, labels = case()
    alone = distance_histograms(queries, gallery, np.array([2]), labels)
    assert math.isnan(alone.intra_mean)
    assert math.isnan(alone.intra_std)
    assert math.isnan(alone.separability)
    assert alone.inter_mean == pytest.approx(17 / 5)


def test_bad_arguments():
    queries, gallery, query_labels, labels = case()
    with pytest.raises(ValueError, match="distance_histograms: query_labels must have one row for each of the 1 rows"):
        distance_histograms(queries, gallery, labels, labels)
    with pytest.raises(TypeError, match="distance_histograms: gallery_codes must be"):
        distance_histograms(queries, gallery.astype(np.int16), query_labels, labels)

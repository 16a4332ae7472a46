import numpy as np
import pytest
import torch

from orthohash_triton.metrics import precision_at_k, precision_at_radius, precision_recall_curve, recall_at_k

# One query of zeros; the gallery lies at these distances, and these of its items are relevant (class 1).
DISTANCES = [0, 2, 2, 5, 8]
RELEVANT = [1, 0, 1, 0, 1]


def case(kind=np.asarray):
    gallery = np.packbits(np.arange(8) < np.array(DISTANCES)[:, None], axis=1, bitorder="little")
    return [kind(array) for array in (np.zeros((1, 1), np.uint8), gallery, np.array([1]), np.array(RELEVANT))]


def random_case(queries=20, gallery=300, bits=16, classes=6):
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) for n in (queries, gallery)]
    labels = [rng.integers(0, classes, n) for n in (queries, gallery)]
    labels[0][0] = classes  # one query to which nothing is relevant
    distances = np.unpackbits(codes[0][:, None] ^ codes[1][None], axis=2).sum(axis=2, dtype=np.int64)
    return [*codes, *labels], distances, labels[0][:, None] == labels[1]


@pytest.mark.parametrize(("k", "expected"), [(1, 1.0), (2, 1 / 2), (3, 2 / 3), (4, 1 / 2), (5, 3 / 5), (9, 3 / 5)])
def test_precision_at_k_by_hand(k, expected):
    assert precision_at_k(*case(), k=k) == pytest.approx(expected)


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 1 / 3), (3, 2 / 3), (5, 1.0), (9, 1.0)])
def test_recall_at_k_by_hand(k, expected):
    assert recall_at_k(*case(), k=k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("radius", "expected"), [(0, 1.0), (1, 1.0), (2, 2 / 3), (4, 2 / 3), (5, 1 / 2), (8, 3 / 5), (99, 3 / 5)]
)
def test_precision_at_radius_by_hand(radius, expected):
    assert precision_at_radius(*case(), radius=radius) == pytest.approx(expected)


def test_empty_neighbourhood_counts_as_zero():
    queries, gallery, _, labels = case()
    two = np.concatenate([queries, np.array([[0b01010100]], np.uint8)])  # nothing within 1 of the second query
    assert precision_at_radius(two, gallery, np.array([1, 1]), labels, radius=1) == 0.5


def test_curve_by_hand():
    radius, precision, recall = precision_recall_curve(*case(torch.from_numpy))
    assert radius.tolist() == list(range(9))
    np.testing.assert_allclose(precision, [1, 1, 2 / 3, 2 / 3, 2 / 3, 1 / 2, 1 / 2, 1 / 2, 3 / 5])
    np.testing.assert_allclose(recall, np.array([1, 1, 2, 2, 2, 2, 2, 2, 3]) / 3)


def test_against_numpy():
    arguments, distances, relevant = random_case()
    order = np.argsort(distances, axis=1, kind="stable")
    ranked = np.take_along_axis(relevant, order, axis=1)
    for k in (1, 10, 300):
        hits = ranked[:, :k].sum(axis=1)
        assert precision_at_k(*arguments, k=k) == pytest.approx((hits / k).mean(), abs=1e-12)
        assert recall_at_k(*arguments, k=k) == pytest.approx((hits / np.maximum(1, relevant.sum(axis=1))).mean(), abs=1e-12)
    curve = precision_recall_curve(*arguments)
    for radius in range(17):
        inside = distances <= radius
        hits = (inside & relevant).sum(axis=1)
        precision = (hits / np.maximum(1, inside.sum(axis=1))).mean()
        assert precision_at_radius(*arguments, radius=radius) == pytest.approx(precision, abs=1e-12)
        assert curve.precision[radius] == pytest.approx(precision, abs=1e-12)
        assert curve.recall[radius] == pytest.approx((hits / np.maximum(1, relevant.sum(axis=1))).mean(), abs=1e-12)


def test_kinds():
    arrays, tensors = case(), case(torch.from_numpy)
    for arguments, kind in ((arrays, np.ndarray), (tensors, torch.Tensor)):
        assert all(isinstance(part, kind) for part in precision_recall_curve(*arguments))
        assert type(precision_at_k(*arguments, k=2)) is float
        assert type(recall_at_k(*arguments, k=2)) is float
        assert type(precision_at_radius(*arguments, radius=2)) is float


@pytest.mark.parametrize(
    ("metric", "options", "error", "message"),
    [
        (precision_at_k, {"k": 0}, ValueError, "precision_at_k: k must be at least 1; got 0"),
        (recall_at_k, {"k": 1.0}, TypeError, "recall_at_k: k must be an integer"),
        (precision_at_radius, {"radius": -1}, ValueError, "precision_at_radius: radius must be at least 0; got -1"),
    ],
)
def test_bad_options(metric, options, error, message):
    with pytest.raises(error, match=message):
        metric(*case(), **options)


@pytest.mark.parametrize("metric", [precision_recall_curve])
def test_bad_labels(metric):
    queries, gallery, query_labels, labels = case()
    with pytest.raises(
        ValueError, match="precision_recall_curve: gallery_labels must have one row for each of the 5 rows of gallery_codes"
    ):
        metric(queries, gallery, query_labels, labels[:4])

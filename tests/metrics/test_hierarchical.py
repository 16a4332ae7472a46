import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton import metrics
from orthohash_triton.metrics import _ranking, hierarchical_precision, mean_average_hierarchical_precision

# Two classes that are near each other (0, 1) and one far from both.
DISTANCE = np.array([[0, 0.25, 1], [0.25, 0, 1], [1, 1, 0]])


def at_distances(distances, bits=16):
    """Return a zero query, and gallery codes at the given distances from it."""
    ones = np.arange(bits) < np.array(distances)[:, None]
    return np.zeros((1, bits // 8), np.uint8), np.packbits(ones, axis=1, bitorder="little")


def random_case(seed, queries=5, gallery=60, bits=16, classes=4):
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) for n in (queries, gallery)]
    labels = [rng.integers(0, classes, n) for n in (queries, gallery)]
    distance = rng.choice([0.25, 0.5, 1], (classes, classes))
    distance = np.maximum(distance, distance.T)
    np.fill_diagonal(distance, 0)
    return [*codes, *labels, distance]


def brute_force(query_codes, gallery_codes, query_labels, gallery_labels, distance, k):
    """Compute HP@1 .. HP@k of each query, item by item."""
    curves = []
    for code, label in zip(query_codes, query_labels, strict=True):
        hamming = [int(np.unpackbits(code ^ other).sum()) for other in gallery_codes]
        ranked = sorted(range(len(gallery_codes)), key=lambda i: (hamming[i], i))
        similar = [1 - distance[label, gallery_labels[i]] for i in ranked]
        best = sorted(similar, reverse=True)
        curves.append([sum(similar[:n]) / sum(best[:n]) if sum(best[:n]) else 0.0 for n in range(1, min(k, len(ranked)) + 1)])
    return np.array(curves)


# The query is of class 0; in the order of rank the items have similarities 3/4, 0, 1, 1 (the last two tied: by position).
# At best 1, 1, 3/4, 0: HP = (3/4) / 1, (3/4) / 2, (7/4) / (11/4), 1.
HAND = [*at_distances([4, 4, 1, 2]), np.array([0]), np.array([0, 0, 1, 2]), DISTANCE]
CURVE = [3 / 4, 3 / 8, 7 / 11, 1.0]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_precision_by_hand(k):
    assert hierarchical_precision(*HAND, k=k) == pytest.approx(CURVE[min(k, 4) - 1], abs=1e-15)


@pytest.mark.parametrize("k", [2, 3, 4, 9, None])
def test_areas_by_hand(k):
    ranks = 4 if k is None else min(k, 4)
    assert mean_average_hierarchical_precision(*HAND, k=k, area="mean") == pytest.approx(sum(CURVE[:ranks]) / ranks, abs=1e-15)
    trapezoids = sum((a + b) / 2 for a, b in itertools.pairwise(CURVE[:ranks])) / ranks
    assert mean_average_hierarchical_precision(*HAND, k=k) == pytest.approx(trapezoids, abs=1e-15)


def test_one_rank():
    assert mean_average_hierarchical_precision(*HAND, k=1, area="mean") == CURVE[0]
    with pytest.raises(ValueError, match=r'area="trapezoid" needs at least two ranks; got one. Use a larger k'):
        mean_average_hierarchical_precision(*HAND, k=1)


def test_the_best_is_that_of_the_gallery():
    # The gallery has no item of the query's class, and then no similar item at all.
    codes = at_distances([1, 2, 3])
    assert hierarchical_precision(*codes, np.array([0]), np.array([1, 1, 2]), DISTANCE, k=2) == 1
    assert hierarchical_precision(*codes, np.array([0]), np.array([2, 1, 1]), DISTANCE, k=2) == pytest.approx(1 / 2)
    assert hierarchical_precision(*codes, np.array([0]), np.array([2, 2, 2]), DISTANCE, k=2) == 0


def test_a_perfect_ranking():
    labels = np.repeat([0, 1, 2], 5)
    arguments = [*at_distances(np.arange(15)), np.array([0]), labels, DISTANCE]
    for k in (1, 5, 7, 15):
        assert hierarchical_precision(*arguments, k=k) == 1
    assert mean_average_hierarchical_precision(*arguments, k=10, area="mean") == 1
    assert mean_average_hierarchical_precision(*arguments, k=10) == pytest.approx(9 / 10)


def test_distances_of_zero_and_one_give_precision():
    *arguments, _ = random_case(0, gallery=200)
    flat = 1 - np.eye(4)
    for k in (1, 10, 40):  # fewer ranks than items of any class
        assert np.bincount(arguments[3]).min() >= k
        assert hierarchical_precision(*arguments, flat, k=k) == pytest.approx(metrics.precision_at_k(*arguments, k=k), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 12),
    gallery=st.integers(2, 120),
    bits=st.sampled_from([8, 72]),
    classes=st.sampled_from([1, 4, 30]),
    k=st.integers(1, 130),
    chunk=st.sampled_from([1, 300, 2**23]),
)
def test_against_brute_force(seed, queries, gallery, bits, classes, k, chunk):
    arguments = random_case(seed, queries, gallery, bits, classes)
    expected = brute_force(*arguments, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranking, "_CHUNK", chunk)
        assert hierarchical_precision(*arguments, k=k) == pytest.approx(expected[:, -1].mean(), abs=1e-12)
        found = mean_average_hierarchical_precision(*arguments, k=k, area="mean")
        assert found == pytest.approx(expected.mean(), abs=1e-12)
        if k > 1:
            trapezoids = (expected[:, 1:] + expected[:, :-1]).sum(1) / 2 / expected.shape[1]
            assert mean_average_hierarchical_precision(*arguments, k=k) == pytest.approx(trapezoids.mean(), abs=1e-12)


def test_kinds():
    arguments = random_case(1)
    tensors = [torch.from_numpy(array) for array in arguments]
    for metric in (hierarchical_precision, mean_average_hierarchical_precision):
        value = metric(*arguments, k=7)
        assert type(value) is float
        assert metric(*tensors, k=7) == value
        assert metric(*tensors[:2], tensors[2].int(), tensors[3].byte(), tensors[4].half(), k=7) == value  # quarters are exact


@pytest.mark.parametrize("metric", [hierarchical_precision, mean_average_hierarchical_precision])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1; got 0"),
        ({"k": 1.5}, TypeError, "k must be an integer"),
        ({"distance": DISTANCE[:2]}, ValueError, r"class_distance must be \[C, C\]; got float64 \[2, 3\]"),
        ({"distance": DISTANCE.astype(int)}, TypeError, r"class_distance must be a tensor \[C, C\]"),
        ({"distance": 2 * DISTANCE}, ValueError, r"class_distance must be in \[0, 1\]; got values from 0.0 to 2.0"),
        ({"distance": DISTANCE * np.nan}, ValueError, r"class_distance must be in \[0, 1\]"),
        ({"distance": 1 - DISTANCE}, ValueError, "class_distance must have a zero diagonal. If it is a similarity"),
        ({"distance": DISTANCE[:2, :2]}, ValueError, "gallery_labels has class 2; class_distance has classes from 0 to 1"),
        ({"labels": [np.array([-1]), np.array([0, 0, 1, 2])]}, ValueError, "query_labels has class -1"),
        ({"labels": [np.eye(3)[:1], np.eye(3)[[0, 0, 1, 2]]]}, ValueError, "must be class ids; got multi-hot rows"),
        ({"labels": [np.array([0]), np.array([0, 0, 1])]}, ValueError, "gallery_labels must have one row for each of the 4"),
    ],
)
def test_errors(metric, change, error, message):
    arguments = [*HAND[:2], *change.get("labels", HAND[2:4]), change.get("distance", DISTANCE)]
    with pytest.raises(error, match=f"{metric.__name__}: .*{message}"):
        metric(*arguments, k=change.get("k", 2))
    with pytest.raises(ValueError, match="area must be one of 'trapezoid', 'mean'; got 'sum'"):
        mean_average_hierarchical_precision(*HAND, area="sum")


def test_classes_that_the_gallery_lacks():
    """Only queries, or no samples at all, may have the last class of class_distance."""
    codes = at_distances([1, 2, 3])
    assert hierarchical_precision(*codes, np.array([2]), np.array([0, 1, 1]), 1 - np.eye(3), k=2) == 0
    assert hierarchical_precision(*codes, np.array([0]), np.array([1, 0, 0]), DISTANCE, k=2) == pytest.approx((3 / 4 + 1) / 2)

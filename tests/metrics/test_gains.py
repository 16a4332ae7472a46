import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton import metrics
from orthohash_triton.metrics import average_cumulative_gain, ndcg
from orthohash_triton.reference import gains as reference


def at_distances(distances, bits=16):
    """Return a zero query, and gallery codes at the given distances from it."""
    ones = np.arange(bits) < np.array(distances)[:, None]
    return np.zeros((1, bits // 8), np.uint8), np.packbits(ones, axis=1, bitorder="little")


def of_grades(grades, classes=5):
    """Return labels of a query with all classes, and of items that share the given numbers of classes with it."""
    return np.ones((1, classes), int), (np.arange(classes) < np.array(grades)[:, None]).astype(int)


def value(metric, distances, grades, **options):
    return metric(*at_distances(distances), *of_grades(grades), **options)


def random_case(seed, queries=5, gallery=40, bits=16, classes=3, multi_hot=True):
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) for n in (queries, gallery)]
    labels = [rng.integers(0, 2 if multi_hot else classes, (n, classes) if multi_hot else n) for n in (queries, gallery)]
    grades = labels[0] @ labels[1].T if multi_hot else (labels[0][:, None] == labels[1]).astype(int)
    distances = np.unpackbits(codes[0][:, None] ^ codes[1][None], axis=2).sum(axis=2, dtype=np.int64)
    if multi_hot and classes == 1:  # a column of integers would be class ids
        labels = [own == 1 for own in labels]
    return [*codes, *labels], torch.from_numpy(distances), torch.from_numpy(grades)


@pytest.mark.parametrize(
    ("grades", "options", "expected"),
    [
        ([2, 1, 0], {}, 1.0),
        ([1, 2, 0], {}, (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))),
        ([1, 2, 0], {"gain": "linear"}, (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))),
        ([0, 0, 1], {}, 1 / math.log2(4)),
        ([1, 0, 2], {"k": 1}, 1 / 3),  # the best first item has a gain of 3
        ([1, 0, 2], {"k": 2}, 1 / (3 + 1 / math.log2(3))),
        ([0, 0, 0], {}, 0.0),
        ([0, 0, 1], {"k": 2}, 0.0),
    ],
)
@pytest.mark.parametrize("ties", ["stable", "expected"])
def test_ndcg_by_hand(grades, options, expected, ties):
    assert value(ndcg, [1, 4, 6], grades, ties=ties, **options) == pytest.approx(expected, abs=1e-15)


def test_ndcg_by_hand_all_tied():
    discounts = 1 + 1 / math.log2(3)
    assert value(ndcg, [2, 2], [0, 1]) == pytest.approx(1 / math.log2(3))
    assert value(ndcg, [2, 2], [0, 1], ties="expected") == pytest.approx(discounts / 2)
    assert value(ndcg, [2, 2], [0, 1], ties="expected", k=1) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("ties", "k", "expected"),
    [
        ("stable", 1, 2),
        ("stable", 2, 1),
        ("stable", 3, 5 / 3),
        ("stable", 9, 6 / 4),
        ("expected", 2, 7 / 4),
        ("expected", 3, 5 / 3),
    ],
)
def test_acg_by_hand(ties, k, expected):
    # The second and third item are tied: in expectation each has a grade of 3/2.
    assert value(average_cumulative_gain, [0, 3, 3, 5], [2, 0, 3, 1], k=k, ties=ties) == pytest.approx(expected)


@pytest.mark.parametrize("ties", ["stable", "expected"])
def test_more_classes_than_a_gain_can_take(ties):
    """The exponential gain of 1,024 shared classes is infinite, whether or not items share so many."""
    labels = of_grades([1, 0, 2], classes=2000)
    labels[0][:, 2:] = 0
    some = [side[:, :5] for side in labels]
    codes = at_distances([1, 2, 3])
    assert ndcg(*codes, *labels, ties=ties) == ndcg(*codes, *some, ties=ties) == value(ndcg, [1, 2, 3], [1, 0, 2], ties=ties)


def test_class_ids_are_one_or_zero():
    arguments, _, _ = random_case(0, multi_hot=False)
    for k in (1, 7, 40):
        precision = metrics.precision_at_k(*arguments, k=k)
        assert average_cumulative_gain(*arguments, k=k) == pytest.approx(precision, abs=1e-12)
    assert ndcg(*arguments) == pytest.approx(ndcg(*arguments, gain="linear"), abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 20),
    gallery=st.integers(1, 300),
    bits=st.sampled_from([8, 72, 136]),
    classes=st.sampled_from([1, 3, 70]),
    multi_hot=st.booleans(),
    k=st.one_of(st.none(), st.integers(1, 320)),
    gain=st.sampled_from(["exponential", "linear"]),
    ties=st.sampled_from(["stable", "expected"]),
)
def test_against_reference(seed, queries, gallery, bits, classes, multi_hot, k, gain, ties):
    arguments, distances, grades = random_case(seed, queries, gallery, bits, classes, multi_hot)
    expected = reference.ndcg(distances, grades, k=k, gain=gain, ties=ties)
    assert ndcg(*arguments, k=k, gain=gain, ties=ties) == pytest.approx(float(expected.mean()), rel=1e-12)
    expected = reference.average_cumulative_gain(distances, grades, k=k, ties=ties)
    assert average_cumulative_gain(*arguments, k=k, ties=ties) == pytest.approx(float(expected.mean()), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=5),
    k=st.one_of(st.none(), st.integers(1, 7)),
)
def test_expected_is_the_mean_over_every_order(items, k):
    orders = list(permutations(items))
    for metric in (ndcg, average_cumulative_gain):
        values = [value(metric, *zip(*order, strict=True), k=k) for order in orders]
        expected = value(metric, *zip(*items, strict=True), k=k, ties="expected")
        assert expected == pytest.approx(math.fsum(values) / len(values), abs=1e-12)


def test_kinds():
    arguments, _, _ = random_case(1)
    for metric in (ndcg, average_cumulative_gain):
        assert type(metric(*arguments)) is float
        assert metric(*map(torch.from_numpy, arguments)) == metric(*arguments)


@pytest.mark.parametrize("metric", [ndcg, average_cumulative_gain])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1; got 0"),
        ({"k": 1.5}, TypeError, "k must be an integer"),
        ({"ties": "random"}, ValueError, "ties must be one of 'stable', 'expected'; got 'random'"),
    ],
)
def test_bad_options(metric, options, error, message):
    with pytest.raises(error, match=f"{metric.__name__}: {message}"):
        metric(*random_case(0)[0], **options)


def test_bad_gain_and_labels():
    arguments, _, _ = random_case(0)
    with pytest.raises(ValueError, match="ndcg: gain must be one of 'exponential', 'linear'; got 'square'"):
        ndcg(*arguments, gain="square")
    with pytest.raises(ValueError, match="ndcg: gallery_labels must have one row for each of the 40 rows of gallery_codes"):
        ndcg(*arguments[:3], arguments[3][:4])

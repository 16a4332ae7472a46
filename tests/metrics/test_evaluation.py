import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from orthohash_triton import metrics
from orthohash_triton.metrics import _ranking, evaluate


def case(multi_hot=False, queries=30, gallery=300, bits=16, classes=6):
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) for n in (queries, gallery)]
    labels = [rng.integers(0, 2 if multi_hot else classes, (n, classes) if multi_hot else n) for n in (queries, gallery)]
    labels[0][0] = 0 if multi_hot else classes  # nothing is relevant to this query
    return [*codes, *labels]


# ---- by hand -----------------------------------------------------------------------------------------------------------------
#
# Five gallery codes with the lowest 0, 2, 2, 5 and 8 bits set, of the classes 1, 0, 1, 0, 1, and three queries:
#
#     query      class  distances  order      relevant, by rank
#     00000000   1      0 2 2 5 8  0 1 2 3 4  1 0 1 0 1    (items 1 and 2 tied)
#     11111111   0      8 6 6 3 0  4 3 1 2 0  0 1 1 0 0    (items 1 and 2 tied)
#     00000011   none   2 0 0 3 6  1 2 0 3 4  0 0 0 0 0
HAND_CODES = [np.array([[0], [255], [3]], np.uint8), np.array([[0], [3], [3], [31], [255]], np.uint8)]
HAND_LABELS = {
    "class ids": [np.array([1, 0, 7]), np.array([1, 0, 1, 0, 1])],
    "multi-hot": [np.array(rows) for rows in ([[1, 1, 0], [0, 0, 1], [0, 0, 0]], [[1, 1, 0], [0, 0, 1]] * 2 + [[1, 0, 0]])],
}
HAND_KS = (1, 3, None, 9)
HAND_AP = {  # denominator -> k -> average precision of the first two queries; the third has 0
    "hits": {1: (1, 0), 3: (5 / 6, 7 / 12), None: (34 / 45, 7 / 12), 9: (34 / 45, 7 / 12)},
    "min": {1: (1, 0), 3: (5 / 9, 7 / 12), None: (34 / 45, 7 / 12), 9: (34 / 45, 7 / 12)},
    "relevant": {1: (1 / 3, 0), 3: (5 / 9, 7 / 12), None: (34 / 45, 7 / 12), 9: (34 / 45, 7 / 12)},
}


@pytest.fixture(params=[1, 18, 2**23], ids=["a query in a chunk", "two queries in a chunk", "one chunk"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(_ranking, "_CHUNK", request.param)


@pytest.mark.parametrize("kind", HAND_LABELS)
@pytest.mark.parametrize("denominator", ["hits", "min", "relevant"])
def test_average_precision_by_hand(kind, denominator, chunk):
    for zero_hits in ("zero", "skip"):
        found = evaluate(*HAND_CODES, *HAND_LABELS[kind], k=HAND_KS, denominator=denominator, zero_hits=zero_hits)
        assert list(found.mean_average_precision) == list(HAND_KS)
        for k, values in HAND_AP[denominator].items():
            counted = 3 if zero_hits == "zero" else sum(value > 0 for value in values)
            assert found.mean_average_precision[k] == pytest.approx(sum(values) / counted, abs=1e-15)


@pytest.mark.parametrize("kind", HAND_LABELS)
def test_precision_recall_and_distances_by_hand(kind, chunk):
    found = evaluate(*HAND_CODES, *HAND_LABELS[kind], k=HAND_KS, radius=(0, 3, 99))
    assert (found.queries, found.gallery, found.bits) == (3, 5, 8)
    assert found.precision_at_k == pytest.approx({1: 1 / 3, 3: 4 / 9, None: 1 / 3, 9: 1 / 3}, abs=1e-15)
    assert found.recall_at_k == pytest.approx({1: 1 / 9, 3: 5 / 9, None: 2 / 3, 9: 2 / 3}, abs=1e-15)
    assert found.precision_at_radius == pytest.approx({0: 1 / 3, 3: 7 / 18, 99: 1 / 3}, abs=1e-15)
    assert found.curve.radius.tolist() == list(range(9))
    # Within 2, for example: 2 of 3 relevant, 0 of 1, 0 of 3.
    precision = [1 / 3, 1 / 3, 2 / 9, 7 / 18, 7 / 18, 1 / 3, 1 / 3, 1 / 3, 1 / 3]
    np.testing.assert_allclose(found.curve.precision, precision, rtol=1e-14)
    np.testing.assert_allclose(found.curve.recall, np.array([2, 2, 4, 7, 7, 7, 10, 10, 12]) / 18, rtol=1e-14)
    assert found.distances.intra.tolist() == [1, 0, 1, 1, 0, 0, 1, 0, 1]
    assert found.distances.inter.tolist() == [3, 0, 2, 1, 0, 1, 2, 0, 1]
    assert found.figures()["separability"] == pytest.approx(32 / 10 - 19 / 5)


@pytest.mark.parametrize("kind", HAND_LABELS)
def test_expected_ties_by_hand(kind, chunk):
    """The tied items 1 and 2 of the first two queries are counted in both orders."""
    average = {2: (1, 1 / 2), 3: (11 / 12, 13 / 24), None: (73 / 90, 13 / 24)}
    # At 2 the first query has one hit (precision 1) or two (1 and 1): 1 in any case, by the hits; by min(2, 3) it is 1/2 or 1.
    by_min = {2: (3 / 4, 1 / 4), 3: (11 / 18, 5 / 12), None: (73 / 90, 13 / 24)}
    for denominator, expected in (("hits", average), ("min", by_min)):
        found = evaluate(*HAND_CODES, *HAND_LABELS[kind], k=(2, 3, None), ties="expected", denominator=denominator)
        assert found.precision_at_k == pytest.approx({2: 5 / 12, 3: 7 / 18, None: 1 / 3}, abs=1e-15)
        assert found.recall_at_k == pytest.approx({2: 1 / 3, 3: 17 / 36, None: 2 / 3}, abs=1e-15)
        assert found.mean_average_precision == pytest.approx({k: sum(values) / 3 for k, values in expected.items()}, abs=1e-14)


def test_expected_precision_by_hand():
    # Two items at distance 0, one of them relevant, and one at 8 that is relevant.
    codes = np.zeros((1, 1), np.uint8), np.array([[0], [0], [255]], np.uint8)
    found = evaluate(*codes, np.array([1]), np.array([0, 1, 1]), k=(1, 2, 3), ties="expected")
    assert found.precision_at_k == pytest.approx({1: 1 / 2, 2: 1 / 2, 3: 2 / 3})
    assert found.recall_at_k == pytest.approx({1: 1 / 4, 2: 1 / 2, 3: 1})


# ---- consistency -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("denominator", ["hits", "min", "relevant"])
@pytest.mark.parametrize("zero_hits", ["zero", "skip"])
def test_equals_the_single_functions(multi_hot, denominator, zero_hits, monkeypatch):
    monkeypatch.setattr(_ranking, "_CHUNK", 200)  # several chunks of queries
    arguments, options = case(multi_hot), {"denominator": denominator, "zero_hits": zero_hits}
    found = evaluate(*arguments, k=(7, None, 500), radius=(0, 5, 99), **options)
    assert (found.queries, found.gallery, found.bits) == (30, 300, 16)
    assert list(found.mean_average_precision) == list(found.precision_at_k) == list(found.recall_at_k) == [7, None, 500]
    for k, value in found.mean_average_precision.items():
        assert value == metrics.mean_average_precision(*arguments, k=k, **options)
        single = metrics.average_precision(*arguments, k=k, denominator=denominator)
        np.testing.assert_array_equal(found.average_precision[k], single)
        assert found.precision_at_k[k] == pytest.approx(metrics.precision_at_k(*arguments, k=k or 300), abs=1e-15)
        assert found.recall_at_k[k] == pytest.approx(metrics.recall_at_k(*arguments, k=k or 300), abs=1e-15)
    assert list(found.precision_at_radius) == [0, 5, 99]
    for radius, value in found.precision_at_radius.items():
        assert value == metrics.precision_at_radius(*arguments, radius=radius)
    for ours, other in zip(found.curve, metrics.precision_recall_curve(*arguments), strict=True):
        np.testing.assert_array_equal(ours, other)
    for ours, other in zip(found.distances, metrics.distance_histograms(*arguments), strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("denominator", ["hits", "relevant"])
def test_numbers_of_ranks_do_not_affect_each_other(multi_hot, denominator, monkeypatch):
    arguments = case(multi_hot)
    ks = (40, None, 3, 299, 300, 1, 4, 301, 150)  # in no order, around the size of the gallery
    found = evaluate(*arguments, k=ks, denominator=denominator)
    for k in ks:
        assert found.mean_average_precision[k] == metrics.mean_average_precision(*arguments, k=k, denominator=denominator)
        assert found.precision_at_k[k] == metrics.precision_at_k(*arguments, k=k or 300)
    monkeypatch.setenv("ORTHOHASH_IMPL", "reference")
    expected = evaluate(*arguments, k=ks, denominator=denominator)
    assert found.mean_average_precision == pytest.approx(expected.mean_average_precision, rel=1e-13)
    assert found.precision_at_k == expected.precision_at_k


@pytest.mark.parametrize("k", [1, 40, None])
def test_expected_ties_are_the_mean_over_orders_of_the_gallery(k):
    queries, gallery, query_labels, labels = case(bits=8)
    found = evaluate(queries, gallery, query_labels, labels, k=k, ties="expected")
    assert found.mean_average_precision[k] == metrics.mean_average_precision(
        queries, gallery, query_labels, labels, k=k, ties="expected"
    )
    rng = np.random.default_rng(1)
    orders = [rng.permutation(300) for _ in range(300)]
    shuffled = [evaluate(queries, gallery[order], query_labels, labels[order], k=k) for order in orders]
    # 30 queries x 300 orders: the standard error of a precision at 1 is 0.4 / sqrt(9000) = 0.004.
    assert np.mean([one.precision_at_k[k] for one in shuffled]) == pytest.approx(found.precision_at_k[k], abs=0.015)
    assert np.mean([one.recall_at_k[k] for one in shuffled]) == pytest.approx(found.recall_at_k[k], abs=0.005)


def test_figures_are_flat_and_fit_json():
    figures = evaluate(*case(), k=(10, None), radius=2).figures()
    assert list(figures) == ["mAP@10", "mAP", "precision@10", "recall@10", "precision@radius2", "separability"]
    assert all(type(value) is float for value in figures.values())
    assert json.loads(json.dumps(figures)) == figures


def test_kinds():
    arrays, tensors = evaluate(*case()), evaluate(*map(torch.from_numpy, case()))
    assert arrays.figures() == tensors.figures()
    for found, kind in ((arrays, np.ndarray), (tensors, torch.Tensor)):
        assert all(isinstance(part, kind) for part in (*found.curve, *found.distances, *found.average_precision.values()))
    with pytest.raises(FrozenInstanceError):
        arrays.bits = 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": (10, 0)}, ValueError, "k must be at least 1; got 0"),
        ({"k": "all"}, TypeError, "k must be an integer; got str 'all'"),
        ({"radius": (1, -1)}, ValueError, "radius must be at least 0; got -1"),
        ({"radius": None}, TypeError, "radius must be an integer"),
        ({"ties": "mean"}, ValueError, "ties must be one of"),
        ({"denominator": "all"}, ValueError, "denominator must be one of"),
        ({"zero_hits": "drop"}, ValueError, "zero_hits must be one of"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=f"evaluate: {message}"):
        evaluate(*case(), **options)


def test_bad_codes():
    queries, gallery, query_labels, labels = case()
    with pytest.raises(ValueError, match="evaluate: gallery_codes must hold at least one row"):
        evaluate(queries, gallery[:0], query_labels, labels[:0])
    with pytest.raises(TypeError, match="evaluate: query_codes must be"):
        evaluate(queries.tolist(), gallery, query_labels, labels)


@pytest.mark.parametrize("kind", ["class ids", "multi-hot"])
def test_the_default_device_of_torch_does_not_matter(kind):
    """ "meta" stands in for a GPU; a tensor created without a device would be on it."""
    arguments = [torch.from_numpy(array) for array in case(kind == "multi-hot")]
    scores = torch.rand(30, 300)
    calls = [
        lambda: evaluate(*arguments).figures(),
        lambda: evaluate(*arguments, ties="expected").figures(),
        lambda: metrics.average_precision(*arguments, ties="expected").tolist(),
        lambda: metrics.mean_average_precision(*arguments, k=7),
        lambda: metrics.ndcg(*arguments, k=7),
        lambda: metrics.ndcg(*arguments, k=7, ties="expected"),
        lambda: metrics.average_cumulative_gain(*arguments, k=7, ties="expected"),
        lambda: metrics.mean_average_precision_from_scores(scores, *arguments[2:]),
        lambda: metrics.distance_histograms(*arguments).inter.tolist(),
    ]
    for call in calls:
        expected = call()
        with torch.device("meta"):
            assert call() == expected
        torch.set_default_device("meta")
        try:
            assert call() == expected
        finally:
            torch.set_default_device(None)


def test_scores_with_a_gradient():
    scores, labels = torch.rand(30, 300, requires_grad=True), case()[2:]
    for dtype in (torch.float32, torch.float64):
        found = metrics.average_precision_from_scores(scores.to(dtype), *map(torch.from_numpy, labels))
        assert not found.requires_grad

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
        assert found.precision_at_k[k] == pytest.approx(metrics.precision_at_k(*arguments, k=k or 300), abs=1e-15)
        assert found.recall_at_k[k] == pytest.approx(metrics.recall_at_k(*arguments, k=k or 300), abs=1e-15)
    assert list(found.precision_at_radius) == [0, 5, 99]
    for radius, value in found.precision_at_radius.items():
        assert value == metrics.precision_at_radius(*arguments, radius=radius)
    for ours, other in zip(found.curve, metrics.precision_recall_curve(*arguments), strict=True):
        np.testing.assert_array_equal(ours, other)
    for ours, other in zip(found.distances, metrics.distance_histograms(*arguments), strict=True):
        np.testing.assert_array_equal(ours, other)


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


def test_expected_precision_by_hand():
    # Two items at distance 0, one of them relevant, and one at 8 that is relevant.
    codes = np.zeros((1, 1), np.uint8), np.array([[0], [0], [255]], np.uint8)
    found = evaluate(*codes, np.array([1]), np.array([0, 1, 1]), k=(1, 2, 3), ties="expected")
    assert found.precision_at_k == pytest.approx({1: 1 / 2, 2: 1 / 2, 3: 2 / 3})
    assert found.recall_at_k == pytest.approx({1: 1 / 4, 2: 1 / 2, 3: 1})


def test_figures_are_flat_and_fit_json():
    figures = evaluate(*case(), k=(10, None), radius=2).figures()
    assert list(figures) == ["mAP@10", "mAP", "precision@10", "recall@10", "precision@radius2", "separability"]
    assert all(type(value) is float for value in figures.values())
    assert json.loads(json.dumps(figures)) == figures


def test_kinds():
    arrays, tensors = evaluate(*case()), evaluate(*map(torch.from_numpy, case()))
    assert arrays.figures() == tensors.figures()
    assert all(isinstance(part, np.ndarray) for part in (*arrays.curve, *arrays.distances))
    assert all(isinstance(part, torch.Tensor) for part in (*tensors.curve, *tensors.distances))
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
    """ "meta" stands in for a GPU, and shows any tensor that is made where nobody said."""
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

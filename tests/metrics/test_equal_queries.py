"""Queries of equal code and labels are ranked once, and the results are those of ranking each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton import metrics
from orthohash_triton.metrics import _equal_queries, _ranking


def group_always(patch):
    """Let equal queries be grouped however few there are."""
    patch.setattr(_equal_queries, "_FEWEST_PAIRS", 0)
    patch.setattr(_equal_queries, "_ITEMS_PER_WORD", 0)


def crowded_case(seed, queries, gallery, bits, classes, multi_hot, distinct):
    """Return codes and labels in which few different codes occur, which may differ in their last byte only."""
    rng = np.random.default_rng(seed)
    words = np.zeros((distinct, bits // 8), np.uint8)
    words[:, -1] = rng.integers(0, 256, distinct)
    words[distinct // 2 :] ^= rng.integers(0, 256, bits // 8, dtype=np.uint8)
    codes = [words[rng.integers(0, distinct, count)] for count in (queries, gallery)]
    if multi_hot:  # the last class is in the last word of the labels
        labels = [np.zeros((count, classes), np.uint8) for count in (queries, gallery)]
        for own in labels:
            own[:, -1], own[:, 0] = rng.integers(0, 2, (2, len(own)))
    else:
        labels = [rng.integers(-1, classes, count) for count in (queries, gallery)]
    return [*codes, *labels]


def all_results(case, k, radius):
    """Return every metric of codes and labels by name."""
    results = {}
    for ties in ("stable", "expected"):
        for denominator in ("hits", "min", "relevant"):
            options = {"k": k, "ties": ties, "denominator": denominator}
            results[f"AP {ties} {denominator}"] = metrics.average_precision(*case, **options)
        results[f"mAP {ties}"] = metrics.mean_average_precision(*case, k=k, ties=ties, zero_hits="skip")
        results[f"ndcg {ties}"] = metrics.ndcg(*case, k=k, ties=ties)
        results[f"acg {ties}"] = metrics.average_cumulative_gain(*case, k=k, ties=ties)
        found = metrics.evaluate(*case, k=(k, None), radius=radius, ties=ties)
        assert (found.queries, found.gallery) == (len(case[0]), len(case[1]))
        results |= {f"evaluate {ties} {name}": value for name, value in found.figures().items()}
    results["precision"] = metrics.precision_at_k(*case, k=k)
    results["recall"] = metrics.recall_at_k(*case, k=k)
    results["radius"] = metrics.precision_at_radius(*case, radius=radius)
    results |= metrics.precision_recall_curve(*case)._asdict()
    results |= metrics.distance_histograms(*case)._asdict()
    if case[2].ndim == 1:
        labels = [own + 1 for own in case[2:]]
        distance = 1 - np.eye(int(max(map(np.max, labels))) + 1)
        distance[0, 1:] = distance[1:, 0] = 0.25
        results["HP"] = metrics.hierarchical_precision(*case[:2], *labels, distance, k=k)
        results["mAHP"] = metrics.mean_average_hierarchical_precision(*case[:2], *labels, distance, area="mean")
    return results


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 30),
    gallery=st.integers(1, 60),
    bits=st.sampled_from([8, 64, 72]),
    classes=st.sampled_from([1, 3, 70]),
    multi_hot=st.booleans(),
    distinct=st.sampled_from([1, 2, 7, 40]),
    k=st.integers(1, 70),
    chunk=st.sampled_from([1, 200, 2**23]),
)
def test_every_metric_is_that_of_single_queries(seed, queries, gallery, bits, classes, multi_hot, distinct, k, chunk):
    case = crowded_case(seed, queries, gallery, bits, classes, multi_hot, distinct)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranking, "_CHUNK", chunk)
        expected = all_results(case, k, 3)
        group_always(patch)
        found = all_results(case, k, 3)
    for name, value in expected.items():
        # Means over chunks of queries are added in another order.
        np.testing.assert_allclose(found[name], value, rtol=1e-13, atol=1e-15, err_msg=name)
        if name.startswith(("AP", "mAP", "intra", "inter")):
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("multi_hot", [False, True])
def test_each_code_and_label_is_ranked_once(multi_hot, monkeypatch):
    group_always(monkeypatch)
    case = crowded_case(1, 300, 40, 72, 70 if multi_hot else 3, multi_hot, 5)
    ranking = _ranking.check("test", *map(torch.from_numpy, case))
    rows = [(code.tobytes(), label.tobytes()) for code, label in zip(case[0], case[2], strict=True)]
    assert len(ranking.queries) == len(set(rows)) < 30
    assert sum(len(chunk.counts) for chunk in ranking.ranked([])) == len(ranking.queries)
    for query, row in enumerate(ranking.group):
        assert torch.equal(ranking.queries[row], torch.from_numpy(case[0][query]))
        np.testing.assert_array_equal(ranking.labels.queries[row].numpy(), case[2][query])
    assert torch.equal(ranking.copies, ranking.group.bincount())
    assert torch.equal(ranking.for_each(torch.arange(len(ranking.queries))), ranking.group)


def test_queries_that_differ_are_not_searched_for_equal_ones(monkeypatch):
    group_always(monkeypatch)
    codes, labels = torch.arange(2**13, dtype=torch.int16).view(torch.uint8).view(-1, 2), torch.zeros(2**13, 1, dtype=torch.int64)
    sorted_rows = []
    groups = _equal_queries._groups
    monkeypatch.setattr(_equal_queries, "_groups", lambda keys: sorted_rows.append(len(keys)) or groups(keys))
    assert _equal_queries.equal_queries(codes, labels, 2**20) is None
    assert sorted_rows == [_equal_queries._SAMPLE]
    assert _equal_queries.equal_queries(codes % 8, labels, 2**20) is not None
    assert sorted_rows[1:] == [_equal_queries._SAMPLE, 2**13]


@pytest.mark.parametrize(("queries", "gallery", "pays"), [(1024, 2**14, True), (1024, 2**12, False), (2**15, 300, False)])
def test_equal_queries_are_found_where_it_pays(queries, gallery, pays):
    codes, labels = torch.zeros(queries, 1, dtype=torch.uint8), torch.zeros(queries, 1, dtype=torch.int64)
    groups = _equal_queries.equal_queries(codes, labels, gallery)
    assert (groups is not None) == pays
    if pays:
        assert groups.first.tolist() == [0]
        assert groups.copies.tolist() == [queries]

"""Galleries of many equal codes are counted as entries, and the counts are those of the single codes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from orthohash_triton.kernels.cpu import _crowded

from orthohash_triton.metrics import _ranking, average_precision

from .test_equal_queries import all_results, crowded_case, group_always


def take_entries_always(patch):
    """Let every gallery be counted as entries, also one of different codes."""
    patch.setattr(_crowded, "_FEWEST_PAIRS", 0)
    patch.setattr(_crowded, "_ITEMS_PER_ENTRY", 1)
    patch.setattr(_crowded, "_LARGEST_SHARE", 1)


def counted(case):
    """Return the counts of all items and of the relevant ones for all queries."""
    ranking = _ranking.check("test", *map(torch.from_numpy, case))
    chunks = list(ranking.ranked([], "cpu"))
    return [torch.cat([getattr(chunk, name) for chunk in chunks]) for name in ("counts", "relevant")]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 20),
    # More entries than the distances of a block, and numbers that do not fill the banks of counters.
    gallery=st.sampled_from([1, 2, 5, 63, 511, 512, 513, 1500]),
    bits=st.sampled_from([8, 64, 72, 136]),
    classes=st.sampled_from([1, 3, 70]),
    multi_hot=st.booleans(),
    # One code, all equal; few codes; nearly all different.
    distinct=st.sampled_from([1, 2, 30, 10_000]),
)
def test_counts_are_those_of_the_reference(seed, queries, gallery, bits, classes, multi_hot, distinct):
    case = crowded_case(seed, queries, gallery, bits, classes, multi_hot, distinct)
    with pytest.MonkeyPatch.context() as patch:
        take_entries_always(patch)
        counting = []
        patch.setattr("orthohash_triton.kernels.cpu.average_precision.count_crowd", spy(_crowded.count_crowd, counting))
        found = counted(case)
        assert counting == [len(np.unique(case[1], axis=0))]
    ranking = _ranking.check("test", *map(torch.from_numpy, case))
    (expected,) = ranking.ranked([], "reference")
    assert torch.equal(found[0], expected.counts)
    assert torch.equal(found[1], expected.relevant)


def spy(count_crowd, entries):
    """Return a function that notes the number of entries of each call."""

    def counting(crowd, *arguments):
        entries.append(crowd.codes.shape[1])
        count_crowd(crowd, *arguments)

    return counting


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    gallery=st.integers(1, 80),
    bits=st.sampled_from([8, 72]),
    multi_hot=st.booleans(),
    distinct=st.sampled_from([1, 7, 100]),
    k=st.integers(1, 90),
)
def test_every_metric_is_that_of_single_codes(seed, gallery, bits, multi_hot, distinct, k):
    case = crowded_case(seed, 12, gallery, bits, 3, multi_hot, distinct)
    expected = all_results(case, k, 2)
    with pytest.MonkeyPatch.context() as patch:
        take_entries_always(patch)
        group_always(patch)
        found = all_results(case, k, 2)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-15, err_msg=name)
        if "expected" in name and name.startswith("AP"):
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_queries(threads, monkeypatch):
    take_entries_always(monkeypatch)
    case = crowded_case(3, 50, 300, 64, 3, False, 20)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = average_precision(*case, ties="expected")
    finally:
        torch.set_num_threads(before)
    monkeypatch.setenv("ORTHOHASH_IMPL", "reference")
    np.testing.assert_array_equal(found, average_precision(*case, ties="expected"))


# ---- where entries are taken ---------------------------------------------------------------------------------------------


def crowd(codes, queries=10_000):
    return _crowded.crowd_of(codes.reshape(-1, 1).view(np.uint8), np.zeros((len(codes), 1), np.uint64), False, queries)


def test_entries_are_taken_where_they_pay():
    count = 2**14
    numbers = np.arange(count, dtype=np.uint64)
    assert crowd(numbers) is None
    few = crowd(numbers % (count // 16))
    assert few.codes.shape == (1, count // 16)
    assert few.sizes.tolist() == [16] * (count // 16)
    # Every code occurs four times: the sample looks crowded, and the whole gallery has too many entries.
    assert crowd(numbers % (count // 4)) is None
    assert crowd(numbers % (count // 16), queries=100) is None  # few queries


def test_a_sample_decides_for_different_codes(monkeypatch):
    rows = []
    distinct = _crowded._distinct
    monkeypatch.setattr(_crowded, "_distinct", lambda words, most: rows.append(len(words)) or distinct(words, most))
    assert crowd(np.arange(2**15, dtype=np.uint64)) is None
    assert rows == [_crowded._SAMPLE]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2**63])), min_size=1, max_size=60),
    most=st.integers(1, 60),
)
def test_different_rows_are_numbered_as_they_come(rows, most):
    numbers, first = _crowded._distinct(np.array(rows, np.uint64), most)
    expected = list(dict.fromkeys(rows))
    if len(expected) > most:
        assert len(first) == 0
    else:
        assert [rows[i] for i in first] == expected
        assert first.tolist() == [rows.index(row) for row in expected]
        assert numbers.tolist() == [expected.index(row) for row in rows]


def test_rows_of_one_hash_are_told_apart(monkeypatch):
    # All rows take the last slot of the table first, and move on over its end.
    rows = np.arange(40, dtype=np.uint64)[:, None]
    table, numbers, first = np.full(128, -1, np.int32), np.empty(80, np.int32), np.empty(40, np.int64)
    monkeypatch.setattr(_crowded, "_hash", lambda row, slots: slots - 1)
    monkeypatch.setattr(_crowded, "_are_equal", _crowded._are_equal.py_func)
    assert _crowded._number.py_func(np.concatenate([rows, rows]), table, numbers, first) == 40
    assert first.tolist() == list(range(40))
    assert numbers.tolist() == [*range(40)] * 2

"""Tests of ids that users give to their codes."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from orthohash_triton.search import HammingIndex
from orthohash_triton.search._external_ids import ExternalIds

IDS = [50, -3, 7, 2**62, 0, -(2**63)]


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 2), dtype=np.uint8)


def filled():
    index = HammingIndex(16)
    index.add_with_ids(codes(6), IDS)
    return index


def unchanged(index):
    np.testing.assert_array_equal(index.codes, codes(6))
    assert index.ids.tolist() == IDS


def test_searches_answer_with_the_ids():
    index, plain = filled(), HammingIndex(16)
    plain.add(codes(6))
    queries = codes(4, seed=1)
    distances, positions = plain.search(queries, 8)
    found_distances, ids = index.search(queries, 8)
    np.testing.assert_array_equal(found_distances, distances)
    np.testing.assert_array_equal(ids, np.where(positions < 0, -1, np.array(IDS)[positions]))
    for ours, expected in zip(index.range_search(queries, 8), plain.range_search(queries, 8), strict=True):
        assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(index.range_search(queries, 8)[2], np.array(IDS)[plain.range_search(queries, 8)[2]])


def test_ties_stand_in_the_order_of_positions_not_of_ids():
    index = HammingIndex(16)
    index.add_with_ids(np.zeros((4, 2), np.uint8), [9, -4, 100, 3])
    assert index.search(np.zeros((1, 2), np.uint8), 3)[1].tolist() == [[9, -4, 100]]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, tuple])
def test_ids_come_in_any_kind_and_are_copied(kind):
    index, ids = HammingIndex(16), kind(IDS)
    index.add_with_ids(codes(6), ids)
    if kind is not tuple:
        ids[0] = 1
    unchanged(index)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 2], ValueError, "ids must be one for each of the 3 codes; got 2"),
        ([1, 2, 1], ValueError, "ids must be unique; id 1 is given more than once"),
        ([1, 2, -1], ValueError, "ids must not hold -1, which means that nothing was found"),
        ([1, 7, 0], ValueError, "ids 7, 0 are in the index already. Remove the old codes first"),
        ([1.0, 2.0, 3.0], TypeError, "ids must be integers; got list"),
        (np.ones(3, bool), TypeError, "ids must be integers; got ndarray bool"),
        (torch.ones(3, 1, dtype=torch.int64), ValueError, r"ids must be integers \[M\]; got int64 \[3, 1\]"),
        (None, TypeError, "ids must be a tensor, an array or a list of integers; got NoneType"),
        (np.array([1, 2, 2**63], np.uint64), ValueError, "ids must fit int64"),
    ],
)
def test_bad_ids_add_nothing(ids, error, message):
    index = filled()
    with pytest.raises(error, match=f"HammingIndex.add_with_ids: {message}"):
        index.add_with_ids(codes(3, seed=1), ids)
    unchanged(index)


def test_bad_codes_add_no_ids():
    index = filled()
    with pytest.raises(
        ValueError, match=r"HammingIndex.add_with_ids: codes must be \[N, 2\] for an index of 16 bits; got uint8 \[1, 3\]"
    ):
        index.add_with_ids(np.zeros((1, 3), np.uint8), [1])
    unchanged(index)


def test_the_kinds_do_not_mix():
    index = filled()
    with pytest.raises(RuntimeError, match=r"HammingIndex.add: the index has ids of its own\. Use add_with_ids"):
        index.add(codes(1))
    unchanged(index)
    plain = HammingIndex(16)
    plain.add(codes(2))
    with pytest.raises(RuntimeError, match=r"add_with_ids: the 2 codes of the index have positions as ids\. Use add"):
        plain.add_with_ids(codes(1), [3])
    for one, other, message in (
        (index, plain, "the index has ids of its own, other has positions as ids"),
        (plain, index, "the index has positions as ids, other has ids of its own"),
    ):
        with pytest.raises(RuntimeError, match=f"HammingIndex.merge_from: {message}. Both must be of one kind"):
            one.merge_from(other)
    unchanged(index)
    assert plain.ntotal == 2


def test_an_empty_index_takes_either_kind():
    index = filled()
    assert index.remove_ids(IDS) == 6
    index.add(codes(2))
    assert index.ids is None
    assert index.search(codes(2), 1)[1].tolist() == [[0], [1]]
    index.reset()
    index.merge_from(filled())
    unchanged(index)


def test_remove_by_id_and_by_position():
    index = filled()
    assert index.remove_ids([7, 0, 7]) == 2
    assert index.remove_ids(np.array([True, False, False, False])) == 1
    np.testing.assert_array_equal(index.codes, codes(6)[[1, 3, 5]])
    assert index.ids.tolist() == [-3, 2**62, -(2**63)]
    with pytest.raises(IndexError, match="ids 7, 50 are not in the index, which holds 3 codes"):
        index.remove_ids([-3, 7, 50])
    index.add_with_ids(codes(1, seed=1), [7])
    assert index.search(codes(1, seed=1), 1)[1].tolist() == [[7]]
    np.testing.assert_array_equal(index.reconstruct(-(2**63)), codes(6)[5])


def test_reconstruct_by_id():
    index = HammingIndex(16)
    index.add_with_ids(codes(6), [5, 3, 4, -9, 2**63 - 1, 6])
    np.testing.assert_array_equal(index.reconstruct_n(3, 4), codes(6)[[1, 2, 0, 5]])
    np.testing.assert_array_equal(index.reconstruct_batch([4, -9]), codes(6)[[2, 3]])
    np.testing.assert_array_equal(index.reconstruct(2**63 - 1), codes(6)[4])
    with pytest.raises(IndexError, match="id 7 is not in the index"):
        index.reconstruct_n(6, 2)


def test_filters_take_ids():
    index = filled()
    assert sorted(index.search(codes(1), 9, ids=[7, 50])[1][0].tolist()) == [-1] * 7 + [7, 50]
    assert sorted(index.search(codes(1), 6, exclude_ids=[7, 50])[1][0].tolist()) == sorted([-1, -1, *IDS[1:2], *IDS[3:]])
    with pytest.raises(IndexError, match="ids 1, 2 are not in the index"):
        index.search(codes(1), 1, ids=[1, 7, 2])
    with pytest.raises(TypeError, match=r"ids must be a tensor, an array or a list of integers; got list \[\[1\], \[2, 3\]\]"):
        index.search(codes(1), 1, ids=[[1], [2, 3]])


def test_merge_refuses_ids_that_both_have():
    index, other = filled(), HammingIndex(16)
    other.add_with_ids(codes(2), [1, 7])
    with pytest.raises(ValueError, match="id 7 is in the index already"):
        index.merge_from(other)
    unchanged(index)
    assert other.ids.tolist() == [1, 7]


def test_copies_and_pickles_keep_the_ids():
    index = filled()
    for other in (index.copy(), pickle.loads(pickle.dumps(index)), index.copy().to("cpu", storage="host")):
        unchanged(other)
        other.add_with_ids(codes(1), [1])
        with pytest.raises(ValueError, match="id 7 is in the index already"):
            other.add_with_ids(codes(1), [7])
    unchanged(index)
    assert repr(index) == "HammingIndex(bits=16, ntotal=6, device='cpu', with ids)"


def test_an_addition_without_memory_for_its_ids_adds_nothing(monkeypatch):
    index = filled()

    def out_of_memory(held, ids):
        raise MemoryError

    monkeypatch.setattr(ExternalIds, "appended", out_of_memory)
    with pytest.raises(MemoryError):
        index.add_with_ids(codes(9), range(100, 109))
    unchanged(index)
    monkeypatch.undo()
    index.add_with_ids(codes(9, seed=1), range(100, 109))
    np.testing.assert_array_equal(index.reconstruct(108), codes(9, seed=1)[8])


def test_small_additions_sort_little(monkeypatch):
    """An id is sorted again only when a run of twice the size is made, not at each addition."""
    index, sorted_ids = HammingIndex(16), 0
    argsort = np.argsort

    def counted(ids, **options):
        nonlocal sorted_ids
        sorted_ids += len(ids)
        return argsort(ids, **options)

    monkeypatch.setattr(np, "argsort", counted)
    for id in np.random.default_rng(0).permutation(1000):
        index.add_with_ids(codes(1), [id])
    assert sorted_ids < 20 * 1000
    monkeypatch.undo()
    np.testing.assert_array_equal(index.ids, np.random.default_rng(0).permutation(1000))
    with pytest.raises(ValueError, match="id 999 is in the index already"):
        index.add_with_ids(codes(1), [999])


def test_a_removal_sorts_nothing(monkeypatch):
    index = HammingIndex(16)
    for start in range(0, 100, 10):
        index.add_with_ids(codes(10), range(start, start + 10))
    index.reconstruct(99)

    def refused(ids, **options):
        raise AssertionError

    monkeypatch.setattr(np, "argsort", refused)
    assert index.remove_ids(range(0, 100, 3)) == 34
    assert index.ids.tolist() == [id for id in range(100) if id % 3]
    np.testing.assert_array_equal(index.reconstruct_batch([98, 1]), codes(10)[[8, 1]])


@pytest.mark.parametrize("start", [0, 7])
def test_all_codes_from_an_id_on_are_not_known(start):
    with pytest.raises(
        ValueError, match=r"count must be given for an index with ids of its own.*reconstruct_batch\(index\.ids\)"
    ):
        filled().reconstruct_n(start)


def test_threads_look_ids_up_together():
    """The first look-up sorts the ids; all threads must wait until they are sorted."""
    ids = np.random.default_rng(0).permutation(5000) * 3
    for _ in range(20):
        index = HammingIndex(16)
        for part in np.array_split(np.arange(5000), 5):
            index.add_with_ids(codes(5000)[part], ids[part])
        start = threading.Barrier(8)

        def look_up(seed, index=index, start=start):
            wanted = np.random.default_rng(seed).integers(0, 5000, 50)
            start.wait()
            np.testing.assert_array_equal(index.reconstruct_batch(ids[wanted]), codes(5000)[wanted])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(look_up, range(8)))

import copy
import pickle

import numpy as np
import pytest
import torch

from orthohash_triton.search import HammingIndex
from orthohash_triton.search._gallery import Gallery
from orthohash_triton.search.index import cell_of
from tests.search.galleries import codes, filled

MISSING = (2**31 - 1, -1)


def brute_force(queries, gallery, k):
    distances = np.unpackbits(queries[:, None] ^ gallery[None], axis=2).sum(axis=2, dtype=np.int32)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("bits", [8, 24, 64, 128])
@pytest.mark.parametrize("k", [1, 7, 300])
def test_search_is_exact_in_order_of_distance_then_id(bits, k):
    queries = codes(9, bits, seed=1)
    distances, ids = filled(bits=bits).search(queries, k)
    expected_distances, expected_ids = brute_force(queries, codes(300, bits), k)
    np.testing.assert_array_equal(distances, expected_distances)
    np.testing.assert_array_equal(ids, expected_ids)
    assert distances.dtype == np.int32
    assert ids.dtype == np.int64


def test_answers_come_in_the_kind_of_the_queries():
    index, queries = filled(), codes(3, seed=1)
    arrays, tensors = index.search(queries, 4), index.search(torch.from_numpy(queries), 4)
    assert all(isinstance(part, np.ndarray) for part in arrays)
    assert all(isinstance(part, torch.Tensor) for part in tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        np.testing.assert_array_equal(array, tensor)


@pytest.mark.parametrize("sizes", [[300], [1] * 40, [0, 5, 0, 17, 200, 3]])
def test_additions_append(sizes):
    gallery = codes(sum(sizes))
    index, start = HammingIndex(64), 0
    for turn, size in enumerate(sizes):
        part = gallery[start : start + size]
        index.add(torch.from_numpy(part) if turn % 2 else part)
        start += size
        assert index.ntotal == len(index) == start
    np.testing.assert_array_equal(index.codes, gallery)
    queries = codes(4, seed=1)
    for ours, expected in zip(index.search(queries, 5), brute_force(queries, gallery, 5), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_small_additions_move_the_gallery_rarely():
    index, places = HammingIndex(64), set()
    for _ in range(1000):
        index.add(codes(1))
        places.add(len(cell_of(index).gallery.rows.memory))
    assert len(places) <= 11  # 1, 2, 4, ... 1024


def test_the_index_keeps_its_own_copy():
    gallery = codes(10)
    index = HammingIndex(64)
    index.add(gallery)
    gallery[:] = 0
    np.testing.assert_array_equal(index.codes, codes(10))


@pytest.mark.parametrize("mask_kind", [np.asarray, torch.from_numpy])
def test_mask(mask_kind):
    mask = np.random.default_rng(2).random(300) < 0.1
    queries = codes(5, seed=1)
    distances, ids = filled().search(queries, 400, mask=mask_kind(mask))
    allowed = np.flatnonzero(mask)
    expected_distances, order = brute_force(queries, codes(300)[allowed], 400)
    found = len(allowed)
    np.testing.assert_array_equal(distances[:, :found], expected_distances)
    np.testing.assert_array_equal(ids[:, :found], allowed[order])
    assert (distances[:, found:] == MISSING[0]).all()
    assert (ids[:, found:] == MISSING[1]).all()


def test_k_beyond_the_gallery_is_padded():
    distances, ids = filled(3).search(codes(2, seed=1), 5)
    assert (distances[:, 3:] == MISSING[0]).all()
    assert (ids[:, 3:] == MISSING[1]).all()
    assert (ids[:, :3] >= 0).all()


def test_empty_index_finds_nothing():
    distances, ids = HammingIndex(64).search(codes(2), 3)
    assert (distances == MISSING[0]).all()
    assert (ids == MISSING[1]).all()


def test_reconstruct_copies():
    index = filled(20)
    np.testing.assert_array_equal(index.reconstruct(7), codes(20)[7])
    part = index.reconstruct_n(5, 10)
    np.testing.assert_array_equal(part, codes(20)[5:15])
    part.zero_()
    np.testing.assert_array_equal(index.codes, codes(20))
    assert index.reconstruct_n(20, 0).shape == (0, 8)
    np.testing.assert_array_equal(index.reconstruct_n(), codes(20))
    np.testing.assert_array_equal(index.reconstruct_n(15, -1), codes(20)[15:])


@pytest.mark.parametrize("id", [20, 21, -1, 2**62])
def test_reconstruct_unknown_id(id):
    with pytest.raises(IndexError, match=f"id {id} is not in the index, which holds 20 codes"):
        filled(20).reconstruct(id)


def test_reconstruct_unknown_ids():
    index = filled(20)
    with pytest.raises(IndexError, match="ids 20, 21, 22 are not in the index"):
        index.reconstruct_n(18, 5)
    with pytest.raises(IndexError, match=r"holds 20 codes, and cannot hold 2\d+ ids"):
        index.reconstruct_n(0, 2 * 10**15)
    with pytest.raises(IndexError, match="reconstruct_batch: ids -1, 20, 30, 40, 50 and 2 more are not in the index"):
        index.reconstruct_batch([3, -1, 20, 30, 40, 50, 60, 70])


def test_reconstruct_batch_in_any_order_and_kind():
    index, ids = filled(20), [7, 3, 7, 19]
    for kind in (list, np.array, torch.tensor, tuple):
        codes_of = index.reconstruct_batch(kind(ids))
        assert isinstance(codes_of, np.ndarray if kind is np.array else torch.Tensor)
        np.testing.assert_array_equal(codes_of, codes(20)[ids])
    assert index.reconstruct_batch([]).shape == (0, 8)


@pytest.mark.parametrize("radius", [0, 1, 25, 30, 64, 65, 1000, np.arange(20, 29)])
@pytest.mark.parametrize("inclusive", [False, True])
def test_range_search(radius, inclusive):
    queries = codes(9, seed=1)
    queries[0] = codes(300)[17]
    expected_distances, expected_ids = brute_force(queries, codes(300), 300)
    near = expected_distances < np.broadcast_to(radius, 9)[:, None] + inclusive
    lims, distances, ids = filled().range_search(queries, radius, inclusive=inclusive)
    np.testing.assert_array_equal(lims, np.cumsum([0, *near.sum(1)]))
    np.testing.assert_array_equal(distances, expected_distances[near])
    np.testing.assert_array_equal(ids, expected_ids[near])
    assert [part.dtype for part in (lims, distances, ids)] == [np.int64, np.int32, np.int64]


def test_range_search_finds_what_faiss_finds():
    faiss = pytest.importorskip("faiss")
    theirs, queries = faiss.IndexBinaryFlat(64), codes(9, seed=1)
    theirs.add(codes(300))
    for radius in (0, 1, 26, 30):
        expected_lims, expected_distances, expected_ids = theirs.range_search(queries, radius)
        lims, distances, ids = filled().range_search(queries, radius)
        np.testing.assert_array_equal(lims, expected_lims)
        for q in range(9):
            ours = sorted(zip(ids[lims[q] : lims[q + 1]], distances[lims[q] : lims[q + 1]], strict=True))
            mine = slice(*map(int, expected_lims[q : q + 2]))
            assert ours == sorted(zip(expected_ids[mine], expected_distances[mine], strict=True))


@pytest.mark.parametrize("radius", [-1, np.full(3, -1)])
def test_bad_radius(radius):
    with pytest.raises(ValueError, match=r"radius must be .*; got -1"):
        filled().range_search(codes(3), radius)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_search_among_ids(kind):
    index, queries = filled(), codes(5, seed=1)
    chosen = [250, 3, 17, 3, 99, 100]
    allowed = np.unique(chosen)
    expected_distances, order = brute_force(queries, codes(300)[allowed], 4)
    distances, ids = index.search(queries, 4, ids=kind(chosen))
    np.testing.assert_array_equal(distances, expected_distances)
    np.testing.assert_array_equal(ids, allowed[order])
    lims, _, within = index.range_search(queries, 64, inclusive=True, ids=kind(chosen))
    assert lims.tolist() == [0, 5, 10, 15, 20, 25]
    assert {*within.tolist()} == {*chosen}


def test_filters_agree_with_each_other_and_with_faiss():
    faiss = pytest.importorskip("faiss")
    index, theirs, queries = filled(), faiss.IndexBinaryFlat(64), codes(8, seed=1)
    theirs.add(codes(300))
    chosen = np.random.default_rng(3).choice(300, 40, replace=False)
    mask = np.zeros(300, bool)
    mask[chosen] = True
    batch = faiss.IDSelectorBatch(chosen)
    for selector, filters in (
        (batch, [{"mask": mask}, {"ids": chosen}, {"exclude_ids": np.flatnonzero(~mask)}, {"ids": range(300), "mask": mask}]),
        (faiss.IDSelectorNot(batch), [{"mask": ~mask}, {"exclude_ids": chosen}, {"mask": mask | ~mask, "exclude_ids": chosen}]),
    ):
        expected = theirs.search(queries, 50, params=faiss.SearchParameters(sel=selector))
        for each in filters:
            before = {name: np.array(value) for name, value in each.items()}
            for ours, right in zip(index.search(queries, 50, **each), expected, strict=True):
                np.testing.assert_array_equal(ours, right)
            for name, value in each.items():
                np.testing.assert_array_equal(value, before[name])


def test_nothing_is_left_to_find():
    for nothing in ({"ids": []}, {"mask": np.zeros(300, bool)}, {"exclude_ids": range(300)}, {"ids": [3], "exclude_ids": [3]}):
        distances, ids = filled().search(codes(2), 3, **nothing)
        assert (distances == MISSING[0]).all()
        assert (ids == MISSING[1]).all()
        assert filled().range_search(codes(2), 64, **nothing)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            {"mask": np.ones(299, bool)},
            ValueError,
            r"mask must have one entry for each of the 300 codes of the index; got ndarray bool \[299\]",
        ),
        ({"mask": np.ones((300, 1), bool)}, ValueError, r"mask must be a tensor \[ntotal\]"),
        ({"mask": np.ones(300, np.uint8)}, TypeError, "mask must be .* of bool; got uint8"),
        ({"ids": [1, 300, -1]}, IndexError, "ids 300, -1 are not in the index, which holds 300 codes"),
        ({"exclude_ids": [1, 300]}, IndexError, "id 300 is not in the index"),
        ({"ids": [1.0]}, TypeError, r"ids must be integers; got list \[1\.0\]"),
        ({"ids": torch.ones(3)}, TypeError, r"ids must be integers; got float32 \[3\] on cpu"),
        ({"ids": np.ones(3, bool)}, TypeError, r"ids must be integers; got ndarray bool \[3\]"),
        ({"ids": [[1]]}, ValueError, r"ids must be integers \[M\]; got list \[\[1\]\]"),
        ({"ids": 3}, TypeError, "ids must be a tensor, an array or a list of integers; got int 3"),
        ({"ids": np.array([2**63], np.uint64)}, ValueError, f"ids must fit int64; got {2**63}"),
    ],
)
def test_bad_filters(value, error, message):
    for method, argument in (("search", 3), ("range_search", 3)):
        with pytest.raises(error, match=f"HammingIndex.{method}: {message}"):
            getattr(filled(), method)(codes(2), argument, **value)


@pytest.mark.parametrize(
    "gone",
    [
        [5, 7, 5, 299],
        torch.tensor([299, 5, 7]),
        np.array([5, 7, 299], np.uint16),
        np.isin(np.arange(300), [5, 7, 299]),
        torch.isin(torch.arange(300), torch.tensor([5, 7, 299])),
    ],
)
def test_remove_moves_the_rest_up(gone):
    index = filled()
    assert index.remove_ids(gone) == 3
    rest = np.delete(codes(300), [5, 7, 299], axis=0)
    np.testing.assert_array_equal(index.codes, rest)
    queries = codes(4, seed=1)
    for ours, expected in zip(index.search(queries, 9), brute_force(queries, rest, 9), strict=True):
        np.testing.assert_array_equal(ours, expected)
    index.add(codes(2, seed=2))
    np.testing.assert_array_equal(index.codes, np.concatenate([rest, codes(2, seed=2)]))


def test_remove_as_faiss_does():
    faiss = pytest.importorskip("faiss")
    theirs, index, gone = faiss.IndexBinaryFlat(64), filled(), np.random.default_rng(3).choice(300, 40, replace=False)
    theirs.add(codes(300))
    assert theirs.remove_ids(gone) == index.remove_ids(gone)
    np.testing.assert_array_equal(theirs.reconstruct_n(0, 260), index.codes)


@pytest.mark.parametrize(
    ("gone", "error", "message"),
    [
        ([5, 300, 301], IndexError, "ids 300, 301 are not in the index"),
        (np.ones(299, bool), ValueError, "ids must have one entry for each of the 300 codes"),
        ([0.5], TypeError, "ids must be integers"),
        (None, TypeError, "ids must be a tensor, an array or a list"),
    ],
)
def test_bad_removal_removes_nothing(gone, error, message):
    index = filled()
    with pytest.raises(error, match=f"HammingIndex.remove_ids: {message}"):
        index.remove_ids(gone)
    np.testing.assert_array_equal(index.codes, codes(300))


def test_merge_from_empties_the_other():
    index, other = filled(3), HammingIndex(64)
    other.add(codes(2, seed=1))
    index.merge_from(other)
    np.testing.assert_array_equal(index.codes, np.concatenate([codes(3), codes(2, seed=1)]))
    assert other.ntotal == 0
    index.merge_from(other)
    assert index.ntotal == 5


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (filled(2, 32), ValueError, "other must hold codes of 64 bits; got 32"),
        (codes(2), TypeError, "other must be a HammingIndex; got ndarray"),
        (None, TypeError, "other must be a HammingIndex; got NoneType"),
    ],
)
def test_bad_merge_changes_nothing(other, error, message):
    index = filled(3)
    with pytest.raises(error, match=f"HammingIndex.merge_from: {message}"):
        index.merge_from(other)
    with pytest.raises(ValueError, match="other must be another index"):
        index.merge_from(index)
    np.testing.assert_array_equal(index.codes, codes(3))
    assert other is None or len(other) == 2


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda index: index.copy(), lambda index: pickle.loads(pickle.dumps(index))]
)
def test_copies_share_nothing(make):
    index = filled(20)
    index.chunk_bytes = 1000
    other = make(index)
    assert other.chunk_bytes == 1000
    index.add(codes(4, seed=1))  # written to spare rows, which the copy must not use too
    other.add(codes(4, seed=2))
    np.testing.assert_array_equal(index.codes, np.concatenate([codes(20), codes(4, seed=1)]))
    np.testing.assert_array_equal(other.codes, np.concatenate([codes(20), codes(4, seed=2)]))


def test_pickle_holds_the_codes_and_no_spare_room():
    index = filled(1000)
    index.add(codes(1))  # doubles the memory
    assert len(pickle.dumps(index)) < 1001 * 8 + 2000


@pytest.mark.parametrize("rows", [10, 2**20])
def test_add_an_array_that_is_mapped_from_a_file(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("orthohash_triton.search._rows.COPIED_ROWS", rows)
    np.save(tmp_path / "codes.npy", codes(45))
    index = HammingIndex(64)
    index.add(np.load(tmp_path / "codes.npy", mmap_mode="r"))
    index.add(codes(45)[::-1])
    np.testing.assert_array_equal(index.codes, np.concatenate([codes(45), codes(45)[::-1]]))
    assert index.remove_ids(range(1, 45)) == 44
    np.testing.assert_array_equal(index.codes, np.concatenate([codes(45)[:1], codes(45)[::-1]]))


def test_an_addition_that_fails_adds_nothing(monkeypatch):
    index = filled(20)

    def out_of_memory(gallery, count):
        raise MemoryError

    monkeypatch.setattr(Gallery, "_allocate", out_of_memory)
    for change in (lambda: index.add(codes(30)), lambda: index.remove_ids([3])):
        with pytest.raises(MemoryError):
            change()
    np.testing.assert_array_equal(index.codes, codes(20))


def test_storage():
    index = HammingIndex(64, storage="host")
    index.add(codes(20))
    assert index.storage == "host"
    assert index.copy().storage == "host"
    assert repr(index) == "HammingIndex(bits=64, ntotal=20, device='cpu', storage='host')"
    assert index.to("cpu").storage == "device"
    np.testing.assert_array_equal(index.codes, codes(20))
    with pytest.raises(ValueError, match="HammingIndex: storage must be one of 'device', 'host'; got 'disk'"):
        HammingIndex(64, storage="disk")
    with pytest.raises(ValueError, match=r"HammingIndex\.to: storage must be one of"):
        index.to("cpu", storage="disk")


@pytest.mark.gpu
@pytest.mark.parametrize("chunk_bytes", [8, 800, 2**26])
def test_gpu_searches_a_gallery_in_host_memory(device, chunk_bytes):
    index, queries = HammingIndex(64, device, storage="host"), codes(6, seed=1)
    index.chunk_bytes = chunk_bytes
    index.add(codes(300))
    assert index.codes.device.type == "cpu"
    assert index.codes.is_pinned()
    assert index.device.type == "cuda"
    mask = np.random.default_rng(2).random(300) < 0.5
    for filters in ({}, {"mask": mask}, {"ids": np.flatnonzero(mask)}, {"exclude_ids": np.flatnonzero(~mask)}):
        expected = filled().search(queries, 40, **filters)
        for ours, right in zip(index.search(queries, 40, **filters), expected, strict=True):
            np.testing.assert_array_equal(ours, right)
        expected = filled().range_search(queries, 28, **filters)
        for ours, right in zip(index.range_search(torch.from_numpy(queries).to(device), 28, **filters), expected, strict=True):
            np.testing.assert_array_equal(ours.cpu(), right)


@pytest.mark.gpu
def test_gpu_index_with_ids(device):
    index = HammingIndex(64, device)
    index.add_with_ids(codes(300), np.arange(300) * 7)
    assert index.remove_ids([7, 70]) == 2
    rest = np.delete(np.arange(300), [1, 10])
    expected_distances, order = brute_force(codes(6, seed=1), codes(300)[rest], 8)
    distances, ids = index.search(torch.from_numpy(codes(6, seed=1)).to(device), 8)
    np.testing.assert_array_equal(distances.cpu(), expected_distances)
    np.testing.assert_array_equal(ids.cpu(), rest[order] * 7)
    np.testing.assert_array_equal(index.reconstruct(14).cpu(), codes(300)[2])
    assert index.copy().device.type == "cuda"
    assert pickle.loads(pickle.dumps(index)).ids.device.type == "cuda"


def test_reset_and_reuse():
    index = filled()
    index.reset()
    assert index.ntotal == 0
    index.add(codes(2, seed=3))
    np.testing.assert_array_equal(index.codes, codes(2, seed=3))


def test_to_keeps_codes_and_returns_the_index():
    index = filled(5)
    assert index.to("cpu") is index
    np.testing.assert_array_equal(index.codes, codes(5))


@pytest.mark.gpu
def test_gpu_index_takes_numpy_and_tensors(device):
    index, queries = filled().to(device), codes(6, seed=1)
    expected = brute_force(queries, codes(300), 8)
    for answer in (index.search(queries, 8), [part.cpu() for part in index.search(torch.from_numpy(queries).to(device), 8)]):
        for ours, right in zip(answer, expected, strict=True):
            np.testing.assert_array_equal(ours, right)


def test_repr():
    assert repr(filled(5)) == "HammingIndex(bits=64, ntotal=5, device='cpu')"


@pytest.mark.parametrize(
    ("bits", "error", "message"),
    [
        (0, ValueError, "bits must be between 1 and 8388600"),
        (2**40, ValueError, "bits must be between 1 and 8388600"),
        (12, ValueError, "bits must be a multiple of 8; got 12. Pad the codes to 16 bits"),
        (64.0, TypeError, "bits must be an integer"),
    ],
)
def test_bad_bits(bits, error, message):
    with pytest.raises(error, match=message):
        HammingIndex(bits)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (codes(3, 32), ValueError, r"must be \[N, 8\] for an index of 64 bits; got uint8 \[3, 4\] on cpu, which is 32 bits"),
        (codes(3).view(np.int8), TypeError, "got int8"),
        (codes(3)[0], ValueError, r"\[N, bits/8\]"),
        ([[0] * 8], TypeError, "must be a tensor"),
    ],
)
def test_bad_codes(value, error, message):
    with pytest.raises(error, match=rf"HammingIndex.add: codes .*{message}"):
        filled().add(value)
    with pytest.raises(error, match=rf"HammingIndex.search: queries .*{message}"):
        filled().search(value, 1)


@pytest.mark.parametrize("k", [0, -1])
def test_bad_k(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and .*; got {k}"):
        filled().search(codes(1), k)


def _first_neighbours(indexes, queries, answers):
    answers.put([index.search(queries, 1)[1].tolist() for index in indexes])


def test_goes_to_processes_that_are_spawned():
    plain, with_ids = HammingIndex(64), HammingIndex(64)
    plain.add(codes(20))
    with_ids.add_with_ids(codes(20), range(100, 120))
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_first_neighbours, args=((plain, with_ids), codes(3), answers))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert answers.get() == [[[0], [1], [2]], [[100], [101], [102]]]


def test_pickled_on_a_device_that_is_not_here():
    state = filled(3).__getstate__()
    state["device"] = "cuda:99"
    with pytest.raises(
        RuntimeError, match=r"searches on cuda:99, which this machine does not have .*\.to\('cpu'\) before it is pickled"
    ):
        HammingIndex.__new__(HammingIndex).__setstate__(state)


@pytest.mark.parametrize("with_ids", [False, True])
def test_filled_in_inference_mode_and_then_outside(with_ids):
    index = HammingIndex(64)

    def add(part):
        index.add_with_ids(codes(20)[part], np.arange(20)[part]) if with_ids else index.add(codes(20)[part])

    with torch.inference_mode():
        add(slice(0, 5))
        add(slice(5, 8))
        index.remove_ids([0])
        add(slice(8, 11))
        add(slice(11, 12))
        assert len(cell_of(index).gallery.rows.memory) >= index.ntotal + 2  # the next codes use memory that is allocated already
    add(slice(12, 14))
    add(slice(14, 20))
    np.testing.assert_array_equal(index.codes, codes(20)[1:])


@pytest.mark.parametrize("start", [-1, 21, -(2**62)])
def test_all_codes_from_where_there_is_none(start):
    with pytest.raises(IndexError, match=f"id {start} is not in the index, which holds 20 codes"):
        filled(20).reconstruct_n(start)
    assert filled(20).reconstruct_n(20).shape == (0, 8)

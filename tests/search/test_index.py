import numpy as np
import pytest
import torch

from orthohash_triton.search import HammingIndex

MISSING = (2**31 - 1, -1)


def codes(count, bits=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, bits // 8), dtype=np.uint8)


def brute_force(queries, gallery, k):
    distances = np.unpackbits(queries[:, None] ^ gallery[None], axis=2).sum(axis=2, dtype=np.int32)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def filled(count=300, bits=64):
    index = HammingIndex(bits)
    index.add(codes(count, bits))
    return index


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
        places.add(len(index._buffer))
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


@pytest.mark.parametrize("id", [20, 21])
def test_reconstruct_unknown_id(id):
    with pytest.raises(IndexError, match=f"id {id} is not in the index, which holds 20 codes"):
        filled(20).reconstruct(id)


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
        (0, ValueError, "bits must be at least 1"),
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

"""Tests of indexes whose codes stay in a memory-mapped file."""

import os
import pickle
import sys

import numpy as np
import pytest
import torch

from orthohash_triton.search import HammingIndex, faiss_io
from tests.processes import fresh_processes
from tests.search.galleries import codes, filled


@pytest.fixture
def path(tmp_path):
    filled().save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("bits", "count", "chunk_bytes"),
    [
        (24, 20, 1),  # less than a code: a chunk is one code
        (8, 300, 150),  # two whole chunks
        (64, 300, 1004),  # 125 codes a chunk, the last one shorter
        (200, 300, 2**26),  # one chunk
    ],
)
@pytest.mark.parametrize("with_ids", [False, True])
def test_answers_as_in_memory(tmp_path, bits, count, chunk_bytes, with_ids):
    names = np.arange(count) * 11 - 1000 if with_ids else np.arange(count)
    index, queries = filled(count, bits, names if with_ids else None), codes(5, bits, seed=1)
    index.save(tmp_path / "index")
    mapped = HammingIndex.load(tmp_path / "index", mmap=True)
    mapped.chunk_bytes = chunk_bytes
    assert mapped.storage == "file"
    assert repr(mapped) == repr(index).replace("device='cpu'", "device='cpu', storage='file'")
    mask = np.random.default_rng(2).random(count) < 0.5
    chosen = names[mask]
    for filters in ({}, {"mask": mask}, {"ids": chosen}, {"exclude_ids": chosen[::2], "mask": torch.from_numpy(mask)}):
        for k in (1, count // 4, count + 1):
            for ours, expected in zip(mapped.search(queries, k, **filters), index.search(queries, k, **filters), strict=True):
                np.testing.assert_array_equal(ours, expected)
        expected = index.range_search(queries, np.arange(5) * bits // 8, **filters)
        for ours, right in zip(mapped.range_search(queries, np.arange(5) * bits // 8, **filters), expected, strict=True):
            np.testing.assert_array_equal(ours, right)
    np.testing.assert_array_equal(mapped.reconstruct_batch(chosen[::-1]), codes(count, bits)[mask][::-1])
    np.testing.assert_array_equal(mapped.codes, codes(count, bits))


def test_mapped_codes_stand_at_odd_addresses_and_are_whole(path):
    mapped = HammingIndex.load(path, mmap=True)
    assert mapped.codes.data_ptr() % 8 == 33 % 8
    np.testing.assert_array_equal(mapped.codes, codes(300))


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.add(codes(1)),
        lambda index: index.add_with_ids(codes(1), [1000]),
        lambda index: index.remove_ids([3]),
        lambda index: index.merge_from(filled(1)),
    ],
)
def test_a_mapped_index_is_only_read(path, change):
    mapped, before = HammingIndex.load(path, mmap=True), path.read_bytes()
    message = rf'the codes are in index file {path}, which is read-only\. Bring them into memory with \.to\("cpu"\) or \.copy\(\)'
    with pytest.raises(RuntimeError, match=message):
        change(mapped)
    np.testing.assert_array_equal(mapped.codes, codes(300))
    assert path.read_bytes() == before


def test_copies_are_in_memory_and_may_be_changed(path):
    mapped = HammingIndex.load(path, mmap=True)
    copied = mapped.copy()
    copied.add(codes(1))
    assert (mapped.ntotal, mapped.storage, copied.ntotal, copied.storage) == (300, "file", 301, "host")
    assert mapped.to("cpu") is mapped
    assert mapped.storage == "device"
    mapped.remove_ids([0])
    assert mapped.ntotal == 299
    np.testing.assert_array_equal(HammingIndex.load(path).codes, codes(300))


def test_writing_into_the_codes_does_not_reach_the_file(path):
    mapped, before = HammingIndex.load(path, mmap=True), path.read_bytes()
    mapped.codes[0] = 0
    assert path.read_bytes() == before


def test_ids_that_no_index_may_have(tmp_path):
    """The ids of a mapped file are not checked when it is opened; a search still never returns the id -1 for a code."""
    path, gallery = tmp_path / "index", codes(20)
    faiss_io.write(path, gallery, np.arange(-1, 19))
    mapped = HammingIndex.load(path, mmap=True)
    for use in (
        lambda: mapped.search(gallery[:1], 2),
        lambda: mapped.range_search(gallery[:1], 10),
        lambda: mapped.reconstruct(3),
        lambda: mapped.save(tmp_path / "other"),
        mapped.copy,
    ):
        with pytest.raises(ValueError, match=f"index file {path}: ids must not hold -1, which means that nothing was found"):
            use()
    np.testing.assert_array_equal(mapped.search(gallery[1:2], 1)[1], [[0]])
    faiss_io.write(path, gallery, np.arange(20) // 2)
    mapped = HammingIndex.load(path, mmap=True)
    with pytest.raises(ValueError, match=f"index file {path}: ids must be unique; ids 0, 1, 2, 3, 4 and 5 more are given"):
        mapped.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_merge_and_reset_let_the_file_go(path):
    mapped, index = HammingIndex.load(path, mmap=True), filled(2)
    index.merge_from(mapped)
    assert (index.ntotal, mapped.ntotal, mapped.storage) == (302, 0, "device")
    mapped.add(codes(3))
    assert HammingIndex.load(path).ntotal == 300


@pytest.mark.parametrize("ids", [None, range(300)])
def test_saved_over_its_own_file(tmp_path, ids):
    path = tmp_path / "index"
    filled(ids=ids).save(path)
    mapped, before = HammingIndex.load(path, mmap=True), path.read_bytes()
    mapped.save(path)
    assert path.read_bytes() == before
    filled(5).save(path)  # another index replaces the file, but the map still refers to the old one
    np.testing.assert_array_equal(mapped.codes, codes(300))
    np.testing.assert_array_equal(mapped.search(codes(3), 1)[1], [[0], [1], [2]])
    mapped.save(path)
    assert path.read_bytes() == before


def test_save_over_its_own_file_that_fails_keeps_it(path, monkeypatch):
    mapped, before = HammingIndex.load(path, mmap=True), path.read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        mapped.save(path)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(mapped.codes, codes(300))


@pytest.mark.parametrize("ids", [None, range(300)])
def test_a_file_that_shrank_is_noticed_before_it_is_read(tmp_path, ids):
    path = tmp_path / "index"
    filled(ids=ids).save(path)
    mapped, whole = HammingIndex.load(path, mmap=True), path.read_bytes()
    os.truncate(path, 100)
    uses = [
        lambda: mapped.search(codes(1), 3),
        lambda: mapped.search(codes(1), 3, ids=[4]),
        lambda: mapped.range_search(codes(1), 3),
        lambda: mapped.reconstruct(3),
        lambda: mapped.reconstruct_batch([3]),
        lambda: mapped.save(tmp_path / "other"),
        lambda: mapped.to("cpu"),
        lambda: mapped.copy(),
        lambda: filled(0).merge_from(mapped),
        lambda: mapped.to_faiss(),
    ]
    for use in uses:
        with pytest.raises(
            ValueError, match=rf"index file {path} is truncated: it has 100 bytes, and had {len(whole)} when it was"
        ):
            use()
    assert not (tmp_path / "other").exists()
    with open(path, "r+b") as file:  # the same file, complete again
        file.write(whole)
    assert mapped.search(codes(1), 1)[0].tolist() == [[0]]


@pytest.mark.parametrize("search", ["search", "range_search"])
@pytest.mark.parametrize("cut_at", [2, 3, 4])
def test_a_file_that_shrinks_during_a_search_is_noticed_at_the_next_chunk(path, monkeypatch, search, cut_at):
    """The file is checked once when a search begins, and before each of the three chunks."""
    mapped = HammingIndex.load(path, mmap=True)
    mapped.chunk_bytes = 8 * 100
    checks, check = [], faiss_io.MappedFile.check

    def shrink(file):
        checks.append(file)
        if len(checks) == cut_at:
            os.truncate(path, 33 + 8 * 100)
        check(file)

    monkeypatch.setattr(faiss_io.MappedFile, "check", shrink)
    with pytest.raises(ValueError, match="is truncated: it has 833 bytes"):
        getattr(mapped, search)(codes(1), 3)
    assert len(checks) == cut_at


@pytest.mark.parametrize("ids", [None, range(300)])
def test_pickled_as_the_path_of_its_file(tmp_path, monkeypatch, ids):
    path = tmp_path / "index"
    filled(ids=ids).save(path)
    monkeypatch.chdir(tmp_path)
    mapped = HammingIndex.load("index", mmap=True)
    mapped.chunk_bytes = 80
    data = pickle.dumps(mapped)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    opened = pickle.loads(data)
    assert (opened.storage, opened.chunk_bytes, opened.ntotal) == ("file", 80, 300)
    for ours, expected in zip(opened.search(codes(3, seed=1), 9), mapped.search(codes(3, seed=1), 9), strict=True):
        np.testing.assert_array_equal(ours, expected)
    for other in (filled(299), filled(300, ids=ids and range(1, 301))):  # indexes of another size and of the same size
        other.save(path)
        with pytest.raises(ValueError, match="is not the one that the pickled HammingIndex was mapped from"):
            pickle.loads(data)
    with pytest.raises(ValueError, match=rf"index file {path} is not the one that the pickled HammingIndex was mapped from"):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="there is no index file"):
        pickle.loads(data)


def _search_in_a_sparse_file(path, connection):
    import resource

    count = 2**36 // 8
    with open(path, "wb") as file:
        file.write(faiss_io.flat_header(count, 8))
        file.truncate(33 + 8 * count)
        file.seek(33 + 8 * (count - 2))
        file.write(b"abcdefgh")
    index = HammingIndex.load(path, mmap=True)
    assert index.reconstruct(count - 2).tolist() == list(b"abcdefgh")
    distances, ids = index.search(index.codes[-2:-1].clone(), 2, ids=[5, count - 2])
    assert (distances[0, 0], ids.tolist()) == (0, [[count - 2, 5]])
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the memory of a process as Linux does")
def test_a_file_larger_than_memory(tmp_path):
    """A sparse file of 64 GB, and a process that reads only the chosen codes."""
    context = fresh_processes()
    here, there = context.Pipe()
    process = context.Process(target=_search_in_a_sparse_file, args=(tmp_path / "index", there))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
    assert here.recv() < 4096  # memory of the process in MB


@pytest.mark.gpu
@pytest.mark.parametrize("chunk_bytes", [8, 800, 2**26])
@pytest.mark.parametrize("ids", [None, range(1000, 1300)])
def test_gpu_searches_a_mapped_file(tmp_path, device, chunk_bytes, ids):
    path = tmp_path / "index"
    index, queries = filled(ids=ids), codes(6, seed=1)
    index.save(path)
    mapped = HammingIndex.load(path, device=device, mmap=True)
    mapped.chunk_bytes = chunk_bytes
    mask = np.random.default_rng(2).random(300) < 0.5
    for filters in (
        {},
        {"mask": mask},
        {"mask": torch.from_numpy(mask).to(device)},
        {"ids": [1100, 1200] if ids else [100, 200]},
    ):
        for search, argument in (("search", 30), ("range_search", 25)):
            on_cpu = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in filters.items()}
            expected = getattr(index, search)(queries, argument, **on_cpu)
            for ours, right in zip(getattr(mapped, search)(queries, argument, **filters), expected, strict=True):
                np.testing.assert_array_equal(ours, right)
    assert mapped.reconstruct_n(1000 if ids else 0, 2).is_cuda
    assert mapped.to(device).storage == "device"
    assert mapped.codes.is_cuda

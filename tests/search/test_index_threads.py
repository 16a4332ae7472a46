"""Tests that a search sees the index as it was before or after each change, never between."""

import os
import threading
import time

import numpy as np
import pytest
import torch

from orthohash_triton.search import HammingIndex, Rerank, _gallery, _questions
from orthohash_triton.search._external_ids import ExternalIds
from orthohash_triton.search.index import cell_of

CHANGES = 150  # changes of each kind while other threads search


def codes_of(ids):
    """Return codes of 64 bits that equal their ids, so that an answer can be checked without the index."""
    return np.asarray(ids, "<i8").view(np.uint8).reshape(-1, 8).copy()


def wrong_answers(queries, distances, ids):
    """Return how many ids do not belong to the distance that was returned with them."""
    found = ids >= 0
    expected = np.unpackbits(codes_of(ids).reshape(*ids.shape, 8) ^ queries[:, None], axis=2).sum(2)
    return int((found & (expected != distances)).sum())


def with_ids(start, stop):
    index = HammingIndex(64)
    index.add_with_ids(codes_of(np.arange(start, stop)), np.arange(start, stop))
    return index


def remove_first(index, turn):
    index.remove_ids(index.ids[:3])
    index.add_with_ids(codes_of([1000 + 3 * turn + i for i in range(3)]), [1000 + 3 * turn + i for i in range(3)])


def merge(index, turn):
    index.merge_from(with_ids(1000 + 50 * turn, 1050 + 50 * turn))
    index.remove_ids(index.ids[:50])


def move(index, turn):
    index.to("cpu", storage="host" if turn % 2 else "device")
    remove_first(index, turn)


def empty(index, turn):
    other = HammingIndex(64)
    other.merge_from(index)
    index.merge_from(other)
    remove_first(index, turn)


@pytest.mark.parametrize("change", [remove_first, merge, move, empty])
def test_searches_beside_a_writer(change):
    index, errors, answers, ended = with_ids(0, 300), [], [], threading.Event()

    def search(seed):
        generator = np.random.default_rng(seed)
        try:
            while True:
                queries = codes_of(generator.integers(0, 2000, 4))
                answers.append(wrong_answers(queries, *index.search(queries, 5)))
                answers.append(wrong_answers(queries[:1], *(part[None] for part in index.range_search(queries[:1], 20)[1:])))
                if ended.is_set():
                    break
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(CHANGES):
            change(index, turn)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert sum(answers) == 0


CHANGES_OF_ONE_INDEX = {
    "add_with_ids": lambda index: index.add_with_ids(codes_of([77]), [77]),
    "remove_ids": lambda index: index.remove_ids([10, 12]),
    "merge_from": lambda index: index.merge_from(with_ids(50, 99)),
    "merged into another": lambda index: HammingIndex(64).merge_from(index),
    "reset": lambda index: index.reset(),
    "to": lambda index: index.to("cpu", storage="host"),
    "replaced": lambda index: (index.reset(), index.add(codes_of([11]))),
}
READS = {
    "search": lambda index, queries: index.search(queries, 4),
    "filtered": lambda index, queries: index.search(queries, 4, ids=range(10, 14), exclude_ids=[11]),
    "masked": lambda index, queries: index.search(queries, 4, mask=np.arange(20) % 2 == 0),
    "reranked": lambda index, queries: index.search(
        queries, 4, rerank=Rerank(np.ones((len(queries), 3), np.float32), np.arange(60, dtype=np.float32).reshape(20, 3))
    ),
    "by function": lambda index, queries: index.search(
        queries, 4, rerank=Rerank(np.ones((len(queries), 1), np.float32), lambda ids: ids[:, None].astype(np.float32))
    ),
    "range": lambda index, queries: index.range_search(queries, 60),
    "reconstruct": lambda index, queries: (index.reconstruct_batch([19, 10, 12]),),
}


@pytest.mark.parametrize("change", CHANGES_OF_ONE_INDEX)
@pytest.mark.parametrize("read", READS)
def test_a_change_in_the_middle_of_a_search(monkeypatch, read, change):
    """Another thread changes the index after a step of the search; the answer is that of the index before the change."""
    queries = codes_of([10, 12, 17])
    expected = READS[read](with_ids(0, 20), queries)
    searches = [(_questions, "nearest"), (_questions, "hamming_range"), (_gallery, "reranked")]
    changed = 0
    for owner, name in [*searches, (ExternalIds, "find"), (ExternalIds, "at")]:
        index, pending = with_ids(0, 20), [CHANGES_OF_ONE_INDEX[change]]
        original = getattr(owner, name)

        def step(*arguments, original=original, index=index, pending=pending, **options):
            answer = original(*arguments, **options)
            if pending:
                thread = threading.Thread(target=pending.pop(), args=(index,))
                thread.start()
                thread.join()
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, step)
            answer = READS[read](index, queries)
        changed += not pending
        for part, right in zip(answer, expected, strict=True):
            np.testing.assert_array_equal(part, right)
    assert changed > 0


def test_writers_take_turns():
    index = HammingIndex(64)

    def add(start):
        for id in range(start, start + 100):
            index.add_with_ids(codes_of([id]), [id])
            if id % 3 == 0:
                index.remove_ids([id])

    threads = [threading.Thread(target=add, args=(start,)) for start in range(0, 800, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = [id for id in range(800) if id % 3]
    assert sorted(index.ids.tolist()) == left
    np.testing.assert_array_equal(index.reconstruct_batch(left), codes_of(left))


def test_two_indexes_merged_into_each_other_do_not_wait_forever():
    one, other = with_ids(0, 50), with_ids(50, 100)

    def merge_often(into, source):
        for _ in range(100):
            into.merge_from(source)

    threads = [threading.Thread(target=merge_often, args=pair, daemon=True) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert sorted([*(one.ids.tolist() if len(one) else []), *(other.ids.tolist() if len(other) else [])]) == list(range(100))


def test_a_snapshot_is_not_written_to_by_a_later_one():
    """Two galleries that grow from the same one must not share the spare rows."""
    index = with_ids(0, 4)
    index.add_with_ids(codes_of([4]), [4])  # doubles the memory, so that there are spare rows
    gallery = cell_of(index).gallery
    assert len(gallery.rows.memory) == 8
    grown = [gallery.added_with_ids(codes_of([id]), np.array([id])) for id in (70, 80)]
    assert [each.ids.values()[-1].item() for each in grown] == [70, 80]
    assert [each.codes[-1].tolist() for each in grown] == codes_of([70, 80]).tolist()
    assert gallery.count == 5


def test_spare_rows_are_used_again_after_a_failed_addition(monkeypatch):
    index = with_ids(0, 5)
    index.add_with_ids(codes_of([5]), [5])  # doubles the memory
    memory = index.codes.data_ptr()

    def out_of_memory(source, target):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("orthohash_triton.search._rows.copy_rows", out_of_memory)
        with pytest.raises(MemoryError):
            index.add_with_ids(codes_of([6]), [6])
    index.add_with_ids(codes_of([7]), [7])
    assert index.ids.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert index.codes.data_ptr() == memory


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_may_change_its_index():
    """It may even if another thread of the parent holds the locks of the index, and after torch has started its threads."""
    index = with_ids(0, 100_000)
    torch.ones(2**20).sum()  # starts the threads of torch, if it has several
    locks = [cell_of(index)._writers, cell_of(index).gallery.ids._lock, cell_of(index).gallery.rows._lock]
    held, forked = threading.Event(), threading.Event()

    def hold():
        with locks[0], locks[1], locks[2]:
            held.set()
            forked.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        index.add_with_ids(codes_of(np.arange(200_000, 400_000)), np.arange(200_000, 400_000))
        index.remove_ids(np.arange(0, 100_000))
        is_right = np.array_equal(index.copy().codes.numpy(), codes_of(np.arange(200_000, 400_000)))
        os._exit(0 if is_right else 1)
    forked.set()
    holder.join()
    for _ in range(300):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended, "the child process waits for a lock"
    assert os.waitstatus_to_exitcode(status) == 0

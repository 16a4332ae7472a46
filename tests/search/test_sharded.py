"""Tests of the sharded index, which is compared with one index of the whole gallery.

Three processes are started once. Every `check_` function below runs in all processes of a group of one, of two and of three of
them, and is three tests here. When a check fails or hangs, the processes end: its test fails, and the tests after it are skipped.
"""

import contextlib
import itertools
import json
import os
import re
import stat
import time
import traceback
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from orthohash_triton.ops.pack_codes import unpack_codes
from orthohash_triton.search import HammingIndex, Rerank, ShardedHammingIndex, _folder, _planned, _selection, _shards
from orthohash_triton.search._gallery import Gallery
from orthohash_triton.search._ranks import Ranks
from orthohash_triton.search.index import cell_of
from tests.processes import run_checks
from tests.search import galleries

GROUPS = {1: [0], 2: [1, 2], 3: [0, 1, 2]}  # ranks by the size of the group; they differ from the ranks within the group
PATIENCE = 180  # seconds without progress after which the processes are ended; first calls compile, on a machine that may be busy


def codes(count, bits=64, seed=0, kind="uniform"):
    generator = np.random.default_rng(seed)
    if kind == "identical":
        return np.full((count, bits // 8), 77, np.uint8)
    if kind == "clustered":  # few distinct codes, so many ties
        return generator.integers(0, 256, (5, bits // 8), dtype=np.uint8)[generator.integers(0, 5, count)]
    return galleries.codes(count, bits, seed)


def parts(gallery, world, seed=0):
    """Return `gallery` split at random between the ranks; some get nothing."""
    generator = np.random.default_rng(seed)
    cuts = np.sort(generator.integers(0, len(gallery) + 1, world - 1))
    if seed % 3 == 0 and world > 1:
        cuts[0] = 0
    return np.split(gallery, cuts)


def filled(world, gallery, seed=1, ids=None):
    """Return (sharded index, one index) of the same gallery."""
    bits = 8 * gallery.shape[1]
    index, one = ShardedHammingIndex(bits, world.group), HammingIndex(bits)
    part = parts(np.arange(len(gallery)), world.size, seed)[world.rank]
    if ids is None:
        index.add(gallery[part])
        one.add(gallery)
    else:
        index.add_with_ids(gallery[part], ids[part])
        one.add_with_ids(gallery, ids)
    return index, one


def some_ids(count, seed=0):
    return 2 * np.random.default_rng(seed).permutation(10 * count)[:count] - 10 * count  # even ids are never -1


def same_index(index, one):
    """Assert that the sharded index holds the same codes as `one` and finds the same."""
    assert (index.ntotal, len(index), index.bits) == (one.ntotal, one.ntotal, one.bits)
    queries = codes(3, index.bits, 99)
    same(index.search(queries, 9), one.search(queries, 9))
    ids = np.arange(one.ntotal) if one.ids is None else one.ids.numpy()
    np.testing.assert_array_equal(index.reconstruct_batch(ids), one.codes)


@contextlib.contextmanager
def raises_everywhere(world, error, message):
    """Do the same as pytest.raises, and assert that the message is equal on all ranks."""
    with pytest.raises(error, match=message) as caught:
        yield
    told = [None] * world.size
    dist.all_gather_object(told, str(caught.value), group=world.group)
    assert len(set(told)) == 1


def same(ours, expected):
    for part, right in zip(ours, expected, strict=True):
        assert type(part) is type(right)
        assert part.dtype == right.dtype
        np.testing.assert_array_equal(part, right)


@contextlib.contextmanager
def changed(**constants):
    """Set constants of the package temporarily, so that small galleries take the code paths of large ones."""
    homes = {name: next(home for home in (_selection, _folder) if hasattr(home, name)) for name in constants}
    before = {name: getattr(home, name) for name, home in homes.items()}
    for name, value in constants.items():
        setattr(homes[name], name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(homes[name], name, value)


WAYS = {
    "gathered": dict(_GATHERED_BYTES=2**40),
    "chosen": dict(_GATHERED_BYTES=0),
    "chosen in narrow rounds": dict(_GATHERED_BYTES=0, _CUTS=2),
}


def check_search_equals_one_index(world):
    for seed, (kind, way) in enumerate(itertools.product(("uniform", "clustered", "identical"), WAYS)):
        generator = np.random.default_rng(seed)
        bits = int(generator.choice([8, 16, 24, 64, 128, 520]))
        gallery = codes(int(generator.integers(100, 800)), bits, seed, kind)
        queries = codes(int(generator.integers(1, 20)), bits, seed + 100 * (kind == "uniform"), kind)
        index, one = filled(world, gallery, seed)
        with changed(**WAYS[way]):
            for k in (1, 2, 7, int(generator.integers(8, 60)), len(gallery), len(gallery) + 3):
                same(index.search(queries, k), one.search(queries, k))


def check_search_of_galleries_sorted_by_distance(world):
    """Search galleries with all nearest codes on one rank, where the share of each rank is a bad estimate of the radius."""
    queries = codes(4, 64, 1)
    gallery = codes(900, 64, 2)
    order = np.unpackbits(gallery ^ queries[0], axis=1).sum(1).argsort(kind="stable")
    for gallery_order in (order, order[::-1]):
        index, one = filled(world, gallery[gallery_order])
        for way in WAYS.values():
            with changed(**way):
                for k in (1, 10, 400):
                    same(index.search(queries, k), one.search(queries, k))


def check_search_of_codes_and_their_complements(world):
    """Search codes and their complements, where the largest distance is the number of bits."""
    for bits in (8, 64, 128):
        gallery = codes(40, bits)
        gallery = np.concatenate([gallery, ~gallery, gallery])
        index, one = filled(world, gallery)
        for way in WAYS.values():
            with changed(**way):
                for k in (1, 45, 120):
                    same(index.search(gallery[:3], k), one.search(gallery[:3], k))
        same(index.range_search(gallery[:3], bits, inclusive=True), one.range_search(gallery[:3], bits, inclusive=True))


def check_messages_are_as_long_as_the_answer(world):
    """Check that messages of a search are about as long as its answer, for any number of ranks and sizes of shards."""
    queries, k = codes(10, 64, 1), 300
    gallery = codes(3000, 64, 2)
    lengths = []
    with pytest.MonkeyPatch.context() as patch, changed(_GATHERED_BYTES=0):
        for name in ("gather", "_reduced"):
            patch.setattr(Ranks, name, _counted(getattr(Ranks, name), lengths))
        index, _ = filled(world, gallery)
        lengths.clear()
        index.search(queries, k)
        assert 10 * k <= sum(lengths) <= 1.2 * 10 * k


def check_the_messages_of_a_search(world):
    """Check the counts from which the page on shards computes bytes and rounds: entries of 8 bytes that each rank sends."""
    gallery = codes(3000, 64, 2)
    with pytest.MonkeyPatch.context() as patch:
        lengths = []
        for name in ("gather", "_reduced"):
            patch.setattr(Ranks, name, _counted(getattr(Ranks, name), lengths))
        index, _ = filled(world, gallery)
        for built in (False, True):
            if built:
                index.build()
            for queries, k in ((1, 100), (10, 300)):
                lengths.clear()
                with changed(**WAYS["gathered"]):
                    index.search(codes(queries, 64, 1), k)
                assert lengths == [3, queries * k]
                lengths.clear()
                with changed(**WAYS["chosen"]):
                    index.search(codes(queries, 64, 1), k)
                bracket, *rounds, counts, answer = lengths[1:]
                assert (lengths[0], bracket, counts, answer) == (3, 3 * queries, 2 * queries, queries * k)
                assert len(rounds) <= 2  # the distances of 64 bits fit into two rounds of 16 cuts
                assert all(length <= 16 * queries for length in rounds)


def _counted(send, lengths):
    def counted(ranks, value, *rest):
        lengths.append(value.numel())
        return send(ranks, value, *rest)

    return counted


def check_masks(world):
    for seed, (kind, way) in enumerate(itertools.product(("uniform", "clustered"), WAYS)):
        generator = np.random.default_rng(seed)
        gallery, queries = codes(400, 32, seed, kind), codes(6, 32, seed + 1, kind)
        index, one = filled(world, gallery, seed)
        allowed = generator.random(400) < generator.choice([0, 0.02, 0.5])
        own = parts(allowed, world.size, seed)[world.rank]
        with changed(**WAYS[way]):
            for k in (1, 9, 500):
                same(index.search(queries, k, mask=own), one.search(queries, k, mask=allowed))
        same(index.search(queries, 5, torch.from_numpy(own)), one.search(queries, 5, allowed))
        same(index.range_search(queries, 14, mask=own), one.range_search(queries, 14, mask=allowed))
    last = world.size - 1  # one rank with a mask, the others without
    own = np.zeros(len(index.shard), bool) if world.rank == last else None
    same(index.search(queries, 5, own), one.search(queries, 5, np.arange(400) < 400 - index.shard_sizes[last]))


def check_filters_by_id(world):
    for seed, way in enumerate(("gathered", "chosen")):
        gallery, queries = codes(300, 32, seed, "clustered"), codes(5, 32, seed + 1)
        for ids in (None, some_ids(300, seed)):
            index, one = filled(world, gallery, seed, ids)
            known = np.arange(300) if ids is None else ids
            chosen = np.random.default_rng(seed).choice(known, 40)  # some ids occur twice
            with changed(**WAYS[way]):
                for k in (3, 60):
                    for filters in (
                        dict(ids=chosen),
                        dict(exclude_ids=chosen),
                        dict(ids=known, exclude_ids=list(chosen)),
                        dict(ids=[]),
                    ):
                        same(index.search(queries, k, **filters), one.search(queries, k, **filters))
                        same(index.range_search(queries, 16, **filters), one.range_search(queries, 16, **filters))
    with raises_everywhere(world, IndexError, r"ShardedHammingIndex.search: id 98765 is not in the index, which holds 300 codes"):
        index.search(queries, 1, ids=[known[0], 98765])


def check_range_search(world):
    for seed, kind in enumerate(("uniform", "clustered", "identical")):
        gallery, queries = codes(500, 48, seed, kind), codes(7, 48, seed + 3 * (kind == "uniform"), kind)
        for ids in (None, some_ids(500, seed)):
            index, one = filled(world, gallery, seed, ids)
            for radius in (0, 1, 18, 24, 49, np.arange(0, 35, 5)):
                for inclusive in (False, True):
                    expected = one.range_search(queries, radius, inclusive=inclusive)
                    same(index.range_search(queries, radius, inclusive=inclusive), expected)
    as_tensors = index.range_search(torch.from_numpy(queries), torch.full((7,), 20))
    same(as_tensors, one.range_search(torch.from_numpy(queries), torch.full((7,), 20)))
    with raises_everywhere(world, ValueError, "radius must be at least 0; got -1"):
        index.range_search(queries, -1)


def check_built_shards(world):
    """Check that structures on each rank, which cover none, some or all of its codes, change no answer."""
    words = codes(6, 64, 7)
    for seed, ids in enumerate((None, some_ids(900))):
        generator = np.random.default_rng(seed)
        flips = np.packbits(generator.random((900, 64)) < 0.03, axis=1, bitorder="little")
        gallery = words[generator.integers(0, 6, 900)] ^ flips  # as trained codes: many are equal, or near to few centres
        queries = np.concatenate([gallery[:5], codes(2, 64, 8)])
        index, one = filled(world, gallery, seed, ids)
        index.build(words, radius=4)
        one.plan = "scan"
        if len(index.shard):
            assert index.shard.explain(queries, 3).structures
        for change in (None, "add", "remove"):
            if change == "add":
                more = codes(30, 64, 9)
                added = (more,) if ids is None else (more, np.arange(30) * 2 + 10**6)
                last = world.rank == world.size - 1
                (index.add if ids is None else index.add_with_ids)(*(part if last else part[:0] for part in added))
                (one.add if ids is None else one.add_with_ids)(*added)
            if change == "remove":
                gone = generator.choice(np.arange(900) if ids is None else ids, 200, replace=False)
                assert index.remove_ids(gone) == one.remove_ids(gone)
            for way in WAYS.values():
                with changed(**way):
                    for k in (1, 20, len(one) + 1):
                        same(index.search(queries, k), one.search(queries, k))
            for radius in (0, 3, 20):
                same(index.range_search(queries, radius, inclusive=True), one.range_search(queries, radius, inclusive=True))


def check_answers_in_the_kind_of_the_queries(world):
    index, one = filled(world, codes(50))
    queries = codes(3, seed=1)
    same(index.search(torch.from_numpy(queries), 4), one.search(torch.from_numpy(queries), 4))
    assert isinstance(index.search(queries, 4)[0], np.ndarray)
    assert isinstance(index.reconstruct_batch(np.array([3, 1])), np.ndarray)
    assert isinstance(index.reconstruct_batch([3, 1]), torch.Tensor)


def check_nothing_to_find(world):
    index, one = ShardedHammingIndex(64, world.group), HammingIndex(64)
    for count in (0, 5):
        index.add(codes(count) if world.rank == world.size - 1 else codes(0))
        one.add(codes(count))
        for queries in (codes(0), codes(3)):
            for k in (1, 4):
                same(index.search(queries, k), one.search(queries, k))
            same(index.range_search(queries, 20), one.range_search(queries, 20))
            same(index.range_search(queries, 0), one.range_search(queries, 0))
        vectors = np.random.default_rng(0).random((len(index.shard), 3), np.float32)
        rerank = Rerank(np.ones((3, 3), np.float32), vectors)
        assert index.search(codes(3), 4, rerank=rerank)[1].shape == (3, 4)
    index.reset()
    assert index.ntotal == 0
    assert (index.search(codes(3), 2)[1] == -1).all()


def check_rerank(world):
    generator = np.random.default_rng(0)
    gallery, queries = codes(200, 32), codes(6, 32, 1)
    vectors, float_queries = generator.standard_normal((200, 5), np.float32), generator.standard_normal((6, 5), np.float32)
    other_queries = generator.standard_normal((6, 32), np.float32)
    wide_queries = unpack_codes(queries, 32) * np.abs(other_queries)

    def wide_vectors(ids):
        return generator.standard_normal((len(ids), 32))

    for ids in (None, some_ids(200)):
        index, one = filled(world, gallery, ids=ids)
        own = vectors[index.offset : index.offset + len(index.shard)]
        row_of = {int(id): row for row, id in enumerate(np.arange(200) if ids is None else ids)}

        def by_id(wanted, row_of=row_of):
            return vectors[[row_of[int(id)] for id in wanted]]

        for metric in ("inner_product", "cosine", "l2"):
            for k in (3, 150, 230):
                whole = one.search(queries, k, rerank=Rerank(float_queries, vectors, metric, k_factor=1.5))
                same(index.search(queries, k, rerank=Rerank(float_queries, own, metric, k_factor=1.5)), whole)
                same(index.search(queries, k, rerank=Rerank(float_queries, by_id, metric, k_factor=1.5)), whole)
            asymmetric = Rerank(wide_queries, metric=metric)
            same(index.search(queries, 7, rerank=asymmetric), one.search(queries, 7, rerank=asymmetric))
            with raises_everywhere(world, ValueError, "rerank.queries are compared with codes, but only"):
                index.search(queries, 7, rerank=Rerank(other_queries, metric=metric))
            with raises_everywhere(
                world, ValueError, "rerank.queries are the vectors that were packed .* rerank.vectors are not"
            ):
                index.search(
                    queries, 7, rerank=Rerank(wide_queries, lambda ids: generator.standard_normal((len(ids), 32)), metric)
                )
            if world.size > 1:
                with raises_everywhere(world, ValueError, "rerank must be the same on all ranks"):
                    index.search(queries, 7, rerank=Rerank(wide_queries, metric=metric, check_signs=world.rank == 0))
        with raises_everywhere(world, RuntimeError, "no vector"):
            index.search(queries, 3, rerank=Rerank(float_queries, _no_vectors))


def check_rerank_ranks_nan_last(world):
    generator = np.random.default_rng(0)
    gallery, queries = codes(60, 32), codes(4, 32, 1)
    vectors, float_queries = generator.standard_normal((60, 5), np.float32), generator.standard_normal((4, 5), np.float32)
    vectors[[10, 31]] = np.nan
    vectors[[20, 40]] = 0  # zero vectors have no direction
    index, one = filled(world, gallery)
    own = vectors[index.offset : index.offset + len(index.shard)]
    for metric in ("inner_product", "cosine", "l2"):
        whole = one.search(queries, 65, rerank=Rerank(float_queries, vectors, metric))
        scores, ids = index.search(queries, 65, rerank=Rerank(float_queries, own, metric))
        same((scores, ids), whole)
        assert np.isnan(scores[:, 58:60]).all()
        assert (np.sort(ids[:, 58:60]) == [10, 31]).all()
        assert (ids[:, 60:] == -1).all()


def _no_vectors(ids):
    raise ArithmeticError("no vector")


def check_add_split(world):
    gallery = codes(103)
    np.save(world.folder / f"gallery.{world.rank}.npy", gallery)
    mapped = np.load(world.folder / f"gallery.{world.rank}.npy", mmap_mode="r")
    one = HammingIndex(64)
    one.add(gallery)
    for whole in (gallery, torch.from_numpy(gallery), mapped):
        index = ShardedHammingIndex(64, world.group)
        index.add_split(whole)
        assert max(index.shard_sizes) - min(index.shard_sizes) <= 1
        same_index(index, one)
    if world.size > 1:
        with raises_everywhere(world, ValueError, r"add_split: the number of codes must be the same on all ranks; got rank"):
            index.add_split(gallery[world.rank :])
    same_index(index, one)


def check_from_shard(world):
    gallery = codes(80)
    shard = HammingIndex(64)
    for code in parts(gallery, world.size)[world.rank]:
        shard.add(code[None])  # no rank waits for another
    index = ShardedHammingIndex.from_shard(shard, world.group)
    assert index.shard is shard
    assert index.offset == sum(index.shard_sizes[: world.rank])
    one = HammingIndex(64)
    one.add(gallery)
    same_index(index, one)
    shard.add(codes(1))
    with raises_everywhere(world, RuntimeError, "Change a shard through its ShardedHammingIndex only"):
        index.search(codes(1), 1)
    with raises_everywhere(world, TypeError, "shard must be a HammingIndex; got list"):
        ShardedHammingIndex.from_shard([], world.group)


def check_from_shard_with_ids(world):
    gallery, ids = codes(80), np.arange(80) * 7 - 100
    rows = parts(np.arange(80), world.size, seed=1)[world.rank]
    shard = HammingIndex(64)
    shard.add_with_ids(gallery[rows], ids[rows])
    one = HammingIndex(64)
    one.add_with_ids(gallery, ids)
    with mock.patch.object(_shards, "_IDS_PER_MESSAGE", 9):
        same_index(ShardedHammingIndex.from_shard(shard, world.group), one)
        if world.size > 1:
            if world.rank == world.size - 1:
                shard.add_with_ids(codes(2), [-100, -93])
            with raises_everywhere(world, ValueError, "ids must be unique over all ranks; .*-100.* on more than one"):
                ShardedHammingIndex.from_shard(shard, world.group)


def check_random_changes(world):
    """Compare an index after random changes with a plain list."""
    for seed in range(4):
        generator = np.random.default_rng(seed)  # equal on all ranks, because all know all shards
        with_ids = seed % 2 == 1
        index, shards, fresh = ShardedHammingIndex(16, world.group), [[] for _ in range(world.size)], itertools.count(100)
        for _ in range(12):
            change = generator.choice(["add", "add", "add_split", "remove_ids", "remove_mask", "merge_from", "reset", "to"])
            new = [codes(int(generator.integers(0, 30)), 16, int(generator.integers(99))) for _ in range(world.size)]
            new = [[(bytes(code), next(fresh)) for code in part] for part in new]
            own = new[world.rank]
            before = [entry for shard in shards for entry in shard]
            if change == "add" or (change == "add_split" and with_ids):
                _append(index, own, with_ids)
                shards = [old + part for old, part in zip(shards, new, strict=True)]
            elif change == "add_split":
                index.add_split(_codes_of(new[0]))
                cuts = [len(new[0]) * rank // world.size for rank in range(world.size + 1)]
                shards = [old + new[0][a:b] for old, (a, b) in zip(shards, itertools.pairwise(cuts), strict=True)]
            elif change == "remove_ids":
                rows = generator.choice(len(before), len(before) // 3) if before else np.empty(0, np.int64)
                gone = {before[row][1] for row in rows}
                assert index.remove_ids([before[row][1] for row in rows] if with_ids else rows) == len(gone)
                shards = [[entry for entry in shard if entry[1] not in gone] for shard in shards]
            elif change == "remove_mask":
                masks = [generator.random(len(shard)) < 0.3 for shard in shards]
                assert index.remove_ids(masks[world.rank]) == sum(mask.sum() for mask in masks)
                shards = [
                    [e for e, out in zip(shard, mask, strict=True) if not out] for shard, mask in zip(shards, masks, strict=True)
                ]
            elif change == "merge_from":
                other = ShardedHammingIndex(16, world.group)
                _append(other, own, with_ids)
                index.merge_from(other)
                assert other.ntotal == 0
                shards = [old + part for old, part in zip(shards, new, strict=True)]
            elif change == "reset":
                index.reset()
                shards = [[] for _ in shards]
            else:
                assert index.to("cpu", storage="host") is index
            assert index.shard_sizes == [len(shard) for shard in shards]
            one = HammingIndex(16)
            _append(one, [entry for shard in shards for entry in shard], with_ids)
            same_index(index, one)


def _codes_of(entries):
    return np.array([list(code) for code, _ in entries], np.uint8).reshape(-1, 2)


def _append(index, entries, with_ids):
    if with_ids:
        index.add_with_ids(_codes_of(entries), [id for _, id in entries])
    else:
        index.add(_codes_of(entries))


def check_reconstruct(world):
    gallery = codes(60)
    for ids in (None, np.arange(1000, 1060)):
        index, _ = filled(world, gallery, ids=ids)
        start = 0 if ids is None else 1000
        np.testing.assert_array_equal(index.reconstruct(start + 7), gallery[7])
        np.testing.assert_array_equal(index.reconstruct_n(start + 5, 50), gallery[5:55])
        np.testing.assert_array_equal(index.reconstruct_batch(start + np.array([50, 2, 2])), gallery[[50, 2, 2]])
        assert index.reconstruct_n(start, 0).shape == (0, 8)
        for first, count in ((start + 60, 1), (-1, 1), (start + 50, 11)):
            with raises_everywhere(world, IndexError, r"reconstruct: id -?\d+ is not in the index, which holds 60 codes"):
                index.reconstruct_n(first, count)
        with raises_everywhere(world, IndexError, r"reconstruct: id 2000 is not in the index"):
            index.reconstruct(2000)


def check_ids_are_unique_over_all_ranks(world):
    gallery = codes(40)
    index, one = filled(world, gallery, ids=np.arange(40))
    bad = [
        ([7] if world.rank == 0 else [], r"id 7 is in the index already"),
        ([100, 100] if world.rank == 0 else [], r"id 100 is given more than once"),
        ([-1] if world.rank == 0 else [], r"ids must not hold -1"),
    ]
    if world.size > 1:
        bad.append(([100], r"id 100 is given more than once"))
    for ids, message in bad:
        with raises_everywhere(world, ValueError, f"ShardedHammingIndex.add_with_ids: .*{message}"):
            index.add_with_ids(codes(len(ids)), ids)
        same_index(index, one)
    other = ShardedHammingIndex(64, world.group)
    own = [38, 39, 40] if world.rank == world.size - 1 else []
    other.add_with_ids(codes(len(own)), own)
    with raises_everywhere(world, ValueError, r"merge_from: ids 38, 39 are in the index already"):
        index.merge_from(other)
    assert other.ntotal == 3
    same_index(index, one)
    with raises_everywhere(world, RuntimeError, "the index has ids of its own. Use add_with_ids"):
        index.add(codes(1))
    positions, _ = filled(world, gallery)
    with raises_everywhere(world, RuntimeError, "the 40 codes of the index have positions as ids"):
        positions.add_with_ids(codes(1), [1])
    with raises_everywhere(world, RuntimeError, "the index has ids of its own"):
        index.merge_from(positions)
    assert positions.ntotal == 40


def check_bad_input_on_one_rank(world):
    """Check that all ranks raise the error of one rank, and that the index is unchanged."""
    index, one = filled(world, codes(50))
    last = world.size - 1
    which = "" if world.size == 1 else f"rank {last}: "

    def mine(bad, good):
        return bad if world.rank == last else good

    for call, error, message in [
        (lambda: index.add(mine(codes(2, 32), codes(2))), ValueError, r"add: codes must be \[N, 8\]"),
        (lambda: index.add(mine([1, 2], codes(2))), TypeError, r"add: codes must be"),
        (lambda: index.search(mine(codes(1, 8), codes(1)), 1), ValueError, r"search: queries must be \[N, 8\]"),
        (lambda: index.search(codes(1), mine(0, 1)), ValueError, r"search: k must be between 1 and"),
        (
            lambda: index.search(codes(1), 1, mine(np.ones(51, bool), None)),
            ValueError,
            r"search: mask must have one entry for each",
        ),
        (lambda: index.search(codes(1), 1, mine(np.ones(50), None)), TypeError, r"search: mask must be"),
        (lambda: index.search(codes(1), 1, ids=mine([0.5], [1])), TypeError, r"search: ids must be integers"),
        (lambda: index.search(codes(1), 1, rerank=mine("yes", None)), TypeError, r"search: rerank must be a search.Rerank"),
        (lambda: index.range_search(codes(1), mine("far", 3)), TypeError, r"radius must be an integer"),
        (
            lambda: index.remove_ids(mine(np.ones(51, bool), np.ones(len(index.shard), bool))),
            ValueError,
            r"remove_ids: ids must have",
        ),
        (lambda: index.merge_from(mine(one, index)), (TypeError, ValueError), r"merge_from: other must be"),
        (lambda: index.save(mine(world.folder / "no" / "where", world.folder / "index")), FileNotFoundError, r"does not exist"),
        (lambda: ShardedHammingIndex(mine(12, 8), world.group), ValueError, "bits must be a multiple of 8; got 12"),
        (lambda: ShardedHammingIndex(64, world.group, mine("nonsense", "cpu")), RuntimeError, "nonsense"),
    ]:
        with raises_everywhere(world, error, f"{which}.*{message}"):
            call()
        same_index(index, one)


def check_ranks_that_disagree(world):
    if world.size == 1:
        return
    index, one = filled(world, codes(50))
    for call, error, message in [
        (
            lambda: index.search(codes(1, seed=world.rank), 1),
            ValueError,
            r"search: queries must be the same on all ranks; got rank 0: uint8",
        ),
        (lambda: index.search(codes(1 + world.rank), 1), ValueError, r"search: queries must be .*\[1, 8\] .*\[2, 8\]"),
        (lambda: index.search(codes(1), 1 + world.rank), ValueError, r"search: k must be the same .* rank 0: 1; rank 1: 2"),
        (lambda: index.search(codes(1), 1, ids=[world.rank]), ValueError, r"search: ids must be the same"),
        (
            lambda: index.search(codes(1), 1, ids=[1] if world.rank else None),
            ValueError,
            r"search: the filters must be the same .* rank 0: \[\]; ranks? 1.*: \['ids'\]",
        ),
        (lambda: index.range_search(codes(1), world.rank), ValueError, r"range_search: radius must be the same"),
        (
            lambda: index.range_search(codes(1), 1, inclusive=world.rank > 0),
            ValueError,
            r"range_search: inclusive must be the same",
        ),
        (lambda: index.remove_ids([world.rank]), ValueError, r"remove_ids: ids must be the same"),
        (lambda: index.reconstruct(world.rank), ValueError, r"reconstruct: ids must be the same"),
        (lambda: ShardedHammingIndex(8 + 8 * world.rank, world.group), ValueError, r"bits must be the same"),
        (lambda: index.to("meta" if world.rank else "cpu"), ValueError, r"to: the kind of device must be the same"),
        (
            lambda: index.reset() if world.rank else index.search(codes(1), 1),
            RuntimeError,
            r"called different methods: rank 0: ShardedHammingIndex.search; ranks? 1.*: ShardedHammingIndex.reset",
        ),
        (
            lambda: ShardedHammingIndex.from_shard(_shard_with_ids(world.rank > 0), world.group),
            ValueError,
            r"some shards have ids of their own",
        ),
    ]:
        with raises_everywhere(world, error, message):
            call()
        same_index(index, one)


def _shard_with_ids(with_ids):
    shard = HammingIndex(64)
    if with_ids:
        shard.add_with_ids(codes(2), [5, 6])
    else:
        shard.add(codes(2))
    return shard


def check_work_that_fails_on_one_rank(world):
    """Let one rank run out of memory after the others have succeeded."""
    index, one = filled(world, codes(50), ids=np.arange(50))
    for owner, name, call in [
        (Gallery, "_appended", lambda: index.add_with_ids(codes(2), [100 + 2 * world.rank, 101 + 2 * world.rank])),
        (Gallery, "_allocate", lambda: index.remove_ids(np.arange(50))),
        (_planned, "nearest", lambda: index.search(codes(1), 1)),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            if world.rank == world.size - 1:
                patch.setattr(owner, name, _out_of_memory)
            if len(index.shard) == 0 and name != "_appended":
                patch.setattr(owner, name, _out_of_memory)
            with raises_everywhere(world, MemoryError, "no more"):
                call()
        same_index(index, one)


def _out_of_memory(*arguments, **keywords):
    raise MemoryError("no more")


def saved(world, name, gallery, shards, ids=None, seed=1):
    """Return a folder as `shards` ranks would save it."""
    folder = world.folder / name
    if world.rank == 0:
        folder.mkdir()
        files = []
        for number, rows in enumerate(parts(np.arange(len(gallery)), shards, seed)):
            shard = HammingIndex(8 * gallery.shape[1])
            if ids is None:
                shard.add(gallery[rows])
            else:
                shard.add_with_ids(gallery[rows], ids[rows])
            files.append(_folder.write_shard(folder / _folder.shard_name(number, shards, "0123abcd"), cell_of(shard).gallery))
        _folder.write_manifest(folder, _folder.Manifest(8 * gallery.shape[1], ids is not None, files))
    dist.barrier(group=world.group)
    return folder


def check_save_and_load(world):
    for ids in (None, some_ids(300)):
        folder = world.folder / f"index{ids is None}"
        for count in (300, 0, 200):  # replaces the last one
            index, one = filled(world, codes(count, 24), ids=None if ids is None else ids[:count])
            index.save(folder)
            dist.barrier(group=world.group)
            assert len(list(folder.iterdir())) == world.size + 1
            loaded = ShardedHammingIndex.load(folder, world.group)
            assert loaded.shard_sizes == index.shard_sizes
            same_index(loaded, one)
        loaded.save(folder)
        if ids is None:
            loaded.add(codes(3, 24, 5))
            one.add(np.concatenate([codes(3, 24, 5)] * world.size))
            assert loaded.ntotal == one.ntotal
    content = json.loads((folder / "manifest.json").read_text())
    assert (content["ntotal"], content["ranks"], content["bits"], content["with_ids"]) == (200, world.size, 24, True)


def check_a_save_is_on_the_disk_when_it_returns(world):
    """Check that each shard and its name are flushed to the disk before the manifest that names them is renamed."""
    index, _ = filled(world, codes(60))
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(temporary, target):
        events.append("manifest" if str(target).endswith("manifest.json") else "shard")
        replace(temporary, target)

    with mock.patch.object(os, "fsync", record_fsync), mock.patch.object(os, "replace", record_replace):
        index.save(world.folder / "index")
    written = ["file", "shard", "folder", "file", "manifest", "folder"]
    assert events == (written if world.rank == 0 else written[:3])


def check_shards_are_files_of_faiss(world):
    faiss = pytest.importorskip("faiss")
    index, _ = filled(world, codes(30))
    index.save(world.folder / "index")
    (path,) = (world.folder / "index").glob(f"shard-{world.rank}-of-{world.size}-*")
    theirs = faiss.read_index_binary(str(path))
    assert theirs.ntotal == len(index.shard)


def check_load_on_another_number_of_ranks(world):
    gallery = codes(400, 24)
    with changed(_CHECKED_ROWS=64):  # parts that begin within a checksum's codes
        for shards in range(1, 6):
            for ids in (None, some_ids(400)):
                folder = saved(world, f"{shards}{ids is None}", gallery, shards, ids, seed=shards)
                index = ShardedHammingIndex.load(folder, world.group)
                if shards != world.size:
                    assert max(index.shard_sizes) - min(index.shard_sizes) <= 1
                one = HammingIndex(24)
                if ids is None:
                    one.add(gallery)
                else:
                    one.add_with_ids(gallery, ids)
                same_index(index, one)


def check_mapped_shards(world):
    gallery = codes(300, 32)
    for ids in (None, some_ids(300)):
        index, one = filled(world, gallery, ids=ids)
        folder = world.folder / f"index{ids is None}"
        index.save(folder)
        mapped = ShardedHammingIndex.load(folder, world.group, mmap=True)
        assert mapped.shard.storage == "file"
        same_index(mapped, one)
        queries = codes(4, 32, 3)
        for way in WAYS.values():
            with changed(**way):
                same(mapped.search(queries, 5), one.search(queries, 5))
        same(mapped.range_search(queries, 12), one.range_search(queries, 12))
        with raises_everywhere(world, RuntimeError, "which is read-only"):
            mapped.remove_ids([] if ids is None else ids[:1])
        mapped.save(folder)  # replaces the files that it is mapped from
        dist.barrier(group=world.group)
        same_index(mapped, one)
        same_index(ShardedHammingIndex.load(folder, world.group), one)
        assert mapped.to("cpu").shard.storage == "device"
        mapped.remove_ids(np.ones(len(mapped.shard), bool))
        assert mapped.ntotal == 0
    folder = saved(world, "more", gallery, 4)
    with raises_everywhere(world, ValueError, "mmap needs as many ranks as shards; got . ranks for 4 shards"):
        ShardedHammingIndex.load(folder, world.group, mmap=True)


def check_mapped_shards_without_codes(world):
    """A shard without codes may have been saved with ids or without, whatever the others have."""
    for count in (0, 5):
        for with_ids in (False, True):
            shard = HammingIndex(16)
            if world.rank == 0 or with_ids:
                own = count if world.rank == 0 else 0
                shard.add_with_ids(codes(own, 16), range(70, 70 + own))
            index = ShardedHammingIndex.from_shard(shard, world.group)
            folder = world.folder / f"{count}{with_ids}"
            index.save(folder)
            dist.barrier(group=world.group)
            for mmap in (False, True):
                loaded = ShardedHammingIndex.load(folder, world.group, mmap=mmap)
                assert loaded.shard_sizes == index.shard_sizes
                same(loaded.search(codes(3, 16, 1), 6), index.search(codes(3, 16, 1), 6))


def check_a_save_that_fails_keeps_the_old_index(world):
    index, one = filled(world, codes(60))
    folder = world.folder / "index"
    index.save(folder)
    bigger, _ = filled(world, codes(90))
    before = sorted(folder.iterdir())
    last = world.size - 1
    for home, name, failing in ((_folder._saving, "save", last), (_folder, "write_manifest", 0), (_folder, "_checksum", last)):
        with pytest.MonkeyPatch.context() as patch:
            if world.rank == failing or len(bigger.shard) == 0:
                patch.setattr(home, name, _disk_full)
            with raises_everywhere(world, OSError, "No space left"):
                bigger.save(folder)
        dist.barrier(group=world.group)
        assert sorted(folder.iterdir()) == before
        same_index(ShardedHammingIndex.load(folder, world.group), one)
    (folder / "shard-0-of-1-0f.ibxf").write_bytes(b"of a save that was killed")
    (folder / "notes.txt").write_text("mine")
    dist.barrier(group=world.group)
    bigger.save(folder)
    dist.barrier(group=world.group)
    names = {path.name for path in folder.iterdir()}
    assert "notes.txt" in names
    assert len(names) == world.size + 2
    assert not names & {path.name for path in before if path.name != "manifest.json"}


def _disk_full(*arguments):
    raise OSError(28, "No space left on device")


def _edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    content.pop("crc32", None)
    path.write_text(json.dumps(content))


def check_damaged_folders(world):
    gallery = codes(100)
    first = "shard-0-of-2-0123abcd.ibxf"
    manifest = "manifest.json"

    def overwrite(path, at, data):
        content = bytearray(path.read_bytes())
        content[at : at + len(data)] = data
        path.write_bytes(content)

    def narrower(folder):
        shard = HammingIndex(32)
        shard.add(codes(2 * int((folder / first).stat().st_size - 33) // 8, 32))
        shard.save(folder / first)

    for number, (damage, error, message) in enumerate(
        [
            (
                lambda folder: (folder / manifest).unlink(),
                FileNotFoundError,
                "there is no sharded index in .*: it has no manifest.json",
            ),
            (lambda folder: (folder / first).unlink(), FileNotFoundError, f"{first} is missing: it is shard 0 of the 2 that"),
            (lambda folder: os.truncate(folder / first, 40), ValueError, f"{first} has 40 bytes; expected"),
            (
                lambda folder: overwrite(folder / first, 40, b"other"),
                ValueError,
                f"{first} is damaged: the codes from 0 on do not match",
            ),
            (lambda folder: overwrite(folder / first, 0, b"what"), ValueError, f"{first} is not a FAISS binary index"),
            (narrower, ValueError, f"{first} holds .* codes of 32 bits without ids; manifest.json says .* of 64 bits"),
            (lambda folder: (folder / manifest).write_text("{"), ValueError, "manifest.json is not a readable manifest"),
            (lambda folder: (folder / manifest).write_text("[]"), ValueError, "manifest.json is not a readable manifest"),
            (lambda folder: _edited(folder / manifest, lambda m: m.pop("bits")), ValueError, "is not a readable manifest"),
            (
                lambda folder: _edited(folder / manifest, lambda m: m.update(version=2)),
                ValueError,
                "version 2; expected .* version 1",
            ),
            (
                lambda folder: _edited(folder / manifest, lambda m: m.update(bits=12)),
                ValueError,
                "it says 12 bits; expected a positive",
            ),
            (
                lambda folder: _edited(folder / manifest, lambda m: m.update(bits=32)),
                ValueError,
                r"it says \d+ codes of 32 bits without ids in \d+ bytes about .*; expected \d+ bytes",
            ),
            (
                lambda folder: _edited(folder / manifest, lambda m: m.update(with_ids=True)),
                ValueError,
                r"it says \d+ codes of 64 bits with ids in \d+ bytes about .*; expected \d+ bytes",
            ),
            (lambda folder: _edited(folder / manifest, lambda m: m.update(with_ids=None)), ValueError, "it says None about ids"),
            (lambda folder: _edited(folder / manifest, lambda m: m["shards"].pop()), ValueError, "it says 2 shards and names 1"),
            (
                lambda folder: _edited(folder / manifest, lambda m: m.update(ntotal=7)),
                ValueError,
                "it says 7 codes, its shards have 100",
            ),
            (
                lambda folder: _edited(folder / manifest, lambda m: m["shards"][0].update(codes=-1)),
                ValueError,
                "it says -1 codes in",
            ),
            (
                lambda folder: _edited(folder / manifest, lambda m: m["shards"][0].update(checksums=[])),
                ValueError,
                "it has 0 checksums",
            ),
            (
                lambda folder: _edited(folder / manifest, lambda m: m["shards"][0].update(file="../x")),
                ValueError,
                "names '../x' as a shard",
            ),
        ]
    ):
        folder = saved(world, str(number), gallery, 2)
        if world.rank == 0:
            damage(folder)
        dist.barrier(group=world.group)
        with raises_everywhere(world, error, message):
            ShardedHammingIndex.load(folder, world.group)
    with_ids = saved(world, "ids", gallery, 2, np.arange(100))
    if world.rank == 0:
        last = with_ids / "shard-1-of-2-0123abcd.ibxf"
        overwrite(last, last.stat().st_size - 8, b"\7")
    dist.barrier(group=world.group)
    with raises_everywhere(world, ValueError, "shard-1-of-2-0123abcd.ibxf is damaged: the codes from 0 on do not match"):
        ShardedHammingIndex.load(with_ids, world.group)
    with raises_everywhere(world, FileNotFoundError, "there is no sharded index in .*nowhere"):
        ShardedHammingIndex.load(world.folder / "nowhere", world.group)
    (world.folder / "file").write_text("")
    with raises_everywhere(world, OSError, "is a file; a sharded index is saved in a folder"):
        filled(world, gallery)[0].save(world.folder / "file")


def check_a_shard_of_another_size_is_noticed_by_save(world):
    """Check that `save` refuses a file system that shows the file of another rank before all of its bytes."""
    index, _ = filled(world, codes(40))
    folder, write_shard = world.folder / "index", _folder.write_shard

    def written(path, shard):
        entry = write_shard(path, shard)
        return replace(entry, bytes=entry.bytes + 1) if world.rank == world.size - 1 else entry

    with (
        mock.patch.object(_folder, "write_shard", written),
        raises_everywhere(world, FileNotFoundError, "written by another rank, is not visible to this rank"),
    ):
        index.save(folder)
    assert list(folder.iterdir()) == []


def check_ranks_without_a_common_folder(world):
    if world.size == 1:
        return
    index, _ = filled(world, codes(40))
    own = world.folder / f"disk{world.rank}"
    with raises_everywhere(world, FileNotFoundError, "written by another rank, is not visible to this rank. .* share"):
        index.save(own)
    assert list(own.iterdir()) == []
    folder = saved(world, "index", codes(40), 2)
    with raises_everywhere(world, FileNotFoundError, "ranks? 1.*: there is no sharded index in"):
        ShardedHammingIndex.load(own if world.rank else folder, world.group)


def check_process_outside_of_the_group(world):
    if world.others is not None:
        with pytest.raises(ValueError, match=r"ShardedHammingIndex: rank \d is not in the process group"):
            ShardedHammingIndex(64, world.others)


CHECKS = [name for name in globals() if name.startswith("check_")]


def _work(rank, folder, checks):
    """Run the checks in one process, first in the groups of one and of two, then in the group of three; see `run_checks`."""
    timeout = timedelta(seconds=PATIENCE / 2)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3, timeout=timeout)
    groups = {size: dist.new_group(ranks, timeout=timeout) for size, ranks in GROUPS.items()}
    for name, sizes in itertools.product(checks, ((1, 2), (3,))):
        size = next(size for size in sizes if rank in GROUPS[size])
        others = next((groups[other] for other in sizes if other != size), None)
        scratch = folder / f"{name}.{size}"
        scratch.mkdir(exist_ok=True)
        world = SimpleNamespace(rank=GROUPS[size].index(rank), size=size, group=groups[size], others=others, folder=scratch)
        yield f"{name} of {size}", None
        failure = None
        try:
            globals()[name](world)
        except BaseException:
            failure = traceback.format_exc()
        yield "", failure
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, request):
    selected = {item.callspec.params.get("check") for item in request.session.items if hasattr(item, "callspec")}
    return run_checks(_work, 3, tmp_path_factory.mktemp("world"), PATIENCE, [name for name in CHECKS if name in selected])


@pytest.mark.parametrize("size", GROUPS)
@pytest.mark.parametrize("check", CHECKS)
def test_sharded(check, size, outcomes):
    failures = outcomes.failures.get(f"{check} of {size}", {})
    if any(failures.values()):
        told = "\n".join(f"rank {GROUPS[size].index(rank)} of {size}: {failure}" for rank, failure in failures.items())
        pytest.fail(told, pytrace=False)
    if len(failures) < size and outcomes.stopped is not None:
        pytest.skip(f"not run: the processes stopped at {outcomes.stopped}")
    assert len(failures) == size


def test_all_checks_ran(outcomes):
    """A failure outside of all checks, for example at the start of the processes, fails this test."""
    assert outcomes.stopped is None


def _defective_work(rank, folder, defect):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    yield "first", None
    dist.barrier()
    yield "", None
    yield "second", None
    if rank == 1:
        if defect == "ends":
            os._exit(3)
        if defect == "hangs":
            time.sleep(1000)
        yield "", "AssertionError: wrong"
    dist.barrier()  # waits for rank 1
    yield "", None
    yield "third", None


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("fails", "AssertionError: wrong"),
        ("ends", "the process ended with 3"),
        ("hangs", "no answer.*_defective_work"),
    ],
)
def test_processes_stop_at_the_first_failed_check(tmp_path, defect, told):
    outcomes = run_checks(_defective_work, 2, tmp_path, 10 if defect == "hangs" else PATIENCE, defect)
    assert outcomes.stopped == "second"
    assert outcomes.failures["first"] == {0: None, 1: None}
    assert re.search(told, outcomes.failures["second"][1], re.DOTALL)
    assert "third" not in outcomes.failures


def test_without_a_process_group():
    with pytest.raises(RuntimeError, match=r"no process group. Start the script with torchrun .* or use HammingIndex"):
        ShardedHammingIndex(64)
    with pytest.raises(RuntimeError, match=r"ShardedHammingIndex.load: torch.distributed has no process group"):
        ShardedHammingIndex.load("index")

"""Tests of random changes of an index, which is compared with a plain list of codes and ids."""

import copy
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orthohash_triton.search import HammingIndex

BITS = 16
MISSING = (2**31 - 1, -1)

# Few different bytes and ids, so that ties and clashes are common.
CODES = st.lists(st.lists(st.sampled_from([0, 1, 3, 255]), min_size=2, max_size=2), max_size=6)
IDS = st.lists(st.sampled_from([-7, -2, 0, 1, 2, 3, 5, 2**40, -(2**63)]), max_size=6)


def array(codes):
    return np.array(codes, np.uint8).reshape(-1, 2)


class IndexIsAList(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = TemporaryDirectory()
        self.index = HammingIndex(BITS)
        self.codes: list[list[int]] = []
        self.ids: list[int] | None = None  # None if ids are positions
        self.mapped = False
        self.other, self.codes_of_other = None, []  # the index copied last, which must not see changes of the copy

    def teardown(self):
        self.folder.cleanup()

    @property
    def names(self):
        return list(range(len(self.codes))) if self.ids is None else self.ids

    def refused(self, error, change):
        """Assert that `change` raises an error. The invariant checks that the index is unchanged."""
        with pytest.raises(RuntimeError if self.mapped else error):
            change()

    @rule(codes=CODES, as_tensor=st.booleans())
    def add(self, codes, as_tensor):
        added = torch.from_numpy(array(codes)) if as_tensor else array(codes)
        if self.mapped or (self.ids is not None and self.codes):
            self.refused(RuntimeError, lambda: self.index.add(added))
            return
        self.index.add(added)
        self.codes, self.ids = self.codes + codes, None

    @rule(codes=CODES, ids=IDS)
    def add_with_ids(self, codes, ids):
        def add():
            self.index.add_with_ids(array(codes), ids)

        if self.ids is None and self.codes:
            self.refused(RuntimeError, add)
        elif self.mapped or len(codes) != len(ids) or len({*ids, *(self.ids or [])}) < len(ids) + len(self.ids or []):
            self.refused(ValueError, add)
        else:
            add()
            self.codes, self.ids = self.codes + codes, (self.ids or []) + ids

    @rule(data=st.data(), strays=st.booleans())
    def remove_ids(self, data, strays):
        chosen = data.draw(st.lists(st.sampled_from(self.names))) if self.names else []
        if strays:
            self.refused(IndexError, lambda: self.index.remove_ids([*chosen, 77]))
        elif self.mapped:
            self.refused(RuntimeError, lambda: self.index.remove_ids(chosen))
        else:
            assert self.index.remove_ids(chosen) == len(set(chosen))
            self.keep([name not in chosen for name in self.names])

    @rule(data=st.data())
    def remove_mask(self, data):
        gone = data.draw(st.lists(st.booleans(), min_size=len(self.codes), max_size=len(self.codes)))
        if self.mapped:
            self.refused(RuntimeError, lambda: self.index.remove_ids(np.array(gone, bool)))
        else:
            assert self.index.remove_ids(np.array(gone, bool)) == sum(gone)
            self.keep([not g for g in gone])

    def keep(self, flags):
        if self.ids is not None:
            self.ids = [id for id, kept in zip(self.ids, flags, strict=True) if kept]
        self.codes = [code for code, kept in zip(self.codes, flags, strict=True) if kept]

    @rule(codes=CODES, ids=IDS, with_ids=st.booleans())
    def merge_from(self, codes, ids, with_ids):
        other = HammingIndex(BITS)
        if with_ids:
            ids = list(dict.fromkeys(ids))[: len(codes)]
            codes = codes[: len(ids)]
            other.add_with_ids(array(codes), ids)
        else:
            other.add(array(codes))
        if self.mapped or (codes and self.codes and with_ids != (self.ids is not None)):
            self.refused(RuntimeError, lambda: self.index.merge_from(other))
            assert other.ntotal == len(codes)
        elif codes and with_ids and set(ids) & set(self.ids or []):
            self.refused(ValueError, lambda: self.index.merge_from(other))
            assert other.ntotal == len(codes)
        else:
            self.index.merge_from(other)
            assert other.ntotal == 0
            if codes:
                self.ids = (self.ids or []) + ids if with_ids else None
                self.codes = self.codes + codes

    @rule()
    def reset(self):
        self.index.reset()
        self.codes, self.ids, self.mapped = [], None, False

    @rule()
    def copied(self):
        self.other, self.index = self.index, copy.copy(self.index)
        if not self.mapped:
            if self.ids is None or not self.codes:
                self.other.add(array([[9, 9]]))
            else:
                self.other.add_with_ids(array([[9, 9]]), [99])
        self.codes_of_other, self.mapped = self.other.codes.tolist(), False

    @rule()
    def pickled(self):
        self.index = pickle.loads(pickle.dumps(self.index))

    @rule(mmap=st.booleans())
    def saved_and_loaded(self, mmap):
        path = Path(self.folder.name) / "index"
        self.index.save(path)
        self.index = HammingIndex.load(path, mmap=mmap)
        self.mapped = mmap
        self.index.chunk_bytes = 5  # 2.5 codes

    @precondition(lambda self: self.mapped)
    @rule()
    def into_memory(self):
        assert self.index.to("cpu") is self.index
        self.mapped = False

    @rule(data=st.data(), queries=CODES, k=st.integers(1, 12))
    def search(self, data, queries, k):
        filters, allowed = self.filtered(data)
        distances, ids = self.index.search(array(queries), k, **filters)
        for query, *answer in zip(queries, distances.tolist(), ids.tolist(), strict=True):
            expected = [*self.found(query, allowed), *[MISSING] * k][:k]
            assert list(zip(*answer, strict=True)) == expected

    @rule(data=st.data(), queries=CODES, radius=st.integers(0, BITS + 2), inclusive=st.booleans())
    def range_search(self, data, queries, radius, inclusive):
        filters, allowed = self.filtered(data)
        lims, distances, ids = self.index.range_search(array(queries), radius, inclusive=inclusive, **filters)
        expected = [[pair for pair in self.found(query, allowed) if pair[0] < radius + inclusive] for query in queries]
        assert lims.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
        assert list(zip(distances.tolist(), ids.tolist(), strict=True)) == [pair for found in expected for pair in found]

    def filtered(self, data):
        """Return random filters of a search, and the positions that pass them."""
        flags = st.lists(st.booleans(), min_size=len(self.codes), max_size=len(self.codes))
        names = st.lists(st.sampled_from(self.names)) if self.names else st.just([])
        mask, ids, gone = (data.draw(st.none() | kind) for kind in (flags, names, names))
        allowed = [
            position
            for position, name in enumerate(self.names)
            if (mask is None or mask[position]) and (ids is None or name in ids) and (gone is None or name not in gone)
        ]
        return {"mask": None if mask is None else np.array(mask, bool), "ids": ids, "exclude_ids": gone}, allowed

    def found(self, query, allowed):
        """Return (distance, id) of the allowed positions, in order."""

        def distance(position):
            return sum((a ^ b).bit_count() for a, b in zip(query, self.codes[position], strict=True))

        return [(distance(position), self.names[position]) for position in sorted(allowed, key=distance)]

    @rule()
    def reconstruct(self):
        assert self.index.reconstruct_batch(self.names[::-1]).tolist() == self.codes[::-1]
        assert [self.index.reconstruct(id).tolist() for id in self.names] == self.codes
        with pytest.raises(IndexError, match="id 77 is not in the index"):
            self.index.reconstruct_batch([*self.names, 77])

    @invariant()
    def holds_the_same(self):
        assert self.index.ntotal == len(self.codes)
        assert self.index.codes.tolist() == self.codes
        assert self.codes == [] or (None if self.index.ids is None else self.index.ids.tolist()) == self.ids
        assert self.other is None or self.other.codes.tolist() == self.codes_of_other

    @invariant()
    def finds_the_same(self):
        distances, ids = self.index.search(array([[1, 3]]), 7)
        assert list(zip(distances[0], ids[0], strict=True)) == [*self.found([1, 3], range(len(self.codes))), *[MISSING] * 7][:7]


IndexIsAList.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestIndexIsAList = IndexIsAList.TestCase

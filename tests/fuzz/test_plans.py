"""Random galleries, changes and filters: whatever the plan, an index answers as a comparison of each query with all codes.

In the normal tests this takes a few seconds. `FUZZ_SECONDS`, which `make fuzz` sets, tries 5,000 cases, and more until that time
has passed.
"""

import os
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orthohash_triton.search import HammingIndex, _plan, _planner
from tests.search.galleries import KINDS, made

SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))
CASES = 5000 if SECONDS else 150

plans: Counter[str] = Counter()  # of all searches


@pytest.fixture(autouse=True)
def structures_are_used(monkeypatch, one_thread):
    """Use structures whatever they cost, because small galleries are faster to scan."""
    monkeypatch.setattr(_plan, "WORTH", np.inf)
    monkeypatch.setattr(_plan, "TRIED_SHARE", np.inf)
    monkeypatch.setattr(_plan, "TRIED_OF_SCAN", np.inf)
    plans.clear()


def brute_force(codes: np.ndarray, queries: np.ndarray, allowed: np.ndarray) -> list[list[tuple[int, int]]]:
    """Return (distance, position) of the allowed codes for each query, in order."""
    distances = np.unpackbits(queries[:, None] ^ codes[None], axis=2).sum(2, dtype=np.int64)
    return [sorted((int(row[i]), i) for i in np.flatnonzero(allowed)) for row in distances]


class Case:
    """An index that was built and changed, the codes and ids that it must hold, and filters."""

    def __init__(self, data: st.DataObject) -> None:
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        width = data.draw(st.sampled_from([1, 2, 3, 8, 9, 16, 32]))
        count = data.draw(st.integers(0, 150))
        self.codes, self.centres = made(data.draw(st.sampled_from(KINDS)), count, width, self.rng)
        self.ids = self.rng.permutation(10 * count)[:count] + 7 if data.draw(st.booleans()) else None
        self.index = HammingIndex(8 * width)
        first = data.draw(st.integers(0, count))
        self.add(slice(first))
        self.index.build(data.draw(st.sampled_from([None, self.centres])), data.draw(st.sampled_from([None, 0, 1, 3])))
        self.add(slice(first, count))
        if data.draw(st.booleans()):
            self.remove(self.rng.random(count) < data.draw(st.sampled_from([0.05, 0.5, 1])))
        if data.draw(st.booleans()):
            self.index.build(radius=data.draw(st.sampled_from([None, 0, 1, 3])))
        self.queries = self.drawn_queries(data.draw(st.integers(0, 6)), width)
        self.drawn_filters(data)

    def add(self, rows: slice) -> None:
        if self.ids is None:
            self.index.add(self.codes[rows])
        else:
            self.index.add_with_ids(self.codes[rows], self.ids[rows])

    def remove(self, gone: np.ndarray) -> None:
        self.index.remove_ids(gone)
        self.codes = self.codes[~gone]
        if self.ids is not None:
            self.ids = self.ids[~gone]

    def drawn_queries(self, count: int, width: int) -> np.ndarray:
        pool = np.concatenate([self.codes, self.centres, self.rng.integers(0, 256, (4, width), np.uint8)])
        return pool[self.rng.integers(0, len(pool), count)]

    def drawn_filters(self, data: st.DataObject) -> None:
        count = len(self.codes)
        self.names = np.arange(count) if self.ids is None else self.ids
        self.allowed = np.ones(count, bool)
        self.filters = {}
        kind = data.draw(st.sampled_from([None, None, "mask", "ids", "exclude_ids"]))
        if kind is not None:
            self.allowed = self.rng.random(count) < data.draw(st.sampled_from([0, 0.1, 0.9]))
            names = self.names[self.allowed if kind == "ids" else ~self.allowed]
            self.filters = {kind: self.allowed if kind == "mask" else names}


def check(case: Case, data: st.DataObject) -> None:
    expected = brute_force(case.codes, case.queries, case.allowed)
    k = data.draw(st.integers(1, len(case.codes) + 5))
    distances, ids = case.index.search(case.queries, k, **case.filters)
    for row, (near, found) in enumerate(zip(distances.tolist(), ids.tolist(), strict=True)):
        pairs = [(distance, int(case.names[i])) for distance, i in expected[row][:k]]
        assert list(zip(near, found, strict=True)) == [*pairs, *[(2**31 - 1, -1)] * (k - len(pairs))]
    bits = case.index.bits
    radius = (
        case.rng.integers(0, bits + 2, len(case.queries)) if data.draw(st.booleans()) else data.draw(st.integers(0, bits + 1))
    )
    inclusive = data.draw(st.booleans())
    lims, near, found = case.index.range_search(case.queries, radius, inclusive=inclusive, **case.filters)
    radii = np.broadcast_to(radius, len(case.queries)).tolist()
    chosen = [[pair for pair in pairs if pair[0] < radii[row] + inclusive] for row, pairs in enumerate(expected)]
    assert lims.tolist() == np.cumsum([0, *map(len, chosen)]).tolist()
    assert list(zip(near.tolist(), found.tolist(), strict=True)) == [
        (d, int(case.names[i])) for pairs in chosen for d, i in pairs
    ]
    if len(case.queries):
        plans[case.index.explain(case.queries, k, **case.filters).plan] += 1
        plans[f"range {case.index.explain(case.queries, radius=radius, **case.filters).plan}"] += 1


def test_every_plan_gives_the_answer_of_the_scan(monkeypatch):
    budget = _plan.budget
    given_up = 0

    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=not SECONDS, database=None)
    @given(st.data())
    def try_one(data: st.DataObject) -> None:
        nonlocal given_up
        preferred = data.draw(st.sampled_from(["filing", "lookup"]))
        monkeypatch.setattr(_planner, "way_cost", lambda way, *facts: float(way != preferred))
        few = data.draw(st.sampled_from([None, 0, 1, 5, 50]))
        monkeypatch.setattr(_plan, "budget", lambda way, demand: budget(way, demand) if few is None else few)
        case = Case(data)
        check(case, data)
        if len(case.queries):
            given_up += case.index.explain(case.queries, 3).given_up

    end = time.monotonic() + SECONDS
    while True:
        try_one()
        if time.monotonic() >= end:
            break
    print(f"{dict(plans)}, {given_up:,} queries gave up")
    for plan in ("filing", "lookup", "range filing", "range lookup"):
        assert plans[plan] >= CASES / 50, plan
    assert given_up > CASES / 10


def test_the_gallery_kinds_are_what_they_are_called():
    rng = np.random.default_rng(0)
    assert len(np.unique(made("equal", 50, 8, rng)[0], axis=0)) == 1
    codes, centres = made("adversarial", 50, 8, rng)
    assert len(np.unique(np.unpackbits(codes[:, None] ^ centres, axis=2).sum(2))) == 1
    assert len(np.unique(made("tied", 50, 8, rng)[0], axis=0)) < 10

"""Random changes and searches of an index, which is compared with a plain list of codes and ids after every step.

Searches also run in other threads beside changes: each of their answers must be that of the index before or after a change, and
the answers of one thread must follow the order of the changes.

In the normal tests this takes a few seconds. `FUZZ_SECONDS`, which `make fuzz` sets, repeats it for that time with other steps.
"""

import copy
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from orthohash_triton.ops.pack_codes import unpack_codes
from orthohash_triton.search import HammingIndex, Rerank, ShardedHammingIndex, _plan, _planner

BITS = 16
MISSING = (2**31 - 1, -1)
STRAY = 77  # an id that no index holds
SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))

# Few different bytes and ids, so that ties and clashes are common.
CODE = st.tuples(*[st.sampled_from([0, 1, 3, 255])] * 2)
CODES = st.lists(CODE, max_size=6)
IDS = st.lists(st.sampled_from([-7, -2, 0, 1, 2, 3, 5, 2**40, -(2**63)]), max_size=6)

steps = 0  # of all machines
used: set[str] = set()  # plans of all machines


def array(codes) -> np.ndarray:
    return np.array(codes, np.uint8).reshape(-1, BITS // 8)


@dataclass(frozen=True)
class Plain:
    """The state of an index as lists."""

    codes: tuple[tuple[int, ...], ...] = ()
    ids: tuple[int, ...] | None = None  # None if ids are positions
    mapped: bool = False  # whether the codes are in a file, so that the index cannot be changed

    @property
    def names(self) -> tuple[int, ...]:
        return tuple(range(len(self.codes))) if self.ids is None else self.ids

    @property
    def has_ids(self) -> bool:
        return self.ids is not None and bool(self.codes)

    def added(self, codes, ids=None) -> "Plain":
        return Plain(self.codes + tuple(codes), None if ids is None else (self.ids or ()) + tuple(ids))

    def kept(self, flags) -> "Plain":
        def chosen(values):
            return tuple(value for value, kept in zip(values, flags, strict=True) if kept)

        return Plain(chosen(self.codes), None if self.ids is None else chosen(self.ids))

    def found(self, query, filters: "Filters") -> list[tuple[int, int]]:
        """Return (distance, position) of the codes that pass the filters, in order."""
        allowed = [
            position
            for position, name in enumerate(self.names)
            if (filters.mask is None or filters.mask[position])
            and (filters.ids is None or name in filters.ids)
            and (filters.exclude_ids is None or name not in filters.exclude_ids)
        ]
        pairs = [(sum((a ^ b).bit_count() for a, b in zip(query, self.codes[i], strict=True)), i) for i in allowed]
        return sorted(pairs)

    def check(self, filters: "Filters") -> None:
        """Raise the error that a search with `filters` must raise."""
        if filters.mask is not None and len(filters.mask) != len(self.codes):
            raise ValueError
        if not {*(filters.ids or ()), *(filters.exclude_ids or ())} <= set(self.names):
            raise IndexError


class Filters(NamedTuple):
    mask: list[bool] | None = None
    ids: list[int] | None = None
    exclude_ids: list[int] | None = None

    def arguments(self) -> dict[str, Any]:
        return self._asdict() | {"mask": None if self.mask is None else np.array(self.mask, bool)}


class Change(NamedTuple):
    """A change of an index, and the state after it or the error that it must raise."""

    make: Callable[[Any], Any]
    after: Plain | type[Exception]


class Read(NamedTuple):
    """A question to an index, and its answer by the plain state. Both return plain values or raise an error."""

    ask: Callable[[Any], Any]
    answer: Callable[[Plain], Any]


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call, or the class of its error. A text stands for an error that no call may raise."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error) if type(error) in (IndexError, ValueError) else repr(error)


# ---- changes ---------------------------------------------------------------------------------------------------------------


def add(data, plain: Plain, machine) -> Change:
    codes, as_tensor = data.draw(CODES), data.draw(st.booleans())
    added = torch.from_numpy(array(codes)) if as_tensor else array(codes)
    return Change(lambda index: index.add(added), RuntimeError if plain.mapped or plain.has_ids else plain.added(codes))


def add_with_ids(data, plain: Plain, machine) -> Change:
    codes, ids = data.draw(CODES), data.draw(IDS)
    if data.draw(st.booleans()):
        ids = list(dict.fromkeys(ids))
        codes, ids = codes[: len(ids)], ids[: len(codes)]
    after: Plain | type[Exception] = plain.added(codes, ids)
    if plain.mapped or (plain.codes and plain.ids is None):
        after = RuntimeError
    elif len(codes) != len(ids) or len({*ids, *(plain.ids or ())}) < len(ids) + len(plain.ids or ()):
        after = ValueError
    return Change(lambda index: index.add_with_ids(array(codes), ids), after)


def remove_ids(data, plain: Plain, machine) -> Change:
    chosen = data.draw(st.lists(st.sampled_from(plain.names))) if plain.codes else []
    if data.draw(st.booleans()):
        return Change(lambda index: index.remove_ids([*chosen, STRAY]), RuntimeError if plain.mapped else IndexError)

    def remove(index):
        assert index.remove_ids(chosen) == len(set(chosen))

    return Change(remove, RuntimeError if plain.mapped else plain.kept([name not in chosen for name in plain.names]))


def remove_mask(data, plain: Plain, machine) -> Change:
    gone = data.draw(st.lists(st.booleans(), min_size=len(plain.codes), max_size=len(plain.codes)))

    def remove(index):
        assert index.remove_ids(np.array(gone, bool)) == sum(gone)

    return Change(remove, RuntimeError if plain.mapped else plain.kept([not each for each in gone]))


def merge_from(data, plain: Plain, machine) -> Change:
    codes, ids, with_ids = data.draw(CODES), list(dict.fromkeys(data.draw(IDS))), data.draw(st.booleans())
    other = machine.empty()
    if with_ids:
        codes, ids = codes[: len(ids)], ids[: len(codes)]
        other.add_with_ids(array(codes), ids)
    else:
        other.add(array(codes))
    after: Plain | type[Exception] = plain.added(codes, ids if with_ids else None) if codes else plain
    if plain.mapped or (codes and plain.codes and with_ids != (plain.ids is not None)):
        after = RuntimeError
    elif codes and with_ids and set(ids) & set(plain.ids or ()):
        after = ValueError

    def merge(index):
        try:
            index.merge_from(other)
        finally:
            assert other.ntotal == (0 if isinstance(after, Plain) else len(codes))

    return Change(merge, after)


def reset(data, plain: Plain, machine) -> Change:
    return Change(lambda index: index.reset(), Plain())


def move(data, plain: Plain, machine) -> Change:
    """Choose another place, which also reads a mapped file into memory."""
    storage = data.draw(st.sampled_from(["device", "host"]))
    return Change(lambda index: index.to("cpu", storage=storage), Plain(plain.codes, plain.ids))


def build(data, plain: Plain, machine) -> Change:
    """File the codes, and make tables for a radius."""
    radius = data.draw(st.sampled_from([None, 0, 2]))
    return Change(lambda index: index.build(radius=radius), plain)


CHANGES = [add, add_with_ids, remove_ids, remove_mask, merge_from, reset, move, build]


# ---- reads -----------------------------------------------------------------------------------------------------------------


def filters_of(data, plain: Plain) -> Filters:
    flags = st.lists(st.booleans(), min_size=len(plain.codes), max_size=len(plain.codes))
    names = st.lists(st.sampled_from(plain.names)) if plain.codes else st.just([])
    return Filters(*(data.draw(st.none() | kind) for kind in (flags, names, names)))


def padded(pairs, k: int, missing) -> list:
    return [*pairs, *[missing] * k][:k]


def search(data, plain: Plain) -> Read:
    queries, k, filters = data.draw(CODES), data.draw(st.integers(1, 12)), filters_of(data, plain)

    def ask(index):
        distances, ids = index.search(array(queries), k, **filters.arguments())
        return [list(zip(*pair, strict=True)) for pair in zip(distances.tolist(), ids.tolist(), strict=True)]

    def answer(plain):
        plain.check(filters)
        found = [[(distance, plain.names[i]) for distance, i in plain.found(query, filters)] for query in queries]
        return [padded(pairs, k, MISSING) for pairs in found]

    return Read(ask, answer)


def range_search(data, plain: Plain) -> Read:
    queries, filters = data.draw(CODES), filters_of(data, plain)
    radius, inclusive = data.draw(st.integers(0, BITS + 2)), data.draw(st.booleans())

    def ask(index):
        lims, distances, ids = index.range_search(array(queries), radius, inclusive=inclusive, **filters.arguments())
        return lims.tolist(), list(zip(distances.tolist(), ids.tolist(), strict=True))

    def answer(plain):
        plain.check(filters)
        found = [[pair for pair in plain.found(query, filters) if pair[0] < radius + inclusive] for query in queries]
        lims = np.cumsum([0, *map(len, found)]).tolist()
        return lims, [(distance, plain.names[i]) for pairs in found for distance, i in pairs]

    return Read(ask, answer)


def vectors_of(names) -> np.ndarray:
    """Return vectors of small whole numbers, whose products are exact in float32."""
    numbers = np.asarray(names, np.int64).reshape(-1)
    return np.stack([numbers % 5, numbers % 3], 1).astype(np.float32)


def rerank(data, plain: Plain) -> Read:
    """Rank by the codes, by a function from ids to vectors, or by an array with a row for each position."""
    queries, k, filters = data.draw(CODES), data.draw(st.integers(1, 5)), filters_of(data, plain)
    k_factor, kind = data.draw(st.sampled_from([1, 1.5, 3])), data.draw(st.sampled_from(["codes", "function", "array"]))
    if kind == "codes":
        sizes = data.draw(st.lists(st.integers(1, 3), min_size=BITS, max_size=BITS))
        asked = unpack_codes(array(queries), BITS) * np.array(sizes, np.float32)
    else:
        asked = np.array([[query[0] % 4 - 1, query[1] % 3] for query in queries], np.float32).reshape(-1, 2)
    rows = len(plain.codes)
    vectors = {"codes": None, "function": vectors_of, "array": vectors_of(range(rows))}[kind]

    def ask(index):
        how = Rerank(asked, vectors, k_factor=k_factor)
        scores, ids = index.search(array(queries), k, **filters.arguments(), rerank=how)
        return [list(zip(*pair, strict=True)) for pair in zip(scores.tolist(), ids.tolist(), strict=True)]

    def answer(plain):
        if kind == "array" and len(plain.codes) != rows:
            raise ValueError
        plain.check(filters)
        ranked = []
        for query, numbers in zip(queries, asked, strict=True):
            shortlist = [i for _, i in plain.found(query, filters)[: ceil(k * k_factor)]]
            listed = [plain.names[i] for i in shortlist] if kind == "function" else shortlist
            of_kind = unpack_codes(array([plain.codes[i] for i in shortlist]), BITS) if kind == "codes" else vectors_of(listed)
            scores = [float(numbers @ row.astype(np.float32)) for row in of_kind]
            order = sorted(range(len(shortlist)), key=lambda place, scores=scores: -scores[place])
            ranked.append(padded([(scores[place], plain.names[shortlist[place]]) for place in order], k, (-inf, -1)))
        return ranked

    return Read(ask, answer)


def reconstruct(data, plain: Plain) -> Read:
    wanted = data.draw(st.lists(st.sampled_from([*plain.names, STRAY]), max_size=5))

    def answer(plain):
        if not set(wanted) <= set(plain.names):
            raise IndexError
        return [list(plain.codes[plain.names.index(name)]) for name in wanted]

    return Read(lambda index: index.reconstruct_batch(wanted).tolist(), answer)


READS = [search, range_search, rerank, reconstruct]


# ---- machines --------------------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """The steps that both kinds of index have."""

    def __init__(self):
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "index"
        self.index, self.plain = self.empty(), Plain()

    def teardown(self):
        self.folder.cleanup()

    def empty(self):
        raise NotImplementedError

    @property
    def part(self) -> HammingIndex:
        """The index that holds the codes."""
        return self.index

    @rule(data=st.data(), kind=st.sampled_from(CHANGES))
    def change(self, data, kind):
        self.apply(kind(data, self.plain, self))

    def apply(self, change: Change) -> None:
        if isinstance(change.after, Plain):
            change.make(self.index)
            self.plain = change.after
        else:
            with pytest.raises(change.after):
                change.make(self.index)

    @rule(data=st.data(), kind=st.sampled_from(READS))
    def read(self, data, kind):
        read = kind(data, self.plain)
        assert outcome(read.ask, self.index) == outcome(read.answer, self.plain)

    @rule(k=st.integers(1, 12), radius=st.integers(0, BITS))
    def explained(self, k, radius):
        """Ask for plans, and in doing so try the structures for these depths."""
        for explanation in (self.index.explain(array([[1, 3]]), k), self.index.explain(array([[1, 3]]), radius=radius)):
            assert explanation.codes == len(self.plain.codes)
            assert explanation.plan in ("scan", "filing", "lookup")
            used.add(explanation.plan)

    @rule(mmap=st.booleans(), size=st.sampled_from([1, 5, 2**20]))
    def save_and_load(self, mmap, size):
        self.index.save(self.path)
        self.index = type(self.index).load(self.path, mmap=mmap)
        self.part.chunk_bytes = size
        self.plain = Plain(self.plain.codes, self.plain.ids if self.plain.codes else None, mmap)

    @invariant()
    def holds_the_same(self):
        global steps
        steps += 1
        assert self.index.ntotal == len(self.plain.codes)
        assert [tuple(code) for code in self.part.codes.tolist()] == list(self.plain.codes)
        ids = None if self.part.ids is None else tuple(self.part.ids.tolist())
        assert not self.plain.codes or ids == self.plain.ids

    @invariant()
    def finds_the_same(self):
        distances, ids = self.index.search(array([[1, 3]]), 7)
        found = [(distance, self.plain.names[i]) for distance, i in self.plain.found([1, 3], Filters())]
        assert list(zip(distances[0], ids[0], strict=True)) == padded(found, 7, MISSING)


class OneProcess(Machine):
    """A `HammingIndex`, with copies of it and with searches in other threads."""

    def __init__(self):
        super().__init__()
        self.other, self.codes_of_other = None, ()  # the index that was copied last, which must not see changes of the copy

    def empty(self):
        return HammingIndex(BITS)

    @rule(deep=st.booleans())
    def copied(self, deep):
        self.other, self.index = self.index, copy.deepcopy(self.index) if deep else copy.copy(self.index)
        self.codes_of_other = self.plain.codes
        if not self.plain.mapped:
            if self.plain.has_ids:
                self.other.add_with_ids(array([[9, 9]]), [99])
            else:
                self.other.add(array([[9, 9]]))
            self.codes_of_other += ((9, 9),)
        self.plain = Plain(self.plain.codes, self.plain.ids)

    @rule()
    def pickled(self):
        self.index = pickle.loads(pickle.dumps(self.index))

    @precondition(lambda self: not self.plain.mapped)
    @rule(data=st.data(), kinds=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3))
    def read_beside_changes(self, data, kinds):
        """Ask in two threads while a third one changes the index."""
        reads = [data.draw(st.sampled_from(READS))(data, self.plain) for _ in range(2)]
        states, changes = [self.plain], []
        for kind in kinds:
            changes.append(kind(data, states[-1], self))
            states.append(changes[-1].after if isinstance(changes[-1].after, Plain) else states[-1])
        with asking(self.index, reads) as answers:
            for change in changes:
                self.apply(change)
        for read, given in zip(reads, answers, strict=True):
            check_order(given, [outcome(read.answer, state) for state in states])

    @invariant()
    def the_copied_index_is_unchanged(self):
        assert self.other is None or [tuple(code) for code in self.other.codes.tolist()] == list(self.codes_of_other)


@contextmanager
def asking(index, reads: list[Read]) -> Iterator[list[list[Any]]]:
    """Ask each of `reads` in a thread of its own, again and again, during the block; yield lists that collect their outcomes.

    Each thread has an answer before the block begins, and one that it asked for after the block has ended.
    """
    answers: list[list[Any]] = [[] for _ in reads]
    started, ended = threading.Barrier(len(reads) + 1), threading.Event()

    def ask(read, collected):
        collected.append(outcome(read.ask, index))
        started.wait()
        while not ended.is_set():
            collected.append(outcome(read.ask, index))
        collected.append(outcome(read.ask, index))

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(reads, answers, strict=True)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # other threads run in the middle of a step of Python, too
    try:
        for thread in threads:
            thread.start()
        started.wait()
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)


def check_order(given: list[Any], expected: list[Any]) -> None:
    """Assert that the outcomes `given` occur in `expected` in the same order, from the first to the last state."""
    state = 0
    for place, each in enumerate(given):
        while state < len(expected) and each != expected[state]:
            state += 1
        assert state < len(expected), f"answer {place} is {each!r}; expected one of {expected!r}, in this order"
    assert given[0] == expected[0]
    assert given[-1] == expected[-1]


class OneShard(Machine):
    """A `ShardedHammingIndex` in a group of one process."""

    def empty(self):
        return ShardedHammingIndex(BITS)

    @property
    def part(self):
        return self.index.shard


def explore(machine: type[Machine], examples: int) -> None:
    """Run `machine` for about `examples` times 25 steps, and again until FUZZ_SECONDS have passed."""
    global steps
    steps, end = 0, time.monotonic() + SECONDS
    chosen = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck),
        derandomize=not SECONDS, database=None,
    )  # fmt: skip
    while True:
        run_state_machine_as_test(machine, settings=chosen)
        if time.monotonic() >= end:
            break
    print(f"{machine.__name__}: {steps:,} steps")


@pytest.fixture(autouse=True)
def structures_are_used(monkeypatch):
    """Use structures whatever they cost, because small galleries are faster to scan."""
    monkeypatch.setattr(_planner, "way_cost", lambda way, demand, *facts: float((way == "lookup") != demand.depth % 2))
    monkeypatch.setattr(_plan, "TRIED_SHARE", inf)
    monkeypatch.setattr(_plan, "TRIED_OF_SCAN", inf)


def test_an_index_is_a_list():
    explore(OneProcess, 60)
    assert used == {"scan", "filing", "lookup"}


def test_a_sharded_index_is_a_list():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        explore(OneShard, 20)
    finally:
        dist.destroy_process_group()


def test_outdated_and_mixed_answers_are_noticed():
    check_order([1, 1, 2, 4], [1, 2, 3, 4])
    check_order([1, 2, 1], [1, 2, 1])
    for wrong in ([1, 5, 4], [1, 2, 1, 4], [2, 4], [1, 2]):
        with pytest.raises(AssertionError):
            check_order(wrong, [1, 2, 3, 4])

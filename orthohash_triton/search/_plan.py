"""The costs of the ways to answer a search, and what an index remembers in order to choose the cheapest.

Every way gives the same answer, so a wrong estimate can only cost time. No clock is read: costs follow from counts (codes,
entries compared, candidates) and from the constants below, so that a choice can be repeated and tested.
"""

import math
import os
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from .._base import checks
from .._base.quoting import quoted

Mode = Literal["auto", "scan"]
Kind = Literal["nearest", "range"]
Way = Literal["filing", "lookup"]

MODES = ("auto", "scan")
VARIABLE = "ORTHOHASH_PLAN"

WORTH = 0.95  # a way that costs more than this share of the scan is not taken, because the estimate may be wrong
AT_ONCE = 1.5  # a search builds first if its scan alone costs this many times the building
AT_REST = 4.0  # a search builds first if scans since the last change have cost this many times the building
SAMPLED_SHARE = 0.02  # share of the cost of scans that the decision whether to build may take
HELPS = 0.7  # structures are built if a search would then cost at most this share of the scan
REFILED_SHARE = 1 / 8  # a change builds anew when the tail is this share of the covered codes, and the structures are in use
SMALLEST = 2**14  # codes below which nothing is built by itself: a scan of them takes microseconds
MEMORY_SHARE = 0.25  # share of the memory of the machine that a search may take for building
KEPT_COUNTS = 64  # numbers of entries met by earlier queries that are kept for each k or radius
WAITING = 8  # of these that are collected before the choice changes
PROBES = 8  # queries of a batch that are tried on the structures before it is scanned
TRIED_SHARE = 0.02  # share of the cost of scans that may be spent on trying; it is halved each time that trying is in vain
MOST_VAIN = 6  # times that it is halved
TRIED_OF_SCAN = 0.1  # share of the cost of one scan that may be spent on trying before it
WASTED_SHARE = 1 / 8  # share of its budget that a query spends before it notices that it has to give up


class Costs(NamedTuple):
    """The costs of steps on one thread, in nanoseconds: estimates from searches on a Zen 3 processor with AVX2."""

    scan_call: float = 40_000.0
    scan_pair: float = 0.095  # per query, code and word of 64 bits, in a large batch
    scan_alone: float = 0.35  # the same, in addition; divided by the root of the number of queries, which share the reading
    scan_found: float = 20.0  # per answer, and per factor e of the codes of which it is one of the nearest
    filed_call: float = 110_000.0
    filed_query: float = 700.0
    filed_centre: float = 3.0  # per centre and word
    filed_ring: float = 3.0
    filed_entry: float = 0.7  # per entry compared and word
    filed_found: float = 16.0  # per answer
    file_code: float = 150.0  # per code
    file_entry: float = 1_300.0  # per distinct code
    lookup_call: float = 110_000.0
    lookup_query: float = 1_000.0
    lookup_met: float = 20.0  # per bucket or candidate
    lookup_found: float = 16.0  # per answer
    list_code: float = 30.0  # per code and table


COSTS = Costs()
# On a GPU, modelled from the code that is compiled for an H100, and not measured. The calls are the host's time for the launches.
GPU_COSTS = COSTS._replace(
    scan_call=60_000.0,
    scan_pair=0.0003,
    scan_alone=0.0024,
    scan_found=0.03,
    filed_call=600_000.0,
    filed_query=25.0,
    filed_centre=0.08,
    filed_ring=0.0,
    filed_entry=0.03,
    filed_found=0.05,
)


class Demand(NamedTuple):
    """The parts of a search on which its cost depends."""

    kind: Kind
    queries: int
    codes: int
    bits: int
    depth: int  # k, or the largest limit
    on_gpu: bool = False

    @property
    def costs(self) -> Costs:
        """The costs of the steps on the device that searches."""
        return GPU_COSTS if self.on_gpu else COSTS

    @property
    def words(self) -> int:
        """Words of 64 bits in a code."""
        return -(-self.bits // 64)

    @property
    def grade(self) -> int:
        """A number that searches share if what one of them has met predicts what another will meet; it grows with the depth."""
        return self.depth.bit_length() if self.kind == "nearest" else self.depth

    @property
    def answers(self) -> int:
        """Answers per query, as far as they are known before the search."""
        return min(self.depth, self.codes) if self.kind == "nearest" else 0


class Sizes(NamedTuple):
    """The sizes of a filing on which the cost of a search depends."""

    entries: int
    centres: int
    rings: int


def scan_cost(demand: Demand) -> float:
    """Return the cost of comparing each query with all codes."""
    pairs = demand.queries * demand.codes * demand.words
    found = demand.queries * demand.answers * (1 + math.log(max(demand.codes, 1) / max(demand.answers, 1)))
    each = demand.costs.scan_pair + demand.costs.scan_alone / math.sqrt(max(demand.queries, 1))
    return demand.costs.scan_call + pairs * each + found * demand.costs.scan_found


def filing_cost(codes: int, entries: float) -> float:
    """Return the cost of filing `codes` codes, of which `entries` are distinct."""
    return codes * COSTS.file_code + entries * COSTS.file_entry


def listing_cost(codes: int, tables: int) -> float:
    """Return the cost of the tables of a lookup."""
    return codes * tables * COSTS.list_code


def scan_of_one(demand: Demand) -> float:
    """Return the part of the cost of a scan that one of the queries causes."""
    return scan_cost(demand) / max(demand.queries, 1)


def budget(way: Way, demand: Demand) -> int:
    """Return the number of entries, or of buckets and candidates, that cost a query as much as a scan."""
    each = demand.costs.filed_entry * demand.words if way == "filing" else demand.costs.lookup_met
    return max(1, int(scan_of_one(demand) / each))


def way_cost(way: Way, demand: Demand, sizes: Sizes, met: np.ndarray) -> float:
    """Return the cost of a search by structures for queries that meet as much as earlier ones did, `met` [any].

    A query that would meet more than the budget notices that after a part of it, and is scanned.
    """
    call, before, each, found = _rates(way, demand, sizes)
    allowed = budget(way, demand)
    wasted = scan_of_one(demand) + allowed * WASTED_SHARE * each
    compared = float(np.where(met <= allowed, met * each, wasted).mean())
    return call + demand.queries * (before + compared + demand.answers * found)


def attempt_cost(way: Way, demand: Demand, sizes: Sizes) -> float:
    """Return the cost of a search by structures in which every query gives up."""
    call, before, each, _ = _rates(way, demand, sizes)
    return call + demand.queries * (before + budget(way, demand) * WASTED_SHARE * each)


def _rates(way: Way, demand: Demand, sizes: Sizes) -> tuple[float, float, float, float]:
    """Return the costs of a call, of a query before it meets anything, of what it meets, and of an answer."""
    costs = demand.costs
    if way == "lookup":
        return costs.lookup_call, costs.lookup_query, costs.lookup_met, costs.lookup_found
    before = costs.filed_query + sizes.centres * demand.words * costs.filed_centre + sizes.rings * costs.filed_ring
    return costs.filed_call, before, costs.filed_entry * demand.words, costs.filed_found


NEVER = 2**62  # what a query has met that gave up


@dataclass(eq=False)
class History:
    """A record of earlier searches. It only steers the choice of a plan, so that threads may update it without a lock."""

    scanned: float = 0.0  # cost of scans since the last change, as far as structures might have saved it
    needed: float = 0.0  # cost that `scanned` must reach before building is considered again
    saved: float = 0.0  # cost that the structures have saved since they were built
    untried: float = 0.0  # cost of scans since the structures were last tried before one
    vain: int = 0  # how often trying them has not changed the plan since it last did
    version: int = 0  # changes with everything that a choice depends on
    met: dict[tuple[Way, Kind, int], np.ndarray] = field(default_factory=dict)  # entries that earlier queries have met
    waiting: dict[tuple[Way, Kind, int], list[int]] = field(default_factory=dict)  # the same for the last few queries
    declined: dict[tuple[Kind, int], int] = field(default_factory=dict)  # number of codes at which building was not worth it

    def note_met(self, way: Way, demand: Demand, met: np.ndarray) -> None:
        """Remember some of the numbers `met`, int64 [Q], of a search; -1 is a query that gave up.

        Numbers of small searches are collected, so that the choice for the next one is not computed again each time.
        """
        key = way, demand.kind, demand.grade
        waiting = self.waiting.setdefault(key, [])
        waiting += met[:: max(1, len(met) // (KEPT_COUNTS // 2))].tolist()
        if len(waiting) >= WAITING or key not in self.met:
            counts = np.array(waiting, np.int64)[-KEPT_COUNTS:]
            self.met[key] = np.concatenate([np.where(counts < 0, NEVER, counts), self.met.get(key, counts[:0])])[:KEPT_COUNTS]
            self.waiting[key] = []
            self.version += 1

    def forget_met(self) -> None:
        """Forget what queries have met, because the structures are others."""
        self.met.clear()
        self.waiting.clear()
        self.vain = 0
        self.version += 1

    def known_met(self, way: Way, demand: Demand) -> np.ndarray | None:
        """Return what earlier queries have met, for this depth or else for the next greater one; None if unknown."""
        deeper = [key for key in list(self.met) if key[:2] == (way, demand.kind) and key[2] >= demand.grade]
        return self.met[min(deeper)] if deeper else None

    def forget(self, *, before: int, after: int) -> None:
        """Forget what a change from `before` to `after` codes makes wrong."""
        self.scanned = self.needed = 0.0
        self.vain = 0
        self.version += 1
        if not before / 2 <= after <= 2 * before:
            self.declined.clear()

    def decline(self, demand: Demand) -> None:
        """Remember that structures would not help a search."""
        self.declined[demand.kind, demand.grade] = demand.codes
        self.scanned = 0.0

    def is_declined(self, demand: Demand) -> bool:
        """Return whether structures were found not to help this search, or one that has less to find, at about this size."""
        return any(
            kind == demand.kind and grade <= demand.grade and codes / 2 <= demand.codes <= 2 * codes
            for (kind, grade), codes in list(self.declined.items())
        )


def mode_of(chosen: Mode) -> Mode:
    """Return the mode of planning: the one that the environment variable ORTHOHASH_PLAN names, or else `chosen`."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return chosen
    if named not in MODES:
        raise ValueError(f"the environment variable {VARIABLE} must be one of {', '.join(MODES)}; got {quoted(named)}")
    return named  # type: ignore[return-value]


def check_mode(op: str, mode: Mode) -> Mode:
    """Return `mode` after checking it."""
    checks.choice(op, "plan", mode, MODES)
    return mode

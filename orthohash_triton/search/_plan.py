"""The costs of the ways to answer a search, and what an index remembers in order to choose the cheapest.

Every way gives the same answer, so an estimate can only cost time. No clock is read: costs follow from counts (codes, entries
compared, candidates) and from the constants below, so that a choice can be repeated and tested.
"""

import os
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from .._base import checks
from .._base.quoting import quoted

Mode = Literal["auto", "scan"]
Kind = Literal["nearest", "range"]

MODES = ("auto", "scan")
VARIABLE = "ORTHOHASH_PLAN"

WORTH = 0.95  # a way that costs more than this share of the scan is not taken, because the estimate may be wrong
AT_ONCE = 1.5  # a search builds first if its scan alone costs this many times the building
AT_REST = 4.0  # a search builds first if scans since the last change have cost this many times the building
REFILED_SHARE = 1 / 8  # a change files anew when the tail is this share of the filed codes, and the structures are in use
SMALLEST = 2**14  # codes below which nothing is built by itself: a scan of them takes microseconds
KEPT_COUNTS = 64  # numbers of entries met by earlier queries that are kept for each k or radius
PROBES = 8  # queries of a batch that are tried on the structures before it is scanned
TRIED_SHARE = 0.02  # share of the cost of scans that may be spent on trying
TRIED_OF_SCAN = 0.1  # share of the cost of one scan that may be spent on trying before it
HELPS = 0.7  # structures are built if a search would then cost at most this share of the scan
MEMORY_SHARE = 0.25  # share of the memory of the machine that a search may take for building


class Costs(NamedTuple):
    """What steps cost on one thread, in nanoseconds. `python -m bench.search_costs` measures them."""

    scan_call: float = 25_000.0
    scan_pair: float = 0.025  # per query, code and word of 64 bits, in a batch
    scan_read: float = 0.030  # per byte of the gallery, once for all queries
    scan_found: float = 15.0  # per answer
    filed_call: float = 40_000.0
    filed_query: float = 1_000.0
    filed_centre: float = 1.0  # per centre and word
    filed_ring: float = 1.0
    filed_entry: float = 1.0  # per entry compared and word
    filed_found: float = 3.0  # per answer
    build_code: float = 120.0  # per code and word


COSTS = Costs()


class Demand(NamedTuple):
    """What a search asks for, as far as its cost depends on it."""

    kind: Kind
    queries: int
    codes: int
    bits: int
    depth: int  # k, or the largest radius

    @property
    def words(self) -> int:
        """Words of 64 bits in a code."""
        return -(-self.bits // 64)

    @property
    def key(self) -> tuple[Kind, int]:
        """What searches must share for the entries that one has met to predict those of another."""
        return self.kind, self.depth.bit_length() if self.kind == "nearest" else self.depth

    @property
    def answers(self) -> int:
        """Answers per query, as far as they are known before the search."""
        return min(self.depth, self.codes) if self.kind == "nearest" else 0


def scan_cost(demand: Demand) -> float:
    """Return the cost of comparing each query with all codes."""
    read = demand.codes * demand.words * 8 * COSTS.scan_read
    compared = demand.queries * demand.codes * demand.words * COSTS.scan_pair
    return COSTS.scan_call + read + compared + demand.queries * demand.answers * COSTS.scan_found


def build_cost(codes: int, bits: int) -> float:
    """Return the cost of building the structures of `codes` codes."""
    return codes * -(-bits // 64) * COSTS.build_code


class Sizes(NamedTuple):
    """The sizes of a filing on which the cost of a search depends."""

    entries: int
    centres: int
    rings: int


def entry_budget(demand: Demand) -> int:
    """Return the number of entries that cost a query as much as a scan, above which it gives up."""
    return max(1, int(scan_cost(demand) / max(demand.queries, 1) / (COSTS.filed_entry * demand.words)))


def filed_cost(demand: Demand, sizes: Sizes, met: np.ndarray) -> float:
    """Return the cost of the filing for queries that meet as many entries as earlier ones did, `met` [any].

    Queries that meet more entries than the budget give up and are scanned.
    """
    scan = scan_cost(demand) / max(demand.queries, 1)
    compared = np.where(met <= entry_budget(demand), met * (COSTS.filed_entry * demand.words), scan)
    return COSTS.filed_call + demand.queries * (
        _before_entries(demand, sizes) + float(compared.mean()) + demand.answers * COSTS.filed_found
    )


def attempt_cost(demand: Demand, sizes: Sizes) -> float:
    """Return the cost of a search in the filing in which every query gives up as soon as it knows that it has to."""
    fewest = min(demand.answers, sizes.entries) * COSTS.filed_entry * demand.words
    return COSTS.filed_call + demand.queries * (_before_entries(demand, sizes) + fewest)


def _before_entries(demand: Demand, sizes: Sizes) -> float:
    return COSTS.filed_query + sizes.centres * demand.words * COSTS.filed_centre + sizes.rings * COSTS.filed_ring


@dataclass(eq=False)
class History:
    """What the searches of an index have met. It only steers the choice of a plan, so that threads may update it unlocked."""

    scanned: float = 0.0  # cost of scans since the last change, as far as structures might have saved it
    saved: float = 0.0  # cost that the structures have saved since they were built
    untried: float = 0.0  # cost of scans since the structures were last tried before one
    met: dict[tuple[Kind, int], np.ndarray] = field(default_factory=dict)  # entries that earlier queries have met
    declined: dict[tuple[Kind, int], int] = field(default_factory=dict)  # number of codes at which building was not worth it

    def note_met(self, demand: Demand, met: np.ndarray, entries: int) -> None:
        """Remember some of the numbers of entries `met`, int64 [Q]; a query that gave up, -1, counts as all entries."""
        if len(met):
            step = max(1, len(met) // (KEPT_COUNTS // 2))
            counts = np.where(met < 0, entries, met)[::step][:KEPT_COUNTS]
            earlier = self.met.get(demand.key, counts[:0])
            self.met[demand.key] = np.concatenate([counts, earlier])[:KEPT_COUNTS]

    def known_met(self, demand: Demand) -> np.ndarray | None:
        """Return entries that earlier queries have met, for the same depth or else for the next greater one; None if unknown."""
        deeper = [key for key in self.met if key[0] == demand.kind and key[1] >= demand.key[1]]
        return self.met[min(deeper)] if deeper else None

    def changed(self, before: int, after: int) -> None:
        """Forget what a change from `before` to `after` codes makes wrong."""
        self.scanned = 0.0
        if not before / 2 <= after <= 2 * before:
            self.declined.clear()

    def is_declined(self, demand: Demand) -> bool:
        """Return whether building was found not to help this search, or one that has less to find, at about this size."""
        return any(
            kind == demand.kind and depth <= demand.key[1] and codes / 2 <= demand.codes <= 2 * codes
            for (kind, depth), codes in list(self.declined.items())
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

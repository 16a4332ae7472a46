"""The building of structures during a search: whether it pays is estimated from a sample before anything large is built."""

import os

import numpy as np
from torch import Tensor

from . import _filing, _plan
from ._cell import Cell
from ._gallery import Allowed
from ._plan import Demand, Sizes, build_cost, filed_cost, scan_cost
from ._planner import Planner, spread
from ._questions import Question, Within, question
from ._structures import Structures

_SAMPLE = 4096  # codes whose filing shows what a filing of all codes would do
_ASKED = 16  # queries that are tried on it
_DEPTHS = (10, 100)  # numbers of neighbours for which a new filing is tried


def considered(cell: Cell, asked: Question) -> Structures | None:
    """Return the structures for a question, which are built now if that pays."""
    gallery, planner, history = asked.gallery, cell.planner, cell.planner.history
    structures, demand = gallery.structures, asked.demand
    if gallery.count < _plan.SMALLEST or gallery.device.type != "cpu" or planner.obstacle(asked) is not None:
        return structures
    if structures is not None:  # only the scan of the tail could be saved
        if structures.count == gallery.count or planner.choose(asked, structures).plan == "scan":
            return structures
        demand = demand._replace(codes=gallery.count - structures.count)
    scan, build = scan_cost(demand), build_cost(gallery.count, gallery.bits)
    history.scanned += scan
    at_once = scan > _plan.AT_ONCE * build
    if not at_once and history.scanned <= _plan.AT_REST * build:
        return structures
    if history.is_declined(asked.demand) or _needed_bytes(demand) > _plan.MEMORY_SHARE * _memory_bytes():
        return structures
    if not planner.begins_to_build():
        return structures
    try:
        return _built(cell, asked, demand, build if at_once else 0.0)
    finally:
        planner.ends_building()


def _built(cell: Cell, asked: Question, demand: Demand, build: float) -> Structures | None:
    """Return new structures of the gallery, or the old ones if new ones would not help.

    build: what building costs if the search that is asked has to pay for it; 0 if earlier searches have.
    """
    gallery, history = asked.gallery, cell.planner.history
    if gallery.structures is None:
        gain = scan_cost(demand) - (cost := expected_cost(asked, cell.planner.centres))
        if cost > _plan.HELPS * scan_cost(demand):
            history.declined[demand.key] = gallery.count
            history.scanned = 0.0
            return None
        if gain < build:
            return None
    gallery.check_file()
    built = gallery.built("HammingIndex.search", cell.planner.centres).structures
    assert built is not None
    history.scanned = history.saved = 0.0
    history.met.clear()
    learn(cell.planner, asked, built)
    cell.attach(gallery, built)
    return built


def expected_cost(asked: Question, centres: Tensor | None) -> float:
    """Return the cost of a question with a filing of all codes, estimated from a filing of a sample and some of the queries.

    The sample is filed like all codes would be. A query is asked on it within the distance of its k-th neighbour among all
    codes, and then meets the same share of the sample as of all codes.
    """
    codes, demand = asked.allowed.codes, asked.demand
    sample = codes[spread(len(codes), min(_SAMPLE, len(codes)), codes)]
    filing = _filing.build(sample, centres)
    some = asked.of(spread(demand.queries, min(_ASKED, demand.queries), asked.queries))
    if isinstance(some, Within):
        limits = some.limits
    else:
        limits = some.scanned()[0][:, -1].clamp(max=demand.bits) + 1
    met = _filing.within(some.queries, filing, limits)[-1].cpu().numpy()
    growth = len(codes) / len(sample)
    sizes = Sizes(int(growth * len(filing.entries)), len(filing.centres), len(filing.ring_distances))
    return filed_cost(demand, sizes, met * growth)


def learn(planner: Planner, asked: Question, structures: Structures) -> None:
    """Try some queries of a question on new structures, so that it is known what later ones will meet."""
    some = asked.about(structures.count).of(spread(len(asked.queries), min(_ASKED, len(asked.queries)), asked.queries))
    _, met = some.filed(structures, structures.sizes.entries)
    planner.history.note_met(some.demand, met.cpu().numpy(), structures.sizes.entries)


def learn_from_codes(cell: Cell) -> None:
    """Try some codes of an index on its new structures, where no other queries are known."""
    gallery, planner = cell.gallery, cell.planner
    planner.history.met.clear()
    if gallery.structures is None:
        return
    codes = gallery.codes
    queries = codes[spread(len(codes), min(_ASKED, len(codes)), codes)]
    for k in _DEPTHS:
        learn(planner, question(gallery, queries, Allowed(codes, None, None), 1, k=k), gallery.structures)


def _needed_bytes(demand: Demand) -> int:
    """Return the memory that building takes at most: entries twice, positions, starts, and the arrays of a sort."""
    return demand.codes * (2 * demand.words * 8 + 40)


def _memory_bytes() -> float:
    """Return the memory of the machine."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return np.inf

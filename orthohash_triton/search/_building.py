"""The building of structures during a search: whether it pays is estimated from a sample before anything large is built."""

import os
import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import _filing, _plan
from ._cell import Cell
from ._gallery import Allowed
from ._plan import Demand, Sizes, scan_cost, way_cost
from ._planner import Planner, spread, ways
from ._questions import Nearest, Question, Within, question
from ._structures import Structures, lookups

_SAMPLE = (2**10, 2**14)  # the fewest and the most codes in the sample; in between it is one code in _SAMPLED
_SAMPLED = 64
_ASKED = 16  # queries that are tried
_DEPTHS = (10, 100)  # numbers of neighbours for which a new filing is tried


def considered(cell: Cell, asked: Question) -> Structures | None:
    """Return the structures for a question, which are built now if that pays."""
    structures, demand, history = _whole(cell, asked.gallery.structures), asked.demand, cell.planner.history
    if asked.gallery.count < _plan.SMALLEST or (structures is not None and structures.count == asked.gallery.count):
        return structures
    if asked.gallery.device.type != "cpu" or cell.planner.obstacle(asked) is not None:
        return structures
    if structures is not None:  # only the scan of the tail can be saved
        if cell.planner.choose(asked, structures).way is None:
            return structures
        demand = demand._replace(codes=demand.codes - structures.count)
    scan = scan_cost(demand)
    history.scanned += scan
    least = _plan.filing_cost(asked.gallery.count, 0)
    if scan <= _plan.AT_ONCE * least and history.scanned <= max(_plan.AT_REST * least, history.needed):
        return structures
    if max(scan, history.scanned) * _plan.SAMPLED_SHARE < _sampling_cost(asked.demand) or history.is_declined(asked.demand):
        return structures
    if _needed_bytes(asked.demand) > _plan.MEMORY_SHARE * _memory_bytes() or not cell.planner.begins_to_build():
        return structures
    try:
        return _built(cell, asked, demand)
    finally:
        cell.planner.ends_building()


def _whole(cell: Cell, structures: Structures | None) -> Structures | None:
    """Return the structures, or none if they are mapped from a file that was cut off since, which a warning says once."""
    if structures is None or structures.file is None or structures.file.is_whole():
        return structures
    if cell.drop(structures):
        message = f"the side file {structures.file.path} was cut off while it was mapped, and is not used any more"
        warnings.warn(message, RuntimeWarning, stacklevel=6)
    return None


class _Forecast(NamedTuple):
    """The estimate of what structures would do for a question."""

    cost: float  # of the search
    building: float
    radius: int | None  # for a lookup; None if a filing is better


def _built(cell: Cell, asked: Question, saved: Demand) -> Structures | None:
    """Return new structures of the gallery if they help, or else the old ones. `saved`: the scan that they replace."""
    gallery, history = asked.gallery, cell.planner.history
    forecast = _forecast(asked, cell.planner.centres)
    scan = scan_cost(asked.demand)
    if forecast.cost > _plan.HELPS * scan:
        history.decline(asked.demand)
        return gallery.structures
    history.needed = _plan.AT_REST * forecast.building
    if scan_cost(saved) - forecast.cost < forecast.building and history.scanned < history.needed:
        return gallery.structures
    built = gallery.built("HammingIndex.search", cell.planner.centres, forecast.radius).structures
    assert built is not None
    history.scanned = history.needed = history.saved = 0.0
    history.forget_met()
    learn(cell.planner, asked, built)
    if isinstance(asked, Nearest):
        for k in _DEPTHS:
            learn(cell.planner, replace(asked, k=k), built)
    cell.attach(gallery, built)
    return built


def _forecast(asked: Question, centres: Tensor | None) -> _Forecast:
    """Return what a filing, or for a radius a lookup, would do, estimated from those of a sample and some of the queries.

    The sample is filed as all codes would be. A query is asked on it within the distance of its k-th neighbour among all codes,
    and then meets the same share of the sample as of all codes. Of the codes that a query finds in the buckets of a lookup of the
    sample, it is assumed that their number grows with the number of codes, although most of them are there by chance.
    """
    codes, demand = asked.allowed.codes, asked.demand
    sample = codes[spread(len(codes), _sample_size(len(codes)), codes)]
    growth = len(codes) / len(sample)
    filing = _filing.build(sample, centres)
    some = asked.of(spread(demand.queries, min(_ASKED, demand.queries), asked.queries))
    if isinstance(some, Within):
        limits = some.limits
    else:
        limits = some.scanned()[0][:, -1].clamp(max=demand.bits) + 1
    met = _filing.within(some.queries, filing, limits)[-1].cpu().numpy()
    entries = growth * len(filing.entries)
    sizes = Sizes(int(entries), len(filing.centres), len(filing.ring_distances))
    filed = _Forecast(way_cost("filing", demand, sizes, met * growth), _plan.filing_cost(len(codes), entries), None)
    if isinstance(some, Nearest) or demand.depth < 1:
        return filed
    lookup = lookups().build(sample, demand.depth - 1)
    buckets = min(lookup.buckets(demand.depth - 1), _plan.NEVER)
    met = buckets + (lookup.cost(some.queries, limits).numpy().clip(min=buckets) - buckets) * growth
    cost = way_cost("lookup", demand, sizes, met)
    listed = _Forecast(cost, filed.building + _plan.listing_cost(len(codes), len(lookup.tables.starts)), demand.depth - 1)
    return min(filed, listed, key=lambda forecast: forecast.cost)


def learn(planner: Planner, asked: Question, structures: Structures) -> None:
    """Try some queries of a question on new structures, so that it is known what later ones will meet."""
    some = asked.about(structures.count).of(spread(len(asked.queries), min(_ASKED, len(asked.queries)), asked.queries))
    for way in ways(some, structures):
        _, met = some.by(way, structures, _plan.budget(way, some.demand))
        planner.history.note_met(way, some.demand, met.cpu().numpy())


def learn_from_codes(cell: Cell) -> None:
    """Try some codes of an index on its new structures, where no other queries are known."""
    gallery, planner = cell.gallery, cell.planner
    planner.history.forget_met()
    if (structures := gallery.structures) is None or gallery.count == 0:
        return
    codes = gallery.codes
    queries = codes[spread(len(codes), min(_ASKED, len(codes)), codes)]
    allowed = Allowed(codes, None, None)
    for k in _DEPTHS:
        learn(planner, question(gallery, queries, allowed, 1, k=k), structures)
    if structures.radius is not None:
        limits = queries.new_full((len(queries),), structures.radius + 1, dtype=torch.int32)
        learn(planner, question(gallery, queries, allowed, 1, limits=limits), structures)


def _sample_size(codes: int) -> int:
    return min(codes, max(_SAMPLE[0], min(_SAMPLE[1], codes // _SAMPLED)))


def _sampling_cost(demand: Demand) -> float:
    """Return the cost of a forecast: filing the sample, and scanning some queries."""
    sample = _sample_size(demand.codes)
    return _plan.filing_cost(sample, sample) + scan_cost(demand._replace(queries=min(_ASKED, demand.queries)))


def _needed_bytes(demand: Demand) -> int:
    """Return the memory that building takes at most: entries twice, positions, starts, and the arrays of a sort."""
    return demand.codes * (2 * demand.words * 8 + 40)


def _memory_bytes() -> float:
    """Return the memory of the machine."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return np.inf

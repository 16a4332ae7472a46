"""The choice of a plan for a search, from what an index knows beside its gallery."""

import os
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base.locks import ForkSafeLock
from ..ops.dispatch import choose
from . import _plan
from ._plan import Demand, History, Mode, filed_cost, scan_cost
from ._questions import Question
from ._structures import Structures


class Choice(NamedTuple):
    """A plan for a question."""

    plan: str  # "scan", "filing" or "lookup"
    reason: str
    budget: int = 0  # what a query may meet before it gives up
    estimates: tuple[tuple[str, float], ...] = (("scan", 1.0),)  # cost of each plan as a share of that of the scan
    may_change: bool = False  # whether trying the structures could lead to another choice


class Planner:
    """What an index knows beside its gallery in order to search it: the mode, the centres to file under, and its history."""

    def __init__(self, mode: Mode = "auto") -> None:
        self.mode = mode
        self.centres: Tensor | None = None  # uint8 [C, B] on the CPU
        self.history = History()
        self._lock = ForkSafeLock()
        self._builder: int | None = None  # the process in which a search builds structures at this moment

    def copy(self) -> "Planner":
        """Return a planner with the same mode and centres."""
        copied = Planner(self.mode)
        copied.centres = self.centres
        return copied

    def obstacle(self, asked: Question) -> str | None:
        """Return why a question can only be answered by a scan, whatever structures there are; None if it need not be."""
        if _plan.mode_of(self.mode) == "scan":
            return "planning is switched off"
        if asked.allowed.positions is not None:
            return "the filter leaves a list of codes, and only these are compared"
        if asked.gallery.home != asked.gallery.device:
            return f"the codes are copied to {asked.gallery.device} for the search"
        if choose("hamming_topk", "auto", asked.queries) == "reference":
            return "the reference implementation is in use"
        return None

    def choose(self, asked: Question, structures: Structures | None) -> Choice:
        """Return the plan for a question that is the cheapest by what is known."""
        if (obstacle := self.obstacle(asked)) is not None:
            return Choice("scan", obstacle)
        if structures is None:
            return Choice("scan", "there are no structures")
        demand = covered(asked.demand, structures)
        met = self.history.known_met(demand)
        if met is None:
            return Choice("scan", "it is not known yet what queries like these meet", may_change=True)
        share = filed_cost(demand, structures.sizes, met) / scan_cost(demand)
        estimates = (("scan", 1.0), ("filing", share))
        if share > _plan.WORTH:
            return Choice("scan", "the filing would cost more", estimates=estimates, may_change=True)
        return Choice("filing", "the filing costs less", _plan.entry_budget(demand), estimates)

    def tried(self, asked: Question, structures: Structures, choice: Choice) -> Choice:
        """Return the choice for a question after trying a few of its queries, if that costs next to nothing."""
        demand = covered(asked.demand, structures)
        count = min(_plan.PROBES, max(1, demand.queries // 64), demand.queries)
        cost = _plan.attempt_cost(demand._replace(queries=count), structures.sizes)
        scan = scan_cost(demand)
        self.history.untried += scan
        if count == 0 or cost > min(_plan.TRIED_SHARE * self.history.untried, _plan.TRIED_OF_SCAN * scan):
            return choice
        self.history.untried = 0.0
        some = asked.about(structures.count).of(spread(demand.queries, count, asked.queries))
        _, met = some.filed(structures, _plan.entry_budget(demand))
        self.history.note_met(demand, met.cpu().numpy(), structures.sizes.entries)
        return self.choose(asked, structures)

    def begins_to_build(self) -> bool:
        """Return whether this search may build: no other search of this process does at this moment."""
        with self._lock:
            free = self._builder != os.getpid()
            if free:
                self._builder = os.getpid()
            return free

    def ends_building(self) -> None:
        """Let another search build."""
        self._builder = None


def covered(demand: Demand, structures: Structures) -> Demand:
    """Return the part of a demand that concerns the codes that the structures cover."""
    return demand._replace(codes=structures.count)


def spread(count: int, chosen: int, like: Tensor) -> Tensor:
    """Return `chosen` positions that are spread over `count`, int64, on the device of `like`."""
    return torch.from_numpy(np.linspace(0, count - 1, chosen).astype(np.int64)).to(like.device)

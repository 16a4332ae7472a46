"""The choice of a plan for a search, from what an index knows beside its gallery."""

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base.locks import ForkSafeLock
from ..ops.dispatch import choose
from . import _plan
from ._plan import Demand, History, Mode, Way, scan_cost, way_cost
from ._questions import Question
from ._structures import Structures


@dataclass(frozen=True)
class Choice:
    """A plan for a question: a scan, or one of the ways by structures with what a query may meet before it gives up."""

    way: Way | None  # None for a scan
    reason: str
    estimates: dict[Way, float]  # cost of each way as a share of that of the scan
    budget: int = 0
    unsure: tuple[Way, ...] = ()  # ways that are worth trying before a scan
    scan: float = 0.0  # cost of the scan
    trial: float = math.inf  # cost of trying the structures


class Planner:
    """The choice of plans for one index, with the mode, the centres to file under, and the history of its searches."""

    def __init__(self, mode: Mode = "auto") -> None:
        self.mode = mode
        self.centres: Tensor | None = None  # uint8 [C, B] on the CPU
        self.history = History()
        self._lock = ForkSafeLock()
        self._choices: dict[tuple[Any, ...], Choice] = {}  # the choices of one version of the history
        self._version = 0
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
        if structures is None:
            return Choice(None, "there are no structures", {})
        if (obstacle := self.obstacle(asked)) is not None:
            return Choice(None, obstacle, {})
        demand = covered(asked.demand, structures)
        if self._version != self.history.version:
            self._version, self._choices = self.history.version, {}
        key = (demand, structures)
        if (choice := self._choices.get(key)) is None:
            choice = self._choices[key] = self._chosen(demand, ways(asked, structures), structures)
        return choice

    def _chosen(self, demand: Demand, possible: list[Way], structures: Structures) -> Choice:
        """Return the cheapest of the `possible` ways and of the scan."""
        scan, estimates, unknown = scan_cost(demand), {}, []
        for way in possible:
            met = self.history.known_met(way, demand)
            if met is None:
                unknown.append(way)
            else:
                estimates[way] = way_cost(way, demand, structures.sizes, met) / scan
        best = min(estimates, key=lambda way: estimates[way], default=None)
        if best is not None and estimates[best] > _plan.WORTH:
            best = None
        unsure = tuple(unknown) or (() if best is not None else tuple(possible))
        few = demand._replace(queries=_tried_count(demand))
        trial = sum(_plan.attempt_cost(way, few, structures.sizes) for way in unsure) if unsure else math.inf
        if best is not None:
            return Choice(best, f"the {best} costs less", estimates, _plan.budget(best, demand), unsure, scan, trial)
        reason = "it costs least" if estimates else "it is not known yet what such queries meet"
        return Choice(None, reason, estimates, 0, unsure, scan, trial)

    def tried(self, asked: Question, structures: Structures, choice: Choice) -> Choice:
        """Return the choice for a question after trying a few of its queries where that costs next to nothing."""
        history = self.history
        history.untried += choice.scan
        share = _plan.TRIED_SHARE / 2**history.vain
        if choice.trial > min(share * history.untried, _plan.TRIED_OF_SCAN * choice.scan) or len(asked.queries) == 0:
            return choice
        history.untried = 0.0
        demand = covered(asked.demand, structures)
        some = asked.about(structures.count).of(spread(demand.queries, _tried_count(demand), asked.queries))
        for way in choice.unsure:
            met = some.by(way, structures, _plan.budget(way, demand))[1].cpu().numpy()
            history.note_met(way, demand, met)
        after = self.choose(asked, structures)
        history.vain = min(history.vain + 1, _plan.MOST_VAIN) if after.way == choice.way else 0
        return after

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


def ways(asked: Question, structures: Structures) -> list[Way]:
    """Return the ways in which structures can answer a question."""
    found: list[Way] = []
    if structures.filing is not None:
        found.append("filing")
    if structures.lookup is not None and (asked.kind == "nearest" or asked.depth <= structures.lookup.largest_radius + 1):
        found.append("lookup")
    return found


def _tried_count(demand: Demand) -> int:
    return min(_plan.PROBES, max(1, demand.queries // 64))


def covered(demand: Demand, structures: Structures) -> Demand:
    """Return the part of a demand that concerns the codes that the structures cover."""
    return demand._replace(codes=structures.count)


def spread(count: int, chosen: int, like: Tensor) -> Tensor:
    """Return `chosen` positions that are spread over `count`, int64, on the device of `like`."""
    return torch.from_numpy(np.linspace(0, count - 1, chosen).astype(np.int64)).to(like.device)

"""Searches by the cheapest plan: a scan, or the structures over the first codes and a scan of the others."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from ._building import considered
from ._cell import Cell
from ._explanation import Explanation
from ._gallery import Allowed, Gallery
from ._plan import filed_cost, scan_cost
from ._planner import Choice, covered
from ._questions import Answer, Question, question
from ._structures import Structures


def nearest(cell: Cell, gallery: Gallery, queries: Tensor, k: int, allowed: Allowed, chunk_bytes: int) -> tuple[Tensor, Tensor]:
    """Return the distances, int32, and the positions, int64, of the nearest allowed codes of each query in a snapshot of `cell`.

    The results are [Q, min(k, allowed codes)], but at least [Q, 1], so that a large `k` costs no memory.
    """
    distances, positions = _answered(cell, question(gallery, queries, allowed, chunk_bytes, k=k))
    return distances, allowed.in_gallery(positions)


def within(
    cell: Cell, gallery: Gallery, queries: Tensor, limits: Tensor, allowed: Allowed, chunk_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (lims [Q+1], distances, positions) of the allowed codes that are nearer than `limits`, int32 [Q]."""
    lims, distances, positions = _answered(cell, question(gallery, queries, allowed, chunk_bytes, limits=limits))
    return lims, distances, allowed.in_gallery(positions)


def _answered(cell: Cell, asked: Question) -> Answer:
    """Return the answer to a question, and remember what it met."""
    planner, history = cell.planner, cell.planner.history
    structures = considered(cell, asked)
    choice = planner.choose(asked, structures)
    if choice.may_change and structures is not None:
        choice = planner.tried(asked, structures, choice)
    if choice.plan == "scan" or structures is None:
        return asked.scanned()
    answer, met = _by_filing(asked, structures, choice)
    if len(met):
        demand, counts = covered(asked.demand, structures), np.where(met < 0, structures.sizes.entries, met)
        history.note_met(demand, counts, structures.sizes.entries)
        history.saved += scan_cost(demand) - filed_cost(demand, structures.sizes, counts)
    return answer


def _by_filing(asked: Question, structures: Structures, choice: Choice) -> tuple[Answer, np.ndarray]:
    """Return the answer to a question with the help of the filing, and the number of entries that each query met, int64 [Q]."""
    first = asked.about(structures.count)
    answer, met = first.filed(structures, choice.budget)
    lost = (met < 0).nonzero()[:, 0]
    if len(lost):
        answer = first.repaired(answer, lost)
    return asked.continued(answer, structures.count), met.cpu().numpy()


def explained(cell: Cell, asked: Question) -> Explanation:
    """Return how the index answers a question as it is now. Nothing is built, and nothing is remembered."""
    structures = asked.gallery.structures
    choice = cell.planner.choose(asked, structures)
    explanation = Explanation(
        plan=choice.plan,
        reason=choice.reason,
        queries=len(asked.queries),
        codes=len(asked.allowed.codes),
        estimates=dict(choice.estimates),
    )
    if structures is None:
        return explanation
    explanation = replace(
        explanation,
        tail=asked.gallery.count - structures.count,
        structures=tuple(structures.describe()),
        entries=structures.sizes.entries,
        rings=structures.sizes.rings,
    )
    if choice.plan == "scan":
        return explanation
    _, met = asked.about(structures.count).filed(structures, choice.budget)
    counts = met.cpu().numpy()
    return replace(explanation, entries_met=int(counts[counts >= 0].sum()), given_up=int((counts < 0).sum()))

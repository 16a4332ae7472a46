"""Searches by the cheapest plan: a scan, or the structures over the first codes and a scan of the others."""

import numpy as np
from torch import Tensor

from ._building import considered
from ._cell import Cell
from ._explanation import Explanation
from ._gallery import Allowed, Gallery
from ._plan import Way
from ._planner import covered
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
    if structures is None:
        return asked.scanned()
    choice = planner.choose(asked, structures)
    if choice.unsure:
        choice = planner.tried(asked, structures, choice)
    if choice.way is None:
        return asked.scanned()
    answer, met = _by_structures(asked, structures, choice.way, choice.budget)
    if len(met):
        history.note_met(choice.way, covered(asked.demand, structures), met)
        history.saved += choice.scan * (1 - choice.estimates.get(choice.way, 1.0))
    return answer


def _by_structures(asked: Question, structures: Structures, way: Way, budget: int) -> tuple[Answer, np.ndarray]:
    """Return the answer to a question by structures, and what each query has met, int64 [Q]; -1 if it was scanned."""
    first = asked.about(structures.count)
    answer, met = first.by(way, structures, budget)
    lost = (met < 0).nonzero()[:, 0]
    if len(lost):
        answer = first.repaired(answer, lost)
    return asked.continued(answer, structures.count), met.cpu().numpy()


def explained(cell: Cell, asked: Question) -> Explanation:
    """Return how the index answers a question as it is now. Nothing is built, and nothing is remembered."""
    structures = asked.gallery.structures
    choice = cell.planner.choose(asked, structures)
    met = np.zeros(0, np.int64)
    if structures is not None and choice.way is not None:
        met = asked.about(structures.count).by(choice.way, structures, choice.budget)[1].cpu().numpy()
    return Explanation(
        plan=choice.way or "scan",
        reason=choice.reason,
        queries=len(asked.queries),
        codes=len(asked.allowed.codes),
        tail=0 if structures is None else asked.gallery.count - structures.count,
        structures=() if structures is None else structures.describe(),
        estimates={"scan": 1.0} | {str(way): share for way, share in choice.estimates.items()},
        entries=0 if structures is None else structures.sizes.entries,
        rings=0 if structures is None else structures.sizes.rings,
        entries_met=int(met[met >= 0].sum()) if choice.way == "filing" else 0,
        candidates=int(met[met >= 0].sum()) if choice.way == "lookup" else 0,
        given_up=int((met < 0).sum()),
    )

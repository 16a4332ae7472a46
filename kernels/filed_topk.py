"""Exact search for the k nearest codes among filed codes with Triton, in the order (distance, position).

The sizes of the rings give a lower and an upper bound of the k-th distance. A first pass meets the rings up to the lower bound,
which no exact search can do without; the k-th distance among their codes is the upper bound of the second pass, if it is below
the other one. The second pass meets all rings within that bound, and expands the entries up to the k-th distance into positions.
The host waits for the number of entries of each query in both passes, and for the number of positions.
"""

import torch
from torch import Tensor

from . import _filed
from .filing import Filing


def filed_topk(
    queries: Tensor, filing: Filing, mask: Tensor | None, limits: Tensor | None, budget: int, distances: Tensor, ids: Tensor,
    met: Tensor,
) -> None:  # fmt: skip
    """Fill `distances` int32 and `ids` int64 [Q, k] with the k nearest filed positions of each query.

    queries: uint8 [Q, B], not empty; mask: bool [N], True for positions that may be found; limits: int32 [Q], only codes nearer
    than their query's limit are found; budget: number of entries that a query may meet; met: int64 [Q], receives the number of
    entries compared, or -1 for a query that gave up because it would meet more than the budget. The answer to such a query is
    undefined.
    """
    filing = _filed.allowed(filing, mask)
    for some in _filed.batches(len(queries), len(filing.centres)):
        most = torch.full_like(met[some], 8 * queries.shape[1], dtype=torch.int32)
        if limits is not None:
            most = limits[some].clamp(0, 8 * queries.shape[1] + 1) - 1
        search = _filed.Search(queries[some], filing)
        radii, met[some] = _radii(search, most, distances.shape[1], budget)
        _fill(search, radii, distances[some], ids[some])


def _radii(search: _filed.Search, most: Tensor, k: int, budget: int) -> tuple[Tensor, Tensor]:
    """Return a radius of each query that holds its k nearest codes, int32 [Q], and the number of entries to meet.

    No radius is above `most`, int32 [Q]. Both are -1 for a query that would meet more than `budget` entries.
    """
    lower, upper, entries = search.bounds(most, k)
    gave_up = entries > budget
    runs = search.runs(lower.masked_fill_(gave_up, -1))
    radii = torch.empty_like(most)
    for part in runs.parts():
        found = search.measure(runs, part, upper)
        search.keep_nearest(found, runs, part, upper, radii, k)
    entries = search.count(radii)
    gave_up |= entries > budget
    return radii.masked_fill_(gave_up, -1), entries.masked_fill_(gave_up, -1)


def _fill(search: _filed.Search, radii: Tensor, distances: Tensor, ids: Tensor) -> None:
    """Fill the answers with the k nearest codes within `radii`, int32 [Q]."""
    k = distances.shape[1]
    runs = search.runs(radii)
    kth = torch.empty_like(radii)
    for part in runs.parts():
        found = search.measure(runs, part, radii)
        search.keep_nearest(found, runs, part, radii, kth, k)
        ends, lims = _filed.ends_of_counts(found, runs, part)
        for piece in _filed.parts(lims[1:].tolist(), part.first):
            some, piece_lims = slice(piece.first, piece.end), _filed.lims_of(lims, part, piece)
            search.nearest_first(search.keys(found, ends, piece), piece_lims, piece.longest, distances[some], ids[some])

"""Exact search for all codes within a radius among filed codes with Triton, in the order (distance, position).

The rings whose bounds are within the radius are met, and the entries within it are expanded into positions. The host waits for
the number of entries of each query, before a distance is computed, and for the number of positions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import _filed
from .filing import Filing

_LARGEST_SORT = 2**31 - 1  # elements that torch.sort takes on a GPU


def filed_range(
    queries: Tensor, filing: Filing, mask: Tensor | None, limits: Tensor, budget: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the filed positions nearer than each query's limit: (lims int64 [Q+1], distances int32 [M], ids int64 [M], met).

    queries: uint8 [Q, B], not empty; mask: bool [N], True for positions that may be found; limits: int32 [Q], 0 .. 8 B + 1;
    budget: number of entries that a query may meet; met: int64 [Q], the number of entries compared, or -1 for one that gave up
    because it would meet more than the budget. Its answer is empty.

    Raises:
        RuntimeError: where a query has more codes than torch can sort.
    """
    filing = _filed.allowed(filing, mask)
    met = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    lengths, distances, ids = [torch.zeros_like(met[:1])], [met.new_empty(0, dtype=torch.int32)], [met.new_empty(0)]
    for some in _filed.batches(len(queries), len(filing.centres)):
        search = _filed.Search(queries[some], filing)
        radii = limits[some] - 1
        entries = search.count(radii)
        gave_up = entries > budget
        met[some] = entries.masked_fill_(gave_up, -1)
        for keys, lims in _near(search, radii.masked_fill(gave_up, -1)):
            lengths.append(lims.diff())
            distances.append(search.distances_of(keys))
            ids.append(search.positions_of(keys))
    return torch.cat(lengths).cumsum(0), torch.cat(distances), torch.cat(ids), met


def _near(search: _filed.Search, radii: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the codes within `radii`, int32 [Q], of some queries after the other: their sorted keys and where a query's begin."""
    runs = search.runs(radii)
    for part in runs.parts():
        found = search.measure(runs, part, radii)
        ends, lims = _filed.ends_of_counts(found, runs, part)
        for piece in _filed.parts(lims[1:].tolist(), part.first):
            if piece.slots > _LARGEST_SORT:
                raise RuntimeError(
                    f"hamming_range: {piece.slots} codes are near enough to one query, more than the {_LARGEST_SORT} that can be "
                    "put in order at once. Ask for a smaller radius"
                )
            yield torch.sort(search.keys(found, ends, piece)).values, _filed.lims_of(lims, part, piece)

"""Search for all codes within a radius of each query with Triton, in the order (distance, row).

A pass over the gallery counts the codes of each split for each query. The exclusive sums of these counts are the places where
each split writes its codes in a second pass. A stable sort by (query, distance) puts the result in order.
"""

import torch
from torch import Tensor

from ._scan import Scan

_LARGEST_SORT = 2**31 - 1  # elements that torch.sort takes on a GPU


def hamming_range(queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes nearer than each query's limit: (lims int64 [Q+1], distances int32 [M], ids int64 [M]).

    queries: uint8 [Q, B], gallery: uint8 [N, B], neither of them empty; mask: bool [N], True for rows that may be found; limits:
    int32 [Q], 0 .. 8 B + 1. The host waits for M, because the memory for the result is allocated before it is written.

    Raises:
        RuntimeError: where M is more than torch can sort.
    """
    scan = Scan(queries, gallery, mask)
    lims, slots = places(scan, limits)
    total = int(lims[-1])
    if total > _LARGEST_SORT:
        raise RuntimeError(
            f"hamming_range: {total} codes are near enough, more than the {_LARGEST_SORT} that can be put in order at once. "
            "Ask for fewer queries at a time, or for a smaller radius"
        )
    return lims, *in_order(scan, limits, lims, slots, total, 8 * gallery.shape[1])


def places(scan: Scan, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions in the result where each query begins, int64 [Q+1], and where each of its splits does, [Q, splits]."""
    counts = scan.count(limits[:, None] - 1).long()  # [Q, 1, splits]
    ends = counts.flatten().cumsum(0)
    lims = torch.nn.functional.pad(ends[counts.shape[2] - 1 :: counts.shape[2]], (1, 0))
    return lims, (ends - counts.flatten()).view(len(limits), -1)


def in_order(scan: Scan, limits: Tensor, lims: Tensor, slots: Tensor, total: int, bits: int) -> tuple[Tensor, Tensor]:
    """Write the codes and sort them by (query, distance): return distances int32 and ids int64, [total]."""
    distances, ids = limits.new_empty(total), lims.new_empty(total)
    scan.write(limits, slots, slots, torch.zeros_like(lims[1:]), distances, ids)
    query = torch.repeat_interleave(torch.arange(len(limits), device=lims.device), lims.diff(), output_size=total)
    keys = query * (bits + 1) + distances
    if len(limits) * (bits + 1) < 2**31:
        keys = keys.int()
    order = torch.sort(keys, stable=True).indices
    return distances[order], ids[order]

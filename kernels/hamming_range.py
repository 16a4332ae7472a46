"""All codes within a radius of each query, in the order (distance, position): count, write, sort.

One pass over the gallery counts what each part of it holds for each query. Exclusive sums of those counts are where each part
writes its codes, in one more pass; a stable sort by (query, distance) of the answer alone ends it.
"""

import torch
from torch import Tensor

from ._scan import Scan

_LARGEST_SORT = 2**31 - 1  # elements that torch.sort takes on a GPU


def hamming_range(queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(lims int64 [Q+1], distances int32 [M], ids int64 [M]) from uint8 codes [Q, B] and [N, B], neither of them empty.

    `mask` bool [N] says which rows count, `limits` int32 [Q] at which distance codes stop to count. Waits for M: memory for the
    answer must be found before it is written.
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
    """Where the codes of each query begin, int64 [Q+1], and those of each part of the gallery, int64 [Q, splits]."""
    counts = scan.count(limits[:, None] - 1).long()  # [Q, 1, splits]
    ends = counts.flatten().cumsum(0)
    lims = torch.nn.functional.pad(ends[counts.shape[2] - 1 :: counts.shape[2]], (1, 0))
    return lims, (ends - counts.flatten()).view(len(limits), -1)


def in_order(scan: Scan, limits: Tensor, lims: Tensor, slots: Tensor, total: int, bits: int) -> tuple[Tensor, Tensor]:
    """distances int32 and ids int64 [total]."""
    distances, ids = limits.new_empty(total), lims.new_empty(total)
    scan.write(limits, slots, slots, torch.zeros_like(lims[1:]), distances, ids)
    query = torch.repeat_interleave(torch.arange(len(limits), device=lims.device), lims.diff(), output_size=total)
    keys = query * (bits + 1) + distances
    if len(limits) * (bits + 1) < 2**31:
        keys = keys.int()
    order = torch.sort(keys, stable=True).indices
    return distances[order], ids[order]

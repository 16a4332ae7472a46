"""Search for all codes within a radius in the matrix of all distances."""

import torch
from torch import Tensor

from .hamming_distance import hamming_distance


def hamming_range(queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (lims int64 [Q+1], distances int32 [M], ids int64 [M]) of the codes nearer than `limits` [Q].

    The codes of query q, nearest first, are the entries lims[q] .. lims[q+1] - 1. mask: bool [N], True for rows to be found.
    """
    ordered, order = torch.sort(hamming_distance(queries, gallery), dim=1, stable=True)
    found = ordered < limits[:, None]
    if mask is not None:
        found &= mask[order]
    lims = torch.zeros(len(queries) + 1, dtype=torch.int64, device=queries.device)
    lims[1:] = found.sum(1).cumsum(0)
    return lims, ordered[found], order[found]

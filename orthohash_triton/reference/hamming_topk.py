"""Search for the k nearest codes by sorting all of them."""

import torch
from torch import Tensor

from .hamming_distance import hamming_distance


def hamming_topk(
    queries: Tensor, gallery: Tensor, k: int, mask: Tensor | None = None, limits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (distances int32, ids int64) [Q, k], nearest first, equal distances by row.

    mask: bool [N], True for rows that may be found; limits: int32 [Q], only codes nearer than their query's limit are found.
    Missing entries are (2**31 - 1, -1).
    """
    positions = torch.arange(len(gallery), device=gallery.device)
    if mask is not None:
        gallery, positions = gallery[mask], positions[mask]
    ordered, order = torch.sort(hamming_distance(queries, gallery), dim=1, stable=True)
    distances = torch.full((len(queries), k), 2**31 - 1, dtype=torch.int32, device=queries.device)
    ids = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    distances[:, : len(gallery)], ids[:, : len(gallery)] = ordered[:, :k], positions[order][:, :k]
    if limits is not None:
        beyond = distances >= limits[:, None]
        distances[beyond], ids[beyond] = 2**31 - 1, -1
    return distances, ids

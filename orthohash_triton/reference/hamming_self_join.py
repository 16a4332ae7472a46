"""Find all pairs of near codes in the matrix of all distances."""

from typing import Any

import torch
from torch import Tensor

from .hamming_distance import hamming_distance


def hamming_self_join(codes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the pairs of codes nearer than `limit`: (pairs int64 [M, 2] with i < j, ascending; distances int32 [M])."""
    distances = hamming_distance(codes, codes)
    pairs = torch.triu(distances < limit, diagonal=1).nonzero()
    return pairs, distances[pairs[:, 0], pairs[:, 1]]


def near_components(codes: Tensor, limit: int, *callbacks: Any) -> Tensor:
    """Return the smallest row, int64 [N], that a chain of codes nearer than `limit` to each other links to each code."""
    linked = (hamming_distance(codes, codes) < limit) | torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    groups = torch.arange(len(codes), device=codes.device)
    while True:
        smallest = torch.where(linked, groups, len(codes)).amin(1) if len(codes) else groups
        if torch.equal(smallest, groups):
            return groups
        groups = smallest

"""Numbers of codes at each distance, from the matrix of all distances."""

import torch
from torch import Tensor

from .hamming_distance import hamming_distance


def hamming_histogram(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return how many gallery codes differ from each query in 0, 1, ... K bits, int64 [Q, K+1], for codes of K bits."""
    distances = torch.arange(8 * queries.shape[1] + 1, device=queries.device)
    return torch.stack([(row[:, None] == distances).sum(0) for row in hamming_distance(queries, gallery)])

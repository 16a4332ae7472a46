"""Products of Householder reflections, applied one after the other.

H2Q (Schwengber et al., arXiv 2311.04207): a rotation as H_1 H_2 ... H_M with H_i = I - 2 u_i u_i^T / |u_i|^2.
"""

import torch
from torch import Tensor


def householder_apply(
    x: Tensor,  # [N, K]
    vectors: Tensor,  # [M, K]
) -> Tensor:
    """Return x H_1 H_2 ... H_M.  [N, K]"""
    for vector in vectors.unbind():
        largest = vector.detach().abs().amax()
        vector = vector / torch.where(largest == 0, 1, largest)  # so that squares stay within the dtype
        square = vector.square().sum()
        unit = vector / torch.where(square > 0, square, 1).sqrt()  # a zero vector reflects nothing
        x = x - 2 * (x @ unit)[:, None] * unit
    return x


def householder_product(vectors: Tensor) -> Tensor:
    """Return H_1 H_2 ... H_M.  [K, K]"""
    return householder_apply(torch.eye(vectors.shape[1], dtype=vectors.dtype, device=vectors.device), vectors)

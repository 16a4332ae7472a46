"""Products of rows with an orthogonal matrix, and the gradient of the matrix, in BLAS products."""

import math

import torch
from torch import Tensor

SMALL_NORM, LARGE_NORM = 1e-150, 1e150  # between these, no square leaves float64


def multiplies_factors(count: int, bits: int) -> bool:
    """Return whether to multiply by the factors U, W [M, K] of the matrix: 4 N K M operations instead of 2 N K^2."""
    return 2 * count < bits


def apply(
    x: Tensor,  # float [N, K]
    matrix: Tensor,  # float [K, K]
    dtype: torch.dtype,
) -> Tensor:
    """Compute x @ matrix in the dtype of the matrix, and return it in `dtype`.  [N, K]"""
    return (x.to(matrix.dtype) @ matrix).to(dtype)


def outer(
    x: Tensor,  # float [N, K]
    g: Tensor,  # float [N, K]
    dtype: torch.dtype,
) -> Tensor:
    """Compute x^T g in `dtype`.  [K, K]"""
    return x.to(dtype).T @ g.to(dtype)


def reflectors(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Scale vectors [M, K] to length sqrt(2), float64 [M, K]; also return the factors [M]. Both are 0 for a zero vector."""
    vectors = vectors.double()
    norm = torch.linalg.vector_norm(vectors, dim=1)
    if not bool(((norm > SMALL_NORM) & (norm < LARGE_NORM)).all()):
        return _reflectors_of_extremes(vectors)
    factor = math.sqrt(2) / norm
    return vectors * factor[:, None], factor


def _reflectors_of_extremes(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `reflectors` of vectors that may be zero, or whose squares may leave float64."""
    largest = vectors.abs().amax(1)
    unit = largest.masked_fill(largest == 0, 1)
    vectors = vectors / unit[:, None]
    norm = torch.linalg.vector_norm(vectors, dim=1)
    factor = (math.sqrt(2) / norm).masked_fill_(norm == 0, 0)
    return vectors * factor[:, None], factor / unit


def vectors_gradient(
    gradient: Tensor,  # gradient of the reflectors, float64 [M, K]; overwritten
    reflectors: Tensor,  # float64 [M, K]
    factor: Tensor,  # float64 [M]
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient of the vectors from the gradient of their `reflectors`, in `dtype`.  [M, K]"""
    along = (reflectors * gradient).sum(1, keepdim=True)
    return gradient.addcmul_(reflectors, along, value=-0.5).mul_(factor[:, None]).to(dtype)

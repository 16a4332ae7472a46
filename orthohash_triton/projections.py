"""Linear hashing without labels: random directions (LSH) and principal directions (PCA), the simple baselines.

Both centre the features, so that every bit splits at the mean, and both are one matrix product: a `HashHead` without batch
norm. PCA followed by a rotation is ITQ as published:

    head = fit_pca(x, bits)
    head = head.rotated(fit_itq(head(x)).matrix)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._base import checks
from ._base.arrays import as_tensor
from .nn import HashHead

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_BLOCK = 1 << 21  # elements of x in float64 at once: 16 MB


def fit_lsh(x: Any, bits: int, *, seed: int = 0) -> HashHead:
    """Random hyperplanes through the mean (Charikar, STOC 2002): bit k is 1 where <w_k, x - mean> > 0, with w_k ~ N(0, I).

    Two rows differ in a share of the bits that tends to their angle about the mean divided by pi.

    Args:
        x: features, float [N, D], torch (any device) or numpy; only their mean is used.
        bits: K, any number.
        seed: fixes the directions, on every device; torch's global generators are neither read nor advanced.

    Returns:
        A `HashHead` without batch norm, float32, on the device of x: `head.encode(x)` are the codes.

    Raises:
        TypeError, ValueError: x is no floating [N, D], is empty or has entries that are NaN or infinite; bits below 1.
    """
    x = _features("fit_lsh", x)
    bits = checks.integer("fit_lsh", "bits", bits, minimum=1)
    generator = torch.Generator().manual_seed(checks.integer("fit_lsh", "seed", seed, minimum=0))
    directions = torch.randn(bits, x.shape[1], generator=generator, dtype=torch.float64)
    return _head(directions, _mean("fit_lsh", x))


def fit_pca(x: Any, bits: int) -> HashHead:
    """Principal directions: bit k is 1 where <w_k, x - mean> > 0, with w_k the k-th unit eigenvector of the covariance, largest
    eigenvalue first, and its entry of largest magnitude positive.

    Few bits are good, later ones have little variance and much noise: rotate the codes (`fit_itq`) to spread it.

    Args:
        x: features, float [N, D], torch (any device) or numpy. The covariance is summed in float64, block by block of rows;
            with fewer rows than dimensions, their [N, N] products take its place.
        bits: K, at most D and N - 1: there are no more directions that rows can vary along.

    Returns:
        A `HashHead` without batch norm, float32, on the device of x: `head(x)` are the principal components, `head.encode(x)` the
        codes.

    Raises:
        TypeError, ValueError: x is no floating [N, D], is empty or has entries that are NaN or infinite; bits out of range.
    """
    x = _features("fit_pca", x)
    bits = checks.integer("fit_pca", "bits", bits, minimum=1)
    rows, dimensions = x.shape
    if bits > min(dimensions, rows - 1):
        limit = f"D = {dimensions}, the dimensions of x" if bits > dimensions else f"N - 1 = {rows - 1}, for {rows} rows"
        raise ValueError(f"fit_pca: bits must be at most {limit}; got {bits}. fit_lsh makes any number of bits")
    mean = _mean("fit_pca", x)
    directions = (_directions_of_few if rows < dimensions else _directions)(x, mean, bits)  # [K, D]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return _head(directions * largest.sign(), mean)


def _directions(x: Any, mean: Tensor, bits: int) -> Tensor:
    """The first eigenvectors of the scatter matrix [D, D]: float64 [K, D], in host memory."""
    scatter = mean.new_zeros(len(mean), len(mean))
    for block in _blocks(x):
        centred = block - mean
        scatter.addmm_(centred.T, centred)
    vectors = torch.linalg.eigh(scatter.cpu()).eigenvectors  # columns, smallest eigenvalue first
    return vectors.flip(1)[:, :bits].T


def _directions_of_few(x: Any, mean: Tensor, bits: int) -> Tensor:
    """The same by way of the Gram matrix [N, N], of fewer rows than dimensions: if Xc Xc' u = s u, then Xc' u is a direction."""
    centred = torch.cat([block - mean for block in _blocks(x)])  # [N, D]
    vectors = torch.linalg.eigh((centred @ centred.T).cpu()).eigenvectors
    # Orthonormal also where rows repeat and the rest of the directions is anybody's choice.
    return torch.linalg.qr(centred.cpu().T @ vectors.flip(1)[:, :bits]).Q.T


def _features(op: str, x: Any) -> Any:
    """x, checked: a tensor or an array [N, D]. An array stays one, since a read-only one would be copied as a whole."""
    array = isinstance(x, np.ndarray) and x.ndim == 2
    checked = checks.tensor(op, "x", as_tensor(x[:1] if array else x), dtypes=_FLOATS, ndim=2, shape="[N, D]")
    if 0 in x.shape:
        raise ValueError(f"{op}: x must have at least one row and one dimension; got shape {list(x.shape)}")
    return x if array else checked.detach()


def _blocks(x: Any) -> Iterator[Tensor]:
    """The rows of x in their order, float64 [n, D]."""
    step = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), step):
        yield as_tensor(x[start : start + step]).double()


def _mean(op: str, x: Any) -> Tensor:
    """float64 [D]"""
    total = sum(block.sum(0) for block in _blocks(x))
    assert isinstance(total, Tensor)
    if not bool(total.isfinite().all()):
        raise ValueError(f"{op}: x must be finite; got entries that are NaN or infinite. Drop such rows first")
    return total / len(x)


def _head(directions: Tensor, mean: Tensor) -> HashHead:
    """float64 [K, D] and [D]: the head that computes (x - mean) @ directions.T, on the device of the mean."""
    directions = directions.to(mean.device)
    return HashHead.from_linear(directions.float(), -(directions @ mean).float())

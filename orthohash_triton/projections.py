"""Linear hashing without labels: random directions (LSH) and principal components (PCA).

Both center the features, so that every bit splits at the mean, and both are one matrix product: a `HashHead` without batch norm.
PCA followed by a rotation is ITQ as published:

    head = fit_pca(x, bits)
    head = head.rotated(fit_itq(head(x)).matrix)
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ._base import checks
from ._base.arrays import as_tensor
from .nn import HashHead

Features = Tensor | np.ndarray  # float [N, D]

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_BLOCK = 1 << 21  # elements of x converted to float64 at once, 16 MB


def fit_lsh(x: Features, bits: int, *, seed: int = 0) -> HashHead:
    """Return a hash layer of random hyperplanes through the mean (LSH; Charikar, STOC 2002).

    Bit k is 1 where <w_k, x - mean> > 0, with w_k ~ N(0, I). The share of the bits in which two rows differ converges to their
    angle around the mean divided by pi.

    Args:
        x: features, float [N, D]; a tensor on any device, or a NumPy array. Only their mean is used.
        bits: K, at least 1.
        seed: seed of the directions, which are the same on every device. The global generators of torch are neither read nor
            advanced.

    Returns:
        A `HashHead` without batch norm, float32, on the device of x. `head.encode(x)` returns the codes.

    Raises:
        TypeError: x is not a floating-point tensor or array, or a number is not an integer.
        ValueError: x is not [N, D], is empty or has entries that are NaN or infinite; or `bits` is less than 1.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> oht.fit_lsh(x, bits=16).encode(x).shape
        torch.Size([100, 2])
    """
    x = _features("fit_lsh", x)
    bits = checks.integer("fit_lsh", "bits", bits, minimum=1)
    generator = torch.Generator().manual_seed(checks.integer("fit_lsh", "seed", seed, minimum=0))
    directions = torch.randn(bits, x.shape[1], generator=generator, dtype=torch.float64)
    return _head(directions, _mean("fit_lsh", x))


def fit_pca(x: Features, bits: int) -> HashHead:
    """Return a hash layer of principal components.

    Bit k is 1 where <w_k, x - mean> > 0, where w_k is the unit eigenvector of the k-th largest eigenvalue of the covariance. The
    entry of largest magnitude of w_k is positive. The first bits are informative; later ones have little variance and much noise,
    unless a rotation (`fit_itq`) distributes the variance.

    Args:
        x: features, float [N, D]; a tensor on any device, or a NumPy array. The covariance is accumulated in float64 over blocks
            of rows. With fewer rows than dimensions, the Gram matrix [N, N] replaces it.
        bits: K, at most D and N - 1, the number of directions in which the rows can vary.

    Returns:
        A `HashHead` without batch norm, float32, on the device of x. `head(x)` returns the principal components and
        `head.encode(x)` the codes.

    Raises:
        TypeError: x is not a floating-point tensor or array, or `bits` is not an integer.
        ValueError: x is not [N, D], is empty or has entries that are NaN or infinite; or `bits` is out of range.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> head = oht.fit_pca(x, bits=8)
        >>> head = head.rotated(oht.fit_itq(head(x)).matrix)  # ITQ as published
        >>> head.encode(x).shape
        torch.Size([100, 1])
    """
    x = _features("fit_pca", x)
    bits = checks.integer("fit_pca", "bits", bits, minimum=1)
    rows, dimensions = x.shape
    if bits > min(dimensions, rows - 1):
        limit = f"D = {dimensions}, the number of columns of x" if bits > dimensions else f"N - 1 = {rows - 1}, for {rows} rows"
        raise ValueError(f"fit_pca: bits must be at most {limit}; got {bits}. fit_lsh accepts any number of bits")
    mean = _mean("fit_pca", x)
    directions = (_directions_of_few if rows < dimensions else _directions)(x, mean, bits)  # [K, D]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return _head(directions * largest.sign(), mean)


def _directions(x: Features, mean: Tensor, bits: int) -> Tensor:
    """Return the first eigenvectors of the scatter matrix [D, D], float64 [K, D], in host memory."""
    scatter = mean.new_zeros(len(mean), len(mean))
    for block in _blocks(x):
        centred = block - mean
        scatter.addmm_(centred.T, centred)
    vectors = torch.linalg.eigh(scatter.cpu()).eigenvectors  # columns, smallest eigenvalue first
    return vectors.flip(1)[:, :bits].T


def _directions_of_few(x: Features, mean: Tensor, bits: int) -> Tensor:
    """Return the directions of fewer rows than dimensions, float64 [K, D], from the Gram matrix [N, N].

    If Xc Xc' u = s u, then Xc' u is a direction.
    """
    centred = torch.cat([block - mean for block in _blocks(x)])  # [N, D]
    vectors = torch.linalg.eigh((centred @ centred.T).cpu()).eigenvectors
    # QR makes the directions orthonormal even if rows repeat, so that the last directions are arbitrary.
    return torch.linalg.qr(centred.cpu().T @ vectors.flip(1)[:, :bits]).Q.T


def _features(op: str, x: Features) -> Features:
    """Return x, a tensor or array [N, D], after checking it. An array is not converted: a read-only one would be copied."""
    array = isinstance(x, np.ndarray) and x.ndim == 2
    checked = checks.tensor(op, "x", as_tensor(x[:1] if array else x), dtypes=_FLOATS, ndim=2, shape="[N, D]")
    if 0 in x.shape:
        raise ValueError(f"{op}: x must have at least one row and one dimension; got shape {list(x.shape)}")
    return x if array else checked.detach()


def _blocks(x: Features) -> Iterator[Tensor]:
    """Yield the rows of x in blocks, float64 [n, D]."""
    step = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), step):
        yield as_tensor(x[start : start + step]).double()


def _mean(op: str, x: Features) -> Tensor:
    """Return the mean of the rows, float64 [D]."""
    total = sum(block.sum(0) for block in _blocks(x))
    assert isinstance(total, Tensor)
    if not bool(total.isfinite().all()):
        raise ValueError(f"{op}: x must be finite; got entries that are NaN or infinite. Drop such rows first")
    return total / len(x)


def _head(directions: Tensor, mean: Tensor) -> HashHead:
    """Return the head that computes (x - mean) @ directions.T on the device of the mean, from float64 [K, D] and [D]."""
    directions = directions.to(mean.device)
    return HashHead.from_linear(directions.float(), -(directions @ mean).float())

"""Statistics of codes and their projections into the plane, which figures and reports show."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base.extras import install
from ..metrics import Evaluation
from ..ops.pack_codes import unpack_codes

EMBEDDED_CODES = 1000  # codes that figures project into the plane: t-SNE takes about five seconds for them
COLOURED_CLASSES = 10  # classes with a colour of their own in such a projection

_BLOCK = 65_536  # codes unpacked at once; float32 counts up to 2^24 pairs of signs exactly


def shares(counts: Tensor) -> list[float]:
    """Return `counts` [M] divided by their sum; zeros if all counts are 0."""
    return (counts.double() / max(int(counts.sum()), 1)).tolist()


def curves(found: Evaluation) -> dict[str, Any]:
    """Return the curves of an evaluation as plain values.

    Returns:
        "recall" and "precision" by Hamming radius [K+1], "precision_at_n" by rank, and "intra" and "inter", the shares of the
        pairs of one class and of two classes by Hamming distance [K+1].
    """
    return {
        "recall": found.curve.recall.tolist(),
        "precision": found.curve.precision.tolist(),
        "precision_at_n": {str(rank): value for rank, value in found.precision_at_k.items() if rank is not None},
        "intra": shares(found.distances.intra),
        "inter": shares(found.distances.inter),
    }


def bit_statistics(codes: Tensor, bits: int) -> dict[str, Any]:
    """Return the share of ones of every bit and the correlations of the bits.

    Args:
        codes: packed codes uint8 [N, ceil(K/8)].
        bits: K.

    Returns:
        "bit_mean" [K] and "bit_correlation" [K, K]. A constant bit has the correlation 0 with every bit, including itself.
    """
    total, products = torch.zeros(bits, dtype=torch.float64), torch.zeros(bits, bits, dtype=torch.float64)
    for block in codes.split(_BLOCK):
        signs = unpack_codes(block, bits).float()  # [n, K] of +-1
        total += signs.sum(0)
        products += signs.T @ signs
    mean = total / max(len(codes), 1)
    deviation = (1 - mean.square()).clamp(min=0).sqrt()
    covariance = products / max(len(codes), 1) - mean[:, None] * mean
    scale = deviation[:, None] * deviation
    correlation = torch.where(scale > 0, covariance / scale.clamp(min=1e-12), torch.zeros((), dtype=torch.float64))
    return {"bit_mean": ((1 + mean) / 2).tolist(), "bit_correlation": correlation.round(decimals=4).tolist()}


def pair_magnitudes(correlation: np.ndarray) -> np.ndarray:
    """Return |r| of every pair of two different bits, [K (K - 1) / 2], from a correlation matrix [K, K].

    The order is that of `numpy.triu_indices(K, 1)`.
    """
    return np.abs(correlation[np.triu_indices(len(correlation), 1)])


def mean_or_zero(values: np.ndarray) -> float:
    """Return the mean of `values`, or 0 if there are none."""
    return float(values.mean()) if values.size else 0.0


def most_common_classes(class_ids: np.ndarray, count: int = COLOURED_CLASSES) -> list[int]:
    """Return the `count` most common of `class_ids`, in ascending order; among equally common ones the smaller ids."""
    ids, counts = np.unique(class_ids, return_counts=True)
    return sorted(ids[np.argsort(-counts, kind="stable")][:count].tolist())


def embed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return positions in the plane, float32 [M, 2], of packed codes uint8 [M, ceil(K/8)], by t-SNE of their Hamming distances.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(f"the projection of codes needs scikit-learn: {install('scikit-learn', extra='report')}") from error
    if len(codes) == 1:
        return np.zeros((1, 2), np.float32)
    signs = np.unpackbits(codes, axis=1, count=bits, bitorder="little").astype(np.float32)  # [M, K]
    ones = signs.sum(1)
    distances = ones[:, None] + ones - 2 * signs @ signs.T
    # The principal components are the start, which also makes the result repeatable. A little noise separates equal codes. If the
    # start were much narrower, codes without clusters would collapse into a point.
    start, _ = principal_plane(codes, bits)
    start = start / max(float(start.std()), 1e-12) + np.random.default_rng(0).normal(scale=1e-2, size=start.shape)
    plane = TSNE(
        metric="precomputed", init=(1e-2 * start).astype(np.float32), perplexity=min(30, max(1, (len(codes) - 1) // 3)),
        learning_rate="auto", random_state=0,
    )  # fmt: skip
    return plane.fit_transform(distances)


def principal_plane(codes: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """Return the first two principal components [M, 2] of packed codes, and the share of the variance that they explain."""
    signs = np.unpackbits(codes, axis=1, count=bits, bitorder="little").astype(np.float32)  # [M, K]
    centred = signs - signs.mean(0)
    _, widths, directions = np.linalg.svd(centred, full_matrices=False)
    variances = np.square(widths, dtype=np.float64)
    places = np.zeros((len(codes), 2), np.float32)  # one code, or one bit, has fewer than two components
    places[:, : len(directions[:2])] = centred @ directions[:2].T
    return places, float(variances[:2].sum() / max(variances.sum(), 1e-12))

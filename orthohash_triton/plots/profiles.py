"""What a set of codes is like, in the numbers that pictures are drawn from."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..metrics import Evaluation
from ..ops.pack_codes import unpack_codes

_BLOCK = 65_536  # codes unpacked at a time; float32 counts so many pairs of signs exactly


def shares(counts: Tensor) -> list[float]:
    """Counts [M] as parts of their sum; all 0 where nothing was counted."""
    return (counts.double() / max(int(counts.sum()), 1)).tolist()


def curves(found: Evaluation) -> dict[str, Any]:
    """The curves of an evaluation: precision and recall by radius [K+1], precision by rank, shares of pairs by distance [K+1]."""
    return {
        "recall": found.curve.recall.tolist(),
        "precision": found.curve.precision.tolist(),
        "precision_at_n": {str(rank): value for rank, value in found.precision_at_k.items() if rank is not None},
        "intra": shares(found.distances.intra),
        "inter": shares(found.distances.inter),
    }


def bit_statistics(codes: Tensor, bits: int) -> dict[str, Any]:
    """Of packed codes uint8 [N, ceil(K/8)]: "bit_mean" [K], the share of ones of every bit, and "bit_correlation" [K, K].

    A bit that never changes has the correlation 0 with every bit, itself too.
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


def embed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Places in the plane [M, 2] of codes uint8 [M, ceil(K/8)]: t-SNE of their Hamming distances.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError('the picture of codes needs scikit-learn: pip install "orthohash-triton[report]"') from error
    if len(codes) == 1:
        return np.zeros((1, 2), np.float32)
    signs = np.unpackbits(codes, axis=1, count=bits, bitorder="little").astype(np.float32)  # [M, K]
    ones = signs.sum(1)
    distances = ones[:, None] + ones - 2 * signs @ signs.T
    # Started from the two widest directions, which also makes the answer repeatable. Equal codes start a hair apart; a start much
    # narrower than this one collapses into a point where codes have no clusters.
    start, _ = principal_plane(codes, bits)
    start = start / max(float(start.std()), 1e-12) + np.random.default_rng(0).normal(scale=1e-2, size=start.shape)
    plane = TSNE(
        metric="precomputed", init=(1e-2 * start).astype(np.float32), perplexity=min(30, max(1, (len(codes) - 1) // 3)),
        learning_rate="auto", random_state=0,
    )  # fmt: skip
    return plane.fit_transform(distances)


def principal_plane(codes: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """Places [M, 2] of codes along their two widest directions, and the share of the variance that lies in this plane."""
    signs = np.unpackbits(codes, axis=1, count=bits, bitorder="little").astype(np.float32)  # [M, K]
    centred = signs - signs.mean(0)
    _, widths, directions = np.linalg.svd(centred, full_matrices=False)
    variances = np.square(widths, dtype=np.float64)
    places = np.zeros((len(codes), 2), np.float32)  # a single code, or a single bit, has but one direction
    places[:, : len(directions[:2])] = centred @ directions[:2].T
    return places, float(variances[:2].sum() / max(variances.sum(), 1e-12))

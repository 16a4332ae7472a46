"""Histograms of the Hamming distances within classes and between classes."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from .._base.arrays import as_tensor
from . import _ranking


class DistanceHistograms(NamedTuple):
    """Numbers of query-gallery pairs at each Hamming distance, separately for relevant pairs and other pairs.

    Attributes:
        distance: int64 [K+1], 0 .. K.
        intra: int64 [K+1], numbers of relevant pairs.
        inter: int64 [K+1], numbers of other pairs.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> found = metrics.DistanceHistograms(distance=np.arange(3), intra=np.array([2, 2, 0]), inter=np.array([0, 0, 4]))
        >>> found.intra_mean, found.inter_mean, found.separability
        (0.5, 2.0, 1.5)
    """

    distance: Any
    intra: Any
    inter: Any

    @property
    def intra_mean(self) -> float:
        """Mean distance of relevant pairs in bits, or nan without such pairs."""
        return _moments(self.distance, self.intra)[0]

    @property
    def inter_mean(self) -> float:
        """Mean distance of other pairs in bits, or nan without such pairs."""
        return _moments(self.distance, self.inter)[0]

    @property
    def intra_std(self) -> float:
        """Standard deviation of the distance of relevant pairs in bits, or nan without such pairs."""
        return _moments(self.distance, self.intra)[1]

    @property
    def inter_std(self) -> float:
        """Standard deviation of the distance of other pairs in bits, or nan without such pairs."""
        return _moments(self.distance, self.inter)[1]

    @property
    def separability(self) -> float:
        """Mean distance of other pairs minus mean distance of relevant pairs, in bits (OrthoHash, supplement)."""
        return self.inter_mean - self.intra_mean


@_ranking.metric
def distance_histograms(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any) -> DistanceHistograms:
    """Count all query-gallery pairs by Hamming distance, separately for relevant pairs and other pairs.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`. A query that is also in the gallery
            forms a pair with itself, at distance 0.

    Returns:
        (distance, intra, inter), int64 [K+1] each, torch tensors in host memory or numpy arrays.

    Raises:
        TypeError, ValueError: see `average_precision`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> found = metrics.distance_histograms(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]))
        >>> found.intra, found.inter_mean
        (array([0, 1, 0, 1, 0, 0, 0, 0, 0]), 2.0)
    """
    ranking = _ranking.check("distance_histograms", query_codes, gallery_codes, query_labels, gallery_labels)
    return total_histograms(ranking.ranked([]))


def total_histograms(chunks: Iterable[_ranking.Ranked]) -> DistanceHistograms:
    """Sum the counts at each distance over all queries."""
    totals = [torch.stack([chunk.copies @ chunk.relevant, chunk.copies @ chunk.counts]) for chunk in chunks]
    intra, pairs = torch.stack(totals).sum(dim=0)
    return DistanceHistograms(torch.arange(len(intra)), intra, pairs - intra)


def _moments(distance: Any, counts: Any) -> tuple[float, float]:
    """Return mean and standard deviation of `distance` weighted by `counts`, or nan without counts."""
    distance, weights = as_tensor(distance).double(), as_tensor(counts).double()
    total = float(weights.sum())
    if total == 0:
        return math.nan, math.nan
    mean = float((distance * weights).sum()) / total
    return mean, math.sqrt(float(((distance - mean) ** 2 * weights).sum()) / total)

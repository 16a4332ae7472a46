"""How far apart the codes of one class are, and those of different classes."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from .._base.arrays import as_tensor
from . import _ranking


class DistanceHistograms(NamedTuple):
    """Pairs of a query and a gallery code at each distance: of one class (or a shared one), and of different classes."""

    distance: Any  # int64 [K+1]: 0 .. K
    intra: Any  # int64 [K+1]
    inter: Any  # int64 [K+1]

    @property
    def intra_mean(self) -> float:
        """Mean distance of relevant pairs, in bits; nan where there is no such pair, as of all four."""
        return _moments(self.distance, self.intra)[0]

    @property
    def inter_mean(self) -> float:
        """Mean distance of all other pairs, in bits."""
        return _moments(self.distance, self.inter)[0]

    @property
    def intra_std(self) -> float:
        """Standard deviation of the distance of relevant pairs, in bits."""
        return _moments(self.distance, self.intra)[1]

    @property
    def inter_std(self) -> float:
        """Standard deviation of the distance of all other pairs, in bits."""
        return _moments(self.distance, self.inter)[1]

    @property
    def separability(self) -> float:
        """Bits by which codes of different classes are farther apart than those of one, on average (OrthoHash, supplement)."""
        return self.inter_mean - self.intra_mean


@_ranking.metric
def distance_histograms(query_codes: Any, gallery_codes: Any, query_labels: Any, gallery_labels: Any) -> DistanceHistograms:
    """Count all query-gallery pairs by their Hamming distance, apart for relevant pairs and others.

    Arguments and errors are those of `average_precision`. A query that is itself in the gallery counts with distance 0.

    Returns:
        (distance, intra, inter), int64 [K+1] each, in host memory, torch or numpy; with means, deviations and `separability`.
    """
    ranking = _ranking.check("distance_histograms", query_codes, gallery_codes, query_labels, gallery_labels)
    return total_histograms(ranking.ranked([]))


def total_histograms(chunks: Iterable[_ranking.Ranked]) -> DistanceHistograms:
    totals = [torch.stack([chunk.relevant.sum(dim=0), chunk.counts.sum(dim=0)]) for chunk in chunks]
    intra, pairs = torch.stack(totals).sum(dim=0)
    return DistanceHistograms(torch.arange(len(intra)), intra, pairs - intra)


def _moments(distance: Any, counts: Any) -> tuple[float, float]:
    """Mean and standard deviation."""
    distance, weights = as_tensor(distance).double(), as_tensor(counts).double()
    total = float(weights.sum())
    if total == 0:
        return math.nan, math.nan
    mean = float((distance * weights).sum()) / total
    return mean, math.sqrt(float(((distance - mean) ** 2 * weights).sum()) / total)

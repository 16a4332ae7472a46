"""Retrieval metrics, computed exactly from packed codes and labels, without sorting on a CPU.

All functions take codes from `pack_codes` (uint8 [Q, bits/8] and [N, bits/8]) and labels of one of two kinds:

- class ids, integers or names [Q] and [N]: an item is relevant to a query if both have the same class;
- multi-hot rows, [Q, C] and [N, C] of 0 and 1 in any dtype: an item is relevant to a query if they share a class.

A column [Q, 1] of integers holds class ids. Labels may be lists.

`evaluate` computes the usual metrics together, in little more time than one of them takes.

Arguments are torch tensors on one device, or numpy arrays. Items are ranked by (Hamming distance, position in the gallery), as
everywhere in this package. No item is removed: a query that is also in the gallery finds itself.

Example:
    >>> import numpy as np
    >>> from orthohash_triton import metrics
    >>> queries = np.array([[0b0000]], np.uint8)
    >>> gallery = np.array([[0b0001], [0b0011], [0b0111]], np.uint8)  # at distances 1, 2 and 3
    >>> metrics.precision_at_k(queries, gallery, np.array([7]), np.array([7, 3, 7]), k=2)
    0.5
"""

from .average_precision import (
    average_precision,
    average_precision_from_scores,
    mean_average_precision,
    mean_average_precision_from_scores,
)
from .distances import DistanceHistograms, distance_histograms
from .evaluation import Evaluation, evaluate
from .gains import average_cumulative_gain, ndcg
from .hierarchical import hierarchical_precision, mean_average_hierarchical_precision
from .precision_recall import (
    PrecisionRecallCurve,
    precision_at_k,
    precision_at_radius,
    precision_recall_curve,
    recall_at_k,
)

__all__ = [
    "DistanceHistograms",
    "Evaluation",
    "PrecisionRecallCurve",
    "average_cumulative_gain",
    "average_precision",
    "average_precision_from_scores",
    "distance_histograms",
    "evaluate",
    "hierarchical_precision",
    "mean_average_hierarchical_precision",
    "mean_average_precision",
    "mean_average_precision_from_scores",
    "ndcg",
    "precision_at_k",
    "precision_at_radius",
    "precision_recall_curve",
    "recall_at_k",
]

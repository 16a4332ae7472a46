"""How good is the retrieval: figures computed from packed codes and labels, exactly and without sorting on a CPU.

All functions take codes as `pack_codes` makes them (uint8 [Q, bits/8] and [N, bits/8]) and labels of one of two kinds:

- class ids, integers [Q] and [N]: an item is relevant to a query of the same class;
- multi-hot rows, [Q, C] and [N, C] of 0 and 1 in any dtype: an item is relevant when it shares a class with the query.

`evaluate` gives the usual figures at once, for little more than the time of one.

Torch tensors (on one device) or numpy arrays. Items rank by (Hamming distance, position in the gallery), as everywhere in this
package. Nothing is removed: a query that is itself in the gallery finds itself.
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

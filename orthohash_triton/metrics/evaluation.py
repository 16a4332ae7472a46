"""The usual retrieval metrics of a set of codes, from one pass over the gallery."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_array, as_tensor
from . import _ranking
from .average_precision import Denominator, Ties, ZeroHits, check_options, from_ranked, mean
from .distances import DistanceHistograms, total_histograms
from .precision_recall import PrecisionRecallCurve, mean_curve, shares, within


@dataclass(frozen=True)
class Evaluation:
    """The results of `evaluate`, which are means over the queries.

    Attributes:
        queries: number of queries.
        gallery: number of gallery items.
        bits: length of the codes.
        mean_average_precision: by number of ranks k, in the order of the argument; None stands for the whole gallery.
        average_precision: of each query by number of ranks k, float64 [Q].
        precision_at_k: by number of ranks k.
        recall_at_k: by number of ranks k.
        precision_at_radius: by Hamming radius.
        curve: precision and recall within every radius.
        distances: histograms of the distances within and between classes.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> found = metrics.evaluate(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]), k=(1, 2), radius=2)
        >>> {name: value for name, value in found.figures().items() if "2" in name}
        {'mAP@2': 1.0, 'precision@2': 0.5, 'recall@2': 0.5, 'precision@radius2': 0.5}
    """

    queries: int
    gallery: int
    bits: int
    mean_average_precision: dict[int | None, float]
    average_precision: dict[int | None, Any]
    precision_at_k: dict[int | None, float]
    recall_at_k: dict[int | None, float]
    precision_at_radius: dict[int, float]
    curve: PrecisionRecallCurve
    distances: DistanceHistograms

    def figures(self) -> dict[str, float]:
        """Return the single numbers by name: "mAP@1000", "mAP", "precision@1000", "recall@1000", "precision@radius2", ...

        Precision and recall of the whole gallery are left out, because they do not depend on the codes.
        """
        named = {"mAP" if k is None else f"mAP@{k}": value for k, value in self.mean_average_precision.items()}
        for name, values in (("precision", self.precision_at_k), ("recall", self.recall_at_k)):
            named |= {f"{name}@{k}": value for k, value in values.items() if k is not None}
        named |= {f"precision@radius{radius}": value for radius, value in self.precision_at_radius.items()}
        return named | {"separability": self.distances.separability}


@_ranking.on_host
def evaluate(
    query_codes: Any,
    gallery_codes: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | Sequence[int | None] | None = (1000, None),
    radius: int | Sequence[int] = 2,
    ties: Ties = "stable",
    denominator: Denominator = "hits",
    zero_hits: ZeroHits = "zero",
) -> Evaluation:
    """Compute mAP, precision and recall at every `k`, precision within every `radius`, the curve and the histograms.

    Each result equals that of the single function with the same options. Together they take little more time than one.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: see `average_precision`.
        k: one or several numbers of ranks; None stands for the whole gallery.
        radius: one or several Hamming distances, inclusive.
        ties: see `average_precision`. With `"expected"`, precision and recall at k are expectations too.
        denominator, zero_hits: see `mean_average_precision`.

    Returns:
        An `Evaluation`. Its average precisions, curve and histograms are torch tensors in host memory, or numpy arrays if the
        codes are numpy arrays.

    Raises:
        TypeError, ValueError: see `average_precision`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton import metrics
        >>> gallery = np.array([[0b001], [0b011], [0b111]], np.uint8)  # at distances 1, 2 and 3
        >>> found = metrics.evaluate(np.zeros((1, 1), np.uint8), gallery, np.array([0]), np.array([0, 1, 0]), k=None)
        >>> round(found.mean_average_precision[None], 4), found.precision_at_radius[2]
        (0.8333, 0.5)
    """
    op = "evaluate"
    check_options(op, ties=ties, denominator=denominator, zero_hits=zero_hits)
    ks = [_ranking.check_k(op, value) for value in _several(k)]
    radii = [checks.integer(op, "radius", value, minimum=0) for value in _several(radius)]
    ranking = _ranking.check(op, *map(as_tensor, (query_codes, gallery_codes, query_labels, gallery_labels)))
    chunks = list(ranking.ranked(ks if ties == "stable" else []))
    curve, distances = mean_curve(chunks), total_histograms(chunks)
    limits = ranking.limits(ks).tolist()

    def of_each_query(value_of: Callable[..., Tensor], *arguments: Any) -> Tensor:
        return ranking.for_each(torch.cat([value_of(chunk, *arguments) for chunk in chunks]))

    precisions = [of_each_query(from_ranked, i, ranking, value, ties, denominator) for i, value in enumerate(ks)]
    hits = [of_each_query(_hits, i, limit, ties) for i, limit in enumerate(limits)]
    totals = of_each_query(lambda chunk: chunk.sums.totals)
    as_given = as_array if not isinstance(query_codes, Tensor) else lambda values: values
    return Evaluation(
        queries=int(ranking.copies.sum()),
        gallery=len(ranking.gallery),
        bits=ranking.bins - 1,
        mean_average_precision={value: mean(found, zero_hits) for value, found in zip(ks, precisions, strict=True)},
        average_precision={value: as_given(found) for value, found in zip(ks, precisions, strict=True)},
        precision_at_k={v: float(found.mean()) / limit for v, found, limit in zip(ks, hits, limits, strict=True)},
        recall_at_k={value: float(shares(found, totals).mean()) for value, found in zip(ks, hits, strict=True)},
        precision_at_radius={value: within(curve, value) for value in radii},
        curve=as_given(curve),
        distances=as_given(distances),
    )


def _several(values: Any) -> list[Any]:
    """Return a list of one value or of several values."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _hits(ranked: _ranking.Ranked, index: int, limit: int, ties: Ties) -> Tensor:
    """Return the (expected) number of relevant items among the first `limit` of each query, float64 [q]."""
    if ties == "stable":
        return ranked.sums.hits[index].double()
    ends = ranked.counts.cumsum(dim=1)
    slots = (limit - (ends - ranked.counts)).clamp(min=0).minimum(ranked.counts)  # ranks up to `limit` at each distance
    return (ranked.relevant * (slots / ranked.counts.clamp(min=1).double())).sum(dim=1)

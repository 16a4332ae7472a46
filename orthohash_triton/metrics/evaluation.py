"""The usual figures of a set of codes, all from one pass over the gallery."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_array, as_tensor
from . import _ranking
from .average_precision import DENOMINATORS, TIES, ZERO_HITS, from_ranked, mean
from .distances import DistanceHistograms, total_histograms
from .precision_recall import PrecisionRecallCurve, mean_curve, shares, within


@dataclass(frozen=True)
class Evaluation:
    """Figures of `evaluate`, means over the queries. Ranks and radii are keys, in the order in which they were asked for."""

    queries: int
    gallery: int
    bits: int
    mean_average_precision: dict[int | None, float]
    precision_at_k: dict[int | None, float]
    recall_at_k: dict[int | None, float]
    precision_at_radius: dict[int, float]
    curve: PrecisionRecallCurve
    distances: DistanceHistograms

    def figures(self) -> dict[str, float]:
        """The single figures by name, for a log: "mAP@1000", "mAP", "precision@1000", "recall@1000", "precision@radius2", ...

        Precision and recall of the whole gallery, which no code changes, are left out.
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
    ties: str = "stable",
    denominator: str = "hits",
    zero_hits: str = "zero",
) -> Evaluation:
    """mAP, precision and recall at every `k`, precision within every `radius`, the curve and the distances, in one pass.

    Every figure equals that of the function of its name, called with the same options; together they cost little more than one.

    Args:
        query_codes, gallery_codes, query_labels, gallery_labels: as in `average_precision`.
        k: ranks that count, one or several; None stands for the whole gallery.
        radius: Hamming distances, inclusive, one or several.
        ties: as in `average_precision`. With `"expected"` precision and recall at k are expectations too.
        denominator, zero_hits: as in `mean_average_precision`.

    Returns:
        An `Evaluation`; its curve and histograms are torch tensors in host memory, or numpy arrays when the codes are.

    Raises:
        TypeError, ValueError: as `average_precision`.
    """
    op = "evaluate"
    checks.choice(op, "ties", ties, TIES)
    checks.choice(op, "denominator", denominator, DENOMINATORS)
    checks.choice(op, "zero_hits", zero_hits, ZERO_HITS)
    ks = [_ranking.check_k(op, value) for value in _several(k)]
    radii = [checks.integer(op, "radius", value, minimum=0) for value in _several(radius)]
    ranking = _ranking.check(op, *map(as_tensor, (query_codes, gallery_codes, query_labels, gallery_labels)))
    chunks = list(ranking.ranked(ks if ties == "stable" else []))
    curve, distances = mean_curve(chunks), total_histograms(chunks)
    precisions = [torch.cat([from_ranked(c, i, ranking, value, ties, denominator) for c in chunks]) for i, value in enumerate(ks)]
    limits = ranking.limits(ks).tolist()
    hits = [torch.cat([_hits(c, i, limit, ties) for c in chunks]) for i, limit in enumerate(limits)]
    totals = torch.cat([c.sums.totals for c in chunks])
    as_given = as_array if not isinstance(query_codes, Tensor) else lambda values: values
    return Evaluation(
        queries=len(ranking.queries),
        gallery=len(ranking.gallery),
        bits=ranking.bins - 1,
        mean_average_precision={value: mean(found, zero_hits) for value, found in zip(ks, precisions, strict=True)},
        precision_at_k={v: float(found.mean()) / limit for v, found, limit in zip(ks, hits, limits, strict=True)},
        recall_at_k={value: float(shares(found, totals).mean()) for value, found in zip(ks, hits, strict=True)},
        precision_at_radius={value: within(curve, value) for value in radii},
        curve=as_given(curve),
        distances=as_given(distances),
    )


def _several(values: Any) -> list[Any]:
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _hits(ranked: _ranking.Ranked, index: int, limit: int, ties: str) -> Tensor:
    """Relevant items among the first `limit`, float64 [q]."""
    if ties == "stable":
        return ranked.sums.hits[index].double()
    ends = ranked.counts.cumsum(dim=1)
    slots = (limit - (ends - ranked.counts)).clamp(min=0).minimum(ranked.counts)
    return (ranked.relevant * (slots / ranked.counts.clamp(min=1).double())).sum(dim=1)

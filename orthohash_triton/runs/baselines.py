"""The baseline of exact retrieval without codes: its accuracy, memory and speed."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from .._base.rows import unit_rows
from ..data import Dataset
from ..metrics import average_precision_from_scores
from .evaluation import SEARCH_K, TOP

_CHUNK = 256  # number of queries whose scores for the whole gallery are in memory at once


def exact_cosine(gallery: Dataset, query: Dataset) -> dict[str, Any]:
    """Return the retrieval metrics and the speed of an exact search by the cosine similarity of the float32 samples themselves.

    The keys are those of `evaluation.evaluate_codes`, and `method`.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.runs.baselines import exact_cosine
        >>> labels = torch.arange(20) % 2
        >>> data = Dataset(torch.nn.functional.one_hot(labels).float(), labels, ("cat", "dog"), "toy")
        >>> figures = exact_cosine(data, data)
        >>> figures["method"], figures["map_at_all"]
        ('exact cosine on features', 1.0)
    """
    vectors, queries = unit_rows(_vectors(gallery)), unit_rows(_vectors(query))
    chunks = list(zip(queries.split(_CHUNK), query.labels.split(_CHUNK), strict=True))
    precisions = {"map_at_1000": TOP, "map_at_all": None}
    totals = dict.fromkeys(precisions, 0.0)
    for chunk, labels in chunks:
        scores = chunk @ vectors.T  # [_CHUNK, gallery]
        for name, k in precisions.items():
            totals[name] += float(average_precision_from_scores(scores, labels, gallery.labels, k=k).sum())
    return {
        "method": "exact cosine on pixels" if gallery.is_images else "exact cosine on features",
        "bits": None,
        **{name: total / len(queries) for name, total in totals.items()},
        "precision_at_radius_2": None,
        "bytes_per_image": vectors.element_size() * vectors.shape[1],
        "queries_per_second": _queries_per_second(vectors, queries),
        "queries": len(queries),
        "gallery": len(vectors),
    }


def _vectors(dataset: Dataset) -> Tensor:
    return dataset.inputs[:].flatten(1).float()


def _queries_per_second(vectors: Tensor, queries: Tensor) -> float:
    """Return the speed of a matrix product and a top-k for chunks of queries: the best of three runs over the same queries."""
    sample = queries[: 4 * _CHUNK]
    best = math.inf
    for _ in range(3):
        started = time.perf_counter()
        for chunk in sample.split(_CHUNK):
            torch.topk(chunk @ vectors.T, min(SEARCH_K, len(vectors)))
        best = min(best, time.perf_counter() - started)
    return len(sample) / best

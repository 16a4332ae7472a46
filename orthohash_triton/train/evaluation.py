"""How good a set of codes is at finding images of the query's class."""

import time
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..metrics import evaluate
from ..search import HammingIndex
from .runs import Run

SEARCH_K = 100
TOP = 1000
RADIUS = 2


def evaluate_run(run: Run, query: Dataset) -> dict[str, Any]:
    """Figures of a run's gallery index for the samples of `query`; see `evaluate_codes`.

    The run folder keeps them, and codes, labels and files of the queries.

    Raises:
        ValueError: `query` has no labels.
    """
    if not query.is_labelled:
        raise ValueError(f"{query.name} has no labels, by which answers could be judged right")
    codes = run.model.encode(query.inputs)
    figures = evaluate_codes(run.index, codes, query.labels, run.gallery_labels)
    run.add_queries(codes, query.labels, query.paths)
    run.add_evaluation(figures)
    return figures


def evaluate_codes(index: HammingIndex, query_codes: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> dict[str, Any]:
    """Retrieval figures of packed `query_codes` against the codes in `index`.

    mAP breaks ties in the order (distance, gallery position), divides by the relevant images found, and counts a query that
    finds none as 0. `queries_per_second` is the time of one search for the 100 nearest, all queries at once.
    """
    gallery_codes = index.codes
    found = evaluate(query_codes, gallery_codes, query_labels, gallery_labels, k=(TOP, None), radius=RADIUS)
    return {
        "bits": index.bits,
        "map_at_1000": found.mean_average_precision[TOP],
        "map_at_all": found.mean_average_precision[None],
        "precision_at_radius_2": found.precision_at_radius[RADIUS],
        "bytes_per_image": index.bits // 8,
        "queries_per_second": queries_per_second(index, query_codes),
        "queries": len(query_codes),
        "gallery": len(gallery_codes),
    }


def queries_per_second(index: HammingIndex, query_codes: Tensor) -> float:
    """Of searching the SEARCH_K nearest; the best of three runs, after one that is not timed."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        index.search(query_codes, SEARCH_K)
        if query_codes.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return len(query_codes) / min(seconds[1:])

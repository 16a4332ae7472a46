"""How good a set of codes is at finding images of the query's class."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..metrics import evaluate
from ..ops.pack_codes import unpack_codes
from ..search import HammingIndex
from .run import Run

SEARCH_K = 100
TOP = 1000
RADIUS = 2
COMPARED = 200  # samples that must have the codes of the index
OTHER_BITS = 0.1  # of those codes: more than another machine's rounding turns, less than other samples do


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


def is_gallery_of(run: Run, gallery: Dataset) -> bool:
    """Whether the run's index holds the codes of `gallery`: of another one, today's queries may stand in the index."""
    if gallery.labels.tolist() != run.gallery_labels.tolist():
        return False
    if gallery.paths is not None and run.gallery_paths is not None:
        return _below_their_folder(gallery.paths) == _below_their_folder(run.gallery_paths)
    rows = torch.linspace(0, len(gallery) - 1, min(COMPARED, len(gallery))).round().long().unique()
    codes, held = (
        unpack_codes(packed, run.index.bits) for packed in (run.model.encode(gallery.subset(rows).inputs), run.index.codes[rows])
    )
    return float((codes != held).float().mean()) < OTHER_BITS


def _below_their_folder(paths: Sequence[str | Path]) -> list[str]:
    """A folder may have moved."""
    places = [os.path.abspath(path) for path in paths]
    return [os.path.relpath(place, os.path.commonpath(places)) for place in places]


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

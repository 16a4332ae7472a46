"""Retrieval figures of a run: mAP, precision and search speed of its codes."""

import time
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..metrics import evaluate
from ..search import HammingIndex
from .run import Queries, Run

SEARCH_K = 100  # neighbours in the measurement of speed
TOP = 1000  # rank limit of mAP@1000
RADIUS = 2  # Hamming radius of the precision


def evaluate_run(run: Run, query: Dataset, *, store: bool = True) -> dict[str, Any]:
    """Search the samples of `query` in the gallery index of `run`, and return the figures of `evaluate_codes`.

    Args:
        query: labelled samples.
        store: whether to store the figures, and the codes, labels and files of the queries, in the run folder.

    Raises:
        ValueError: `query` has no labels.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.runs import save_run
        >>> from orthohash_triton.runs.evaluation import evaluate_run
        >>> from orthohash_triton.train import TrainConfig, train
        >>> labels = torch.arange(60) % 2
        >>> data = Dataset(torch.randn(60, 8) + 4 * labels[:, None], labels, ("cat", "dog"), "toy")
        >>> config = TrainConfig(bits=16, epochs=1, batch_size=20, threads=1)
        >>> run = save_run("run", config, train(config, data, progress=False), data)
        >>> sorted(evaluate_run(run, data))[:3]
        ['bits', 'bytes_per_image', 'gallery']
    """
    if not query.is_labelled:
        raise ValueError(f"{query.name} has no labels; an evaluation needs the labels of the queries")
    codes = run.model.encode(query.inputs)
    figures = evaluate_codes(run.index, codes, query.labels, run.gallery_labels)
    if store:
        run.add_evaluation(figures, Queries(codes, query.labels, query.paths))
    return figures


def evaluate_codes(index: HammingIndex, query_codes: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> dict[str, Any]:
    """Return the retrieval figures of packed `query_codes` against the codes in `index`.

    mAP sorts ties by gallery position, divides by the number of relevant images found, and is 0 for a query that finds none.
    `queries_per_second` is measured with one search of all queries for the 100 nearest codes.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> from orthohash_triton.runs.evaluation import evaluate_codes
        >>> index = oht.HammingIndex(16)
        >>> index.add(torch.tensor([[0, 0], [255, 255]], dtype=torch.uint8))
        >>> figures = evaluate_codes(index, index.codes, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> figures["map_at_all"], figures["precision_at_radius_2"], figures["bytes_per_image"]
        (1.0, 1.0, 2)
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
    """Return the speed of a search for the SEARCH_K nearest codes: the best of three runs, after one run that is not timed."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        index.search(query_codes, SEARCH_K)
        if query_codes.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return len(query_codes) / min(seconds[1:])

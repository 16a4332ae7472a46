"""Cases of the metrics `average_precision` and `ndcg`, which have no argument `impl`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Generator

from ...metrics import average_precision, ndcg
from ...ops.dispatch import Impl
from ...reference.average_precision import average_precision as average_precision_reference
from ...reference.gains import ndcg as ndcg_reference
from ...reference.hamming_distance import hamming_distance as distance_reference
from ._case import FLOAT64, Case, Inputs, Outputs, class_ids, joined, multi_hot, on_cpu, random_codes


@contextmanager
def _default_impl(impl: str) -> Iterator[None]:
    """Let calls with impl="auto" use `impl` in this context."""
    before = os.environ.get("ORTHOHASH_IMPL")
    os.environ["ORTHOHASH_IMPL"] = impl
    try:
        yield
    finally:
        if before is None:
            del os.environ["ORTHOHASH_IMPL"]
        else:
            os.environ["ORTHOHASH_IMPL"] = before


def _case(op: Literal["average_precision", "ndcg"], *, several_labels: bool, **keywords: Any) -> Case:
    """Return a case of the metric `op`."""

    def make(generator: Generator) -> Inputs:
        codes = random_codes(generator, 9 + 1009, 64, distinct=4)  # with ties
        labels = (multi_hot if several_labels else class_ids)(generator, 9 + 1009, 13)
        return {"queries": codes[:9], "gallery": codes[9:], "query_labels": labels[:9], "gallery_labels": labels[9:]}

    def run(given: Inputs, impl: Impl) -> Outputs:
        """Compute the metric with an implementation, or its reference."""
        queries, gallery, mine, theirs = given.values()
        if impl != "reference":
            metric = average_precision if op == "average_precision" else ndcg
            with _default_impl(impl):
                return (torch.as_tensor(metric(queries, gallery, mine, theirs, **keywords), dtype=torch.float64),)
        grades = (mine.double() @ theirs.double().T).long() if several_labels else (mine[:, None] == theirs).long()
        distances = distance_reference(queries, gallery)
        if op == "ndcg":
            return (ndcg_reference(distances, grades, **keywords).mean(),)
        return (average_precision_reference(distances, grades > 0, **keywords),)

    label = joined(["9 x 1,009 x 64", "multi-hot" if several_labels else "class ids"], options=keywords)
    return Case(op, label, make, run, FLOAT64)


CASES = [
    _case("average_precision", several_labels=False, k=100),
    *on_cpu(
        _case("average_precision", several_labels=True),
        _case("average_precision", several_labels=False, k=100, ties="expected"),
    ),
    _case("ndcg", several_labels=True, k=100),
    *on_cpu(_case("ndcg", several_labels=False, ties="expected")),
]

"""How many gallery codes lie at each distance."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation


@numpy_friendly
def hamming_histogram(queries: Any, gallery: Any, *, impl: str = "auto") -> Tensor:
    """How many gallery codes lie at each distance from each query.

    queries uint8 [Q, B], gallery uint8 [N, B]: packed codes (see pack_codes) of one width, on one device. Returns int64
    [Q, 8 * B + 1]: entry d counts the codes that differ from the query in d bits.

    numpy in, numpy out. Raises TypeError for another dtype, ValueError for another shape or device.
    """
    return _histogram(*checks.code_pair("hamming_histogram", queries, gallery), impl)


def _fake(queries: Tensor, gallery: Tensor, impl: str) -> Tensor:
    return queries.new_empty(queries.shape[0], 8 * queries.shape[1] + 1, dtype=torch.int64)


def _forward(queries: Tensor, gallery: Tensor, impl: str) -> Tensor:
    chosen = choose("hamming_histogram", impl, queries)
    counts = _fake(queries, gallery, impl)
    if len(queries) == 0 or len(gallery) == 0:
        return counts.zero_()
    module = implementation("hamming_histogram", chosen)
    if chosen == "reference":
        return module.hamming_histogram(queries, gallery)
    module.hamming_histogram(queries, gallery, counts)
    return counts


_histogram = registered("hamming_histogram", _forward, fake=_fake)

"""Exact search: the k nearest codes."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ..kernels.missing import MISSING_DISTANCE, MISSING_ID
from ._registered import registered
from .dispatch import choose, implementation


@numpy_friendly
def hamming_topk(queries: Any, gallery: Any, k: int, *, mask: Any = None, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """The k gallery codes nearest to each query, exactly.

    queries uint8 [Q, B], gallery uint8 [N, B]: packed codes (see pack_codes) of one width, on one device. mask: bool [N], True
    for the gallery rows that may be found; None for all. k may be anything up to 2**31 - 1.

    Returns (distances int32 [Q, k], ids int64 [Q, k]), ids being gallery rows, in the order (distance ascending, row ascending),
    whatever the implementation, the device or the number of threads. Where fewer than k rows can be found, the rest is
    (2**31 - 1, -1), as in FAISS.

    numpy in, numpy out. Raises TypeError for another dtype, ValueError for another shape or device or k < 1.
    """
    queries, gallery = checks.code_pair("hamming_topk", queries, gallery)
    k = checks.integer("hamming_topk", "k", k, minimum=1, maximum=MISSING_DISTANCE)
    return _topk(queries, gallery, k, checks.gallery_mask("hamming_topk", mask, gallery), None, impl)


def nearest(
    queries: Tensor, gallery: Tensor, k: int, *, mask: Tensor | None = None, limits: Tensor | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`hamming_topk` for callers that have checked their tensors, and may know that farther codes are of no use.

    limits: int32 [Q]; only codes at a distance below their query's limit are found. A search in pieces passes on what it has.
    """
    return _topk(queries, gallery, k, mask, limits, impl)


def _fake(
    queries: Tensor, gallery: Tensor, k: int, mask: Tensor | None, limits: Tensor | None, impl: str
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.int32), queries.new_empty(shape, dtype=torch.int64)


def _forward(
    queries: Tensor, gallery: Tensor, k: int, mask: Tensor | None, limits: Tensor | None, impl: str
) -> tuple[Tensor, Tensor]:
    chosen = choose("hamming_topk", impl, queries)
    module = implementation("hamming_topk", chosen)
    if chosen == "reference":
        return module.hamming_topk(queries, gallery, k, mask, limits)
    distances, ids = _fake(queries, gallery, k, mask, limits, impl)
    if queries.shape[0] == 0 or gallery.shape[0] == 0:
        return distances.fill_(MISSING_DISTANCE), ids.fill_(MISSING_ID)
    module.hamming_topk(queries, gallery, mask, limits, distances, ids)
    return distances, ids


_topk = registered("hamming_topk", _forward, fake=_fake)

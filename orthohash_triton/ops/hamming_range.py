"""Exact search: all codes within a radius."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation

_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)


@numpy_friendly
def hamming_range(
    queries: Any, gallery: Any, radius: Any, *, inclusive: bool = False, mask: Any = None, impl: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """All gallery codes nearer to each query than a radius, exactly.

    queries uint8 [Q, B], gallery uint8 [N, B]: packed codes (see pack_codes) of one width, on one device. radius: bits, 0 or
    more, one for all or an integer tensor [Q] with one for each query. Codes are found at distances d < radius, as in FAISS; with
    `inclusive` at d <= radius. mask: bool [N], True for the gallery rows that may be found; None for all.

    Returns (lims int64 [Q+1], distances int32 [M], ids int64 [M]): what query q finds stands at lims[q] .. lims[q+1] - 1, ids
    being gallery rows, in the order (distance ascending, row ascending), whatever the implementation, the device or the number
    of threads. (FAISS promises no order.) Memory is proportional to M, which the data decide: on a GPU the call waits for it.

    numpy in, numpy out. Raises TypeError for another dtype, ValueError for another shape or device or a negative radius (one in
    a tensor on a GPU is not looked at, and finds nothing, unless ORTHOHASH_VALIDATE=1).
    """
    queries, gallery = checks.code_pair("hamming_range", queries, gallery)
    mask = checks.gallery_mask("hamming_range", mask, gallery)
    limits = _limits(radius, inclusive, queries)
    return _range(queries, gallery, mask, limits, impl)


def _limits(radius: Any, inclusive: bool, queries: Tensor) -> Tensor:
    """int32 [Q]: the distances, at most bits + 1, below which codes are found."""
    beyond = 8 * queries.shape[1] + 1
    if isinstance(radius, list | tuple):
        raise TypeError(
            "hamming_range: radius must be an integer, or an integer tensor or array [Q], one radius a query; "
            f"got {checks.describe(radius)}. Make it a tensor with torch.tensor(radius)"
        )
    if not isinstance(radius, Tensor):
        radius = checks.integer("hamming_range", "radius", radius, minimum=0)
        return torch.full((len(queries),), min(radius + bool(inclusive), beyond), dtype=torch.int32, device=queries.device)
    radius = checks.tensor("hamming_range", "radius", radius, dtypes=_INTEGERS, ndim=1, shape="[Q], one radius a query,")
    if len(radius) != len(queries):
        raise ValueError(
            f"hamming_range: radius must have one entry for each of the {len(queries)} queries; got {checks.describe(radius)}"
        )
    checks.same_device("hamming_range", "radius", radius, "queries", queries)
    if checks.may_read_values(radius) and (radius < 0).any():
        query = int((radius < 0).int().argmax())
        raise ValueError(f"hamming_range: radius must be 0 or more; got {int(radius[query])} for query {query}")
    return (radius.to(torch.int64).clamp(-1, beyond) + bool(inclusive)).clamp(0, beyond).int()


def _fake(queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size()
    lims = queries.new_empty(queries.shape[0] + 1, dtype=torch.int64)
    return lims, queries.new_empty(found, dtype=torch.int32), queries.new_empty(found, dtype=torch.int64)


def _forward(queries: Tensor, gallery: Tensor, mask: Tensor | None, limits: Tensor, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    chosen = choose("hamming_range", impl, queries)
    if chosen != "reference" and (len(queries) == 0 or len(gallery) == 0):
        lims = torch.zeros(len(queries) + 1, dtype=torch.int64, device=queries.device)
        return lims, queries.new_empty(0, dtype=torch.int32), queries.new_empty(0, dtype=torch.int64)
    return implementation("hamming_range", chosen).hamming_range(queries, gallery, mask, limits)


_range = registered("hamming_range", _forward, fake=_fake)

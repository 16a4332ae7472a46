"""Exact search for all codes within a Hamming radius."""

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
    """Return all gallery codes whose Hamming distance to a query is below a radius.

    The search is exact. The result is in the order (distance ascending, row ascending), whatever the implementation, the device
    or the number of threads; FAISS returns an unspecified order. Memory is proportional to M, the number of codes found; on a GPU
    the call waits until M is known. NumPy arrays are accepted; the results are then arrays.

    Args:
        queries: uint8 [Q, B], packed codes (see `pack_codes`).
        gallery: uint8 [N, B], packed codes of the same width, on the same device.
        radius: bits, 0 or more: one number, or an integer tensor [Q] with one for each query. Codes at distances below the radius
            are found, as in FAISS.
        inclusive: whether codes at the radius itself are found, too.
        mask: bool [N], True for the gallery rows that may be found; None for all.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        lims: int64 [Q+1]; the codes of query q are the entries lims[q] .. lims[q+1] - 1 of the other two.
        distances: int32 [M].
        ids: int64 [M], gallery rows.

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape or device, or a negative radius. Negative numbers in a tensor on a GPU raise only with
            ORTHOHASH_VALIDATE=1; otherwise they find nothing.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> queries = torch.tensor([[0b1111], [0b0000]], dtype=torch.uint8)
        >>> gallery = torch.tensor([[0b0011], [0b0111], [0b0000]], dtype=torch.uint8)
        >>> lims, distances, ids = oht.hamming_range(queries, gallery, 2, inclusive=True)
        >>> lims, distances, ids
        (tensor([0, 2, 4]), tensor([1, 2, 0, 2], dtype=torch.int32), tensor([1, 0, 2, 0]))
    """
    queries, gallery = checks.code_pair("hamming_range", queries, gallery)
    mask = checks.gallery_mask("hamming_range", mask, gallery)
    limits = limits_of(radius, inclusive, queries)
    return _range(queries, gallery, mask, limits, impl)


def limits_of(radius: Any, inclusive: bool, queries: Tensor) -> Tensor:
    """Return the distances below which codes are found, int32 [Q], at most bits + 1."""
    beyond = 8 * queries.shape[1] + 1
    if isinstance(radius, list | tuple):
        raise TypeError(
            "hamming_range: radius must be an integer, or an integer tensor or array [Q], one radius a query; "
            f"got {checks.describe(radius)}. Make it a tensor with torch.tensor(radius)"
        )
    if not isinstance(radius, Tensor) or radius.ndim == 0:
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

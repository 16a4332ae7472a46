"""Exact search for the k nearest codes."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ..kernels.missing import MISSING_DISTANCE, MISSING_ID
from ._registered import registered
from .dispatch import choose, implementation

_ENTRY_BYTES = 12  # int32 distance and int64 id
_MOST_MISSING_BYTES = 2**30


@numpy_friendly
def hamming_topk(queries: Any, gallery: Any, k: int, *, mask: Any = None, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Return the k gallery codes with the smallest Hamming distance to each query.

    The search is exact. The result is in the order (distance ascending, row ascending), whatever the implementation, the device
    or the number of threads. NumPy arrays are accepted; the results are then arrays.

    Args:
        queries: uint8 [Q, B], packed codes (see `pack_codes`).
        gallery: uint8 [N, B], packed codes of the same width, on the same device.
        k: number of codes to find, 1 .. 2**31 - 1. To get all, pass len(gallery): a result in which more than 1 GiB would be
            missing entries is refused.
        mask: bool [N], True for the gallery rows that may be found; None for all.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        distances: int32 [Q, k].
        ids: int64 [Q, k], gallery rows. Where fewer than k rows can be found, the remaining entries are distance 2**31 - 1 and id
            -1, as in FAISS.

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape or device, or k < 1, or a k that is far above the number of codes.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> queries = torch.tensor([[0b1111]], dtype=torch.uint8)
        >>> gallery = torch.tensor([[0b0011], [0b0111], [0b0000]], dtype=torch.uint8)
        >>> distances, ids = oht.hamming_topk(queries, gallery, 2)
        >>> distances, ids
        (tensor([[1, 2]], dtype=torch.int32), tensor([[1, 0]]))
    """
    queries, gallery = checks.code_pair("hamming_topk", queries, gallery)
    k = checks.integer("hamming_topk", "k", k, minimum=1, maximum=MISSING_DISTANCE)
    return _topk(queries, gallery, k, checks.gallery_mask("hamming_topk", mask, gallery), None, impl)


def check_missing(op: str, k: int, queries: int, gallery: int) -> None:
    """Raise ValueError if more than 1 GiB of the result of a search for the `k` nearest codes would be missing entries."""
    missing = queries * max(k - gallery, 0) * _ENTRY_BYTES
    if missing > _MOST_MISSING_BYTES:
        raise ValueError(
            f"{op}: k is {k}, but there are only {gallery} codes to find: the result for {queries} queries would have "
            f"{missing / 2**30:.1f} GiB of missing entries. Pass min(k, {max(gallery, 1)})"
        )


def nearest(
    queries: Tensor, gallery: Tensor, k: int, *, mask: Tensor | None = None, limits: Tensor | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Find the k nearest codes that are nearer than their query's limit, int32 [Q], without checks of the arguments.

    A search that goes through a gallery chunk by chunk passes the distances that it already has as limits.
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
    """Run the chosen implementation; an empty gallery gives only missing entries."""
    check_missing("hamming_topk", k, len(queries), len(gallery))
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

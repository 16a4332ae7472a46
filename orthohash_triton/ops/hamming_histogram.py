"""Numbers of gallery codes at each Hamming distance."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation


@numpy_friendly
def hamming_histogram(queries: Any, gallery: Any, *, impl: str = "auto") -> Tensor:
    """Return the number of gallery codes at each Hamming distance from each query.

    NumPy arrays are accepted; the result is then an array.

    Args:
        queries: uint8 [Q, B], packed codes (see `pack_codes`).
        gallery: uint8 [N, B], packed codes of the same width, on the same device.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        int64 [Q, 8 * B + 1]; entry d is the number of codes that differ from the query in d bits.

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape or device.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> queries = torch.tensor([[0b1111]], dtype=torch.uint8)
        >>> gallery = torch.tensor([[0b0111], [0b1110], [0b0000]], dtype=torch.uint8)
        >>> oht.hamming_histogram(queries, gallery)
        tensor([[0, 2, 0, 0, 1, 0, 0, 0, 0]])
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

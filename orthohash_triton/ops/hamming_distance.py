"""All Hamming distances between two sets of packed codes."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation


@numpy_friendly
def hamming_distance(queries: Any, gallery: Any, *, impl: str = "auto") -> Tensor:
    """Return the Hamming distance between each query and each gallery code: the number of bits that differ.

    NumPy arrays are accepted; the result is then an array.

    Args:
        queries: uint8 [Q, B], packed codes (see `pack_codes`).
        gallery: uint8 [N, B], packed codes of the same width, on the same device.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        int32 [Q, N].

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape or device.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> queries = torch.tensor([[0b1111]], dtype=torch.uint8)
        >>> gallery = torch.tensor([[0b0111], [0b0000]], dtype=torch.uint8)
        >>> oht.hamming_distance(queries, gallery)
        tensor([[1, 4]], dtype=torch.int32)
    """
    return _distance(*checks.code_pair("hamming_distance", queries, gallery), impl)


def _fake(queries: Tensor, gallery: Tensor, impl: str) -> Tensor:
    return queries.new_empty(queries.shape[0], gallery.shape[0], dtype=torch.int32)


def _forward(queries: Tensor, gallery: Tensor, impl: str) -> Tensor:
    chosen = choose("hamming_distance", impl, queries)
    module = implementation("hamming_distance", chosen)
    if chosen == "reference":
        return module.hamming_distance(queries, gallery)
    distances = _fake(queries, gallery, impl)
    if distances.numel() > 0:
        module.hamming_distance(queries, gallery, distances)
    return distances


_distance = registered("hamming_distance", _forward, fake=_fake)

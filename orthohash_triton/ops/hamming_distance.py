"""Pairwise Hamming distances of packed codes."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation


@numpy_friendly
def hamming_distance(queries: Any, gallery: Any, *, impl: str = "auto") -> Tensor:
    """In how many bits each query differs from each gallery code.

    queries uint8 [Q, B], gallery uint8 [N, B]: packed codes (see pack_codes) of one width, on one device. Returns int32 [Q, N].

    numpy in, numpy out. Raises TypeError for another dtype, ValueError for another shape or device.
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

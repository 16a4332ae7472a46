"""Exact search for all pairs of near codes among the codes of one set."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation

MOST_CODES = 2**31 - 1


@numpy_friendly
def hamming_self_join(codes: Any, radius: Any, *, inclusive: bool = True, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Return all pairs of codes whose Hamming distance is within a radius.

    The search is exact, and its cost depends on what lies near: codes within `radius` bits are equal on at least one of
    radius + 1 substrings, so that only codes with an equal substring, or several of them, are compared; equal codes are compared
    once. For a large radius every pair is compared. NumPy arrays are accepted; the results are then arrays.

    Args:
        codes: uint8 [N, B], packed codes (see `pack_codes`), N < 2**31.
        radius: bits, 0 or more. Codes at the radius itself are found, too.
        inclusive: with False, only codes nearer than `radius` are found, as in FAISS and by default in `hamming_range`.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        pairs: int64 [M, 2], the rows i < j of each pair, in ascending order (i, j).
        distances: int32 [M].

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape, a negative radius or more codes.
        MemoryError: if the pairs need more memory than is free. It is raised before the answer is made, and says how many pairs
            there are. `search.near_duplicates` keeps no pairs.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> codes = torch.tensor([[0b0011], [0b1111], [0b0111], [0b0011]], dtype=torch.uint8)
        >>> pairs, distances = oht.hamming_self_join(codes, 1)
        >>> pairs.tolist(), distances.tolist()
        ([[0, 2], [0, 3], [1, 2], [2, 3]], [1, 0, 1, 1])
    """
    codes, limit = join_arguments("hamming_self_join", codes, radius, inclusive)
    return _join(codes, limit, impl)


def join_arguments(op: str, codes: Any, radius: Any, inclusive: bool) -> tuple[Tensor, int]:
    """Return checked codes, and the distance below which two codes are near, at most bits + 1."""
    codes = checks.codes(op, "codes", codes)
    if len(codes) > MOST_CODES:
        raise ValueError(f"{op}: codes must have at most {MOST_CODES:,} rows; got {len(codes):,}. Join a part of them at a time")
    radius = checks.integer(op, "radius", radius, minimum=0)
    return codes, min(radius + bool(inclusive), 8 * codes.shape[1] + 1)


def _fake(codes: Tensor, limit: int, impl: str) -> tuple[Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size()
    return codes.new_empty((found, 2), dtype=torch.int64), codes.new_empty(found, dtype=torch.int32)


def _forward(codes: Tensor, limit: int, impl: str) -> tuple[Tensor, Tensor]:
    chosen = choose("hamming_self_join", impl, codes)
    if chosen != "reference" and (len(codes) < 2 or limit == 0):
        return codes.new_empty((0, 2), dtype=torch.int64), codes.new_empty(0, dtype=torch.int32)
    return implementation("hamming_self_join", chosen).hamming_self_join(codes, limit)


_join = registered("hamming_self_join", _forward, fake=_fake)

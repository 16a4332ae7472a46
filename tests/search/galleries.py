"""Galleries that several tests search."""

from collections.abc import Sequence

import numpy as np

from orthohash_triton.search import HammingIndex


def codes(count: int, bits: int = 64, seed: int = 0) -> np.ndarray:
    """Return random packed codes, uint8 [count, bits/8]."""
    return np.random.default_rng(seed).integers(0, 256, (count, bits // 8), dtype=np.uint8)


def filled(count: int = 300, bits: int = 64, ids: Sequence[int] | np.ndarray | None = None) -> HammingIndex:
    """Return an index that holds `codes(count, bits)`, under `ids` if they are given."""
    index = HammingIndex(bits)
    if ids is None:
        index.add(codes(count, bits))
    else:
        index.add_with_ids(codes(count, bits), ids)
    return index

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


KINDS = ("uniform", "trained", "tied", "equal", "adversarial")


def made(kind: str, count: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of one of KINDS, uint8 [count, width], and centres for them, uint8 [C, width].

    "trained" codes are near to one of the centres, and often equal; "adversarial" ones have one distance from all centres.
    """
    words = rng.integers(0, 256, (6, width), dtype=np.uint8)
    if kind == "uniform":
        return rng.integers(0, 256, (count, width), dtype=np.uint8), words
    if kind == "tied":
        return np.packbits(rng.integers(0, 2, (count, 8 * width)) * (np.arange(8 * width) < 3), axis=1), words
    if kind == "equal":
        return np.repeat(words[:1], count, 0), words
    if kind == "trained":
        return words[rng.integers(0, 6, count)] ^ np.packbits(rng.random((count, 8 * width)) < 0.04, axis=1), words
    half = rng.integers(0, 2, (count, 4 * width))
    return np.packbits(np.concatenate([half, 1 - half], 1), axis=1), np.array([[0] * width, [255] * width], np.uint8)

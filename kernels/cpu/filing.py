"""The build of a `Filing` on a CPU."""

import numpy as np
import torch
from torch import Tensor

from ..filing import Filing
from ._bits import compiled, popcount
from ._blocks import as_array, in_words
from ._radix import sorted_order


def filed(codes: Tensor, centres: Tensor) -> Filing:
    """Return a filing of `codes`, uint8 [N, B], under the distinct ones of `centres`, uint8 [C, B]."""
    packed = as_array(codes)
    words = np.unique(as_array(centres), axis=0)
    order = sorted_order(packed)
    by_code = packed[order]
    is_new = np.ones(len(packed), np.bool_)
    is_new[1:] = (by_code[1:] != by_code[:-1]).any(1)
    firsts = np.flatnonzero(is_new)
    entries = by_code[firsts]
    counts = np.diff(firsts, append=len(packed))
    centre, distance = _nearest_centres(entries, words)
    by_ring = np.lexsort((distance, centre))
    positions = np.concatenate([order[firsts[entry] : firsts[entry] + counts[entry]] for entry in by_ring] or [order])
    return _filing(entries[by_ring], counts[by_ring], positions, words, centre[by_ring], distance[by_ring])


def _nearest_centres(entries: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest centre of each entry and the distance from it."""
    found = np.empty(len(entries), np.int64), np.empty(len(entries), np.int64)
    _find_nearest(in_words(entries), in_words(centres), *found)
    return found


@compiled
def _find_nearest(entries, centres, nearest, distances):
    for i in range(entries.shape[0]):
        distances[i] = 64 * entries.shape[1] + 1
        for centre in range(centres.shape[0]):
            distance = np.int64(0)
            for word in range(centres.shape[1]):
                distance += popcount(entries[i, word] ^ centres[centre, word])
            if distance < distances[i]:
                nearest[i], distances[i] = centre, distance


def _filing(
    entries: np.ndarray, counts: np.ndarray, positions: np.ndarray, centres: np.ndarray, centre: np.ndarray, distance: np.ndarray
) -> Filing:
    """Return a filing of entries that are in the order of rings, [E] each."""
    bits = 8 * centres.shape[1]
    entries_at = np.bincount(centre * (bits + 1) + distance, minlength=len(centres) * (bits + 1)).reshape(len(centres), -1)
    has_entries = entries_at > 0
    nearest = has_entries.argmax(1)
    farthest = bits - has_entries[:, ::-1].argmax(1)
    rings = np.where(has_entries.any(1), farthest - nearest + 1, 0)
    within = (np.arange(bits + 1) >= nearest[:, None]) & (np.arange(bits + 1) < (nearest + rings)[:, None])
    kind = np.int32 if len(positions) < 2**31 else np.int64
    return Filing(
        torch.from_numpy(np.ascontiguousarray(entries)),
        torch.from_numpy(_starts(counts)),
        torch.from_numpy(positions.astype(kind)),
        torch.from_numpy(centres),
        torch.from_numpy(_starts(entries_at[within])),
        torch.from_numpy(np.nonzero(within)[1].astype(np.int32)),
        torch.from_numpy(_starts(rings)),
    )


def _starts(counts: np.ndarray) -> np.ndarray:
    """Return where each of consecutive parts begins, and where the last one ends: int64 [P + 1]."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts

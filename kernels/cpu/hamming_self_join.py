"""All pairs of near codes on a CPU: equal codes are joined once, and pairs of distinct codes are found by equal substrings."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .._self_join import require_room_for
from .._substrings import expected_pairs, sampled
from ._blocks import as_array, in_words
from ._entries import Entries, entries_of, equal_pairs, expanded, pairs_of_positions
from ._near_entries import find_near, plan_for, steps
from .components import labels

_HOST = torch.device("cpu")


def hamming_self_join(codes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the pairs of codes nearer than `limit`: (pairs int64 [M, 2], i < j, ascending; distances int32 [M]).

    codes: uint8 [N, B], N < 2**31; limit: 0 .. 8 B + 1.

    Raises:
        MemoryError: if the answer does not fit into the memory that is free, before it is made.
    """
    count = len(codes)
    if limit == 0 or count < 2:
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.int32)
    words = _words(codes)
    likely = expected_pairs(words[sampled(count)], count, limit)
    require_room_for(likely // 2, 0, count, limit, _HOST, f"about {likely:,} pairs are expected; half of them, ")
    entries = entries_of(words)
    require_room_for(equal_pairs(entries), 0, count, limit, _HOST)
    pairs, distances = expanded(entries, _near(entries, limit))
    return torch.from_numpy(pairs), torch.from_numpy(distances)


def _near(entries: Entries, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the pairs of different entries in chunks, while there is memory for the pairs of positions they stand for."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    total, kept = equal_pairs(entries), 0

    def take(pairs: np.ndarray, distances: np.ndarray) -> bool:
        nonlocal total, kept
        total, kept = total + pairs_of_positions(pairs, entries.starts), kept + len(pairs)
        require_room_for(total, kept, len(entries.of), limit, _HOST, "at least ")
        found.append((pairs, distances))
        return True

    if limit > 1 and len(entries) > 1:
        find_near(entries.codes, limit, plan_for(entries.codes, limit), take)
    return found


def near_components(
    codes: Tensor, limit: int, unite: Callable[[np.ndarray, np.ndarray], int], report: Callable[[int, int], None]
) -> Tensor:
    """Return the first position, int64 [N], of the connected component of each code, where codes nearer than `limit` are linked.

    codes: uint8 [N, B], N < 2**31; limit: 0 .. 8 B + 1. No pair is kept. unite: `components.unite`. report: called with the
    steps done and all steps.
    """
    if limit == 0 or len(codes) < 2:
        return torch.arange(len(codes))
    entries = entries_of(_words(codes))
    parents = np.arange(len(entries), dtype=np.int32)
    if limit > 1 and len(entries) > 1:
        chosen = plan_for(entries.codes, limit)
        left, done, total = len(entries), 0, steps(len(entries), chosen)

        def take(pairs: np.ndarray, distances: np.ndarray) -> bool:
            nonlocal left
            left -= unite(parents, pairs)
            return left > 1

        def advance() -> None:
            nonlocal done
            done += 1
            report(done, total)

        find_near(entries.codes, limit, chosen, take, advance)
    groups = np.empty(len(codes), np.int64)
    labels(parents, entries.of, entries.positions, entries.starts, groups)
    return torch.from_numpy(groups)


def _words(codes: Tensor) -> np.ndarray:
    """Return codes as words, uint64 [N, W]; a view where they are whole, aligned words."""
    array = as_array(codes)
    if array.shape[1] % 8 == 0 and array.ctypes.data % 8 == 0:
        return array.view(np.uint64)
    return in_words(array)

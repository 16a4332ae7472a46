"""The memory for the answer of a self-join, which its implementations share."""

import torch

from ._memory import require_room

_PAIR_BYTES = 20  # a pair of positions and its distance
_FOUND_BYTES = 20  # a pair of distinct codes: as it is found, and as a neighbour in the list of one of them


def require_room_for(pairs: int, found: int, codes: int, limit: int, device: torch.device, how_many: str = "") -> None:
    """Raise MemoryError if there is not enough memory for an answer of `pairs` pairs, `found` of them of different codes."""
    require_room(
        "hamming_self_join",
        _PAIR_BYTES * pairs + _FOUND_BYTES * found,
        device,
        f"{how_many}{pairs:,} pairs of the {codes:,} codes are nearer than {limit} bits",
        "Lower the radius, join a part of the codes at a time, or use search.near_duplicates, which keeps no pairs",
    )

"""Codes filed by their distance from centres, so that an exact search meets only those that can be near a query."""

from typing import NamedTuple

from torch import Tensor


class Filing(NamedTuple):
    """The codes of a gallery: equal ones as one entry, and the entries in rings of equal distance around centres.

    Every entry of a ring at distance r from its centre c is at distance |d(q, c) - r| or more from a query q (the triangle
    inequality). So a search is exact whatever the assignment of entries to centres, and near codes of a query are met early if an
    entry's centre is near to it.

    All tensors are on one device. An empty gallery has no entries, no rings and one centre.
    """

    entries: Tensor  # uint8 [E, B]: the distinct codes, in the order (centre, distance from it, code)
    entry_starts: Tensor  # int64 [E + 1]: where the positions of each entry begin in `positions`
    positions: Tensor  # int32 [N] (int64 from 2**31 codes on): positions in the gallery, ascending within an entry
    centres: Tensor  # uint8 [C, B], C >= 1
    ring_starts: Tensor  # int64 [R + 1]: the first entry of each ring; a ring may be empty
    ring_distances: Tensor  # int32 [R]: distance of a ring's entries from its centre; consecutive numbers within a centre
    centre_rings: Tensor  # int64 [C + 1]: the first ring of each centre

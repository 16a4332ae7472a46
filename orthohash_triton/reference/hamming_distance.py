"""Hamming distances from codes unpacked to +-1."""

from torch import Tensor

from .pack_codes import unpack_codes


def hamming_distance(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return how many bits of the codes uint8 [Q, B] and [N, B] differ, int32 [Q, N]."""
    bits = 8 * queries.shape[1]
    return (unpack_codes(queries, bits)[:, None] != unpack_codes(gallery, bits)[None]).sum(-1).int()

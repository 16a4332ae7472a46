"""Hamming distances from the codes spelt out as +-1."""

from torch import Tensor

from .pack_codes import unpack_codes


def hamming_distance(queries: Tensor, gallery: Tensor) -> Tensor:
    """int32 [Q, N]: in how many bits the codes uint8 [Q, B] and [N, B] differ."""
    bits = 8 * queries.shape[1]
    return (unpack_codes(queries, bits)[:, None] != unpack_codes(gallery, bits)[None]).sum(-1).int()

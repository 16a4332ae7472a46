"""Packed codes, bit by bit: bit j of byte i is dimension 8i + j, and 1 stands for +1."""

import torch
from torch import Tensor


def pack_codes(x: Tensor, threshold: float = 0.0) -> Tensor:
    """uint8 [N, ceil(K/8)] with a bit for each x > threshold; True counts as above, the bits that fill the last byte are 0."""
    above = x if x.dtype == torch.bool else x > threshold
    packed = torch.zeros(x.shape[0], -(-x.shape[1] // 8), dtype=torch.uint8, device=x.device)
    for dimension in range(x.shape[1]):
        packed[:, dimension // 8] |= above[:, dimension].to(torch.uint8) << dimension % 8
    return packed


def unpack_codes(packed: Tensor, bits: int) -> Tensor:
    """int8 [N, bits] of +-1."""
    dimensions = torch.arange(bits, device=packed.device)
    set_bits = packed[:, dimensions // 8] >> (dimensions % 8).to(torch.uint8) & 1
    return 2 * set_bits.to(torch.int8) - 1


def from_packbits(packed: Tensor) -> Tensor:
    """Big bit order to little: byte 0b10000000 becomes 0b00000001."""
    return torch.stack([(packed >> place & 1) << 7 - place for place in range(8)]).sum(0).to(torch.uint8)

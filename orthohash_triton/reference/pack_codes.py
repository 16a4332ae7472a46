"""Packing of codes bit by bit: bit j of byte i is dimension 8i + j, and 1 means +1."""

import torch
from torch import Tensor


def pack_codes(x: Tensor, threshold: float = 0.0) -> Tensor:
    """Return uint8 [N, ceil(K/8)] with a bit for each x > threshold, or for each True; unused bits are 0."""
    above = x if x.dtype == torch.bool else x > threshold
    packed = torch.zeros(x.shape[0], -(-x.shape[1] // 8), dtype=torch.uint8, device=x.device)
    for dimension in range(x.shape[1]):
        packed[:, dimension // 8] |= above[:, dimension].to(torch.uint8) << dimension % 8
    return packed


def unpack_codes(packed: Tensor, bits: int) -> Tensor:
    """Return the signs int8 [N, bits] of packed codes uint8 [N, ceil(bits/8)]."""
    dimensions = torch.arange(bits, device=packed.device)
    set_bits = packed[:, dimensions // 8] >> (dimensions % 8).to(torch.uint8) & 1
    return 2 * set_bits.to(torch.int8) - 1


def from_packbits(packed: Tensor, signed: bool = False) -> Tensor:
    """Reverse the bits of each byte: 0b10000000 becomes 0b00000001. With `signed` 128 was subtracted from each byte, int8."""
    packed = packed.int() + 128 * signed
    return torch.stack([(packed >> place & 1) << 7 - place for place in range(8)]).sum(0).to(torch.uint8)

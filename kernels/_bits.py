"""Packed codes as 32-bit words, and the number of their set bits."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def as_words(codes: Tensor) -> Tensor:
    """Return uint8 codes [N, B] as 32-bit words, int32 [N, ceil(B/4)], padded with zeros.

    The result is a view if the codes are whole, aligned words, and otherwise a copy.
    """
    padding = -codes.shape[1] % 4
    if padding:
        codes = torch.nn.functional.pad(codes, (0, padding))
    codes = codes.contiguous()
    if codes.device.type != "meta" and codes.data_ptr() % 4:
        codes = codes.clone()
    return codes.view(torch.int32)


@triton.jit
def popcount(x):
    """Return the number of set bits of 32-bit words, int32. Every backend compiles this pattern to one instruction."""
    x = x.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32, bitcast=True)

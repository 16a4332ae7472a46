"""What the kernels on packed codes share: codes as 32-bit words, and distances of a tile."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def as_words(codes: Tensor) -> Tensor:
    """uint8 [N, B] -> int32 [N, ceil(B/4)], filled up with zeros; without a copy where the codes lie in whole, aligned words."""
    padding = -codes.shape[1] % 4
    if padding:
        codes = torch.nn.functional.pad(codes, (0, padding))
    codes = codes.contiguous()
    if codes.device.type != "meta" and codes.data_ptr() % 4:
        codes = codes.clone()
    return codes.view(torch.int32)


@triton.jit
def popcount(x):
    """Set bits of 32-bit words. Every back end knows this idiom and makes one instruction of it."""
    x = x.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32, bitcast=True)

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


@triton.jit
def tile_distances(queries, gallery, query_rows, query_live, rows, live, WORDS: tl.constexpr):
    """int32 [BLOCK_Q, BLOCK_N] from codes of WORDS int32 words; row numbers are int64, dead rows read as zeros."""
    differing = tl.zeros([query_rows.shape[0], rows.shape[0]], tl.int32)
    for word in range(WORDS):
        query_words = tl.load(queries + (query_rows * WORDS + word), mask=query_live, other=0)  # [BLOCK_Q]
        words = tl.load(gallery + (rows * WORDS + word), mask=live, other=0)  # [BLOCK_N]
        differing += popcount(query_words[:, None] ^ words[None, :])
    return differing

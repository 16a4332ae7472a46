"""Packing of signs into bits, and unpacking, with Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._sizes import cdiv
from .launch import launch

_BLOCK_M, _BLOCK_BYTES = 32, 8  # rows, and bytes of packed codes, of a program


def pack_codes(x: Tensor, threshold: float, packed: Tensor) -> None:
    """Set a bit in `packed` uint8 [N, ceil(K/8)] for every x > threshold [N, K], or for every True of a bool x."""
    if x.dtype == torch.bool:
        x, threshold = x.view(torch.uint8), 0.0
    # PyTorch compares in the dtype of x, or in float32 for integers. A tensor holds the threshold in that dtype, because Triton
    # passes a Python float as float32.
    dtype = x.dtype if x.dtype.is_floating_point else torch.float32
    bound = torch.full((1,), threshold, dtype=dtype, device=x.device)
    launch(_pack, _grid(packed.shape), x, bound, packed, *x.shape, packed.shape[1], *x.stride(),
           BLOCK_M=_BLOCK_M, BLOCK_BYTES=_BLOCK_BYTES, DOUBLE=dtype == torch.float64)  # fmt: skip


def unpack_codes(packed: Tensor, signs: Tensor) -> None:
    """Fill int8 `signs` [N, bits] with +-1 from `packed` uint8 [N, ceil(bits/8)]."""
    launch(_unpack, _grid(packed.shape), packed, signs, *signs.shape, packed.shape[1], *packed.stride(),
           BLOCK_M=_BLOCK_M, BLOCK_BYTES=_BLOCK_BYTES)  # fmt: skip


def _grid(shape: tuple[int, ...]) -> tuple[int]:
    rows, width = shape
    return (cdiv(rows, _BLOCK_M) * cdiv(width, _BLOCK_BYTES),)


@triton.jit(do_not_specialize=["rows"])
def _pack(
    x, bound,  # [N, K] with any strides; [1] in the dtype of the comparison
    packed,  # out: uint8 [N, ceil(K/8)]
    rows, bits, width, row_stride, bit_stride,
    BLOCK_M: tl.constexpr, BLOCK_BYTES: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """Pack BLOCK_BYTES bytes of BLOCK_M rows. DOUBLE: x is float64 and compared in float64."""
    tiles = tl.cdiv(width, BLOCK_BYTES)
    row = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    first_byte = (tl.program_id(0) % tiles) * BLOCK_BYTES
    bit = first_byte * 8 + tl.arange(0, 8 * BLOCK_BYTES)
    live = (row < rows)[:, None] & (bit < bits)[None, :]
    value = tl.load(x + (row[:, None] * row_stride + bit[None, :].to(tl.int64) * bit_stride), mask=live, other=0)
    limit = tl.load(bound)
    if not DOUBLE:
        value, limit = value.to(tl.float32), limit.to(tl.float32)
    placed = (live & (value > limit)).to(tl.int32) << (bit % 8)[None, :]
    bytes_ = tl.sum(tl.reshape(placed, [BLOCK_M, BLOCK_BYTES, 8]), axis=2).to(tl.uint8)
    byte = first_byte + tl.arange(0, BLOCK_BYTES)
    tl.store(packed + (row[:, None] * width + byte[None, :]), bytes_, mask=(row < rows)[:, None] & (byte < width)[None, :])


@triton.jit(do_not_specialize=["rows"])
def _unpack(
    packed,  # uint8 [N, ceil(K/8)] with any strides
    signs,  # out: int8 [N, K]
    rows, bits, width, row_stride, byte_stride,
    BLOCK_M: tl.constexpr, BLOCK_BYTES: tl.constexpr,
):  # fmt: skip
    """Unpack BLOCK_BYTES bytes of BLOCK_M rows."""
    tiles = tl.cdiv(width, BLOCK_BYTES)
    row = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    bit = (tl.program_id(0) % tiles) * BLOCK_BYTES * 8 + tl.arange(0, 8 * BLOCK_BYTES)
    live = (row < rows)[:, None] & (bit < bits)[None, :]
    byte = tl.load(packed + (row[:, None] * row_stride + (bit // 8)[None, :] * byte_stride), mask=live, other=0).to(tl.int32)
    sign = 2 * ((byte >> (bit % 8)[None, :]) & 1) - 1
    tl.store(signs + (row[:, None] * bits + bit[None, :]), sign.to(tl.int8), mask=live)

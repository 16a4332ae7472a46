"""Packed codes: one bit a dimension."""

import numbers
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation

_PACKABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool)


@numpy_friendly
def pack_codes(x: Any, *, threshold: float = 0.0, impl: str = "auto") -> Tensor:
    """Pack the signs of `x` into bits.

    x: float, int8 or bool [N, K], on any device. Returns uint8 [N, ceil(K/8)] in little bit order: bit j of byte i is dimension
    8i + j, and it is 1 where x > threshold (NaN: 0) or x is True. The bits that fill up the last byte are 0.

    numpy in, numpy out. Raises TypeError for another dtype, ValueError for another shape.
    """
    x = checks.tensor("pack_codes", "x", x, dtypes=_PACKABLE, ndim=2, shape="[N, K]")
    if x.shape[1] == 0:
        raise ValueError(f"pack_codes: x must have at least one dimension to pack; got {checks.describe(x)}")
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError(f"pack_codes: threshold must be a number; got {checks.describe(threshold)}")
    return _pack(x.detach(), float(threshold), impl)


@numpy_friendly
def unpack_codes(packed: Any, bits: int, *, impl: str = "auto") -> Tensor:
    """Packed codes back to signs: uint8 [N, ceil(bits/8)] -> int8 [N, bits] of +-1.

    Raises ValueError where `bits` does not go with the width of `packed`.
    """
    packed = checks.codes("unpack_codes", "packed", packed)
    bits = checks.integer("unpack_codes", "bits", bits, minimum=1)
    if packed.shape[1] != _bytes(bits):
        raise ValueError(
            f"unpack_codes: codes of {bits} bits take {_bytes(bits)} bytes; got packed {checks.describe(packed)}. "
            f"Give bits between {8 * packed.shape[1] - 7} and {8 * packed.shape[1]}"
        )
    return _unpack(packed, bits, impl)


@numpy_friendly
def from_packbits(packed: Any) -> Tensor:
    """Codes packed by `numpy.packbits` with its default bit order, "big", in the order of this package: each byte is reversed.

    uint8 [N, B] -> uint8 [N, B]. Codes of two bit orders must not be compared: their distances are wrong without an error.
    """
    packed = checks.codes("from_packbits", "packed", packed)
    for shift, low_bits in ((4, 0x0F), (2, 0x33), (1, 0x55)):
        packed = (packed & low_bits) << shift | packed >> shift & low_bits
    return packed


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def _fake_pack(x: Tensor, threshold: float, impl: str) -> Tensor:
    return x.new_empty(x.shape[0], _bytes(x.shape[1]), dtype=torch.uint8)


def _pack_forward(x: Tensor, threshold: float, impl: str) -> Tensor:
    chosen = choose("pack_codes", impl, x)
    module = implementation("pack_codes", chosen)
    if chosen == "reference":
        return module.pack_codes(x, threshold)
    packed = _fake_pack(x, threshold, impl)
    module.pack_codes(x, threshold, packed)
    return packed


def _fake_unpack(packed: Tensor, bits: int, impl: str) -> Tensor:
    return packed.new_empty(packed.shape[0], bits, dtype=torch.int8)


def _unpack_forward(packed: Tensor, bits: int, impl: str) -> Tensor:
    chosen = choose("unpack_codes", impl, packed)
    module = implementation("pack_codes", chosen)
    if chosen == "reference":
        return module.unpack_codes(packed, bits)
    signs = _fake_unpack(packed, bits, impl)
    module.unpack_codes(packed, signs)
    return signs


_pack = registered("pack_codes", _pack_forward, fake=_fake_pack)
_unpack = registered("unpack_codes", _unpack_forward, fake=_fake_unpack)

"""Packing of codes into one bit per dimension, and unpacking."""

import math
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import numpy_friendly
from ._registered import registered
from .dispatch import choose, implementation

_PACKABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool)


@numpy_friendly
def pack_codes(x: Any, *, threshold: float = 0.0, refuse_nan: bool = False, impl: str = "auto") -> Tensor:
    """Pack the signs of `x` into bits, eight dimensions per byte.

    The bit order is little: bit j of byte i is dimension 8i + j. NumPy arrays are accepted; the result is then an array.

    Args:
        x: float, int8 or bool [N, K], on any device: one entry per bit. Binary embeddings of int8, which have eight bits per
            entry, are packed already: see `from_packbits`.
        threshold: a bit is 1 where x > threshold, compared in the dtype of x. For a bool x it is 1 where x is True.
        refuse_nan: raise ValueError if x has an entry that is NaN. Otherwise its bit is 0, as NaN is not above the threshold: the
            codes of a model that diverged look like any others. The check reads x, which waits for a GPU, and is left out while
            PyTorch traces a graph.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        uint8 [N, ceil(K/8)]. The unused bits of the last byte are 0.

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape, a threshold that is NaN, or with `refuse_nan` an entry that is NaN.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> oht.pack_codes(torch.tensor([[0.5, -1.0, 2.0, 0.0], [-1.0, -1.0, -1.0, 3.0]]))
        tensor([[5],
                [8]], dtype=torch.uint8)
    """
    x = checks.tensor("pack_codes", "x", x, dtypes=_PACKABLE, ndim=2, shape="[N, K]")
    if x.shape[1] == 0:
        raise ValueError(f"pack_codes: x must have at least one dimension to pack; got {checks.describe(x)}")
    threshold = checks.number("pack_codes", "threshold", threshold)
    if math.isnan(threshold):
        raise ValueError("pack_codes: threshold must be a number; got nan, above which nothing is")
    x = x.detach()
    if refuse_nan and x.is_floating_point() and checks.has_values(x):
        _require_numbers(x)
    return _pack(x, threshold, impl)


def _require_numbers(x: Tensor) -> None:
    """Raise ValueError if x [N, K] has an entry that is NaN."""
    found = x.isnan().any(1)
    if bool(found.any()):
        raise ValueError(
            f"pack_codes: x has NaN in {int(found.sum())} of {len(x)} rows, first in row {int(found.int().argmax())}. "
            "A model that diverged, or features that are NaN, give such rows; with refuse_nan=False their bits are 0"
        )


@numpy_friendly
def unpack_codes(packed: Any, bits: int, *, impl: str = "auto") -> Tensor:
    """Unpack codes to signs: uint8 [N, ceil(bits/8)] -> int8 [N, bits] of +-1.

    NumPy arrays are accepted; the result is then an array.

    Raises:
        TypeError: for another dtype.
        ValueError: where `bits` does not fit the width of `packed`.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> oht.unpack_codes(torch.tensor([[0b0101]], dtype=torch.uint8), bits=4)
        tensor([[ 1, -1,  1, -1]], dtype=torch.int8)
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
def from_packbits(packed: Any, *, signed: bool = False) -> Tensor:
    """Convert codes that `numpy.packbits` packed with its default bit order, "big", to the order of this package.

    The bits of each byte are reversed. Do not compare codes of two bit orders: their distances are wrong, and nothing reports it.
    NumPy arrays are accepted; the result is then an array.

    Args:
        packed: uint8 [N, B]; with `signed` int8 [N, B].
        signed: Whether 128 was subtracted from each byte, as in embeddings of the precision "binary" of sentence-transformers
            and of services that follow it ("ubinary" is uint8). Bytes of `packbits` that are merely read as int8 are something
            else: convert them with `.view(np.uint8)` or `.view(torch.uint8)`, and leave `signed` out.

    Returns:
        uint8 [N, B].

    Raises:
        TypeError: for another dtype; int8 needs `signed`, because it does not show which of the two kinds it is.
        ValueError: for another shape.

    Example:
        >>> import numpy as np
        >>> import orthohash_triton as oht
        >>> signs = np.array([[1, -1, 1, -1]])
        >>> oht.from_packbits(np.packbits(signs > 0, axis=1))
        array([[5]], dtype=uint8)
        >>> embedding = np.array([[32]], np.int8)  # model.encode(text, precision="binary")
        >>> oht.from_packbits(embedding, signed=True)
        array([[5]], dtype=uint8)
    """
    if not isinstance(signed, bool):
        raise TypeError(f"from_packbits: signed must be True or False; got {checks.describe(signed)}")
    expected = torch.int8 if signed else torch.uint8
    packed = checks.tensor(
        "from_packbits",
        "packed",
        packed,
        dtypes=(expected,),
        ndim=2,
        shape="[N, bits/8]",
        advice=_packbits_advice(packed, signed),
    )
    if signed:
        packed = packed.view(torch.uint8) ^ 0x80  # adds 128
    packed = checks.codes("from_packbits", "packed", packed)
    for shift, low_bits in ((4, 0x0F), (2, 0x33), (1, 0x55)):
        packed = (packed & low_bits) << shift | packed >> shift & low_bits
    return packed


def _packbits_advice(packed: Any, signed: bool) -> str:
    """Return what the message about `packed` of another dtype recommends."""
    dtype = getattr(packed, "dtype", None)
    if signed and dtype == torch.uint8:
        return "Bytes from 0 to 255 have no sign: leave out signed=True"
    if dtype == torch.int8:
        return (
            "Pass signed=True if 128 was subtracted from each byte (binary embeddings of sentence-transformers and others), "
            "or view the bytes as uint8 if they are merely read as int8"
        )
    return "Pack real numbers, signs or bools with pack_codes"


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

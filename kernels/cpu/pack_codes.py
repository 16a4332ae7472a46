"""Packing on a CPU: NumPy packs and unpacks bits in vectors already."""

import numpy as np
import torch
from torch import Tensor


def pack_codes(x: Tensor, threshold: float, packed: Tensor) -> None:
    """A bit in `packed` uint8 [N, ceil(K/8)] for every x > threshold [N, K]; for every True of a bool x."""
    above = x if x.dtype == torch.bool else x > threshold
    packed.numpy()[...] = np.packbits(above.numpy(), axis=1, bitorder="little")


def unpack_codes(packed: Tensor, signs: Tensor) -> None:
    """int8 `signs` [N, bits] of +-1 from `packed` uint8 [N, ceil(bits/8)]."""
    set_bits = np.unpackbits(packed.numpy(), axis=1, count=signs.shape[1], bitorder="little")
    np.subtract(set_bits.view(np.int8) * np.int8(2), np.int8(1), out=signs.numpy())

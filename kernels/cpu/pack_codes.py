"""Packing of signs into bits, and unpacking, on a CPU with NumPy, whose functions are vectorised."""

import numpy as np
import torch
from torch import Tensor


def pack_codes(x: Tensor, threshold: float, packed: Tensor) -> None:
    """Set a bit in `packed` uint8 [N, ceil(K/8)] for every x > threshold [N, K], or for every True of a bool x."""
    above = x if x.dtype == torch.bool else x > threshold
    packed.numpy()[...] = np.packbits(above.numpy(), axis=1, bitorder="little")


def unpack_codes(packed: Tensor, signs: Tensor) -> None:
    """Fill int8 `signs` [N, bits] with +-1 from `packed` uint8 [N, ceil(bits/8)]."""
    set_bits = np.unpackbits(packed.numpy(), axis=1, count=signs.shape[1], bitorder="little")
    np.subtract(set_bits.view(np.int8) * np.int8(2), np.int8(1), out=signs.numpy())

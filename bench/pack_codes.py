"""Packing the signs of float32 rows into bits, and unpacking them, against NumPy and PyTorch.

    python -m bench.pack_codes            # `pack_codes`; appends to bench/results/pack_codes.csv
    python -m bench.pack_codes --quick    # the smallest problem, nothing written

Peers: `reference` sets bit by bit; `numpy` is `numpy.packbits` and `numpy.unpackbits`; `torch` sums powers of two and tests them.
`pytest bench/ --benchmark-only -k pack_codes` times both directions.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from bench._micro import OURS, Call, Microbenchmark, main, on_cpu_only, random_codes, same_integers
from orthohash_triton.ops.pack_codes import pack_codes, unpack_codes
from orthohash_triton.reference import pack_codes as reference

PEERS = (OURS, "reference", "numpy", "torch")
SHAPES = [(10_000, 64), (1_000_000, 64), (100_000, 1024)]


def packed_by_numpy(x: np.ndarray) -> np.ndarray:
    return np.packbits(x > 0, axis=1, bitorder="little")


def packed_by_torch(x: Tensor) -> Tensor:
    bit = 2 ** torch.arange(8, dtype=torch.uint8, device=x.device)
    return ((x > 0).view(len(x), -1, 8) * bit).sum(2, dtype=torch.uint8)


def unpacked_by_numpy(packed: np.ndarray) -> np.ndarray:
    return 2 * np.unpackbits(packed, axis=1, bitorder="little").view(np.int8) - 1


def unpacked_by_torch(packed: Tensor) -> Tensor:
    bit = 2 ** torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, :, None] & bit) > 0).flatten(1).to(torch.int8) * 2 - 1


def make_packing(peer: str, rows: int, bits: int, device: str) -> Call:
    x = torch.randn(rows, bits, generator=torch.Generator().manual_seed(0)).to(device)
    if peer == "numpy":
        on_cpu_only(peer, device)
        return functools.partial(packed_by_numpy, x.numpy())
    return functools.partial({OURS: pack_codes, "reference": reference.pack_codes, "torch": packed_by_torch}[peer], x)


def make_unpacking(peer: str, rows: int, bits: int, device: str) -> Call:
    packed, _ = random_codes(rows, 0, bits, device)
    if peer == "numpy":
        on_cpu_only(peer, device)
        return functools.partial(unpacked_by_numpy, packed.numpy())
    if peer == "torch":
        return functools.partial(unpacked_by_torch, packed)
    return functools.partial({OURS: unpack_codes, "reference": reference.unpack_codes}[peer], packed, bits)


MICROBENCHMARKS = [
    Microbenchmark("pack_codes", ("rows", "bits"), SHAPES, (9, 24), PEERS, make_packing, same_integers),
    Microbenchmark("unpack_codes", ("rows", "bits"), SHAPES, (9, 24), PEERS, make_unpacking, same_integers),
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

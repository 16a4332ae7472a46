"""Count the codes of a gallery at each distance from a query, against NumPy and PyTorch.

    python -m bench.hamming_histogram            # appends to bench/results/hamming_histogram.csv
    python -m bench.hamming_histogram --quick    # the smallest problem, nothing written

Peers: `reference` compares unpacked bits; `numpy` counts the bits of the XOR and then the distances with `bincount`; `torch`
multiplies +-1 matrices that are unpacked beforehand and counts the distances of all queries with one `bincount`.
"""

import functools

import numpy as np
import torch

from bench._micro import OURS, Call, Microbenchmark, at_most, main, on_cpu_only, random_codes, same_integers, signs
from bench.hamming_distance import REFERENCE_BYTES, by_torch
from orthohash_triton.ops.hamming_histogram import hamming_histogram
from orthohash_triton.reference.hamming_histogram import hamming_histogram as by_definition

PEERS = (OURS, "reference", "numpy", "torch")


def counted_by_numpy(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return counts int64 [Q, K + 1], computed one query at a time."""
    words, bits = gallery.view(np.uint64), 8 * gallery.shape[1]
    distances = (np.bitwise_count(words ^ query).sum(1, dtype=np.int32) for query in queries.view(np.uint64))
    return np.stack([np.bincount(row, minlength=bits + 1) for row in distances])


def counted_by_torch(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Return counts int64 [Q, K + 1] of +-1 matrices [Q, K] and [N, K]."""
    rows, columns = len(queries), queries.shape[1] + 1
    cells = by_torch(queries, gallery) + columns * torch.arange(rows, device=queries.device)[:, None]
    return torch.bincount(cells.flatten(), minlength=rows * columns).view(rows, columns)


def make(peer: str, queries: int, gallery: int, bits: int, device: str) -> Call:
    codes = random_codes(queries, gallery, bits, device)
    if peer == OURS:
        return functools.partial(hamming_histogram, *codes)
    if peer == "reference":
        at_most(peer, 2 * queries * gallery * bits, REFERENCE_BYTES)
        return functools.partial(by_definition, *codes)
    if peer == "torch":
        return functools.partial(counted_by_torch, *map(signs, codes))
    on_cpu_only(peer, device)
    return functools.partial(counted_by_numpy, *(code.numpy() for code in codes))


MICROBENCHMARKS = [
    Microbenchmark(
        op="hamming_histogram",
        axes=("queries", "gallery", "bits"),
        shapes=[(16, 10_000, 64), (256, 10_000, 64), (16, 1_000_000, 64)],
        smallest=(5, 70, 64),
        peers=PEERS,
        make=make,
        agree=same_integers,
    )
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

"""All distances between queries and a gallery, against FAISS, NumPy and PyTorch.

    python -m bench.hamming_distance            # appends to bench/results/hamming_distance.csv
    python -m bench.hamming_distance --quick    # the smallest problem, nothing written

Peers: `reference` compares unpacked bits; `numpy` counts the bits of the XOR; `torch` multiplies +-1 matrices that are unpacked
beforehand; `faiss` is `faiss.hammings`.
"""

import functools

import numpy as np
import torch

from bench._micro import OURS, Call, Microbenchmark, at_most, main, on_cpu_only, random_codes, same_integers, signs
from orthohash_triton.ops.hamming_distance import hamming_distance
from orthohash_triton.reference.hamming_distance import hamming_distance as by_definition

PEERS = (OURS, "reference", "numpy", "torch", "faiss")
REFERENCE_BYTES = 2e9


def by_numpy(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return distances int32 [Q, N], computed one query at a time."""
    words = gallery.view(np.uint64)
    return np.stack([np.bitwise_count(words ^ query).sum(1, dtype=np.int32) for query in queries.view(np.uint64)])


def by_torch(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Return distances int32 [Q, N] of +-1 matrices [Q, K] and [N, K]."""
    return ((queries.shape[1] - queries @ gallery.T) / 2).int()


def by_faiss(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    import faiss

    distances = np.empty((len(queries), len(gallery)), np.int32)
    arrays = (faiss.swig_ptr(array) for array in (queries, gallery))
    faiss.hammings(*arrays, len(queries), len(gallery), gallery.shape[1], faiss.swig_ptr(distances))
    return distances


def make(peer: str, queries: int, gallery: int, bits: int, device: str) -> Call:
    codes = random_codes(queries, gallery, bits, device)
    if peer == OURS:
        return functools.partial(hamming_distance, *codes)
    if peer == "reference":
        at_most(peer, 2 * queries * gallery * bits, REFERENCE_BYTES)
        return functools.partial(by_definition, *codes)
    if peer == "torch":
        return functools.partial(by_torch, *map(signs, codes))
    on_cpu_only(peer, device)
    if peer == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
    return functools.partial({"numpy": by_numpy, "faiss": by_faiss}[peer], *(code.numpy() for code in codes))


MICROBENCHMARKS = [
    Microbenchmark(
        op="hamming_distance",
        axes=("queries", "gallery", "bits"),
        shapes=[(16, 10_000, 64), (256, 10_000, 64), (256, 10_000, 256)],
        smallest=(5, 70, 64),
        peers=PEERS,
        make=make,
        agree=same_integers,
    )
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

"""Batch normalisation and the cosine codebook loss in one op, against PyTorch's layers: a forward and backward pass.

    python -m bench.orthohash_loss            # appends to bench/results/orthohash_loss.csv
    python -m bench.orthohash_loss --quick    # the smallest problem, nothing written

Peers: `reference` is the formula with every option; `torch` is `F.batch_norm` and the four lines of `bench.cosine_codebook_loss`.
"""

import torch
import torch.nn.functional as F

import orthohash_triton as oht
from bench._losses import labelled_codes, step_of
from bench._micro import OURS, Call, Microbenchmark, at_most, main, same_gradients
from bench.cosine_codebook_loss import PEER_MEMORY, lean, needed_memory
from orthohash_triton import reference


def make(peer: str, rows: int, classes: int, bits: int, device: str) -> Call:
    if peer != OURS:
        at_most(peer, needed_memory(rows, classes, bits), PEER_MEMORY)
    latent, target, codebook = labelled_codes(rows, classes, bits, device)
    floats = codebook.float()
    mean, var = torch.zeros(bits, device=device), torch.ones(bits, device=device)
    losses = {
        OURS: lambda: oht.orthohash_loss(latent, target, codebook, mean, var),
        "reference": lambda: reference.orthohash_loss(latent, target, floats, mean, var),
        "torch": lambda: lean(F.batch_norm(latent, mean, var, training=True), target, floats),
    }
    return step_of(losses, peer, latent)


MICROBENCHMARKS = [
    Microbenchmark(
        op="orthohash_loss",
        axes=("rows", "classes", "bits"),
        shapes=[(64, 10, 16), (256, 100, 64), (256, 10_000, 128)],
        smallest=(9, 5, 16),
        peers=(OURS, "reference", "torch"),
        make=make,
        agree=same_gradients,
    )
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

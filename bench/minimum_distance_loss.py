"""The loss of MDS against its formula: a forward and backward pass.

    python -m bench.minimum_distance_loss            # appends to bench/results/minimum_distance_loss.csv
    python -m bench.minimum_distance_loss --quick    # the smallest problem, nothing written

The op is plain PyTorch on every device; it is slower than the formula, which omits the steps that keep the result exact.
"""

import orthohash_triton as oht
from bench._losses import labelled_codes, step_of
from bench._micro import OURS, Call, Microbenchmark, main, same_gradients
from orthohash_triton.reference.minimum_distance_loss import minimum_distance_loss as reference


def make(peer: str, rows: int, classes: int, bits: int, device: str) -> Call:
    latent, target, codebook = labelled_codes(rows, classes, bits, device)
    losses = {
        OURS: lambda: oht.minimum_distance_loss(latent, target, codebook),
        "reference": lambda: reference(latent, target, codebook.to(latent.dtype)),
    }
    return step_of(losses, peer, latent)


MICROBENCHMARKS = [
    Microbenchmark(
        op="minimum_distance_loss",
        axes=("rows", "classes", "bits"),
        shapes=[(64, 100, 64), (256, 100, 64), (256, 1000, 64)],
        smallest=(9, 5, 16),
        peers=(OURS, "reference"),
        make=make,
        agree=same_gradients,
    )
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

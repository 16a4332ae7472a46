"""CSQ's loss against the formula and against PyTorch's binary cross entropy: a forward and backward pass.

    python -m bench.central_similarity_loss            # appends to bench/results/central_similarity_loss.csv
    python -m bench.central_similarity_loss --quick    # the smallest problem, nothing written

The op is plain PyTorch on every device. Peers: `reference` is the formula; `torch` is `F.binary_cross_entropy` of `tanh` codes,
as in the released code, and the mean of `log cosh`.
"""

import torch.nn.functional as F
from torch import Tensor

import orthohash_triton as oht
from bench._losses import labelled_codes, step_of
from bench._micro import OURS, Call, Microbenchmark, main, same_gradients
from orthohash_triton.ops.central_similarity_loss import tie_breaker
from orthohash_triton.reference.central_similarity_loss import central_similarity_loss as reference

QUANTIZATION_WEIGHT = 1e-4


def by_torch(latent: Tensor, target: Tensor, codebook: Tensor) -> Tensor:
    codes = latent.tanh()
    centre = F.binary_cross_entropy((codes + 1) / 2, (codebook[target] + 1) / 2)
    return centre + QUANTIZATION_WEIGHT * (codes.abs() - 1).cosh().log().mean()


def make(peer: str, rows: int, classes: int, bits: int, device: str) -> Call:
    latent, target, codebook = labelled_codes(rows, classes, bits, device)
    floats, ties = codebook.float(), tie_breaker(bits, 0, latent.device)
    losses = {
        OURS: lambda: oht.central_similarity_loss(latent, target, codebook, quantization_weight=QUANTIZATION_WEIGHT),
        "reference": lambda: reference(latent, target, codebook, ties, quantization_weight=QUANTIZATION_WEIGHT),
        "torch": lambda: by_torch(latent, target, floats),
    }
    return step_of(losses, peer, latent)


MICROBENCHMARKS = [
    Microbenchmark(
        op="central_similarity_loss",
        axes=("rows", "classes", "bits"),
        shapes=[(64, 100, 64), (1024, 100, 64)],
        smallest=(9, 5, 16),
        peers=(OURS, "reference", "torch"),
        make=make,
        agree=same_gradients,
    )
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

"""The `log cosh` penalty on the distance of continuous codes to +-1, against its formula: a forward and backward pass.

    python -m bench.quantization_loss            # appends to bench/results/quantization_loss.csv
    python -m bench.quantization_loss --quick    # the smallest problem, nothing written

The op is plain PyTorch on every device. Peers: `reference` is `log(cosh(|z| - 1))`, which overflows for large codes; `torch` is
`F.smooth_l1_loss` towards the signs, another penalty at about the same cost, whose answer is not compared.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import orthohash_triton as oht
from bench._losses import step_of
from bench._micro import OURS, Call, Microbenchmark, main, same_gradients
from orthohash_triton.reference.quantization_loss import quantization_loss as reference


def make(peer: str, rows: int, bits: int, device: str) -> Call:
    codes = torch.randn(rows, bits, generator=torch.Generator().manual_seed(0)).to(device)
    losses = {
        OURS: lambda: oht.quantization_loss(codes),
        "reference": lambda: reference(codes),
        "torch, smooth L1": lambda: F.smooth_l1_loss(codes, codes.detach().sign()),
    }
    return step_of(losses, peer, codes)


def agree(peer: str, theirs: Tensor, ours: Tensor) -> None:
    if peer == "reference":
        same_gradients(peer, theirs, ours)


MICROBENCHMARKS = [
    Microbenchmark(
        op="quantization_loss",
        axes=("rows", "bits"),
        shapes=[(256, 64), (10_000, 64)],
        smallest=(9, 16),
        peers=(OURS, "reference", "torch, smooth L1"),
        make=make,
        agree=agree,
    )
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

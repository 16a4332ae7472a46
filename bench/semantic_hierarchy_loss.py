"""SHREWD's loss against its formula: a forward and backward pass.

    python -m bench.semantic_hierarchy_loss            # appends to bench/results/semantic_hierarchy_loss.csv
    python -m bench.semantic_hierarchy_loss --quick    # the smallest problem, nothing written

The op is plain PyTorch on every device. The reference holds a tensor of all pairs of rows by all bits.
"""

import torch

import orthohash_triton as oht
from bench._losses import step_of
from bench._micro import OURS, Call, Microbenchmark, main, same_gradients
from orthohash_triton.reference.semantic_hierarchy_loss import semantic_hierarchy_loss as reference

CLASSES = 100


def make(peer: str, rows: int, bits: int, device: str) -> Call:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(rows, bits, generator=generator).tanh()
    target = torch.randint(0, CLASSES, (rows,), generator=generator)
    distance = torch.rand(CLASSES, CLASSES, generator=generator)
    distance = (distance + distance.T).fill_diagonal_(0) / 2
    draws = torch.randint(0, 2, (rows, bits), generator=generator).float() * 2 - 1
    codes, target, distance, draws = (tensor.to(device) for tensor in (codes, target, distance, draws))
    scale = 1 / (2 * bits)
    losses = {
        OURS: lambda: oht.semantic_hierarchy_loss(codes, target, distance, binary_target=draws, scale=scale),
        "reference": lambda: reference(codes, distance[target[:, None], target], draws, scale=scale),
    }
    return step_of(losses, peer, codes)


MICROBENCHMARKS = [
    Microbenchmark(
        op="semantic_hierarchy_loss",
        axes=("rows", "bits"),
        shapes=[(64, 64), (256, 64)],
        smallest=(9, 16),
        peers=(OURS, "reference"),
        make=make,
        agree=same_gradients,
    )
]

if __name__ == "__main__":
    main(__doc__, MICROBENCHMARKS[0])

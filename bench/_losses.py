"""Problems and comparisons that the benchmarks of the losses share."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench._micro import Call, Unavailable
from bench._steps import gradient_step


def labelled_codes(rows: int, classes: int, bits: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents float32 [N, K] near the codes of their classes, class ids int64 [N] and a codebook int8 [C, K]."""
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randint(0, 2, (classes, bits), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    target = torch.randint(0, classes, (rows,), generator=generator)
    latent = torch.randn(rows, bits, generator=generator) + codebook[target]
    return latent.to(device), target.to(device), codebook.to(device)


def step_of(losses: dict[str, Callable[[], Tensor]], peer: str, x: Tensor) -> Call:
    """Return a forward and backward pass of `losses[peer]`, which returns the gradient of `x`.

    Raises:
        Unavailable: the reference takes tensors in host memory only.
    """
    if peer == "reference" and x.is_cuda:
        raise Unavailable("the reference is timed on the CPU only")
    return gradient_step(losses[peer], x.requires_grad_())

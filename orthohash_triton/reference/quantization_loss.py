"""How far continuous codes are from +-1, as one would write it by hand.

"log_cosh" is DHN's (Zhu et al., AAAI 2016); the others are OrthoHash's options (its released code).
"""

import torch
from torch import Tensor


def quantization_loss(z: Tensor, kind: str = "log_cosh", *, reduction: str = "mean") -> Tensor:
    """z [N, K]."""
    gap = z.abs() - 1  # [N, K]
    if kind == "log_cosh":
        loss = gap.cosh().log().mean(1)
    elif kind == "l1":
        loss = gap.abs().mean(1)
    elif kind == "l2":
        loss = gap.square().mean(1)
    else:
        sign = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        loss = 1 - (z * sign).sum(1) / (z.norm(dim=1) * sign.norm(dim=1))
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()

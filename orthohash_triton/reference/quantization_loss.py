"""Penalties on the distance of continuous codes to +-1, written directly from the formulas.

"log_cosh" is from DHN (Zhu et al., AAAI 2016), the others from the released code of OrthoHash.
"""

import torch
from torch import Tensor


def quantization_loss(z: Tensor, kind: str = "log_cosh", *, reduction: str = "mean") -> Tensor:
    """Return the penalty of z [N, K]; see `orthohash_triton.quantization_loss`."""
    gap = z.abs() - 1  # [N, K]
    if kind == "log_cosh":
        loss = gap.cosh().log().mean(1)
    elif kind == "l1":
        loss = gap.abs().mean(1)
    elif kind == "l2":
        loss = gap.square().mean(1)
    else:
        sign = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        z = z / z.detach().abs().amax(1, keepdim=True)  # so that squares stay within the dtype
        loss = 1 - (z * sign).sum(1) / (z.norm(dim=1) * sign.norm(dim=1))
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()

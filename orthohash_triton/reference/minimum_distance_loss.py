"""The loss of MDS: softmax over cosines to centres, pairs of one class, and a quantisation term, directly from the formula.

MDS (Wang et al., CVPR 2023), as in its released code.
"""

import math

import torch
from torch import Tensor

from .quantization_loss import quantization_loss


def minimum_distance_loss(
    u: Tensor,  # [N, K]
    target: Tensor,  # int64 [N], or multi-hot [N, C]
    codebook: Tensor,  # +-1 [C, K]
    bank: Tensor | None = None,  # [M, K]
    bank_target: Tensor | None = None,  # int64 [M], or multi-hot [M, C]
    *,
    scale: float | None = None,
    pair_weight: float = 1.0,
    quantization_weight: float = 1e-4,
    quantization: str = "l2",
    ignore_index: int = -100,
) -> Tensor:
    """Return the loss; see `orthohash_triton.minimum_distance_loss`."""
    scale = math.sqrt(u.shape[1]) if scale is None else scale
    y = _multi_hot(target, len(codebook), ignore_index)
    labelled = y.any(1)
    u, y = u[labelled], y[labelled]

    p = torch.softmax(scale * _cosine(u, codebook.to(u.dtype)), 1)  # [N, C]
    loss = -torch.where(y, p.log(), (1 - p).log()).mean()
    if bank is not None and bank_target is not None:
        seen = bank.any(1)
        same = y.to(u.dtype) @ _multi_hot(bank_target, len(codebook), ignore_index)[seen].to(u.dtype).T > 0  # [N, M]
        if same.any():
            cosine = _cosine(u, bank[seen].to(u.dtype))
            loss = loss + pair_weight * (1 + ((1 - cosine[same]) / 2).exp()).log().mean()
    return loss + quantization_weight * quantization_loss(u, quantization)


def _multi_hot(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    if target.ndim == 2:
        return target > 0
    return (target[:, None] == torch.arange(classes)) & (target != ignore_index)[:, None]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x / x.detach().abs().amax(1, keepdim=True) for x in (a, b))  # so that squares stay within the dtype
    return a @ b.T / (a.norm(dim=1, keepdim=True) * b.norm(dim=1))

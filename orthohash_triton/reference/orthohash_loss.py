"""Batch normalisation followed by the cosine codebook loss (OrthoHash, section 3.3)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .cosine_codebook_loss import cosine_codebook_loss


def orthohash_loss(
    latent: Tensor,  # [N, K]
    target: Tensor,
    codebook: Tensor,  # +-1 [C, K]
    running_mean: Tensor | None = None,  # [K]
    running_var: Tensor | None = None,
    bn_weight: Tensor | None = None,
    bn_bias: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **keywords: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the loss, or (loss, log-sum-exp); see `orthohash_triton.orthohash_loss`."""
    v = F.batch_norm(latent, running_mean, running_var, bn_weight, bn_bias, training, momentum, eps)
    return cosine_codebook_loss(v, target, codebook, **keywords)

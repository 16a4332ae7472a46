"""Batch normalisation followed by the cosine codebook loss (OrthoHash, section 3.3)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cosine_codebook_loss import cosine_codebook_loss

_LARGE = 1e15  # squares of smaller numbers, and their sums, stay within float32


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
    if training:
        found = statistics(latent, eps)
        v = (latent / found.unit - found.mean) * found.rstd
        if running_mean is not None and running_var is not None and len(latent):
            with torch.no_grad():
                running_mean.lerp_(found.mean * found.unit, momentum)
                running_var.lerp_(found.unbiased.to(running_var.dtype), momentum)
    else:
        assert running_mean is not None  # checked by the caller
        assert running_var is not None
        v = (latent - running_mean) * (running_var + eps).rsqrt().masked_fill(running_var == torch.inf, torch.nan)
    v = v if bn_weight is None else v * bn_weight
    v = v if bn_bias is None else v + bn_bias
    return cosine_codebook_loss(v, target, codebook, **keywords)


class Statistics(NamedTuple):
    """Statistics of a batch, from which its columns are normalised as (latent / unit - mean) * rstd."""

    unit: Tensor  # [K]: 1, except for columns whose squares would leave float32
    mean: Tensor  # [K], of latent / unit
    rstd: Tensor  # [K], unit / deviation
    unbiased: Tensor  # variance of latent, float64 [K]


def statistics(latent: Tensor, eps: float) -> Statistics:
    """Return the statistics of the columns of latent [N, K]; those of a row of zeros if there is no row."""
    latent = latent if len(latent) else latent.new_zeros(1, latent.shape[1])
    largest = latent.detach().abs().amax(0)
    unit = torch.where((largest > _LARGE) & (largest < torch.inf), largest, 1)
    var, mean = torch.var_mean(latent / unit, 0, correction=0)
    square = unit.double().square()
    rstd = (var.double() + eps / square).rsqrt().to(latent.dtype)
    return Statistics(unit, mean, rstd, var.detach().double() * square * (len(latent) / max(len(latent) - 1, 1)))

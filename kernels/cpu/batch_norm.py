"""The parts of batch normalisation that the fused loss takes apart, on a CPU."""

import torch
from torch import Tensor


def statistics(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every column of latent [N, K], at least in float32.  [K], [K]"""
    var, mean = torch.var_mean(_wide(latent), 0, correction=0)
    return mean, var


def normalise(latent: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """(latent - mean) * rstd * weight + bias.  [N, K]"""
    factor = rstd if weight is None else rstd * weight
    rows = (_wide(latent) - mean).mul_(factor)
    return rows if bias is None else rows.add_(bias)


def sums(rows: Tensor, latent: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Over the batch: the sum of rows * normalised latent, and the sum of rows.  [K], [K]"""
    return (rows * normalise(latent, mean, rstd, None, None)).sum(0), rows.sum(0)


def input_gradient(rows: Tensor, latent: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, through: Tensor) -> Tensor:
    """weight * rstd * (rows - through[1] - normalised latent * through[0]), in the dtype of the latent.  [N, K]"""
    gradient = normalise(latent, mean, rstd, None, None).mul_(-through[0]).add_(rows).sub_(through[1])
    return gradient.mul_(rstd if weight is None else rstd * weight).to(latent.dtype)


def _wide(latent: Tensor) -> Tensor:
    return latent.float() if latent.dtype.itemsize < 4 else latent

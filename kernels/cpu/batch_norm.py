"""Parts of batch normalisation on a CPU: column statistics, column sums, gradient of the input."""

import torch
from torch import Tensor


def statistics(latent: Tensor, correction: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and 1 / deviation of every column of latent [N, K], [K] each, at least in float32.

    The variance has the `correction` of torch.var; 1 / deviation is 1 / sqrt(biased variance + eps). With a correction of 0 the
    variance is float64. Otherwise it has the dtype of the mean, and is NaN where that cannot hold it.
    """
    wide = _wide(latent)
    var, mean = torch.var_mean(wide, 0, correction=0)
    factor = len(latent) / (len(latent) - correction)
    if not float(var.max()) * factor < torch.finfo(var.dtype).max:
        return _statistics_of_large(wide, correction, eps)
    return mean, var * factor if correction else var.double(), (var + eps).rsqrt()


def _statistics_of_large(latent: Tensor, correction: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `statistics` of columns whose squares leave the range of their dtype, or that are not finite."""
    largest = latent.abs().amax(0)
    unit = largest.where((largest > 0) & (largest < torch.inf), 1)
    var, mean = (x.double() for x in torch.var_mean(latent / unit, 0, correction=0))
    unit = unit.double()
    rstd = (var + eps / unit.square()).clamp(min=torch.finfo(torch.float64).tiny).rsqrt() / unit
    var = var * unit.square()
    if correction:
        var = (var * (len(latent) / (len(latent) - correction))).to(latent.dtype)
        var.masked_fill_(var == torch.inf, torch.nan)
    return (mean * unit).to(latent.dtype), var, rstd.to(latent.dtype)


def normalise(latent: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return (latent - mean) * rstd * weight + bias.  [N, K]"""
    factor = rstd if weight is None else rstd * weight
    rows = (_wide(latent) - mean).mul_(factor)
    return rows if bias is None else rows.add_(bias)


def sums(
    rows: Tensor,  # [N, K]
    upstream: Tensor | None,  # a scalar or [N]: a factor of the rows; None for 1
    latent: Tensor,  # [N, K]
    mean: Tensor,  # [K]
    rstd: Tensor,  # [K]
) -> tuple[Tensor, Tensor]:
    """Return the sums over the batch of upstream * rows * (normalised latent) and of upstream * rows.  [K], [K]"""
    rows = _times(rows, upstream)
    return (rows * normalise(latent, mean, rstd, None, None)).sum(0), rows.sum(0)


def input_gradient(
    rows: Tensor,  # [N, K]
    upstream: Tensor | None,  # as in `sums`
    latent: Tensor,  # [N, K]
    mean: Tensor,  # [K]
    rstd: Tensor,  # [K]
    weight: Tensor | None,  # [K]; None for 1
    along: Tensor,  # [K]
    plain: Tensor,  # [K]
    share: float,
) -> Tensor:
    """Return the gradient of the input of batch normalisation, in the dtype of latent.  [N, K]

    It is weight * rstd * (upstream * rows - share * (plain + normalised latent * along)).
    """
    gradient = normalise(latent, mean, rstd, None, None).mul_(-(along * share))
    gradient.add_(_times(rows, upstream)).sub_(plain * share)
    return gradient.mul_(rstd if weight is None else rstd * weight).to(latent.dtype)


def _times(rows: Tensor, upstream: Tensor | None) -> Tensor:
    return rows if upstream is None else rows * upstream.unsqueeze(-1)


def _wide(latent: Tensor) -> Tensor:
    return latent.float() if latent.dtype.itemsize < 4 else latent

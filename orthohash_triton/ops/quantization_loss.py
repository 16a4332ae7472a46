"""Penalties on the distance of continuous codes to +-1."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from .._base import checks
from .._base.rows import unit_rows
from . import _plain

Kind = Literal["log_cosh", "l1", "l2", "cosine"]
KINDS = get_args(Kind)


def quantization_loss(z: Tensor, kind: Kind = "log_cosh", *, reduction: _plain.Reduction = "mean") -> Tensor:
    """Return a penalty on the distance of continuous codes to +-1, a mean over the bits.

    - `"log_cosh"`: `log cosh(|z| - 1)`, a smooth form of "l1" (DHN, Zhu et al., AAAI 2016; CSQ, Yuan et al., CVPR 2020, with z
      the tanh of the latent). Both papers sum over the bits: multiply by K for their scale.
    - `"l1"`: `||z| - 1|`, and `"l2"`: `(|z| - 1)^2`. The released codes of CSQ, MDS and SHC use "l2" where their papers or
      predecessors use "log_cosh".
    - `"cosine"`: `1 - cos(z, sign(z))` of each row ("cs" in the released code of OrthoHash, whose paper shows that its main
      loss reduces this one too). Zeros of z count as -1, as in `pack_codes`; the released code omits them from the norm of
      the signs.

    Args:
        z: continuous codes, float32, float16, bfloat16 or float64 [N, K].
        kind: one of the above.
        reduction: "none" (one value per row) | "mean" (NaN without rows, as in torch) | "sum" (over the rows).

    Returns:
        float32, or float64 for float64: a scalar, or [N] for reduction="none". Nothing overflows, except "l2"
        for z above the square root of the largest number. A zero row has the "cosine" loss 1 and no gradient. A row with NaN has
        the loss NaN; one with an infinity has an infinite loss, or NaN for "cosine".

    Raises:
        TypeError: if z is not a floating tensor.
        ValueError: if z is not two-dimensional or has no bits, or for an unknown option.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> z = torch.tensor([[1.0, -1.0, 0.5, 2.0]])
        >>> oht.quantization_loss(z, "l1"), oht.quantization_loss(z, "l2")
        (tensor(0.3750), tensor(0.3125))
    """
    op = "quantization_loss"
    z = _plain.latents(op, "z", z)
    check_options(op, kind, reduction)
    loss = row_penalty(_plain.widened(z), kind)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def check_options(op: str, kind: Kind, reduction: _plain.Reduction) -> None:
    """Raise ValueError for an unknown option."""
    checks.choice(op, "kind", kind, KINDS)
    checks.choice(op, "reduction", reduction, _plain.REDUCTIONS)


def row_penalty(z: Tensor, kind: Kind) -> Tensor:
    """Return the penalty of each row of z [N, K], without checks.  [N]"""
    if kind == "cosine":
        return 1 - unit_rows(z).abs().sum(1) / math.sqrt(z.shape[1])
    gap = (z.abs() - 1).abs()  # [N, K]
    if kind == "log_cosh":  # log cosh(x) = x + log((1 + exp(-2x)) / 2): no overflow, and exact where x is small
        gap = gap + torch.log1p(torch.expm1(-2 * gap) / 2)
    elif kind == "l2":
        gap = gap.square()
    return gap.mean(1)

"""How far continuous codes are from +-1."""

import math

import torch
from torch import Tensor

from .._base import checks
from . import _plain

KINDS = ("log_cosh", "l1", "l2", "cosine")


def quantization_loss(z: Tensor, kind: str = "log_cosh", *, reduction: str = "mean") -> Tensor:
    """A penalty on the distance of continuous codes to +-1, a mean over the bits.

    - `"log_cosh"`: `log cosh(|z| - 1)`, a smooth form of "l1" (DHN, Zhu et al., AAAI 2016; CSQ, Yuan et al., CVPR 2020, with z
      the tanh of the latent). Both papers sum over the bits: multiply by K for their scale.
    - `"l1"`: `||z| - 1|`, and `"l2"`: `(|z| - 1)^2`. The released codes of CSQ, MDS and SHC take "l2" where their papers or
      predecessors take "log_cosh".
    - `"cosine"`: `1 - cos(z, sign(z))` of each row ("cs" in OrthoHash's released code; its paper shows that the loss lowers it
      anyway). The zeros of z count as -1 there, as in `pack_codes`; the released code leaves them out of the norm of the signs.

    Args:
        z: continuous codes, float32, float16, bfloat16 or float64 [N, K].
        kind: one of the above.
        reduction: "none" (of each row) | "mean" (NaN without rows, as in torch) | "sum" (over the rows).

    Returns:
        float32, or float64 for float64: a scalar, or [N] for reduction="none". Nothing overflows, however large z is, except "l2"
        beyond the square root of the largest number. A zero row has the "cosine" loss 1 and no gradient.

    Raises:
        TypeError: z is no floating tensor.
        ValueError: z is not two-dimensional or has no bits; an unknown option.
    """
    op = "quantization_loss"
    z = _plain.latents(op, "z", z)
    checks.choice(op, "kind", kind, KINDS)
    checks.choice(op, "reduction", reduction, _plain.REDUCTIONS)
    loss = row_penalty(_plain.widened(z), kind)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def row_penalty(z: Tensor, kind: str) -> Tensor:
    """The penalty of each row of z [N, K], unchecked."""
    if kind == "cosine":
        return 1 - _plain.unit_rows(z).abs().sum(1) / math.sqrt(z.shape[1])
    gap = (z.abs() - 1).abs()  # [N, K]
    if kind == "log_cosh":  # log cosh(x) = x + log((1 + exp(-2x)) / 2): no overflow, and exact where x is small
        gap = gap + torch.log1p(torch.expm1(-2 * gap) / 2)
    elif kind == "l2":
        gap = gap.square()
    return gap.mean(1)

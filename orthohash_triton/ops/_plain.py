"""Helpers of the losses in plain PyTorch: one implementation for every device, at least in float32, safe to compile."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from . import _codebook_loss

Reduction = _codebook_loss.Reduction
REDUCTIONS = _codebook_loss.REDUCTIONS


def latents(op: str, name: str, value: Any) -> Tensor:
    """Check that `value` is a floating tensor [N, K] with K of at least 1, and return it."""
    checked = checks.tensor(op, name, value, dtypes=_codebook_loss.LATENT_DTYPES, ndim=2, shape="[N, K]")
    if checked.shape[1] == 0:
        raise ValueError(f"{op}: {name} must have at least one bit; got {checks.describe(checked)}")
    return checked


def labels(op: str, name: str, u: Any, target: Any, codebook: Any, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Check and return u [N, K], target int64 [N] or multi-hot [N, C], and codebook [C, K]; errors call u `name`."""
    u, checked, codebook = _codebook_loss.check_inputs(op, name, u, target, codebook, ignore_index)
    if checked.columns is not None:
        raise ValueError(f"{op}: target must be dense; got a sparse one. Convert it with .to_dense()")
    return u, checked.target, codebook


def widened(values: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; return float32 and float64 unchanged."""
    return values.float() if values.dtype.itemsize < 4 else values


def or_nan(values: Tensor) -> Tensor:
    """Return values [N, K] with every row that has an entry that is not finite replaced by NaN, and with NaN as its gradient.

    Limits of functions at infinity, such as the loss 0 of a code that is infinitely certain, would hide that a training diverged.
    """
    finite = values.detach().isfinite().all(1, keepdim=True)
    return values * torch.where(finite, 1.0, torch.nan).to(values.dtype)


def labelled_rows(target: Tensor, ignore_index: int) -> Tensor:
    """Return a mask of the rows that have a class, bool [N]."""
    return target != ignore_index if target.ndim == 1 else (target > 0).any(1)


def unknown_class(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Return a mask of invalid class ids, bool [N]. `labels` raises for them where values can be read without stalling a GPU."""
    return ((target < 0) | (target >= classes)) & (target != ignore_index)


def reduce(loss: Tensor, rows: Tensor, reduction: Reduction) -> Tensor:
    """Reduce the losses of rows [N]; the mean is over the rows where bool `rows` [N] is true, NaN if there are none."""
    if reduction == "none":
        return loss
    return loss.sum() / rows.sum() if reduction == "mean" else loss.sum()

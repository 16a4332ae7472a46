"""What losses in plain PyTorch share: one implementation for every device, in float32 at least, safe to compile."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from . import _codebook_loss

REDUCTIONS = _codebook_loss.REDUCTIONS


def latents(op: str, name: str, value: Any) -> Tensor:
    """Floating [N, K] with K of at least 1."""
    checked = checks.tensor(op, name, value, dtypes=_codebook_loss.LATENT_DTYPES, ndim=2, shape="[N, K]")
    if checked.shape[1] == 0:
        raise ValueError(f"{op}: {name} must have at least one bit; got {checks.describe(checked)}")
    return checked


def labels(op: str, name: str, u: Any, target: Any, codebook: Any, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """u [N, K] (called `name` by the caller), target int64 [N] or multi-hot [N, C], codebook int8 +-1 [C, K]."""
    u, checked, codebook = _codebook_loss.check_inputs(op, name, u, target, codebook, ignore_index)
    if checked.columns is not None:
        raise ValueError(f"{op}: target must be dense; got a sparse one. Convert it with .to_dense()")
    return u, checked.target, codebook


def weight(op: str, name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{op}: {name} must be at least 0 and finite; got {value}")
    return float(value)


def widened(values: Tensor) -> Tensor:
    """In float32, or in float64 if that is what came."""
    return values.float() if values.dtype.itemsize < 4 else values


def unit_rows(values: Tensor) -> Tensor:
    """values / |values| [N, K]; a zero row stays zero and gets no gradient."""
    largest = values.detach().abs().amax(1, keepdim=True)
    values = values / torch.where((largest > 0) & (largest < torch.inf), largest, 1)  # squares neither overflow nor vanish
    square = values.square().sum(1, keepdim=True)
    return torch.where(square > 0, values / torch.where(square > 0, square, 1).sqrt(), 0)


def labelled_rows(target: Tensor, ignore_index: int) -> Tensor:
    """bool [N]: rows that have a class."""
    return target != ignore_index if target.ndim == 1 else (target > 0).any(1)


def unknown_class(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """bool [N]: class ids that are none. Only those that `labels` could not look at without stalling a GPU come this far."""
    return ((target < 0) | (target >= classes)) & (target != ignore_index)


def reduce(loss: Tensor, rows: Tensor, reduction: str) -> Tensor:
    """Losses of rows [N]; `rows` bool [N] says which of them count in the mean (NaN without one, as in torch)."""
    if reduction == "none":
        return loss
    return loss.sum() / rows.sum() if reduction == "mean" else loss.sum()

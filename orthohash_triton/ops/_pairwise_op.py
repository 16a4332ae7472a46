"""The registered ops of the pairwise likelihood: loss and gradient of the rows; gradient of the columns."""

from typing import Any

import torch
from torch import Tensor

from . import dispatch
from ._registered import differentiable, refuse_double_backward, registered

OP = "pairwise_likelihood_loss"
LEADING = 2  # arguments that may have a gradient: z and bank


def _forward(
    z: Tensor,
    bank: Tensor | None,
    target: Tensor,
    bank_target: Tensor | None,
    alpha: float,
    positive_weight: float | None,
    balanced: bool,
    similarity: str,
    ignore_index: int,
    impl: str,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, grad, factors and scale, as `loss_and_gradient` of the implementation does; a bank of None is z itself."""
    return dispatch.implementation(OP, impl).loss_and_gradient(
        z, target, bank, bank_target, alpha=alpha, positive_weight=positive_weight, balanced=balanced, similarity=similarity,
        ignore_index=ignore_index, reduction=reduction, need_grad=need_grad,
    )  # fmt: skip


def _column_gradient(
    z: Tensor,
    target: Tensor,
    bank: Tensor,
    bank_target: Tensor,
    upstream: Tensor | None,
    factors: Tensor,
    alpha: float,
    positive_weight: float | None,
    balanced: bool,
    similarity: str,
    ignore_index: int,
    impl: str,
) -> Tensor:
    """Return the gradient of sum_i upstream_i loss_i with respect to the bank [M, K]; upstream [N], None for ones."""
    return dispatch.implementation(OP, impl).column_gradient(
        z, target, bank, bank_target, upstream, factors, alpha=alpha, positive_weight=positive_weight, balanced=balanced,
        similarity=similarity, ignore_index=ignore_index,
    )  # fmt: skip


def wide_dtype(z: Tensor, bank: Tensor | None) -> torch.dtype:
    """Return the dtype in which the loss is computed."""
    double = z.dtype == torch.float64 or (bank is not None and bank.dtype == torch.float64)
    return torch.float64 if double else torch.float32


def _fake(
    z: Tensor, bank: Tensor | None, target: Tensor, bank_target: Tensor | None, alpha: float, positive_weight: float | None,
    balanced: bool, similarity: str, ignore_index: int, impl: str, reduction: str, need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return empty tensors of the shapes and dtypes that `_forward` returns."""
    wide = wide_dtype(z, bank)
    weighed = balanced or (positive_weight is not None and reduction == "mean")  # the number of similar pairs matters
    return (
        z.new_empty((len(z),) if reduction == "none" else (), dtype=wide),
        z.new_empty((len(z) if need_grad else 0, z.shape[1]), dtype=wide),
        z.new_empty(3 if weighed else 0, dtype=wide),
        z.new_empty(() if reduction == "mean" else (0,), dtype=wide),
    )


def _fake_column_gradient(z: Tensor, target: Tensor, bank: Tensor, *_: Any) -> Tensor:
    return bank.new_empty(bank.shape, dtype=wide_dtype(z, bank))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, bank, target, bank_target, *options, reduction, _ = inputs
    ctx.set_materialize_grads(False)
    sweep_again = ctx.needs_input_grad[1] if bank is not None else reduction == "none"
    kept = (z, target, bank, bank_target) if sweep_again else (None,) * 4
    ctx.save_for_backward(*kept, *output[1:])
    ctx.dtypes = z.dtype, None if bank is None else bank.dtype
    ctx.options = options


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of z and of the bank."""
    refuse_double_backward("the pairwise likelihood loss")
    if upstream is None:
        return None, None
    z, target, bank, bank_target, grad, factors, scale = ctx.saved_tensors
    if scale.ndim == 0:
        upstream = upstream * scale
    by_row = upstream.ndim == 1
    z_grad = bank_grad = None
    if ctx.needs_input_grad[0]:
        # Out of place, because a second backward needs the saved gradients unchanged.
        z_grad = grad * (upstream[:, None] if by_row else upstream)
        if by_row and ctx.dtypes[1] is None:  # z is its own bank: only the upstream gradient is not symmetric
            z_grad += _columns.in_backward(ctx, z, target, z, target, upstream, factors, *ctx.options)
        z_grad = z_grad if z_grad.dtype == ctx.dtypes[0] else z_grad.to(ctx.dtypes[0])
    if ctx.dtypes[1] is not None and ctx.needs_input_grad[1]:
        bank_grad = _columns.in_backward(ctx, z, target, bank, bank_target, upstream if by_row else None, factors, *ctx.options)
        bank_grad = (bank_grad if by_row else bank_grad * upstream).to(ctx.dtypes[1])
    return z_grad, bank_grad


pairwise_likelihood = differentiable(
    "pairwise_likelihood", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, leading=LEADING, outputs=1
)
_columns = registered("pairwise_likelihood_columns", _column_gradient, fake=_fake_column_gradient)

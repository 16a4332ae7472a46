"""The registered op of the codebook losses: loss and gradient, with an optional batch normalisation before."""

from typing import Any

import torch
from torch import Tensor

from . import batch_norm, dispatch
from ._derived import derived
from ._registered import differentiable, refuse_double_backward

OP = "cosine_codebook_loss"
LEADING = 5  # arguments that may have a gradient are among the first five


def _forward(
    v: Tensor,
    mean: Tensor | None,
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    group: str,
    target: Tensor,
    columns: Tensor | None,
    values: Tensor | None,
    codebook: Tensor,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    p_terms: int,
    impl: str,
    reduction: str,
    need_grad: bool,
    need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, the log-sum-exp of each row, and the tensors that the backward needs.

    Args:
        target: int64 ids [N], or floating [N, C]; with columns int64 [nnz] and values [nnz], the row starts int64 [N + 1] of a
            sparse [N, C] target.

    Returns:
        loss: a scalar, or [N] for reduction "none".
        lse: [N].
        grad, lse_grad: [N, K], or [0, K] if not needed: gradients of the loss (each row's own for reduction "none") and of the
            log-sum-exp with respect to the normalised rows.
        share: what `grad` must still be multiplied with, a scalar, or [0] for 1.
    """
    run = dispatch.implementation(OP, impl)
    codes = derived(codebook, f"prepared for {impl}", lambda: run.prepare(codebook))
    return run.loss_and_gradients(
        v, mean, rstd, weight, bias, target, columns, values, codes, p_terms=p_terms, scale=scale, margin=margin, angular=angular,
        label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction, need_grad=need_grad,
        need_lse_grad=need_lse_grad,
    )  # fmt: skip


def _fake(
    v: Tensor, mean: Any, rstd: Any, weight: Any, bias: Any, training: bool, group: str,
    target: Tensor, columns: Any, values: Any, codebook: Tensor,
    scale: float, margin: float, angular: bool, label_smoothing: float, ignore_index: int, p_terms: int, impl: str,
    reduction: str, need_grad: bool, need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return empty tensors of the shapes and dtypes that `_forward` returns."""
    count, bits = v.shape
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    lse = v.new_empty((count,), dtype=dtype)
    share = lse.new_empty(() if reduction == "mean" and dispatch.implementation(OP, impl).MEAN_SCALES_BACKWARD else (0,))
    return (
        lse.new_empty((count,) if reduction == "none" else ()),
        lse,
        lse.new_empty((count if need_grad else 0, bits)),
        lse.new_empty((count if need_lse_grad else 0, bits)),
        share,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    v, mean, rstd, weight, _, training, group = inputs[:7]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(None if mean is None else v, mean, rstd, weight, *output[2:])
    ctx.dtype = v.dtype
    ctx.options = training, group, inputs[17]


def _backward(ctx: Any, upstream: Tensor | None, lse_upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of v, mean, rstd, weight and bias; those of mean and rstd are None."""
    refuse_double_backward("the codebook loss")
    v, mean, rstd, weight, rows, lse_grad, share = ctx.saved_tensors  # rows [N, K]: gradients of the normalised rows
    if upstream is not None and share.ndim == 0:
        upstream = upstream * share
    # Everything is out of place, because a second backward needs the saved gradients unchanged.
    if lse_upstream is not None and len(lse_grad):
        from_lse = lse_grad * lse_upstream[:, None]
        rows = from_lse if upstream is None else batch_norm.times(rows, upstream).add_(from_lse)
        upstream = None
    elif upstream is None:
        return (None,) * LEADING
    if mean is None:
        rows = batch_norm.times(rows, upstream)
        return rows if rows.dtype == ctx.dtype else rows.to(ctx.dtype), None, None, None, None
    v_grad, weight_grad, bias_grad = batch_norm.backward(ctx, rows, upstream, v, mean, rstd, weight, *ctx.options)
    needs_weight, needs_bias = ctx.needs_input_grad[3:5]
    return v_grad, None, None, weight_grad if needs_weight else None, bias_grad if needs_bias else None


codebook_loss = differentiable(
    "codebook_loss", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, leading=LEADING, outputs=2
)

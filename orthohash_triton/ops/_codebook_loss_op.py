"""The registered op behind the codebook losses: loss and gradient, through an optional batch normalisation."""

from typing import Any

import torch
from torch import Tensor

from ._batch_norm import backward as batch_norm_backward
from ._derived import derived
from ._registered import differentiable, refuse_double_backward

INPUTS = 19


def _forward(
    v: Tensor,
    mean: Tensor | None,
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    group: str,
    target: Tensor,
    codebook: Tensor,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    parts: int,
    impl: str,
    reduction: str,
    need_grad: bool,
    need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss (a scalar, or [N]), lse [N]; and for the backward the share of a row in the loss (a scalar), and the gradients of a
    row's loss and lse with respect to the normalised row [N, K], without rows where not needed."""
    options: dict[str, Any] = dict(scale=scale, margin=margin, angular=angular, label_smoothing=label_smoothing,
                                   ignore_index=ignore_index, need_grad=need_grad, need_lse_grad=need_lse_grad)  # fmt: skip
    rows = _rows_triton if impl == "triton" else _rows_cpu
    loss, lse, grad, lse_grad = rows(v, (mean, rstd, weight, bias), target, codebook, parts, options)
    if reduction == "mean":
        labelled = target != ignore_index if target.ndim == 1 else target.sum(1) > 0
        share = labelled.sum(dtype=loss.dtype).reciprocal()  # infinite where no row is labelled: the mean is NaN, as in torch
        return loss.sum() * share, lse, share, grad, lse_grad
    return loss if reduction == "none" else loss.sum(), lse, loss.new_ones(()), grad, lse_grad


def _rows_triton(
    v: Tensor, norm: tuple[Tensor | None, ...], target: Tensor, codebook: Tensor, parts: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from ..kernels import cosine_codebook_loss as kernel

    packed = derived(codebook, "packed for the sweep", lambda: kernel.prepare(codebook))
    parts = parts or (2 if torch.get_float32_matmul_precision() == "highest" else 1)
    outputs = _empty_rows(v, options["need_grad"], options["need_lse_grad"])
    kernel.cosine_codebook_loss(v, *norm, target, packed, *outputs, parts=parts, **options)
    return outputs


def _rows_cpu(
    v: Tensor, norm: tuple[Tensor | None, ...], target: Tensor, codebook: Tensor, _parts: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from ..kernels.cpu import batch_norm
    from ..kernels.cpu import cosine_codebook_loss as kernel

    v = v.float() if v.dtype.itemsize < 4 else v
    if norm[0] is not None:
        v = batch_norm.normalise(v, *norm)
    return kernel.cosine_codebook_loss(v.contiguous(), target.contiguous(), codebook.contiguous(), **options)


def _empty_rows(v: Tensor, need_grad: bool, need_lse_grad: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for loss [N], lse [N] and the two gradients [N, K], in float32 (float64 for float64)."""
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    count, bits = v.shape
    shapes = ((count,), (count,), (count if need_grad else 0, bits), (count if need_lse_grad else 0, bits))
    loss, lse, grad, lse_grad = (torch.empty(shape, dtype=dtype, device=v.device) for shape in shapes)
    return loss, lse, grad, lse_grad


def _fake(
    v: Tensor, mean: Any, rstd: Any, weight: Any, bias: Any, training: bool, group: str, target: Tensor, codebook: Tensor,
    scale: float, margin: float, angular: bool, label_smoothing: float, ignore_index: int, parts: int, impl: str,
    reduction: str, need_grad: bool, need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    loss, lse, grad, lse_grad = _empty_rows(v, need_grad, need_lse_grad)
    return loss if reduction == "none" else loss.new_empty(()), lse, loss.new_empty(()), grad, lse_grad


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    v, mean, rstd, weight, _, training, group = inputs[:7]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(v, mean, rstd, weight, *output[2:])
    ctx.how = training, group, inputs[15]


def _backward(ctx: Any, upstream: Tensor | None, lse_upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    refuse_double_backward("the codebook loss")
    v, mean, rstd, weight, share, grad, lse_grad = ctx.saved_tensors
    # Out of place: a second backward needs the row gradients as they are.
    rows = None if upstream is None else grad * (upstream * share).reshape(-1, 1)  # [N, K], of the normalised rows
    if lse_upstream is not None and len(lse_grad):
        from_lse = lse_grad * lse_upstream[:, None]
        rows = from_lse if rows is None else rows + from_lse
    if rows is None:
        return (None,) * INPUTS
    if mean is None:
        return rows.to(v.dtype), *[None] * (INPUTS - 1)
    v_grad, weight_grad, bias_grad = batch_norm_backward(rows, v, mean, rstd, weight, *ctx.how)
    needs_weight, needs_bias = ctx.needs_input_grad[3:5]
    affine_grads = (weight_grad if needs_weight else None, bias_grad if needs_bias else None)
    return v_grad, None, None, *affine_grads, *[None] * (INPUTS - 5)


codebook_loss = differentiable("codebook_loss", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, outputs=2)

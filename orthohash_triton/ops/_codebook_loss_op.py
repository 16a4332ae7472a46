"""The registered op behind the codebook losses: loss and gradient, through an optional batch normalisation."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._derived import derived
from ._registered import differentiable, refuse_double_backward
from .batch_norm import backward as batch_norm_backward
from .batch_norm import times

LEADING = 5  # arguments that may have a gradient stand among the first five


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
    parts: int,
    impl: str,
    reduction: str,
    need_grad: bool,
    need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss (a scalar, or [N]), lse [N]; and for the backward the gradients of the loss (each row's own for reduction "none") and
    of the lse with respect to the normalised rows [N, K], without rows where not needed, and what the first of them is still to
    be multiplied with, a scalar (else [0]).

    target: int64 ids [N], or floating [N, C]; with columns int64 [nnz] and values [nnz] the row starts int64 [N + 1] of a sparse
    [N, C] target."""
    options: dict[str, Any] = dict(scale=scale, margin=margin, angular=angular, label_smoothing=label_smoothing,
                                   ignore_index=ignore_index, need_grad=need_grad, need_lse_grad=need_lse_grad)  # fmt: skip
    run = _run_triton if impl == "triton" else _run_cpu
    return run(v, (mean, rstd, weight, bias), (target, columns, values), codebook, parts, reduction, options)


def _run_triton(
    v: Tensor,
    norm: tuple[Tensor | None, ...],
    target: tuple[Any, ...],
    codebook: Tensor,
    parts: int,
    reduction: str,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernel, mean_kernel = _triton_kernels()
    packed = derived(codebook, "packed for the sweep", lambda: kernel.prepare(codebook))
    parts = parts or (2 if torch.get_float32_matmul_precision() == "highest" else 1)
    loss, lse, grad, lse_grad = _empty_rows(v, options["need_grad"], options["need_lse_grad"])
    kernel.cosine_codebook_loss(v, *norm, *target, packed, loss, lse, grad, lse_grad, parts=parts, **options)
    if reduction == "mean":
        loss, share = mean_kernel.labelled_mean(loss, _labelled(*target), options["ignore_index"])
        return loss, lse, grad, lse_grad, share
    return loss if reduction == "none" else loss.sum(), lse, grad, lse_grad, loss.new_empty(0)


@functools.cache
def _triton_kernels() -> tuple[Any, Any]:
    from ..kernels import cosine_codebook_loss, mean

    return cosine_codebook_loss, mean


def _labelled(target: Tensor, columns: Tensor | None, values: Tensor | None) -> Tensor:
    """Class ids, or per row a number above 0 where it has a positive class, without waiting for the device.  [N]"""
    if values is not None:
        positives = F.pad((values > 0).cumsum(0), (1, 0))  # [nnz + 1]: how many stand before an entry
        return positives[target].diff() > 0
    return target if target.ndim == 1 else target.sum(1) > 0


def _run_cpu(
    v: Tensor,
    norm: tuple[Tensor | None, ...],
    target: tuple[Any, ...],
    codebook: Tensor,
    _parts: int,
    reduction: str,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    v = v.float() if v.dtype.itemsize < 4 else v
    if norm[0] is not None:
        from ..kernels.cpu import batch_norm

        v = batch_norm.normalise(v, *norm)
    target = tuple(x if x is None else x.contiguous() for x in target)
    total, (loss, lse, grad, lse_grad) = cpu_kernel().cosine_codebook_loss(
        v.contiguous(), *target, codebook.contiguous(), mean=reduction == "mean", **options
    )
    return loss if reduction == "none" else total, lse, grad, lse_grad, loss.new_empty(0)


@functools.cache
def cpu_kernel() -> Any:
    """Looked up once: an import statement takes a few microseconds every time."""
    from ..kernels.cpu import cosine_codebook_loss

    return cosine_codebook_loss


def _empty_rows(v: Tensor, need_grad: bool, need_lse_grad: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for loss [N], lse [N] and the two gradients [N, K], in float32 (float64 for float64)."""
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    count, bits = v.shape
    shapes = ((count,), (count,), (count if need_grad else 0, bits), (count if need_lse_grad else 0, bits))
    loss, lse, grad, lse_grad = (torch.empty(shape, dtype=dtype, device=v.device) for shape in shapes)
    return loss, lse, grad, lse_grad


def _fake(
    v: Tensor, mean: Any, rstd: Any, weight: Any, bias: Any, training: bool, group: str,
    target: Tensor, columns: Any, values: Any, codebook: Tensor,
    scale: float, margin: float, angular: bool, label_smoothing: float, ignore_index: int, parts: int, impl: str,
    reduction: str, need_grad: bool, need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    loss, lse, grad, lse_grad = _empty_rows(v, need_grad, need_lse_grad)
    share = loss.new_empty(() if impl == "triton" and reduction == "mean" else (0,))
    return loss if reduction == "none" else loss.new_empty(()), lse, grad, lse_grad, share


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    v, mean, rstd, weight, _, training, group = inputs[:7]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(None if mean is None else v, mean, rstd, weight, *output[2:])
    ctx.dtype = v.dtype
    ctx.how = training, group, inputs[17]


def _backward(ctx: Any, upstream: Tensor | None, lse_upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    refuse_double_backward("the codebook loss")
    v, mean, rstd, weight, rows, lse_grad, share = ctx.saved_tensors  # rows [N, K], of the normalised rows
    if upstream is not None and share.ndim == 0:
        upstream = upstream * share
    # Out of place: a second backward needs the row gradients as they are.
    if lse_upstream is not None and len(lse_grad):
        from_lse = lse_grad * lse_upstream[:, None]
        rows = from_lse if upstream is None else times(rows, upstream).add_(from_lse)
        upstream = None
    elif upstream is None:
        return (None,) * LEADING
    if mean is None:
        rows = times(rows, upstream)
        return rows if rows.dtype == ctx.dtype else rows.to(ctx.dtype), None, None, None, None
    v_grad, weight_grad, bias_grad = batch_norm_backward(ctx, rows, upstream, v, mean, rstd, weight, *ctx.how)
    needs_weight, needs_bias = ctx.needs_input_grad[3:5]
    return v_grad, None, None, weight_grad if needs_weight else None, bias_grad if needs_bias else None


codebook_loss = differentiable(
    "codebook_loss", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, leading=LEADING, outputs=2
)

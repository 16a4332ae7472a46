"""The registered op behind the codebook losses: loss and gradient per row, through an optional batch normalisation."""

from typing import Any

import torch
from torch import Tensor

from ._registered import differentiable, refuse_double_backward
from ._batch_norm import backward as batch_norm_backward
from ._derived import derived


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
    need_grad: bool,
    need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """loss [N], lse [N], and their gradients with respect to the normalised rows [N, K] (empty where not needed)."""
    options: dict[str, Any] = dict(scale=scale, margin=margin, angular=angular, label_smoothing=label_smoothing,
                                   ignore_index=ignore_index, need_grad=need_grad, need_lse_grad=need_lse_grad)  # fmt: skip
    if impl == "triton":
        from ..kernels import cosine_codebook_loss as triton_kernel

        packed = derived(codebook, "packed for the sweep", lambda: triton_kernel.prepare(codebook))
        outputs = _fake(v, mean, rstd, weight, bias, training, group, target, codebook, scale, margin, angular, label_smoothing,
                        ignore_index, parts, impl, need_grad, need_lse_grad)  # fmt: skip
        parts = parts or (2 if torch.get_float32_matmul_precision() == "highest" else 1)
        triton_kernel.cosine_codebook_loss(v, mean, rstd, weight, bias, target, packed, *outputs, parts=parts, **options)
        return outputs

    from ..kernels.cpu import batch_norm as cpu_batch_norm
    from ..kernels.cpu import cosine_codebook_loss as cpu_kernel

    rows = v.float() if v.dtype.itemsize < 4 else v
    if mean is not None:
        rows = cpu_batch_norm.normalise(rows, mean, rstd, weight, bias)
    loss, lse, grad, lse_grad = cpu_kernel.cosine_codebook_loss(rows, target, codebook, **options)
    nothing = rows.new_empty(0)
    return loss, lse, nothing if grad is None else grad, rows.new_empty(0) if lse_grad is None else lse_grad


def _fake(
    v: Tensor, mean: Any, rstd: Any, weight: Any, bias: Any, training: bool, group: str, target: Tensor, codebook: Tensor,
    scale: float, margin: float, angular: bool, label_smoothing: float, ignore_index: int, parts: int, impl: str,
    need_grad: bool, need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32

    def rows(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=v.device)

    n, k = v.shape
    return rows(n), rows(n), rows(n, k) if need_grad else rows(0), rows(n, k) if need_lse_grad else rows(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    v, mean, rstd, weight, _, training, group = inputs[:7]
    impl = inputs[15]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(v, mean, rstd, weight, *output[2:])
    ctx.how = training, group, impl


def _backward(ctx: Any, upstream: Tensor | None, lse_upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    refuse_double_backward("the codebook loss")
    v, mean, rstd, weight, grad, lse_grad = ctx.saved_tensors
    rows = _weighed(grad, upstream, lse_grad, lse_upstream)  # [N, K], of the normalised rows
    if rows is None:
        return (None,) * 18
    if mean is None:
        return rows.to(v.dtype), *[None] * 17
    v_grad, weight_grad, bias_grad = batch_norm_backward(rows, v, mean, rstd, weight, *ctx.how)
    if weight is None:
        weight_grad = None
    return (v_grad, None, None, weight_grad, bias_grad if ctx.needs_input_grad[4] else None, *[None] * 13)


def _weighed(grad: Tensor, upstream: Tensor | None, lse_grad: Tensor, lse_upstream: Tensor | None) -> Tensor | None:
    """Row gradients times what comes from above, out of place: a second backward needs them as they are."""
    rows = None if upstream is None else grad * upstream[:, None]
    if lse_upstream is not None and lse_grad.numel():
        from_lse = lse_grad * lse_upstream[:, None]
        rows = from_lse if rows is None else rows + from_lse
    return rows


loss_rows = differentiable("codebook_loss", _forward, fake=_fake, setup_context=_setup_context, backward=_backward)

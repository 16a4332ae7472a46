"""The registered ops behind the pairwise likelihood: loss and gradient of the rows; gradient of the columns."""

import functools
from typing import Any

import torch
from torch import Tensor

from ._registered import differentiable, refuse_double_backward, registered

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
    """loss (a scalar, or [N]); and for the backward the gradient with respect to z [N, K] (no rows where not needed), the weights
    of a dissimilar and of a similar pair and the normaliser [3], or [0] where the options say them, and what the gradient is
    still to be multiplied with, a scalar for reduction "mean", else [0].

    Without a bank, z is its own; its gradient is then that of both roles, but for reduction "none" that of z as rows."""
    factor = 2.0 if bank is None and reduction != "none" else 1.0
    bank, bank_target = (z, target) if bank is None or bank_target is None else (bank, bank_target)
    run = _implementation(impl)
    labels = run.labels(target)
    bank_labels = labels if bank_target is target else run.labels(bank_target)
    if impl == "triton":
        pairing = run.Pairing(alpha, positive_weight, balanced, similarity, ignore_index)
        how = dict(reduction=reduction, factor=factor, need_grad=need_grad)
        return run.loss_and_gradient(z, labels, bank, bank_labels, pairing, **how)
    wide = wide_dtype(z, bank)
    pairs = _kept(target, ignore_index) * _kept(bank_target, ignore_index)
    numbers = []
    if _weighed(positive_weight, balanced, reduction):
        similar = _similar_pairs(run, target, bank_target, labels, bank_labels, ignore_index)
        numbers = _weigh(pairs, similar, positive_weight)
    z, bank = _known(z, target, ignore_index), _known(bank, bank_target, ignore_index)
    rows, grad = run.sweep(
        z.to(wide), labels, bank.to(wide), bank_labels, None, alpha=alpha, weights=_weights(numbers, positive_weight),
        similarity=similarity, ignore_index=ignore_index, need_grad=need_grad,
    )  # fmt: skip
    normaliser = numbers[2] if numbers else pairs
    loss = rows if reduction == "none" else rows.sum()
    if reduction == "mean":  # without a pair it is NaN, as in torch, and the gradient zero
        loss = loss / normaliser
    scale = torch.full(() if reduction == "mean" else (0,), 1 / normaliser if normaliser else 0.0, dtype=wide)
    return loss.to(wide), grad if factor == 1 else grad.mul_(factor), torch.tensor(numbers, dtype=torch.float64), scale


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
    """The gradient of sum_i upstream_i (sum of row i) with respect to the bank [M, K]; upstream [N], None for ones."""
    run = _implementation(impl)
    labels = run.labels(target)
    bank_labels = labels if bank_target is target else run.labels(bank_target)
    if impl == "triton":
        pulls = None if upstream is None else upstream[:, None] * z
        pairing = run.Pairing(alpha, positive_weight, balanced, similarity, ignore_index)
        return run.column_gradient(bank, bank_labels, z, labels, pulls, pairing, factors)
    wide = wide_dtype(z, bank)
    z, bank = _known(z, target, ignore_index), _known(bank, bank_target, ignore_index)
    pulls = None if upstream is None else upstream[:, None] * z
    return run.sweep(
        bank.to(wide), bank_labels, z.to(wide), labels, pulls, alpha=alpha, weights=_weights(factors.tolist(), positive_weight),
        similarity=similarity, ignore_index=ignore_index, need_grad=True,
    )[1]  # fmt: skip


def _known(codes: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """`codes`, zeros in ignored rows: their pairs weigh nothing, but nothing times NaN is NaN. Triton does it in its kernel."""
    ignored = target == ignore_index if target.ndim == 1 else None
    return codes if ignored is None or not ignored.any() else codes.masked_fill(ignored[:, None], 0)


def _weighed(positive_weight: float | None, balanced: bool, reduction: str) -> bool:
    """Whether the number of similar pairs matters."""
    return balanced or (positive_weight is not None and reduction == "mean")


@functools.cache
def _implementation(impl: str) -> Any:
    if impl == "triton":
        from ..kernels import pairwise_likelihood_loss as kernel

        return kernel
    from ..kernels.cpu import pairwise_likelihood_loss as cpu_kernel

    return cpu_kernel


def wide_dtype(z: Tensor, bank: Tensor | None) -> torch.dtype:
    """What the loss is computed in."""
    double = z.dtype == torch.float64 or (bank is not None and bank.dtype == torch.float64)
    return torch.float64 if double else torch.float32


def _kept(target: Tensor, ignore_index: int) -> int:
    return len(target) if target.ndim == 2 else int((target != ignore_index).sum())


def _similar_pairs(run: Any, target: Tensor, bank_target: Tensor, labels: Any, bank_labels: Any, ignore_index: int) -> int:
    """The number of similar pairs that are kept, in host memory."""
    if target.ndim == 2:
        return run.count_similar(labels, bank_labels)
    ordered = bank_target.sort().values
    counts = torch.searchsorted(ordered, target, right=True) - torch.searchsorted(ordered, target)
    return int(counts.masked_fill(target == ignore_index, 0).sum())


def _weigh(pairs: int, similar: int, positive_weight: float | None) -> list[float]:
    """Weights of a dissimilar and of a similar pair, and the normaliser. A kind of which there is no pair weighs 0."""
    if positive_weight is None:  # balanced
        return [pairs / part if part else 0.0 for part in (pairs - similar, similar)] + [pairs]
    return [1.0, positive_weight, positive_weight * similar + (pairs - similar)]


def _weights(numbers: list[float], positive_weight: float | None) -> tuple[float, float]:
    """Of a dissimilar and of a similar pair; `numbers` as `_weigh` has them, if it did."""
    return (numbers[0], numbers[1]) if numbers else (1.0, 1.0 if positive_weight is None else positive_weight)


def _fake(
    z: Tensor, bank: Tensor | None, target: Tensor, bank_target: Tensor | None, alpha: float, positive_weight: float | None,
    balanced: bool, similarity: str, ignore_index: int, impl: str, reduction: str, need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    wide = wide_dtype(z, bank)
    numbers = 3 if _weighed(positive_weight, balanced, reduction) else 0
    return (
        z.new_empty((len(z),) if reduction == "none" else (), dtype=wide),
        z.new_empty((len(z) if need_grad else 0, z.shape[1]), dtype=wide),
        z.new_empty(numbers, dtype=torch.float32 if impl == "triton" else torch.float64),
        z.new_empty(() if reduction == "mean" else (0,), dtype=wide),
    )


def _fake_column_gradient(z: Tensor, target: Tensor, bank: Tensor, *_: Any) -> Tensor:
    return bank.new_empty(bank.shape, dtype=wide_dtype(z, bank))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, bank, target, bank_target, *how, reduction, _ = inputs
    ctx.set_materialize_grads(False)
    swept_again = ctx.needs_input_grad[1] if bank is not None else reduction == "none"
    again = (z, target, bank, bank_target) if swept_again else (None,) * 4
    ctx.save_for_backward(*again, *output[1:])
    ctx.dtypes = z.dtype, None if bank is None else bank.dtype
    ctx.how = how


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, Tensor | None]:
    refuse_double_backward("the pairwise likelihood loss")
    if upstream is None:
        return None, None
    z, target, bank, bank_target, grad, factors, scale = ctx.saved_tensors
    if scale.ndim == 0:
        upstream = upstream * scale
    by_row = upstream.ndim == 1
    z_grad = bank_grad = None
    if ctx.needs_input_grad[0]:
        # Out of place: a second backward needs the row gradients as they are.
        z_grad = grad * (upstream[:, None] if by_row else upstream)
        if by_row and ctx.dtypes[1] is None:  # z is its own bank: all is symmetric but the upstream gradient
            z_grad += _columns.in_backward(ctx, z, target, z, target, upstream, factors, *ctx.how)
        z_grad = z_grad if z_grad.dtype == ctx.dtypes[0] else z_grad.to(ctx.dtypes[0])
    if ctx.dtypes[1] is not None and ctx.needs_input_grad[1]:
        bank_grad = _columns.in_backward(ctx, z, target, bank, bank_target, upstream if by_row else None, factors, *ctx.how)
        bank_grad = (bank_grad if by_row else bank_grad * upstream).to(ctx.dtypes[1])
    return z_grad, bank_grad


pairwise_likelihood = differentiable(
    "pairwise_likelihood", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, leading=LEADING, outputs=1
)
_columns = registered("pairwise_likelihood_columns", _column_gradient, fake=_fake_column_gradient)

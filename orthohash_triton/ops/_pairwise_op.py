"""The registered ops behind the pairwise likelihood: loss and gradient of the rows; gradient of the columns."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._derived import derived
from ._registered import differentiable, refuse_double_backward, registered

LEADING = 2  # arguments that may have a gradient: z and bank


class Factors(NamedTuple):
    """What the numbers of pairs decide. Python numbers in host memory, scalar tensors on a device."""

    dissimilar: Any  # weight of a dissimilar pair
    similar: Any  # of a similar one
    normaliser: Any  # of reduction "mean"


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
) -> tuple[Tensor, Tensor, Tensor]:
    """loss (a scalar, or [N]); and for the backward the gradient of each row's sum with respect to z in its role as rows [N, K]
    (no rows where not needed), and `Factors` [3]. Without a bank, z is its own."""
    bank, bank_target = (z, target) if bank is None or bank_target is None else (bank, bank_target)
    run = _implementation(impl)
    labels, bank_labels = _labels(run, target), _labels(run, bank_target)
    read = impl == "cpu"  # numbers are at hand in host memory; reading them from a device would wait for it
    pairs = _kept(target, ignore_index, read) * _kept(bank_target, ignore_index, read)
    similar = None
    if balanced or positive_weight is not None:
        similar = _similar_pairs(run, target, bank_target, labels, bank_labels, ignore_index, read)
    factors = _weigh(pairs, similar, positive_weight)
    wide = wide_dtype(z, bank)
    held = torch.stack([torch.as_tensor(x, dtype=torch.float64, device=z.device) for x in factors]).to(wide)
    rows, grad = run.sweep(
        _computed(z, wide), labels, _computed(bank, wide), bank_labels, None, alpha=alpha,
        weights=run.weights(held), similarity=similarity, ignore_index=ignore_index, need_grad=need_grad,
    )  # fmt: skip
    if reduction == "none":
        return rows.to(wide), grad, held
    total = rows.sum()
    if reduction == "mean":
        total = total / held[2]
    return total.to(wide), grad, held


def _column_gradient(
    z: Tensor,
    target: Tensor,
    bank: Tensor,
    bank_target: Tensor,
    upstream: Tensor | None,
    factors: Tensor,
    alpha: float,
    similarity: str,
    ignore_index: int,
    impl: str,
) -> Tensor:
    """The gradient of sum_i upstream_i (sum of row i) with respect to the bank [M, K]; upstream [N], None for ones."""
    run = _implementation(impl)
    wide = wide_dtype(z, bank)
    z = _computed(z, wide)
    pulls = None if upstream is None else upstream[:, None] * z
    return run.sweep(
        _computed(bank, wide), _labels(run, bank_target), z, _labels(run, target), pulls, alpha=alpha,
        weights=run.weights(factors), similarity=similarity, ignore_index=ignore_index, need_grad=True,
    )[1]  # fmt: skip


def _implementation(impl: str) -> Any:
    if impl == "triton":
        from ..kernels import pairwise_likelihood_loss as kernel

        return kernel
    from ..kernels.cpu import pairwise_likelihood_loss as cpu_kernel

    return cpu_kernel


def _labels(run: Any, target: Tensor) -> Any:
    """Labels as the sweep reads them; a multi-hot target that does not change is packed once."""
    if target.ndim == 1:
        return run.labels(target)
    return derived(target, f"packed by {run.__name__}", lambda: run.labels(target))


def wide_dtype(z: Tensor, bank: Tensor | None) -> torch.dtype:
    """What the loss is computed in."""
    double = z.dtype == torch.float64 or (bank is not None and bank.dtype == torch.float64)
    return torch.float64 if double else torch.float32


def _computed(codes: Tensor, wide: torch.dtype) -> Tensor:
    return codes.detach().to(wide)


def _kept(target: Tensor, ignore_index: int, read: bool) -> Any:
    if target.ndim == 2:
        return len(target)
    kept = (target != ignore_index).sum()
    return int(kept) if read else kept


def _similar_pairs(
    run: Any, target: Tensor, bank_target: Tensor, labels: Any, bank_labels: Any, ignore_index: int, read: bool
) -> Any:
    """The number of similar pairs that are kept."""
    if target.ndim == 2:
        return run.count_similar(labels, bank_labels)
    ordered = bank_target.sort().values
    counts = torch.searchsorted(ordered, target, right=True) - torch.searchsorted(ordered, target)
    counts = counts.masked_fill(target == ignore_index, 0).sum()
    return int(counts) if read else counts


def _weigh(pairs: Any, similar: Any, positive_weight: float | None) -> Factors:
    """From the numbers of pairs and, unless all weigh 1, of similar ones. Nothing here waits for a device."""
    if similar is None:
        return Factors(1.0, 1.0, pairs)
    if positive_weight is None:  # balanced
        return Factors(_ratio(pairs, pairs - similar), _ratio(pairs, similar), pairs)
    return Factors(1.0, positive_weight, positive_weight * similar + (pairs - similar))


def _ratio(total: Any, part: Any) -> Any:
    """total / part; 0 where there is no such pair."""
    if isinstance(part, Tensor):
        return torch.where(part > 0, total / part.clamp(min=1).double(), 0.0)
    return total / part if part else 0.0


def _fake(z: Tensor, bank: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    reduction, need_grad = rest[-2:]
    wide = wide_dtype(z, bank)
    loss = z.new_empty((len(z),) if reduction == "none" else (), dtype=wide)
    return loss, z.new_empty((len(z) if need_grad else 0, z.shape[1]), dtype=wide), z.new_empty(3, dtype=wide)


def _fake_column_gradient(z: Tensor, target: Tensor, bank: Tensor, *_: Any) -> Tensor:
    return bank.new_empty(bank.shape, dtype=wide_dtype(z, bank))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, bank, target, bank_target, alpha, _, _, similarity, ignore_index, impl, reduction, _ = inputs
    ctx.set_materialize_grads(False)
    swept_again = ctx.needs_input_grad[1] if bank is not None else reduction == "none"
    again = (z, target, bank, bank_target) if swept_again else (None,) * 4
    ctx.save_for_backward(*again, *output[1:])
    ctx.dtypes = z.dtype, None if bank is None else bank.dtype
    ctx.how = alpha, similarity, ignore_index, impl
    ctx.mean = reduction == "mean"


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, Tensor | None]:
    refuse_double_backward("the pairwise likelihood loss")
    if upstream is None:
        return None, None
    z, target, bank, bank_target, grad, factors = ctx.saved_tensors
    if ctx.mean:  # without a pair the gradient is zero
        upstream = torch.where(factors[2] > 0, upstream / factors[2], 0.0)
    by_row = upstream.ndim == 1
    z_grad = bank_grad = None
    if ctx.needs_input_grad[0]:
        # Out of place: a second backward needs the row gradients as they are.
        z_grad = grad * (upstream[:, None] if by_row else upstream)
        if ctx.dtypes[1] is None:  # z is its own bank: all is symmetric but the upstream gradient
            z_grad = 2 * z_grad if not by_row else z_grad + _columns.op(z, target, z, target, upstream, factors, *ctx.how)
        z_grad = z_grad.to(ctx.dtypes[0])
    if ctx.dtypes[1] is not None and ctx.needs_input_grad[1]:
        bank_grad = _columns.op(z, target, bank, bank_target, upstream if by_row else None, factors, *ctx.how)
        bank_grad = (bank_grad if by_row else bank_grad * upstream).to(ctx.dtypes[1])
    return z_grad, bank_grad


pairwise_likelihood = differentiable(
    "pairwise_likelihood", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, leading=LEADING, outputs=1
)
_columns = registered("pairwise_likelihood_columns", _column_gradient, fake=_fake_column_gradient)

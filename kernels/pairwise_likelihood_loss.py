"""Pairwise likelihood on a GPU: loss and gradient in one sweep over the columns, without storing the matrix of pairs.

  prepare  Split every code into two fp16 halves and a power of two, all sides in one launch; count the rows with a label.
  count    Count the similar pairs, and `weigh` derives the weights of pairs. Only where weights or normaliser depend on them.
  sweep    One program takes a block of rows, a block of dimensions and a split of the columns. It turns the products
           <z_i, b_j> of a tile into losses and into the gradient with respect to the products, and accumulates that of the rows.
  finish   Add the splits up in their order, and the losses of the rows to the result.

Numerics. Both factors of both products are real numbers. Each is the sum of a high and a low fp16 half, and three of the four
products of halves are computed; the fourth is below float32's last digit. Every row is scaled to at most 2^14 .. 2^15. Its
numbers keep float32's digits down to 2^-18 of its largest one; the digits that smaller ones lose do not matter in a sum of
products. Tensor cores truncate instead of rounding, so a long sum would shrink: every tile starts from zero, and ordinary
additions add it to the sum. The slopes of a tile, times the scales of the columns, are scaled row by row, so that a row of small
slopes, all of whose pairs are classified well, keeps its digits.

Let t = theta for a dissimilar pair and -theta for a similar one. The loss is w log(1 + e^t) and its slope along t is w sigma(t):
nothing cancels, and the only exponential, e^-|t|, cannot overflow. log(1 + e) / e is a polynomial, because e may be far below 1.

More than MAX_TILE_K dimensions are multiplied in tiles. More than MAX_BLOCK_K have more gradient than a program has registers:
then programs for each block of dimensions compute all products again, (K / MAX_BLOCK_K + 1) / 2 times the work.
"""

import torch
from torch import Tensor

from . import _pairwise_prepare, _pairwise_sums, _pairwise_sweep
from ._pairwise_arguments import Kept, Pairing, Reduction, Side, Similarity


def loss_and_gradient(
    z: Tensor,  # float [N, K]
    target: Tensor,  # int64 ids [N], or multi-hot [N, C]
    bank: Tensor | None,  # float [M, K]; None for z itself
    bank_target: Tensor | None,  # int64 ids [M], or multi-hot [M, C]
    *,
    alpha: float,
    positive_weight: float | None,  # None for 1; not used if balanced
    balanced: bool,
    similarity: Similarity,
    ignore_index: int,
    reduction: Reduction,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss and the tensors that its backward needs.

    Returns:
        loss: float32, a scalar, or [N] for reduction "none".
        grad: float32 [N, K], or [0, K] if not needed: the gradient with respect to z of the sum of all rows. Without a bank it
            covers both roles of z, except for reduction "none", where it covers z as rows.
        factors: float32 [3], the weights of a dissimilar and of a similar pair and the normaliser; [0] if the options give them.
        scale: float32, what `grad` must still be multiplied with: a scalar for reduction "mean", otherwise [0].
    """
    pairing = Pairing(alpha, positive_weight, balanced, similarity, ignore_index)
    rows, columns = _pairwise_prepare.sides(z, target, bank, bank_target)
    others = None if columns is rows else columns
    halves, kept = _pairwise_prepare.prepare(ignore_index, rows, others)
    weighed = balanced or (positive_weight is not None and reduction == "mean")
    factors = torch.empty(3 if weighed else 0, dtype=torch.float32, device=z.device)
    if weighed:
        _pairwise_sums.weigh(rows.labels, columns.labels, kept, pairing, factors)
    both_roles = 2.0 if bank is None and reduction != "none" else 1.0
    losses, grads = _pairwise_sweep.sweep(
        rows, halves[0], columns, halves[-1], None, pairing, factors, factor=both_roles, need_grad=need_grad
    )
    loss = torch.empty(len(z) if reduction == "none" else (), dtype=torch.float32, device=z.device)
    scale = torch.empty(() if reduction == "mean" else 0, dtype=torch.float32, device=z.device)
    grad = _pairwise_sums.finish(losses, grads, rows, columns, kept, loss, scale, factors, reduction)
    return loss, grad, factors, scale


def column_gradient(
    z: Tensor,  # float [N, K]
    target: Tensor,
    bank: Tensor,  # float [M, K]
    bank_target: Tensor,
    upstream: Tensor | None,  # float [N], a factor of each row's loss; None for ones
    factors: Tensor,  # from `loss_and_gradient`
    *,
    alpha: float,
    positive_weight: float | None,
    balanced: bool,
    similarity: Similarity,
    ignore_index: int,
) -> Tensor:
    """Return the gradient of sum_i upstream_i loss_i with respect to the bank, float32 [M, K]."""
    pairing = Pairing(alpha, positive_weight, balanced, similarity, ignore_index)
    # The pairs are swept with the roles exchanged: the bank has the rows, z the columns.
    columns, rows = _pairwise_prepare.sides(z, target, bank, bank_target)
    others = None if rows is columns else columns
    values = None if upstream is None else Side(upstream[:, None] * z, columns.labels)
    halves, _ = _pairwise_prepare.prepare(ignore_index, rows, others, values)
    losses, grads = _pairwise_sweep.sweep(
        rows, halves[0], columns, halves[0 if others is None else 1], None if values is None else halves[-1], pairing, factors,
        factor=1.0, need_grad=True,
    )  # fmt: skip
    return _pairwise_sums.finish(losses, grads, rows, columns, Kept(None, 0, others is None), None, None, factors, None)

"""Rotations of continuous codes that bring them near +-1 before their signs are taken.

Training without a quantisation term and rotating afterwards does better than most such terms (H2Q, Schwengber et al., arXiv
2311.04207), needs no labels and leaves every angle as it was. Both fits here minimise the same thing for unit rows: the distance
of the rotated codes to their signs.

Codes are signs, so that bits split at 0 and a rotation is about 0: codes are not centred here. Where they should split at
their mean, centre before training ends (batch norm does) or subtract the mean, here and when codes are used.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._base import checks
from ._base.arrays import as_tensor
from .ops.householder import householder_apply, householder_product

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_BLOCK_ROWS = 1 << 14  # that are in float64 at once
_LEARNING_RATES = {"l2": 0.1, "l1": 0.1, "min_entry": 0.1, "bit_var": 0.01}  # H2Q's released recipe


@dataclass(frozen=True)
class Rotation:
    """What the fits return: `r(x)` rotates codes. Into a hash layer at no cost: `head.rotated(r.matrix)`."""

    matrix: Tensor  # orthogonal float32 [K, K]
    errors: list[float] = field(repr=False)  # quantisation error before the first and after every iteration or epoch

    def __call__(self, x: Tensor) -> Tensor:
        """x @ matrix: floating [N, K] on any device, in its dtype, computed in float32 at least. Gradients pass through."""
        x = checks.tensor("Rotation", "x", x, dtypes=_FLOATS, ndim=2, shape=f"[N, {len(self.matrix)}]")
        if x.shape[1] != len(self.matrix):
            raise ValueError(f"Rotation: x must be [N, {len(self.matrix)}]; got {checks.describe(x)}")
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x.to(wide) @ self.matrix.to(x.device, wide)).to(x.dtype)


@torch.inference_mode(False)  # a result that later training may use
def fit_itq(x: Any, *, iterations: int = 50, seed: int = 0) -> Rotation:
    """Iterative quantisation: the rotation R that minimises |sgn(x R) - x R|^2, by alternating minimisation.

    Gong and Lazebnik, CVPR 2011, section 2.2. Given R, the best signs are B = sgn(x R); given B, the best R is U W^T, from
    x^T B = U S W^T (orthogonal Procrustes). The start is a random rotation. Two public implementations take W for W^T and then
    do no better than that start. The paper's PCA to K dimensions comes first: `fit_pca`.

    Args:
        x: continuous codes, float [N, K], N at least 1, torch (any device) or numpy. Zero rows are fine: they pull nowhere. Rows
            count by their length, as in the paper; normalise them first to have each count the same (H2Q does).
        iterations: each costs 4 N K^2 operations in float64. The paper's 50 is beyond where it has settled.
        seed: of the random start; torch's global generators are neither read nor advanced.

    Returns:
        A `Rotation`, its matrix on the device of x. `errors` holds, before each iteration and after the last, the mean of
        (z - sgn z)^2 for z = x R, x scaled as a whole so that the mean square of its entries is 1. It never increases. sgn 0 is
        -1, as in `pack_codes`.

    Raises:
        TypeError, ValueError: x is no floating [N, K], has no rows, or has entries that are NaN or infinite; negative iterations.
    """
    x = _codes("fit_itq", x)
    iterations = checks.integer("fit_itq", "iterations", iterations, minimum=0)
    generator = torch.Generator().manual_seed(checks.integer("fit_itq", "seed", seed, minimum=0))
    matrix = _random_rotation(x.shape[1], generator).to(x.device)
    square = sum(float(block.square().sum()) for block in _blocks(x)) / x.numel()
    scale = 1 / math.sqrt(square) if square > 0 else 1.0
    errors = []
    for iteration in range(iterations + 1):
        pull, error = _pull_to_signs(x, matrix, scale)
        errors.append(error)
        if iteration < iterations:
            left, _, right = torch.linalg.svd(pull.cpu())
            matrix = (left @ right).to(x.device)
    return Rotation(matrix.float(), errors)


@torch.inference_mode(False)  # the same, and the descent itself
@torch.enable_grad()
def fit_householder(
    x: Any,
    *,
    loss: str = "l2",
    epochs: int = 300,
    lr: float | None = None,
    batch_size: int = 128,
    validation: float = 0.1,
    seed: int = 0,
) -> Rotation:
    """H2Q: a rotation as a product of K Householder reflections, by stochastic gradient descent.

    Schwengber et al., arXiv 2311.04207, section 3, with the recipe of the released code: rows normalised to length sqrt(K),
    reflections that start along the axes (their product is -I), plain SGD, the epoch with the lowest loss on held-out rows.

    Args:
        x: continuous codes, float [N, K], N at least 1, torch (any device) or numpy. Zero rows have no direction and are left
            out.
        loss: of the rotated rows z, averaged over rows; the published figures are those of "l2", the others are within 0.2 mAP.
            "l2": mean of (z - sgn z)^2 over the bits; "l1": mean of |z - sgn z|; "min_entry": logsumexp of -z^2 over the bits, so
            that the entry nearest to 0 moves away; "bit_var": mean of s(z) (1 - s(z)) with s the logistic function.
        epochs, lr, batch_size: None for lr is the released recipe's, 0.01 for "bit_var" and 0.1 for the others. The recipe's 300
            epochs take tens of seconds for 10,000 codes of 64 bits on one core; 30 came within 3 % of their error there.
        validation: share of the rows, in [0, 1), that chooses the epoch and is not trained on; 0, or a share of less than one
            row, chooses by all rows.
        seed: of the split and the order of rows; torch's global generators are neither read nor advanced.

    Returns:
        A `Rotation`, its matrix on the device of x. `errors` holds, before the first and after every epoch, the mean of
        (z - sgn z)^2 over all rows, whatever the loss.

    Raises:
        TypeError, ValueError: x is no floating [N, K], has only zero rows, or has entries that are NaN or infinite; a number or a
            name out of range.
    """
    op = "fit_householder"
    x = _codes(op, x)
    checks.choice(op, "loss", loss, tuple(_LOSSES))
    epochs = checks.integer(op, "epochs", epochs, minimum=0)
    batch_size = checks.integer(op, "batch_size", batch_size, minimum=1)
    lr = _LEARNING_RATES[loss] if lr is None else float(lr)
    if not 0 < lr < math.inf:
        raise ValueError(f"{op}: lr must be positive and finite; got {lr}")
    if not 0 <= validation < 1:
        raise ValueError(f"{op}: validation must be a share in [0, 1); got {validation}")
    generator = torch.Generator().manual_seed(checks.integer(op, "seed", seed, minimum=0))
    rows = _on_sphere(op, x)
    shuffled = torch.randperm(len(rows), generator=generator).to(x.device)
    held_out = int(validation * len(rows))
    training, judges = rows[shuffled[held_out:]], rows[shuffled[:held_out]] if held_out else rows

    vectors = torch.eye(x.shape[1], dtype=rows.dtype, device=x.device, requires_grad=True)
    best, best_loss, errors = vectors.detach().clone(), math.inf, []
    for epoch in range(epochs + 1):
        if epoch:
            _descend(vectors, training, loss, lr, batch_size, generator)
        matrix = householder_product(vectors.detach())
        errors.append(float(_LOSSES["l2"](rows @ matrix).mean()))
        found = float(_LOSSES[loss](judges @ matrix).mean())
        if found < best_loss:
            best, best_loss = vectors.detach().clone(), found
    return Rotation(householder_product(best.double()).float(), errors)


def _descend(vectors: Tensor, rows: Tensor, loss: str, lr: float, batch_size: int, generator: torch.Generator) -> None:
    """One epoch of SGD; the last batch may be smaller."""
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    for batch in rows[order].split(batch_size):
        value = _LOSSES[loss](householder_apply(batch, vectors)).mean()
        (gradient,) = torch.autograd.grad(value, vectors)
        with torch.no_grad():
            vectors.sub_(gradient, alpha=lr)


def _bit_var(z: Tensor) -> Tensor:
    share = z.sigmoid()
    return (share * (1 - share)).mean(1)


# Rotated rows [N, K] -> [N]. |z - sgn z| is ||z| - 1|.
_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda z: (z.abs() - 1).square().mean(1),
    "l1": lambda z: (z.abs() - 1).abs().mean(1),
    "min_entry": lambda z: (-z.square()).logsumexp(1),
    "bit_var": _bit_var,
}


def _codes(op: str, x: Any) -> Tensor:
    x = checks.tensor(op, "x", as_tensor(x), dtypes=_FLOATS, ndim=2, shape="[N, K]").detach()
    if x.numel() == 0:
        raise ValueError(f"{op}: x must have at least one row and one bit; got {checks.describe(x)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{op}: x must be finite; got entries that are NaN or infinite. Drop such rows first")
    return x


def _on_sphere(op: str, x: Tensor) -> Tensor:
    """The rows of x that are not zero, scaled to length sqrt(K), float32."""
    length = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    kept = length > 0
    if not bool(kept.any()):
        raise ValueError(f"{op}: x must have a row that is not zero; zero rows have no direction to rotate")
    return (x[kept] * (math.sqrt(x.shape[1]) / length[kept])[:, None]).float()


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """The rows of x in their order, float64 [n, K]."""
    for block in x.split(_BLOCK_ROWS):
        yield block.double()


def _random_rotation(bits: int, generator: torch.Generator) -> Tensor:
    """Uniform over the orthogonal matrices, float64 [K, K]."""
    q, r = torch.linalg.qr(torch.randn(bits, bits, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def _pull_to_signs(x: Tensor, matrix: Tensor, scale: float) -> tuple[Tensor, float]:
    """x^T sgn(x R), float64 [K, K], and the quantisation error of x R times `scale`."""
    pull, error = torch.zeros_like(matrix), 0.0
    for block in _blocks(x):
        z = block @ matrix
        signs = torch.where(z > 0, 1.0, -1.0).to(z)
        pull.addmm_(block.T, signs)
        error += float((scale * z - signs).square().sum())
    return pull, error / x.numel()

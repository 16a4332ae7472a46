"""Rotations of continuous codes, which bring them near +-1 before they are binarised.

Training without a quantisation term and rotating afterwards gives better codes than most such terms (H2Q, Schwengber et al.,
arXiv 2311.04207). It needs no labels and does not change the angles between codes. For rows of equal length both fits minimise
the same quantity: the distance of the rotated codes to their signs.

Codes are not centred, because binary codes are the signs of continuous ones. If a bit should split at its mean, center the codes
before training ends (batch norm does this), or subtract the mean here and whenever the codes are used.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ._base import checks
from ._base.arrays import as_tensor
from ._base.rows import unit_rows
from .ops.householder import householder_apply, householder_product

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_BLOCK_ROWS = 1 << 14  # rows converted to float64 at once

Loss = Literal["l2", "l1", "min_entry", "bit_var"]
_LEARNING_RATES: dict[Loss, float] = {"l2": 0.1, "l1": 0.1, "min_entry": 0.1, "bit_var": 0.01}  # from the released code of H2Q


@dataclass(frozen=True)
class Rotation:
    """A rotation of continuous codes. `head.rotated(rotation.matrix)` merges it into a hash layer.

    Attributes:
        matrix: orthogonal matrix, float32 [K, K].
        errors: quantisation error before the first and after every iteration or epoch of the fit.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> rotation = oht.Rotation(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), errors=[])
        >>> rotation(torch.tensor([[3.0, 4.0]]))
        tensor([[-4.,  3.]])
    """

    matrix: Tensor
    errors: list[float] = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the rotated codes x @ matrix.

        Args:
            x: floating [N, K] on any device. Gradients pass through.

        Returns:
            [N, K] in the dtype of x, computed in float32 or float64.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x has another shape.
        """
        x = checks.tensor("Rotation", "x", x, dtypes=_FLOATS, ndim=2, shape=f"[N, {len(self.matrix)}]")
        if x.shape[1] != len(self.matrix):
            raise ValueError(f"Rotation: x must be [N, {len(self.matrix)}]; got {checks.describe(x)}")
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x.to(wide) @ self.matrix.to(x.device, wide)).to(x.dtype)


@torch.inference_mode(False)  # the result must be usable in a later training
def fit_itq(x: Tensor | np.ndarray, *, iterations: int = 50, seed: int = 0) -> Rotation:
    """Fit a rotation by iterative quantisation (ITQ): minimise |sgn(x R) - x R|^2 by alternating minimisation.

    Gong and Lazebnik, CVPR 2011, section 2.2. For fixed R the best signs are B = sgn(x R). For fixed B the best R is U W^T, where
    x^T B = U S W^T (orthogonal Procrustes). The start is a random rotation. The method of the paper first applies PCA to K
    dimensions, see `fit_pca`.

    Args:
        x: continuous codes, float [N, K] with at least one row; a tensor on any device, or a NumPy array. Rows are weighted by
            their length, as in the paper; normalise them first to weight them equally, as H2Q does. Zero rows have no effect.
        iterations: number of iterations, which cost 4 N K^2 operations in float64 each. The 50 of the paper are more than
            convergence needs.
        seed: seed of the random start. The global generators of torch are neither read nor advanced.

    Returns:
        A `Rotation` with its matrix on the device of x. `errors` has the mean of (z - sgn z)^2 before each iteration and after
        the last, where z = x R, scaled such that the mean square of its entries is 1. It never increases. sgn 0 is -1, as in
        `pack_codes`.

    Raises:
        TypeError: x is not a floating-point tensor or array, or a number is not an integer.
        ValueError: x is not [N, K], has no rows, or has entries that are NaN or infinite; or `iterations` is negative.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
        >>> rotation = oht.fit_itq(x, iterations=20)
        >>> rotation.errors[-1] < rotation.errors[0]
        True
        >>> codes = oht.pack_codes(rotation(x))
        >>> codes.shape
        torch.Size([200, 2])
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


@torch.inference_mode(False)  # the result must be usable in a later training, and the descent needs gradients
@torch.enable_grad()
def fit_householder(
    x: Tensor | np.ndarray,
    *,
    loss: Loss = "l2",
    epochs: int = 300,
    lr: float | None = None,
    batch_size: int = 128,
    validation: float = 0.1,
    seed: int = 0,
) -> Rotation:
    """Fit a rotation as a product of K Householder reflections (H2Q), by stochastic gradient descent.

    Schwengber et al., arXiv 2311.04207, section 3, with the recipe of the released code: rows are normalised to length sqrt(K),
    the reflections start along the axes (their product is -I), the optimizer is plain SGD, and the result is that of the epoch
    with the lowest loss on held-out rows.

    Args:
        x: continuous codes, float [N, K] with at least one row; a tensor on any device, or a NumPy array. Zero rows have no
            direction and are ignored.
        loss: loss of the rotated rows z, averaged over the rows. The published results use "l2"; the others are within 0.2 mAP.
            "l2": mean of (z - sgn z)^2 over the bits; "l1": mean of |z - sgn z|; "min_entry": logsumexp of -z^2 over the bits,
            which moves the entry nearest to 0 away from it; "bit_var": mean of s(z) (1 - s(z)), where s is the logistic function.
        epochs: number of epochs. The 300 of the recipe take tens of seconds for 10,000 codes of 64 bits on one core, where 30 had
            an error within 3 %.
        lr: learning rate; None means that of the recipe, 0.01 for "bit_var" and 0.1 for the others.
        batch_size: rows per batch.
        validation: share of the rows in [0, 1) that selects the epoch and is not trained on. If it is less than one row, all rows
            select the epoch.
        seed: seed of the split and of the order of the rows. The global generators of torch are neither read nor advanced.

    Returns:
        A `Rotation` with its matrix on the device of x. `errors` has the mean of (z - sgn z)^2 over all rows before the first and
        after every epoch, for every loss.

    Raises:
        TypeError: x is not a floating-point tensor or array, or a number has a wrong type.
        ValueError: x is not [N, K], has only zero rows, or has entries that are NaN or infinite; or an option is out of range.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
        >>> rotation = oht.fit_householder(x, epochs=5)
        >>> rotation.matrix.shape, len(rotation.errors), min(rotation.errors) < rotation.errors[0]
        (torch.Size([16, 16]), 6, True)
    """
    op = "fit_householder"
    x = _codes(op, x)
    checks.choice(op, "loss", loss, get_args(Loss))
    epochs = checks.integer(op, "epochs", epochs, minimum=0)
    batch_size = checks.integer(op, "batch_size", batch_size, minimum=1)
    lr = _LEARNING_RATES[loss] if lr is None else checks.factor(op, "lr", lr)
    validation = checks.number(op, "validation", validation)
    if not 0 <= validation < 1:
        raise ValueError(f"{op}: validation must be a share in [0, 1); got {validation}")
    generator = torch.Generator().manual_seed(checks.integer(op, "seed", seed, minimum=0))
    rows = _on_sphere(op, x)
    shuffled = torch.randperm(len(rows), generator=generator).to(x.device)
    held_out = int(validation * len(rows))
    training, validating = rows[shuffled[held_out:]], rows[shuffled[:held_out]] if held_out else rows

    vectors = torch.eye(x.shape[1], dtype=rows.dtype, device=x.device, requires_grad=True)
    best, best_loss, errors = vectors.detach().clone(), math.inf, []
    for epoch in range(epochs + 1):
        if epoch:
            _descend(vectors, training, loss, lr, batch_size, generator)
        matrix = householder_product(vectors.detach())
        errors.append(float(_LOSSES["l2"](rows @ matrix).mean()))
        found = float(_LOSSES[loss](validating @ matrix).mean())
        if found < best_loss:
            best, best_loss = vectors.detach().clone(), found
    return Rotation(householder_product(best.double()).float(), errors)


def _descend(vectors: Tensor, rows: Tensor, loss: Loss, lr: float, batch_size: int, generator: torch.Generator) -> None:
    """Update `vectors` in place by one epoch of SGD. The last batch may be smaller."""
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    for batch in rows[order].split(batch_size):
        value = _LOSSES[loss](householder_apply(batch, vectors)).mean()
        (gradient,) = torch.autograd.grad(value, vectors)
        with torch.no_grad():
            vectors.sub_(gradient, alpha=lr)


def _bit_var(z: Tensor) -> Tensor:
    share = z.sigmoid()
    return (share * (1 - share)).mean(1)


# Losses of rotated rows, [N, K] -> [N]. |z - sgn z| equals ||z| - 1|.
_LOSSES: dict[Loss, Callable[[Tensor], Tensor]] = {
    "l2": lambda z: (z.abs() - 1).square().mean(1),
    "l1": lambda z: (z.abs() - 1).abs().mean(1),
    "min_entry": lambda z: (-z.square()).logsumexp(1),
    "bit_var": _bit_var,
}


def _codes(op: str, x: Tensor | np.ndarray) -> Tensor:
    """Return `x` as a tensor [N, K] after checking it; divided by a power of two if its squares would leave float64.

    No digit and no result of a fit depends on such a factor.
    """
    x = checks.tensor(op, "x", as_tensor(x), dtypes=_FLOATS, ndim=2, shape="[N, K]").detach()
    if x.numel() == 0:
        raise ValueError(f"{op}: x must have at least one row and one bit; got {checks.describe(x)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{op}: x must be finite; got entries that are NaN or infinite. Drop such rows first")
    largest = float(x.abs().max())
    if x.dtype == torch.float64 and largest and not 1e-100 < largest < 1e100:
        x = x / 2.0 ** (math.frexp(largest)[1] - 1)
    return x


def _on_sphere(op: str, x: Tensor) -> Tensor:
    """Return the non-zero rows of x, scaled to length sqrt(K), float32."""
    kept = (x != 0).any(1)
    if not bool(kept.any()):
        raise ValueError(f"{op}: x must have a row that is not zero; got zero rows only, which have no direction")
    return (math.sqrt(x.shape[1]) * unit_rows(x[kept].double())).float()


def _blocks(x: Tensor) -> Iterator[Tensor]:
    """Yield the rows of x in blocks, float64 [n, K]."""
    for block in x.split(_BLOCK_ROWS):
        yield block.double()


def _random_rotation(bits: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix, uniformly distributed, float64 [K, K]."""
    q, r = torch.linalg.qr(torch.randn(bits, bits, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def _pull_to_signs(x: Tensor, matrix: Tensor, scale: float) -> tuple[Tensor, float]:
    """Return x^T sgn(x R), float64 [K, K], and the quantisation error of x R times `scale`."""
    pull, error = torch.zeros_like(matrix), 0.0
    for block in _blocks(x):
        z = block @ matrix
        signs = torch.where(z > 0, 1.0, -1.0).to(z)
        pull.addmm_(block.T, signs)
        error += float((scale * z - signs).square().sum())
    return pull, error / x.numel()

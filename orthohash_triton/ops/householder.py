"""Products of Householder reflections: orthogonal matrices that gradient descent can move.

The compact WY form (Schreiber and Van Loan, 1989; with the triangle by Joffrain et al., ACM TOMS 2006): with the vectors, scaled
to length sqrt(2), as rows of S [M, K], so that H_i = I - s_i s_i^T,

    H_1 H_2 ... H_M = I - S^T T S,    T^-1 = I + striu(S S^T),

which replaces M steps, each waiting for the one before, by one triangular solve of size M and matrix products. What is best for
rows depends on their number:

- With M near K, the usual case, the matrix R itself is built once a step (about 5 K^3 operations forward, 9 K^3 backward,
  independent of N) and rows take one product with it, as in a linear layer: 2 N K^2 forward, 4 N K^2 backward. Rows times U^T,
  T and U would take twice that.
- Few reflections of many dimensions (2 M < K) are applied factor by factor on a CPU. On a GPU the product with R stays bound by
  memory up to hundreds of dimensions, so that factors would save nothing there.

What has size K alone is in float64, and plain torch but for the lengths. In float32 R loses up to a digit where reflections
nearly cancel (near the identity or with similar vectors, as all training starts), and by a global switch float32 products may be
TF32 ones; these matrices are small. Rows on a GPU go through `kernels/householder.py`.

The gradient comes from P = x^T g, with g that of the result, W = T S and V = T^T S:

    dL/dS = -(W P^T + V P) + (B + B^T) S,    B = striu(V P W^T),

and then goes through the normalisation. Of what has size N only x is kept, and rounding does not grow with the length of the
chain.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import checks
from .._base.modes import without_autocast
from . import dispatch
from ._registered import differentiable, refuse_double_backward

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def householder_apply(x: Tensor, vectors: Tensor, *, impl: str = "auto") -> Tensor:
    """Rows through a product of reflections: `x H_1 H_2 ... H_M` with `H_i = I - 2 u_i u_i^T / |u_i|^2`.

    H2Q (Schwengber et al., arXiv 2311.04207), whose rotations are these with M = K. Its released code computes R v for columns v,
    which for rows is the inverse order, in log2(K) stages (FastH); the set of matrices is the same.

    Args:
        x: float32, float16, bfloat16 (float64 except in Triton) [N, K], any N.
        vectors: u_i as rows, floating [M, K], any M; they are normalised here. A zero vector reflects nothing and has no
            gradient.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        [N, K] in the dtype of x, computed in float32 (in float64 where x or vectors are, except in Triton). Gradients go to both
        arguments.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or implementation.

    There is no second derivative except with impl="reference".
    """
    op = "householder_apply"
    x = checks.tensor(op, "x", x, dtypes=_FLOATS, ndim=2, shape="[N, K]")
    vectors = _check_vectors(op, vectors)
    if x.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"{op}: x has {x.shape[1]} dimensions, vectors {vectors.shape[1]}; got x {list(x.shape)} and vectors "
            f"{list(vectors.shape)}. Each vector must have one entry for each column of x"
        )
    checks.same_device(op, "vectors", vectors, "x", x)
    chosen = dispatch.choose(op, impl, x)
    if chosen == "triton" and x.dtype == torch.float64:
        raise TypeError(
            f'{op}: x is float64, which the Triton kernels do not take. Convert it with .float(), or use impl="reference"'
        )
    if chosen == "reference":
        from ..reference.householder import householder_apply as reference

        wide = _wide(x, vectors)
        with without_autocast(x):
            return reference(x.to(wide), vectors.to(wide)).to(x.dtype)
    return _householder(x, vectors, chosen)[0]


def householder_product(vectors: Tensor, *, impl: str = "auto") -> Tensor:
    """The matrix `H_1 H_2 ... H_M` of `householder_apply`, orthogonal up to rounding.

    Args:
        vectors: u_i as rows, floating [M, K], any M.
        impl: as `householder_apply`.

    Returns:
        [K, K], float64 for float64 vectors and float32 otherwise. The gradient goes to `vectors`.

    Raises:
        TypeError, ValueError: as `householder_apply`.
    """
    vectors = _check_vectors("householder_product", vectors)
    chosen = dispatch.choose("householder_product", impl, vectors)
    if chosen == "reference":
        from ..reference.householder import householder_product as reference

        with without_autocast(vectors):
            return reference(vectors.to(_wide(vectors, vectors)))
    return _householder(None, vectors, chosen)[0]


def _check_vectors(op: str, vectors: Any) -> Tensor:
    vectors = checks.tensor(op, "vectors", vectors, dtypes=_FLOATS, ndim=2, shape="[M, K]")
    if vectors.shape[1] == 0:
        raise ValueError(f"{op}: vectors must have at least one dimension; got {checks.describe(vectors)}")
    return vectors


def _wide(x: Tensor, vectors: Tensor) -> torch.dtype:
    """What rows are computed in."""
    return torch.float64 if torch.float64 in (x.dtype, vectors.dtype) else torch.float32


class _Compact(NamedTuple):
    """The compact WY form, float64."""

    reflectors: Tensor  # S [M, K], rows of length sqrt(2), or 0 for a zero vector
    factor: Tensor  # what made them of the vectors [M], 0 for a zero vector
    gram: Tensor  # S S^T [M, M]; T^-1 is what is above its diagonal, and ones
    w_transposed: Tensor  # (T S)^T [K, M]

    def w(self) -> Tensor:
        """T S.  [M, K]"""
        return self.w_transposed.T

    def v(self) -> Tensor:
        """T^T S.  [M, K]"""
        return torch.linalg.solve_triangular(self.gram.T, self.reflectors, upper=False, unitriangular=True)


def _compact(vectors: Tensor, impl: str) -> _Compact:
    reflectors, factor = _implementation(impl).reflectors(vectors) if impl == "triton" else _reflectors(vectors)
    gram = reflectors @ reflectors.T
    w = torch.linalg.solve_triangular(gram, reflectors, upper=True, unitriangular=True)
    return _Compact(reflectors, factor, gram, w.T.contiguous())


def _reflectors(vectors: Tensor) -> tuple[Tensor, Tensor]:
    vectors = vectors.double()
    norm = torch.linalg.vector_norm(vectors, dim=1)
    factor = (math.sqrt(2) / norm).masked_fill_(norm == 0, 0)
    return vectors * factor[:, None], factor


class _Pulls(NamedTuple):
    """What the gradient of the vectors needs of P, float64."""

    both: Tensor  # W P^T + V P [M, K]
    vw: Tensor  # V P W^T [M, M]; overwritten


def _pulls(p: Tensor, compact: _Compact) -> _Pulls:
    p = p.double()
    pulled = compact.v() @ p
    return _Pulls(torch.addmm(pulled, compact.w(), p.T), pulled @ compact.w_transposed)


def _vectors_gradient(pulls: _Pulls, compact: _Compact, dtype: torch.dtype, impl: str) -> Tensor:
    """[M, K]"""
    strict = pulls.vw.triu_(1)
    gradient = torch.addmm(pulls.both, strict + strict.T, compact.reflectors, beta=-1)
    if impl == "triton":
        return _implementation(impl).vectors_gradient(gradient, compact.reflectors, compact.factor, dtype)
    along = (compact.reflectors * gradient).sum(1, keepdim=True)
    return gradient.addcmul_(compact.reflectors, along, value=-0.5).mul_(compact.factor[:, None]).to(dtype)


def _by_factors(x: Tensor | None, vectors: Tensor, impl: str) -> bool:
    return x is not None and impl == "cpu" and 2 * len(vectors) < vectors.shape[1]


def _forward(x: Tensor | None, vectors: Tensor, impl: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x R, or R itself for no x; and for the backward the compact form, and R (empty where rows did not go through it)."""
    wide = _wide(vectors if x is None else x, vectors)
    with without_autocast(vectors):
        compact = _compact(vectors, impl)
        matrix = vectors.new_empty(0, 0, dtype=wide)
        if x is not None and _by_factors(x, vectors, impl):
            y = _implementation(impl).apply_factors(x.to(wide), compact.reflectors.to(wide), compact.w().to(wide)).to(x.dtype)
            return y, *compact, matrix
        product = torch.eye(vectors.shape[1], dtype=torch.float64, device=vectors.device)
        product = product.addmm_(compact.reflectors.T, compact.w(), alpha=-1).to(wide)
        if x is None:
            return product, *compact, matrix
        return _rows(x, product, impl, transposed=False), *compact, product


def _rows(x: Tensor, matrix: Tensor, impl: str, *, transposed: bool, dtype: torch.dtype | None = None) -> Tensor:
    """x R or x R^T, in `dtype` or that of x.  [N, K]"""
    dtype = dtype or x.dtype
    run = _implementation(impl)
    matrix = matrix.T if transposed else matrix
    if impl != "triton":
        return run.apply(x.to(matrix.dtype), matrix).to(dtype)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    run.apply(x, matrix.float(), y)
    return y


def _outer(x: Tensor, g: Tensor, impl: str, wide: torch.dtype) -> Tensor:
    """P = x^T g.  [K, K]"""
    run = _implementation(impl)
    return run.outer(x, g) if impl == "triton" else run.outer(x.to(wide), g.to(wide))


@functools.cache
def _implementation(impl: str) -> Any:
    if impl == "triton":
        from ..kernels import householder as kernel

        return kernel
    from ..kernels.cpu import householder as cpu_kernel

    return cpu_kernel


def _fake(x: Tensor | None, vectors: Tensor, impl: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide = _wide(vectors if x is None else x, vectors)
    count, dimensions = vectors.shape
    side = 0 if x is None or _by_factors(x, vectors, impl) else dimensions
    return (
        vectors.new_empty(dimensions, dimensions, dtype=wide) if x is None else x.new_empty(x.shape),
        vectors.new_empty(count, dimensions, dtype=torch.float64),
        vectors.new_empty(count, dtype=torch.float64),
        vectors.new_empty(count, count, dtype=torch.float64),
        vectors.new_empty(dimensions, count, dtype=torch.float64),
        vectors.new_empty(side, side, dtype=wide),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, vectors, ctx.impl = inputs
    ctx.vectors_dtype = vectors.dtype
    ctx.save_for_backward(x, *output[1:])


def _backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None]:
    refuse_double_backward("householder_apply")
    x, *parts, matrix = ctx.saved_tensors
    compact, wide, impl = _Compact(*parts), matrix.dtype, ctx.impl
    needs_x, needs_vectors = ctx.needs_input_grad[:2]
    x_gradient = pulls = None
    with without_autocast(upstream):
        if x is None:
            pulls = _pulls(upstream, compact)
        elif matrix.numel():
            x_gradient = _rows(upstream, matrix, impl, transposed=True, dtype=x.dtype) if needs_x else None
            pulls = _pulls(_outer(x, upstream, impl, wide), compact) if needs_vectors else None
        else:
            reflectors, w, g, kernel = compact.reflectors.to(wide), compact.w().to(wide), upstream.to(wide), _implementation(impl)
            x_gradient = kernel.apply_factors(g, w, reflectors).to(x.dtype) if needs_x else None
            if needs_vectors:
                by_w, by_v, vw = (part.double() for part in kernel.factor_pulls(g, x.to(wide), w, compact.v().to(wide)))
                pulls = _Pulls(by_w + by_v, vw)
        return x_gradient, None if pulls is None else _vectors_gradient(pulls, compact, ctx.vectors_dtype, impl)


_householder = differentiable(
    "householder", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, leading=2, outputs=1
)

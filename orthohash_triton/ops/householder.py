"""Products of Householder reflections: orthogonal matrices that gradient descent can move.

This uses the compact WY form (Schreiber and Van Loan, 1989; with the triangle by Joffrain et al., ACM TOMS 2006). Let the
vectors, scaled to length sqrt(2), be the rows of S [M, K], so that H_i = I - s_i s_i^T. Then

    H_1 H_2 ... H_M = I - S^T T S,    T^-1 = I + striu(S S^T).

One triangular solve of size M and matrix products replace M steps that each wait for the one before. The best way to multiply
rows depends on their number:

- With M near K, the usual case, the matrix R itself is built once per step (about 5 K^3 operations forward and 9 K^3 backward,
  independent of N), and rows take one product with it, as in a linear layer: 2 N K^2 forward, 4 N K^2 backward. Rows times U^T,
  T and U would take twice that.
- On a CPU, few reflections of many dimensions (2 M < K) are applied factor by factor. On a GPU the product with R is bound by
  memory up to hundreds of dimensions, so factors would save nothing.

Tensors whose size depends on K alone are float64, in plain torch except for the lengths. In float32 R would lose up to a digit
where reflections nearly cancel (near the identity or with similar vectors, as at the start of training), and a global switch can
turn float32 products into TF32 ones; these matrices are small. Rows on a GPU go through `kernels/householder.py`.

The gradient follows from P = x^T g, where g is that of the result, W = T S and V = T^T S:

    dL/dS = -(W P^T + V P) + (B + B^T) S,    B = striu(V P W^T),

and then goes through the normalisation. The only tensor of size N that is kept is x, and rounding errors do not grow with the
length of the chain.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import checks
from .._base.modes import without_autocast
from . import dispatch
from ._registered import differentiable, refuse_double_backward

OP = "householder"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def householder_apply(x: Tensor, vectors: Tensor, *, impl: dispatch.ImplChoice = "auto") -> Tensor:
    """Multiply rows by a product of reflections: `x H_1 H_2 ... H_M` with `H_i = I - 2 u_i u_i^T / |u_i|^2`.

    H2Q (Schwengber et al., arXiv 2311.04207) uses these rotations with M = K. Its released code computes R v for columns v,
    which for rows is the inverse order, in log2(K) stages (FastH); the set of matrices is the same.

    Args:
        x: float32, float16, bfloat16 (float64 except in Triton) [N, K], any N.
        vectors: u_i as rows, floating [M, K], any M; they are normalised here. A zero vector reflects nothing and has no
            gradient.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        The result [N, K] in the dtype of x, computed in float32 (in float64 if x or vectors are, except in Triton). Gradients go
        to both arguments. There is no second derivative except with impl="reference".

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or implementation.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> oht.householder_apply(x, torch.tensor([[1.0, 0.0]]))  # mirrored at the plane orthogonal to the vector
        tensor([[-3.,  4.]])
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
    dispatch.refuse_float64(op, chosen, x=x)
    if chosen == "reference":
        wide = _wide(x, vectors)
        with without_autocast(x):
            return dispatch.implementation(OP, chosen).householder_apply(x.to(wide), vectors.to(wide)).to(x.dtype)
    return _householder(x, vectors, chosen)[0]


def householder_product(vectors: Tensor, *, impl: dispatch.ImplChoice = "auto") -> Tensor:
    """Return the matrix `H_1 H_2 ... H_M` of `householder_apply`, orthogonal up to rounding.

    Args:
        vectors: u_i as rows, floating [M, K], any M.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        The matrix [K, K], float64 for float64 vectors and float32 otherwise. The gradient goes to `vectors`.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape or implementation.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> oht.householder_product(torch.tensor([[1.0, 1.0]]))  # swaps the two dimensions, and changes their signs
        tensor([[ 0., -1.],
                [-1.,  0.]])
    """
    vectors = _check_vectors("householder_product", vectors)
    chosen = dispatch.choose("householder_product", impl, vectors)
    if chosen == "reference":
        with without_autocast(vectors):
            return dispatch.implementation(OP, chosen).householder_product(vectors.to(_wide(vectors, vectors)))
    return _householder(None, vectors, chosen)[0]


def _check_vectors(op: str, vectors: Any) -> Tensor:
    vectors = checks.tensor(op, "vectors", vectors, dtypes=_FLOATS, ndim=2, shape="[M, K]")
    if vectors.shape[1] == 0:
        raise ValueError(f"{op}: vectors must have at least one dimension; got {checks.describe(vectors)}")
    return vectors


def _wide(x: Tensor, vectors: Tensor) -> torch.dtype:
    """Return the dtype for products of rows: float64 if an argument is float64, otherwise float32."""
    return torch.float64 if torch.float64 in (x.dtype, vectors.dtype) else torch.float32


class _Compact(NamedTuple):
    """Compact WY form of a product of reflections, float64."""

    reflectors: Tensor  # S [M, K], rows of length sqrt(2), or 0 for a zero vector
    factor: Tensor  # [M], the factors that scaled the vectors; 0 for a zero vector
    gram: Tensor  # S S^T [M, M]; T^-1 is its part above the diagonal, plus the identity
    w_transposed: Tensor  # (T S)^T [K, M]

    def w(self) -> Tensor:
        """Return W = T S of the compact WY form.  [M, K]"""
        return self.w_transposed.T

    def v(self) -> Tensor:
        """Return V = T^T S of the compact WY form.  [M, K]"""
        return torch.linalg.solve_triangular(self.gram.T, self.reflectors, upper=False, unitriangular=True)


def _compact(vectors: Tensor, impl: str) -> _Compact:
    reflectors, factor = dispatch.implementation(OP, impl).reflectors(vectors)
    gram = reflectors @ reflectors.T
    w = torch.linalg.solve_triangular(gram, reflectors, upper=True, unitriangular=True)
    return _Compact(reflectors, factor, gram, w.T.contiguous())


class _Products(NamedTuple):
    """Products with P = x^T g that the gradient of the vectors needs, float64."""

    both: Tensor  # W P^T + V P [M, K]
    vw: Tensor  # V P W^T [M, M]; overwritten


def _products(p: Tensor, compact: _Compact) -> _Products:
    p = p.double()
    vp = compact.v() @ p
    return _Products(torch.addmm(vp, compact.w(), p.T), vp @ compact.w_transposed)


def _products_of_factors(x: Tensor, g: Tensor, w: Tensor, v: Tensor) -> _Products:
    """Compute the products of W and V with P = x^T g without storing P [K, K]."""
    xv, gw = x @ v.T, g @ w.T  # [N, M] each
    by_w, by_v, vw = (product.double() for product in (gw.T @ x, xv.T @ g, xv.T @ gw))
    return _Products(by_w + by_v, vw)


def _vectors_gradient(products: _Products, compact: _Compact, dtype: torch.dtype, impl: str) -> Tensor:
    """Compute the gradient of the vectors [M, K] from the products with P."""
    strict = products.vw.triu_(1)
    gradient = torch.addmm(products.both, strict + strict.T, compact.reflectors, beta=-1)
    return dispatch.implementation(OP, impl).vectors_gradient(gradient, compact.reflectors, compact.factor, dtype)


def _multiplies_factors(x: Tensor | None, vectors: Tensor, impl: str) -> bool:
    return x is not None and dispatch.implementation(OP, impl).multiplies_factors(*vectors.shape)


def _multiply_factors(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Multiply rows by I - left^T right; return [N, K].

    With left, right = S, W the matrix is R; with W, S it is R^T.
    """
    return x.addmm(x @ left.T, right, alpha=-1)


def _forward(x: Tensor | None, vectors: Tensor, impl: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return x R, or R itself if x is None, followed by the tensors that the backward needs.

    These are the compact form and R, which is [0, 0] if rows were not multiplied by it.
    """
    wide = _wide(vectors if x is None else x, vectors)
    with without_autocast(vectors):
        compact = _compact(vectors, impl)
        matrix = vectors.new_empty(0, 0, dtype=wide)
        if x is not None and _multiplies_factors(x, vectors, impl):
            y = _multiply_factors(x.to(wide), compact.reflectors.to(wide), compact.w().to(wide)).to(x.dtype)
            return y, *compact, matrix
        product = torch.eye(vectors.shape[1], dtype=torch.float64, device=vectors.device)
        product = product.addmm_(compact.reflectors.T, compact.w(), alpha=-1).to(wide)
        if x is None:
            return product, *compact, matrix
        return dispatch.implementation(OP, impl).apply(x, product, x.dtype), *compact, product


def _fake(x: Tensor | None, vectors: Tensor, impl: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return empty tensors of the shapes and dtypes that `_forward` returns."""
    wide = _wide(vectors if x is None else x, vectors)
    count, dimensions = vectors.shape
    side = 0 if x is None or _multiplies_factors(x, vectors, impl) else dimensions
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
    """Return the gradients of x and of the vectors, or None for one that is not needed."""
    refuse_double_backward("householder_apply")
    x, *parts, matrix = ctx.saved_tensors
    compact, wide, run = _Compact(*parts), matrix.dtype, dispatch.implementation(OP, ctx.impl)
    needs_x, needs_vectors = ctx.needs_input_grad[:2]
    x_gradient = products = None
    with without_autocast(upstream):
        if x is None:
            products = _products(upstream, compact)
        elif matrix.numel():
            x_gradient = run.apply(upstream, matrix.T, x.dtype) if needs_x else None
            products = _products(run.outer(x, upstream, wide), compact) if needs_vectors else None
        else:
            reflectors, w, g = compact.reflectors.to(wide), compact.w().to(wide), upstream.to(wide)
            x_gradient = _multiply_factors(g, w, reflectors).to(x.dtype) if needs_x else None
            products = _products_of_factors(x.to(wide), g, w, compact.v().to(wide)) if needs_vectors else None
        return x_gradient, None if products is None else _vectors_gradient(products, compact, ctx.vectors_dtype, ctx.impl)


_householder = differentiable(
    "householder", _forward, fake=_fake, setup_context=_setup_context, backward=_backward, leading=2, outputs=1
)

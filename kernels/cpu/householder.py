"""Rows through a product of Householder reflections R = I - U^T W, in BLAS products.

Near K reflections take one product with R [K, K]. Few reflections are cheaper factor by factor, U and W [M, K]: 4 N K M
operations instead of 2 N K^2.
"""

from torch import Tensor


def apply(x: Tensor, matrix: Tensor) -> Tensor:
    """x R.  [N, K]"""
    return x @ matrix


def outer(x: Tensor, g: Tensor) -> Tensor:
    """P = x^T g, the gradient of R where g is that of x R.  [K, K]"""
    return x.T @ g


def apply_factors(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """x (I - left^T right): with U, W rows times R, with W, U rows times R^T.  [N, K]"""
    return x.addmm(x @ left.T, right, alpha=-1)


def factor_pulls(g: Tensor, x: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W P^T [M, K], V P [M, K] and V P W^T [M, M] without P, which is larger than they."""
    xv, gw = x @ v.T, g @ w.T  # [N, M] each
    return gw.T @ x, xv.T @ g, xv.T @ gw

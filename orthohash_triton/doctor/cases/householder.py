"""Cases of `householder_apply` and `householder_product`."""

import torch
from torch import Generator

from ...ops.dispatch import Impl
from ...ops.householder import householder_apply, householder_product
from ._case import FLOAT32, Case, Inputs, Outputs, exact_gradient, joined, leaf, normal, on_cpu


def _apply(rows: int, count: int, bits: int, dtype: torch.dtype = torch.float32) -> Case:
    def make(generator: Generator) -> Inputs:
        return {"x": normal(generator, rows, bits, dtype=dtype), "vectors": normal(generator, count, bits)}

    def run(given: Inputs, impl: Impl) -> Outputs:
        x, vectors = leaf(given["x"]), leaf(given["vectors"])
        y = householder_apply(x, vectors, impl=impl)
        return y.detach(), *torch.autograd.grad(y, (x, vectors), exact_gradient(y))

    return Case("householder_apply", joined([f"{rows} x {bits}", f"{count} reflections"], dtype), make, run, FLOAT32)


def _product(count: int, bits: int) -> Case:
    def make(generator: Generator) -> Inputs:
        return {"vectors": normal(generator, count, bits)}

    def run(given: Inputs, impl: Impl) -> Outputs:
        vectors = leaf(given["vectors"])
        matrix = householder_product(vectors, impl=impl)
        return matrix.detach(), *torch.autograd.grad(matrix, vectors, exact_gradient(matrix))

    return Case("householder_product", f"{bits} x {bits}, {count} reflections", make, run, FLOAT32)


CASES = [
    _apply(70, 64, 64),
    _apply(70, 130, 130, torch.bfloat16),
    *on_cpu(_apply(70, 130, 130), _apply(37, 3, 64), _apply(37, 64, 64, torch.float16)),
    _product(24, 24),
]

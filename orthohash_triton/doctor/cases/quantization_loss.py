"""Cases of `quantization_loss`."""

from typing import get_args

from torch import Generator

from ...ops.dispatch import Impl
from ...ops.quantization_loss import Kind, quantization_loss
from ...reference.quantization_loss import quantization_loss as quantization_reference
from ._case import FLOAT32, Case, Inputs, Outputs, leaf, loss_and_gradients, normal


def _case(kind: Kind) -> Case:
    def make(generator: Generator) -> Inputs:
        return {"z": normal(generator, 37, 64)}

    def run(given: Inputs, impl: Impl) -> Outputs:
        z = leaf(given["z"])
        loss = quantization_reference if impl == "reference" else quantization_loss
        return loss_and_gradients(loss(z, kind), z)

    return Case("quantization_loss", f"37 x 64, {kind}", make, run, FLOAT32, is_plain=True)


CASES = [_case(kind) for kind in get_args(Kind)]

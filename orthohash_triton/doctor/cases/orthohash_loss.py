"""Cases of `orthohash_loss`."""

from typing import Any

import torch
from torch import Generator

from ...ops.dispatch import Impl
from ...ops.orthohash_loss import orthohash_loss
from ._case import (
    FLOAT32,
    TARGET_NAMES,
    Case,
    Inputs,
    Outputs,
    Targets,
    by_size,
    codebook_inputs,
    joined,
    leaf,
    loss_and_gradients,
    normal,
    on_cpu,
    target_of,
)


def _case(
    rows: int, classes: int, bits: int, dtype: torch.dtype = torch.float32, *, targets: Targets = "ids", affine: bool = True,
    **keywords: Any,
) -> Case:  # fmt: skip
    """Return a case; `affine` passes a weight and a bias of the batch norm."""

    def make(generator: Generator) -> Inputs:
        given = codebook_inputs(rows, classes, bits, dtype, targets, "latent")(generator)
        given["latent"] = 3 * given["latent"] + torch.linspace(-2, 2, bits).to(dtype)
        given |= {"mean": normal(generator, bits), "var": 0.5 + torch.rand(bits, generator=generator)}
        if affine:
            given |= {"weight": 1 + 0.1 * normal(generator, bits), "bias": 0.1 * normal(generator, bits)}
        return given

    def run(given: Inputs, impl: Impl) -> Outputs:
        leaves = [leaf(given["latent"]), *(leaf(given[name]) for name in ("weight", "bias") if affine)]
        mean, var = given["mean"].clone(), given["var"].clone()
        loss = orthohash_loss(
            leaves[0], target_of(given), given["codebook"], mean, var, *leaves[1:], precision="highest", impl=impl, **keywords
        )
        return *loss_and_gradients(loss, *leaves), mean, var

    shown = keywords | ({} if affine else {"affine": False})
    label = joined([by_size(rows, classes, bits), TARGET_NAMES[targets]], dtype, shown)
    return Case("orthohash_loss", label, make, run, FLOAT32)


CASES = [
    _case(301, 101, 64),
    _case(301, 101, 64, training=False),
    _case(37, 101, 64, torch.bfloat16, affine=False, reduction="sum"),
    *on_cpu(
        _case(37, 101, 64, reduction="none", label_smoothing=0.1),
        _case(37, 101, 64, torch.float16, targets="dense", reduction="sum"),
        _case(67, 10_007, 128, affine=False),
    ),
]

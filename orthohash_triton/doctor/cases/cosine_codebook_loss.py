"""Cases of `cosine_codebook_loss`."""

from typing import Any, Literal

import torch

from ...ops.cosine_codebook_loss import cosine_codebook_loss
from ...ops.dispatch import Impl
from ._case import (
    FLOAT32,
    ONE_PART,
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
    on_cpu,
    on_gpu,
    target_of,
)


def _case(
    *size: int, dtype: torch.dtype = torch.float32, targets: Targets = "ids", precision: Literal["highest", "high"] = "highest",
    **keywords: Any,
) -> Case:  # fmt: skip
    """Return a case of `size` (rows, classes, bits)."""
    keywords.setdefault("reduction", "none")

    def run(given: Inputs, impl: Impl) -> Outputs:
        v = leaf(given["v"])
        found = cosine_codebook_loss(v, target_of(given), given["codebook"], precision=precision, impl=impl, **keywords)
        if not keywords.get("return_lse"):
            return loss_and_gradients(found, v)
        loss, lse = found
        return lse.detach(), *loss_and_gradients(loss + 0.5 * lse, v)

    shown = keywords | ({} if precision == "highest" else {"precision": precision})
    rows, classes, bits = size
    return Case(
        "cosine_codebook_loss", joined([by_size(*size), TARGET_NAMES[targets]], dtype, shown),
        codebook_inputs(rows, classes, bits, dtype, targets), run, FLOAT32 if precision == "highest" else ONE_PART,
    )  # fmt: skip


CASES = [
    # Few classes: one kernel launch on a GPU.
    _case(37, 101, 64),
    _case(37, 101, 64, dtype=torch.bfloat16, reduction="sum", label_smoothing=0.1),
    _case(37, 101, 64, reduction="mean", margin_type="angular", margin=0.35),
    _case(37, 101, 64, targets="dense", return_lse=True),
    # Sparse targets, or more classes than one split holds: a second launch merges the splits.
    _case(37, 101, 64, targets="sparse"),
    _case(256, 10_000, 128, reduction="mean"),  # the size of the headline benchmark
    # Long codes, whose dot products are stored in memory: with two fp16 parts, and with one.
    *on_gpu(
        _case(263, 15_984, 520, targets="dense", reduction="mean"),
        _case(5, 12_007, 2048, precision="high", scale=8.0),
    ),
    *on_cpu(
        _case(1, 2, 8),
        _case(37, 101, 64, dtype=torch.float16, targets="dense"),
        _case(37, 101, 64, dtype=torch.float16, targets="sparse", label_smoothing=0.1),
        _case(67, 10_007, 128, margin_type="angular", label_smoothing=0.1),
        _case(37, 1001, 520, targets="dense", reduction="mean"),
        _case(5, 1001, 2048, margin_type="angular", return_lse=True),
    ),
]

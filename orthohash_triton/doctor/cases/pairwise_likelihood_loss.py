"""Cases of `pairwise_likelihood_loss`."""

from typing import Any

import torch
from torch import Generator, Tensor

from ...ops.dispatch import Impl
from ...ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from ._case import FLOAT32, Case, Inputs, Outputs, class_ids, joined, leaf, loss_and_gradients, multi_hot, normal, on_cpu


def _case(
    rows: int, columns: int | None, bits: int, *, dtype: torch.dtype = torch.float32, several_labels: bool = False,
    learn_bank: bool = False, **keywords: Any,
) -> Case:  # fmt: skip
    """Return a case of a batch of `rows` with a bank of `columns`; None compares the batch with itself."""

    def labels(generator: Generator, count: int) -> Tensor:
        return multi_hot(generator, count, 70) if several_labels else class_ids(generator, count, 7)

    def make(generator: Generator) -> Inputs:
        given = {"z": normal(generator, rows, bits, dtype=dtype), "target": labels(generator, rows)}
        if columns is not None:
            bank = normal(generator, columns, bits)
            bank[0], bank[-1] = 10 * bank[0], 0.01 * bank[-1]
            given |= {"bank": bank.to(dtype), "bank_target": labels(generator, columns)}
        return given

    def run(given: Inputs, impl: Impl) -> Outputs:
        z, bank = leaf(given["z"]), given.get("bank")
        leaves = [z]
        if bank is not None and learn_bank:
            bank = leaf(bank)
            leaves.append(bank)
        loss = pairwise_likelihood_loss(
            z, given["target"], bank, given.get("bank_target"), alpha=10 / bits, impl=impl, **keywords
        )
        return loss_and_gradients(loss, *leaves)

    shape = f"{rows:,} with {'itself' if columns is None else f'{columns:,}'} x {bits}"
    parts = [shape, "multi-hot" if several_labels else "class ids", *(["gradient of the bank"] if learn_bank else [])]
    return Case("pairwise_likelihood_loss", joined(parts, dtype, keywords), make, run, FLOAT32)


CASES = [
    _case(80, 1008, 64, learn_bank=True),
    _case(
        37, 1009, 64, dtype=torch.bfloat16, several_labels=True, positive_weight="balanced", similarity="jaccard",
        reduction="none",
    ),
    _case(5, 333, 300, similarity="squared_cosine"),
    *on_cpu(
        _case(1, 1, 8, reduction="none"),
        _case(67, None, 64, positive_weight=3.5, reduction="none"),
        _case(37, 1009, 64, dtype=torch.float16, reduction="sum"),
        _case(37, 1009, 64, several_labels=True, similarity="squared_cosine", learn_bank=True),
        _case(5, 333, 300, positive_weight="balanced", learn_bank=True),
    ),
]  # fmt: skip

"""DHN: pairwise likelihood loss on tanh codes, and a penalty on their distance to -1 and 1."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..nn import HashHead
from ..ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from ..ops.quantization_loss import quantization_loss
from ._method import Method, Objective, Task, not_negative, option


@dataclass(frozen=True)
class Options:
    """Options of DHN."""

    quantization_weight: float = option(
        0.3, "weight of the quantisation penalty, summed over the bits (q_gamma of the released code)"
    )
    pairs: Literal["balanced", "equal"] = option(
        "balanced",
        "weights of pairs: balanced (similar and dissimilar pairs have equal total weight) or equal (as in the paper)",
    )

    def __post_init__(self) -> None:
        not_negative("dhn", self, "quantization_weight")


class DHN(Objective):
    """An objective: the pairwise likelihood loss of tanh codes, and a penalty on their distance to -1 and 1.

    mean_ij [softplus(<z_i, z_j>) - s_ij <z_i, z_j>] + weight * mean_i sum_k log cosh(|z_ik| - 1), where z = tanh(latent).
    """

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__()
        self.quantization_weight = options.quantization_weight * task.bits  # quantization_loss is a mean over the bits
        self.positive_weight: Literal["balanced"] | None = "balanced" if options.pairs == "balanced" else None

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        z = torch.tanh(latent)
        return pairwise_likelihood_loss(
            z, target, alpha=1.0, positive_weight=self.positive_weight
        ) + self.quantization_weight * quantization_loss(z, "log_cosh")


METHOD = Method(
    name="dhn",
    title="DHN",
    paper="Zhu et al., Deep Hashing Network for Efficient Similarity Retrieval, AAAI 2016",
    url="https://ojs.aaai.org/index.php/AAAI/article/view/10235",
    year=2016,
    summary="likelihood of the pairwise similarities under inner products of tanh codes, plus log cosh(|z| - 1)",
    objective=DHN,
    options=Options,
)

"""DPSH: pairwise likelihood loss of a batch against the most recent codes of the whole training set."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..nn import HashHead
from ..ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from ..ops.quantization_loss import quantization_loss
from ._method import Bank, Method, Objective, Task, not_negative, option


@dataclass(frozen=True)
class Options:
    """Options of DPSH."""

    quantization_weight: float = option(0.1, "eta: weight of the mean of (|u| - 1)^2")
    pairs: Literal["balanced", "equal"] = option(
        "balanced",
        "weights of pairs: balanced (similar and dissimilar pairs have equal total weight) or equal (as in the paper)",
    )

    def __post_init__(self) -> None:
        not_negative("dpsh", self, "quantization_weight")


class DPSH(Objective):
    """An objective: the pairwise likelihood loss against the most recent codes, and a quantization penalty.

    mean_ij [softplus(<u_i, u_j> / 2) - s_ij <u_i, u_j> / 2] + eta * mean (|u| - 1)^2.

    u are the latent vectors, without tanh. i runs over the batch, j over the most recent codes of all samples seen so far.
    """

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__()
        self.bank = Bank(task.labels, task.bits)
        self.quantization_weight = options.quantization_weight
        self.positive_weight: Literal["balanced"] | None = "balanced" if options.pairs == "balanced" else None

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        self.bank.update(rows, latent)
        pairs = pairwise_likelihood_loss(latent, target, *self.bank.entries(), alpha=0.5, positive_weight=self.positive_weight)
        return pairs + self.quantization_weight * quantization_loss(latent, "l2")


METHOD = Method(
    name="dpsh",
    title="DPSH",
    paper="Li, Wang and Kang, Feature Learning based Deep Supervised Hashing with Pairwise Labels, IJCAI 2016",
    url="https://arxiv.org/abs/1511.03855",
    year=2016,
    summary="pairwise likelihood against a bank of all training codes, plus (|u| - 1)^2",
    objective=DPSH,
    options=Options,
)

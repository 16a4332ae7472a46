"""HashNet: weighted pairwise likelihood loss on tanh(beta * latent), where beta grows during training."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..nn import HashHead
from ..ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from ._method import Method, Objective, Task, not_negative, option


@dataclass(frozen=True)
class Options:
    """Options of HashNet."""

    alpha: float | None = option(None, "slope of the adaptive sigmoid; the default is 10 / bits, as in the released code")
    similarity: Literal["jaccard", "any"] = option(
        "jaccard", "weight of similar pairs with several labels: jaccard (as in the paper) or any (1 for every similar pair)"
    )
    growth: float = option(50.0, "beta grows towards sqrt(1 + growth); 50 corresponds to the released code's 10,000 steps")
    stages: int = option(50, "number of stages in which beta grows (the released code: 10,000 / 200)")

    def __post_init__(self) -> None:
        not_negative("hashnet", self, "growth")
        if self.stages < 1:
            raise ValueError(f"method 'hashnet': stages must be at least 1; got {self.stages}")


class HashNet(Objective):
    """An objective: the pairwise likelihood loss with balanced pairs on z = tanh(beta * latent).

    The released code sets beta = sqrt(1 + 0.005 step) every 200 of 10,000 steps. This objective stretches the same curve over the
    steps of the run. beta is a buffer, so that it is saved in the state_dict.
    """

    beta: Tensor

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__()
        self.alpha = 10 / task.bits if options.alpha is None else options.alpha
        self.options = options
        self.register_buffer("beta", torch.ones(()))

    def begin_step(self, step: int, steps: int) -> None:
        stage = step * self.options.stages // steps
        self.beta.fill_(math.sqrt(1 + self.options.growth * stage / self.options.stages))

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        z = torch.tanh(self.beta * latent)
        return pairwise_likelihood_loss(
            z, target, alpha=self.alpha, positive_weight="balanced", similarity=self.options.similarity
        )


METHOD = Method(
    name="hashnet",
    title="HashNet",
    paper="Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017",
    url="https://arxiv.org/abs/1702.00758",
    year=2017,
    summary="pairwise likelihood with balanced pairs; tanh(beta z) whose beta grows",
    objective=HashNet,
    options=Options,
    lr=3e-3,
)

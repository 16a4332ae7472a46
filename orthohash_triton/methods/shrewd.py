"""SHREWD: distances between codes follow a class hierarchy, and codes are distributed like random binary codes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn import HashHead
from ..ops.semantic_hierarchy_loss import semantic_hierarchy_loss
from ._method import Method, Objective, Task, not_negative, option


@dataclass(frozen=True)
class Options:
    """Options of SHREWD."""

    kl_weight: float = option(0.01, "weight of the Kullback-Leibler divergence from random binary codes")

    def __post_init__(self) -> None:
        not_negative("shrewd", self, "kl_weight")


class SHREWD(Objective):
    """An objective: `semantic_hierarchy_loss` of tanh codes. Without a hierarchy all classes have distance 1 from each other."""

    class_distance: Tensor

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__()
        distance = 1 - torch.eye(task.num_classes) if task.class_distance is None else task.class_distance
        self.register_buffer("class_distance", distance)
        self.kl_weight = options.kl_weight

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        return semantic_hierarchy_loss(torch.tanh(latent), target, self.class_distance, kl_weight=self.kl_weight)


METHOD = Method(
    name="shrewd",
    title="SHREWD",
    paper="Arponen and Bishop, SHREWD: Semantic Hierarchy-based Relational Embeddings for Weakly-supervised Deep Hashing, 2019",
    url="https://arxiv.org/abs/1908.05602",
    year=2019,
    summary="Manhattan distances of tanh codes follow the class hierarchy; an empirical divergence makes the codes binary",
    objective=SHREWD,
    options=Options,
    lr=3e-3,
)

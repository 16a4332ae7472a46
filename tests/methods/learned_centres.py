"""A method with parameters of its own: class centres that are learned together with the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from orthohash_triton import methods
from orthohash_triton.methods import Method, Objective, Task


class LearnedCentres(Objective):
    per_sample = True

    def __init__(self, task: Task, options: object) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(task.num_classes, task.bits))
        self.fixed = nn.Parameter(torch.ones(task.bits), requires_grad=False)

    def class_codes(self) -> Tensor:
        return torch.where(self.centres.detach() > 0, 1, -1).to(torch.int8)

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(torch.tanh(latent) @ (self.centres * self.fixed).T, target)


METHOD = Method(
    "learned-centres", "Learned centres", "We, 2026", "https://example.org", 2026, "softmax over learned centres", LearnedCentres
)


@contextmanager
def learned_centres() -> Iterator[None]:
    """Register METHOD within the block."""
    with mock.patch.object(methods, "_registry", methods._registry.copy()):
        methods.register(METHOD)
        yield

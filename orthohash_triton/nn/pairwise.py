"""Modules for the losses over pairs of codes."""

from typing import Any

from torch import Tensor, nn

from ..ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from . import _keywords


class PairwiseLikelihoodLoss(nn.Module):
    """`pairwise_likelihood_loss` with its keywords: `criterion(z, target)`, or `criterion(z, target, bank, bank_target)`.

    z are codes [N, K] and bank such codes [M, K], each with targets: class ids [N], or multi-hot [N, C]. Errors are those of the
    function.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__()
        self.keywords = _keywords.checked(self, pairwise_likelihood_loss, keywords)

    def forward(self, z: Tensor, target: Tensor, bank: Tensor | None = None, bank_target: Tensor | None = None) -> Tensor:
        return pairwise_likelihood_loss(z, target, bank, bank_target, **self.keywords)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.keywords.items())

"""Module for the loss over pairs of codes."""

from typing import Literal

from torch import Tensor

from ..ops.cosine_codebook_loss import ImplChoice, Reduction
from ..ops.pairwise_likelihood_loss import Similarity, check_options, pairwise_likelihood_loss
from ._options import LossModule


class PairwiseLikelihoodLoss(LossModule):
    """Module of `orthohash_triton.pairwise_likelihood_loss`: `criterion(z, target)`, or with `bank` and `bank_target`.

    Args:
        alpha, positive_weight, similarity, ignore_index, reduction, impl: options of the function; alpha has no default.

    The call takes codes z [N, K] and optionally a bank of codes [M, K], each with a target of class ids [N] or multi-hot labels
    [N, C]. It returns and raises what the function does.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> criterion = oht.nn.PairwiseLikelihoodLoss(alpha=0.5)  # DPSH
        >>> z = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> criterion(z, torch.tensor([0, 0, 1])) < criterion(z, torch.tensor([0, 1, 1]))
        tensor(True)
    """

    check = staticmethod(check_options)

    def __init__(
        self,
        *,
        alpha: float,
        positive_weight: float | Literal["balanced"] | None = None,
        similarity: Similarity = "any",
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        impl: ImplChoice = "auto",
    ) -> None:
        super().__init__(
            alpha=alpha, positive_weight=positive_weight, similarity=similarity, ignore_index=ignore_index, reduction=reduction,
            impl=impl,
        )  # fmt: skip

    def forward(self, z: Tensor, target: Tensor, bank: Tensor | None = None, bank_target: Tensor | None = None) -> Tensor:
        """Return the loss of z [N, K]."""
        return pairwise_likelihood_loss(z, target, bank, bank_target, **self.keywords)

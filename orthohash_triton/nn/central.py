"""Modules for the losses that pull codes towards centres and towards +-1."""

from torch import Tensor, nn

from ..ops.central_similarity_loss import central_similarity_loss
from ..ops.minimum_distance_loss import minimum_distance_loss
from ..ops.quantization_loss import quantization_loss
from .codebook_losses import _CodebookLoss


class QuantizationLoss(nn.Module):
    """`quantization_loss` with its kind and reduction: `criterion(z)`, z continuous codes [N, K]. Errors are the function's."""

    def __init__(self, kind: str = "log_cosh", *, reduction: str = "mean") -> None:
        super().__init__()
        self.kind = kind
        self.reduction = reduction

    def forward(self, z: Tensor) -> Tensor:
        return quantization_loss(z, self.kind, reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, reduction={self.reduction!r}"


class CentralSimilarityLoss(_CodebookLoss):
    """`central_similarity_loss` with its codebook [C, K] and keywords: `criterion(u, target)`.

    u are latents before tanh [N, K], target int64 class ids [N] or multi-hot [N, C]. Errors are the function's.
    """

    function = staticmethod(central_similarity_loss)

    def forward(self, u: Tensor, target: Tensor) -> Tensor:
        return central_similarity_loss(u, target, self.codebook, **self.keywords)


class MinimumDistanceLoss(_CodebookLoss):
    """`minimum_distance_loss` with its codebook [C, K] and keywords: `criterion(u, target)`, or with `bank` and `bank_target`.

    u are codes [N, K] and bank such codes [M, K], each with targets: class ids [N], or multi-hot [N, C]. Errors are those of the
    function.
    """

    function = staticmethod(minimum_distance_loss)

    def forward(self, u: Tensor, target: Tensor, bank: Tensor | None = None, bank_target: Tensor | None = None) -> Tensor:
        return minimum_distance_loss(u, target, self.codebook, bank, bank_target, **self.keywords)

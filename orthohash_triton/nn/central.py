"""Modules for the losses that pull codes towards centres and towards +-1."""

from torch import Tensor, nn

from ..ops import central_similarity_loss as central
from ..ops import minimum_distance_loss as minimum_distance
from ..ops import quantization_loss as quantization_op
from ..ops.cosine_codebook_loss import Reduction
from ..ops.quantization_loss import Kind
from ._options import CodebookLoss


class QuantizationLoss(nn.Module):
    """Module of `orthohash_triton.quantization_loss`: `criterion(z)`.

    Args:
        kind, reduction: options of the function.

    The call takes continuous codes z [N, K]. It returns and raises what the function does.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> criterion = oht.nn.QuantizationLoss("l2")
        >>> criterion(torch.tensor([[1.0, -1.0, 0.5, 2.0]]))  # the mean of 0, 0, 0.25 and 1
        tensor(0.3125)
    """

    def __init__(self, kind: Kind = "log_cosh", *, reduction: Reduction = "mean") -> None:
        super().__init__()
        quantization_op.check_options(type(self).__name__, kind, reduction)
        self.kind = kind
        self.reduction = reduction

    def forward(self, z: Tensor) -> Tensor:
        """Return the loss of z [N, K]."""
        return quantization_op.quantization_loss(z, self.kind, reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, reduction={self.reduction!r}"


class CentralSimilarityLoss(CodebookLoss):
    """Module of `orthohash_triton.central_similarity_loss`: `criterion(u, target)`.

    Args:
        codebook: int8 +-1 [C, K], one centre per class. It is a buffer of the module.
        centre_weight, quantization_weight, quantization, seed, ignore_index, reduction: options of the function.

    The call takes latents before tanh u [N, K], and a target of class ids [N] or multi-hot labels [N, C]. It returns and raises
    what the function does.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> codebook = oht.make_codebook(10, 16, seed=0)
        >>> criterion = oht.nn.CentralSimilarityLoss(codebook, quantization_weight=0.0)
        >>> criterion(torch.zeros(2, 16), torch.tensor([0, 1]))  # log 2: the bits are undecided
        tensor(0.6931)
    """

    check = staticmethod(central.check_options)

    def __init__(
        self,
        codebook: Tensor,
        *,
        centre_weight: float = 1.0,
        quantization_weight: float = 1e-4,
        quantization: Kind = "log_cosh",
        seed: int = 0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            codebook, centre_weight=centre_weight, quantization_weight=quantization_weight, quantization=quantization, seed=seed,
            ignore_index=ignore_index, reduction=reduction,
        )  # fmt: skip

    def forward(self, u: Tensor, target: Tensor) -> Tensor:
        """Return the loss of u [N, K]."""
        return central.central_similarity_loss(u, target, self.codebook, **self.keywords)


class MinimumDistanceLoss(CodebookLoss):
    """Module of `orthohash_triton.minimum_distance_loss`: `criterion(u, target)`, or with `bank` and `bank_target`.

    Args:
        codebook: int8 +-1 [C, K], one centre per class. It is a buffer of the module.
        scale, pair_weight, quantization_weight, quantization, ignore_index: options of the function.

    The call takes codes u [N, K] and optionally a bank of codes [M, K], each with a target of class ids [N] or multi-hot labels
    [N, C]. It returns and raises what the function does.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> codebook = oht.make_codebook(10, 16, seed=0)
        >>> criterion = oht.nn.MinimumDistanceLoss(codebook)
        >>> u, target = codebook[:3].float(), torch.tensor([0, 1, 2])  # codes on their centres
        >>> criterion(u, target) < criterion(u, target + 1)
        tensor(True)
    """

    check = staticmethod(minimum_distance.check_options)

    def __init__(
        self,
        codebook: Tensor,
        *,
        scale: float | None = None,
        pair_weight: float = 1.0,
        quantization_weight: float = 1e-4,
        quantization: Kind = "l2",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(
            codebook, scale=scale, pair_weight=pair_weight, quantization_weight=quantization_weight, quantization=quantization,
            ignore_index=ignore_index,
        )  # fmt: skip
        minimum_distance.require_two_classes(type(self).__name__, self.codebook)

    def forward(self, u: Tensor, target: Tensor, bank: Tensor | None = None, bank_target: Tensor | None = None) -> Tensor:
        """Return the loss of u [N, K]."""
        return minimum_distance.minimum_distance_loss(u, target, self.codebook, bank, bank_target, **self.keywords)
